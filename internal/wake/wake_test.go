package wake

import (
	"context"
	"runtime"
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

func TestPoll_LooksLessAndLessOften(t *testing.T) {
	t.Parallel()
	next := func(p *Poll, live bool) time.Duration {
		d := p.Next(live)
		time.Sleep(d)
		return d
	}
	synctest.Test(t, func(t *testing.T) {
		for range 100 { // the times are random
			for _, lease := range []time.Duration{30 * time.Millisecond, time.Second, time.Minute} {
				most := min(250*time.Millisecond, lease/4)
				p, live := NewPoll(time.Time{}, 0, 0, lease), NewPoll(time.Time{}, 0, 0, lease)
				next(&p, false)
				next(&live, true)
				least := 2 * time.Millisecond
				for range 20 {
					d := next(&p, false)
					require.GreaterOrEqual(t, d, least)
					require.LessOrEqual(t, d, least+least/4+1)
					least = min(least*8/5, most)

					d = next(&live, true)
					require.GreaterOrEqual(t, d, min(100*time.Millisecond, most))
					require.LessOrEqual(t, d, most+most/4+1)
				}
				require.Equal(t, most, least)
			}
		}
	})
}

// deaf is a client of one server that does not subscribe.
type deaf struct {
	redis.UniversalClient
	subscribe func()
}

func (d *deaf) Subscribe(context.Context, ...string) *redis.PubSub {
	d.subscribe()
	return nil
}

func TestListener_TakesAClientThatDoesNotSubscribeForOneThatRefuses(t *testing.T) {
	t.Parallel()
	for name, subscribe := range map[string]func(){
		"panics": func() { panic("boom") }, "exits": runtime.Goexit, "returns nil": func() {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				l := For(&deaf{rdb, subscribe})
				w := l.Expect("k", "k")
				require.False(t, w.begin(0))
				synctest.Wait()
				require.Empty(t, l.ears)
				require.True(t, l.retryAt[""].After(time.Now()))
				require.False(t, l.Hears(), "no message is asked for")
				<-w.look // as after a connection that broke
				require.False(t, w.begin(0))
				require.Empty(t, l.ears, "it is not tried again so soon")
				w.End()
				require.Nil(t, l.Release())
			})
		})
	}
}
