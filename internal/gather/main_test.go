package gather

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// An answer is what one Get has returned, and when.
type answer struct {
	value string
	err   error
	after time.Duration
}

// A river is a Client in a bubble, over which it takes ten milliseconds to send anything.
type river struct {
	t     *testing.T
	c     *Client
	rdb   *redis.Client
	began time.Time
	lists Size

	mu   sync.Mutex
	went []string // guarded by mu: commands, each with its keys; a pipeline is in brackets
}

const trip = 10 * time.Millisecond

// atTheRiver runs f in a bubble. The keys a to z hold "value of a" and so on.
func atTheRiver(t *testing.T, f func(t *testing.T, r *river)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		for c := 'a'; c <= 'z'; c++ {
			require.NoError(t, rdb.Set(t.Context(), string(c), "value of "+string(c), 0).Err())
		}
		r := &river{t: t, rdb: rdb, c: For(rdb), began: time.Now()}
		rdb.AddHook(r)
		f(t, r)
		<-r.c.Release()
	})
}

func (r *river) DialHook(next redis.DialHook) redis.DialHook { return next }

func (r *river) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		r.note(text(cmd))
		return next(ctx, cmd)
	}
}

func (r *river) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		var all []string
		for _, cmd := range cmds {
			all = append(all, text(cmd))
		}
		r.note("[" + strings.Join(all, ", ") + "]")
		return next(ctx, cmds)
	}
}

// note takes note of reads and writes, and holds them up.
func (r *river) note(what string) {
	if !strings.Contains(what, "get ") && !strings.Contains(what, "range ") && !strings.Contains(what, "set ") {
		return
	}
	r.mu.Lock()
	r.went = append(r.went, what)
	r.mu.Unlock()
	time.Sleep(trip)
}

// sent returns what was sent, and forgets it.
func (r *river) sent() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	defer func() { r.went = nil }()
	return r.went
}

// text returns a command with its arguments.
func text(cmd redis.Cmder) string { return strings.Trim(fmt.Sprint(cmd.Args()), "[]") }

// get has a goroutine each read keys, one after the other, and returns what they get. A
// key "hash.f" is a field of a hash, and "#list" is a list, of which the elements are
// joined by commas.
func (r *river) get(ctx context.Context, keys ...string) []<-chan answer {
	var all []<-chan answer
	for _, key := range keys {
		ch := make(chan answer, 1)
		all = append(all, ch)
		key, field, _ := strings.Cut(key, ".")
		go func() {
			if list, ok := strings.CutPrefix(key, "#"); ok {
				value, err := r.list(ctx, list)
				ch <- answer{value, err, time.Since(r.began)}
				return
			}
			v, err := r.c.Get(ctx, key, field, 10)
			ch <- answer{string(v.B), err, time.Since(r.began)}
			v.Release()
		}()
		synctest.Wait()
	}
	return all
}

// list reads a list.
func (r *river) list(ctx context.Context, key string) (string, error) {
	cmd, err := r.c.Do(ctx, key, &r.lists, func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.LRange(ctx, key, 0, -1)
	})
	if err != nil {
		return "", err
	}
	return strings.Join(cmd.(*redis.StringSliceCmd).Val(), ","), nil
}
