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

// lingering returns a hook that holds back the first reply to a script until
// let is closed. It closes ran when the script has run.
func lingering(s *script.Script, ran, let chan struct{}) *redistest.Gate {
	var once sync.Once
	return &redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
		if args := cmd.Args(); len(args) > 1 && args[1] == s.SHA() && cmd.Err() == nil {
			once.Do(func() {
				close(ran)
				<-let
			})
		}
	}}
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
			ran, let := make(chan struct{}), make(chan struct{})
			held := again(t, rdb)
			held.AddHook(lingering(script.LandCount(behind), ran, let))
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
			<-ran
			n, err := there.Inc(t.Context(), 1)
			require.NoError(t, err)
			require.EqualValues(t, 1001, n)
			go get(late)
			time.Sleep(20 * time.Millisecond) // to let it join; if it comes later, the test proves less
			close(let)
			require.EqualValues(t, 1000, <-first)
			require.EqualValues(t, 1001, <-late)
		}
	})
}
