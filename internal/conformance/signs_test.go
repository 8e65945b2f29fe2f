package conformance

import (
	"context"
	"net"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// A sign is how it is seen that a fault does something. It is asked before, and what it
// returns then says whether anything has been seen since.
type sign func(t *testing.T, p *patient) (felt func() bool)

// more is that a count has grown.
func more(count func(t *testing.T, p *patient) int64) sign {
	return func(t *testing.T, p *patient) func() bool {
		before := count(t, p)
		return func() bool { return count(t, p) > before }
	}
}

// all is that each of the signs was seen.
func all(signs ...sign) sign {
	return func(t *testing.T, p *patient) func() bool {
		var felt []func() bool
		for _, s := range signs {
			felt = append(felt, s(t, p))
		}
		return func() bool {
			return !slices.ContainsFunc(felt, func(f func() bool) bool { return !f() })
		}
	}
}

// seen is that clients of the crowd got errors that say one of the texts.
func seen(texts ...string) sign {
	return more(func(_ *testing.T, p *patient) int64 { return p.witness.count(texts...) })
}

var (
	// silence is that a client waited in vain.
	silence = seen("i/o timeout", "deadline exceeded")

	// gone is that nobody is at the other end, or not any more: the proxy accepts, and
	// resets what leads nowhere.
	gone = seen("connection refused", "connection reset", "broken pipe", "EOF")

	// struck is that who inflicts the fault saw it strike something.
	struck = more(func(_ *testing.T, p *patient) int64 { return p.struck })

	// dialled is that clients had to open connections.
	dialled = more(func(_ *testing.T, p *patient) int64 { return p.witness.dials.Load() })

	// spoilt is that the proxy kept something from passing as it was sent.
	spoilt = more(func(_ *testing.T, p *patient) int64 { return p.proxy.Spoilt() })
)

// counted is a number that the server keeps in INFO stats, and loses when it restarts.
func counted(name string) sign {
	line := regexp.MustCompile(`(?m)^` + name + `:(\d+)`)
	return more(func(t *testing.T, p *patient) int64 {
		t.Helper()
		info, err := p.admin.Info(t.Context(), "stats").Result()
		require.NoError(t, err)
		match := line.FindStringSubmatch(info)
		require.NotNil(t, match, info)
		n, err := strconv.ParseInt(match[1], 10, 64)
		require.NoError(t, err)
		return n
	})
}

// A witness is a hook of the clients of a crowd, which remembers what errors they get.
type witness struct {
	mu   sync.Mutex
	errs map[string]int64 // guarded by mu; by what they say, without its numbers

	dials atomic.Int64
}

// numbers are what errors differ in that say the same: addresses, slots, digests.
var numbers = regexp.MustCompile(`[0-9a-f]*[0-9][0-9a-f]*`)

func (w *witness) count(texts ...string) (n int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for said, times := range w.errs {
		for _, text := range texts {
			if strings.Contains(said, text) {
				n += times
				break
			}
		}
	}
	return n
}

// unanswered returns how many calls ended without an answer of a server; a proxy that
// gave up waiting says "Connection timed out".
func (w *witness) unanswered() int64 {
	return w.count("timeout", "timed out", "deadline", "refused", "reset", "broken pipe", "EOF", "closed")
}

func (w *witness) saw(err error) {
	if err == nil || err == redis.Nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.errs == nil {
		w.errs = map[string]int64{}
	}
	w.errs[numbers.ReplaceAllString(err.Error(), "#")]++
}

// DialHook implements redis.Hook.
func (w *witness) DialHook(next redis.DialHook) redis.DialHook {
	return func(ctx context.Context, network, addr string) (net.Conn, error) {
		w.dials.Add(1)
		conn, err := next(ctx, network, addr)
		w.saw(err)
		return conn, err
	}
}

// ProcessHook implements redis.Hook.
func (w *witness) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		w.saw(err)
		return err
	}
}

// ProcessPipelineHook implements redis.Hook.
func (w *witness) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			w.saw(cmd.Err())
		}
		return err
	}
}
