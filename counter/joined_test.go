package counter_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// lingering holds back the first reply to a script until the test continues.
type lingering struct {
	sha  string
	once sync.Once
	ran  chan struct{} // closed when the script has run
	let  chan struct{}
}

func (l *lingering) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *lingering) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd)
		if args := cmd.Args(); len(args) > 1 && args[1] == l.sha && err == nil {
			l.once.Do(func() {
				close(l.ran)
				<-l.let
			})
		}
		return err
	}
}

func (l *lingering) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

// Another process may add to a count after it was stored, but before the
// waiters are told. A later caller sees that addition.
func TestRestore_LaterReaderSeesAdditionsAfterTheStore(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, behind := range []bool{false, true} {
			tb := newTable(map[int]int64{1: 1000})
			spec := counter.Spec[int]{Key: redistest.Key(t) + map[bool]string{false: "apart", true: "behind"}[behind] + ":{id}", Up: tb.up}
			if behind {
				spec.Down, spec.FlushEvery = tb.down, time.Hour
			}
			warm := newCounter(t, rdb, spec) // the server learns the scripts
			_, err := warm.Get(t.Context(), 7)
			require.NoError(t, err)
			slow := &lingering{sha: script.LandCount(behind).SHA(), ran: make(chan struct{}), let: make(chan struct{})}
			held := again(t, rdb)
			held.AddHook(slow)
			here, there := newCounter(t, held, spec), newCounter(t, again(t, rdb), spec)
			first, late := make(chan int64, 1), make(chan int64, 1)
			get := func(to chan int64) {
				n, err := here.Get(t.Context(), 1)
				if err != nil {
					t.Error(err)
				}
				to <- n
			}
			go get(first)
			<-slow.ran
			n, err := there.Inc(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 1001, n)
			go get(late)
			time.Sleep(20 * time.Millisecond) // to let it join; if it comes later, the test proves less
			close(slow.let)
			require.EqualValues(t, 1000, <-first)
			require.EqualValues(t, 1001, <-late)
		}
	})
}
