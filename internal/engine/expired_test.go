package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

// overtakes starts a load in the process of p, expires the key elsewhere, and
// starts a call that joins the load. It returns both calls.
func overtakes(t *lab, p *Loader[string], s *source[string]) (first, second *call[string]) {
	first = get(t, p, s.load)
	within(t, s.began)
	found, err := t.leases().Expire(t.Context(), t.key)
	require.NoError(t, err)
	require.True(t, found)
	second = get(t, p, s.load)
	synctest.Wait()
	require.Empty(t, s.began, "it joins the load")
	return first, second
}

func TestExpire_CallersWhoJoinALoadAfterItGetALaterLoad(t *testing.T) {
	t.Parallel()
	for name, first := range map[string]error{"a value": nil, "an error": errBroken, "that there is none": ErrNotFound} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), still[string]()))
				began, end := make(chan struct{}, 8), make(chan struct{})
				loads := 0
				load := func(context.Context) (string, Life, error) {
					began <- struct{}{}
					<-end
					if loads++; loads == 1 {
						return "old", hour, first
					}
					return "new", hour, nil
				}
				a := get(t, p, load)
				within(t, began)
				_, err := t.leases().Expire(t.Context(), t.key)
				require.NoError(t, err)
				b := get(t, p, load)
				synctest.Wait()
				require.Empty(t, began, "it joins the load")
				end <- struct{}{}
				_, err = a.wait(t)
				require.ErrorIs(t, err, first)
				end <- struct{}{}
				gets(t, "new", b)
				t.holds("new")
			})
		})
	}
}

func TestExpire_AHeartbeatDoesNotProveALoadAfterIt(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{}))
		s := newSource[string]()
		_, second := overtakes(t, p, s)
		time.Sleep(10 * time.Second) // three heartbeats
		s.value <- "old"
		within(t, s.began)
		s.value <- "new"
		gets(t, "new", second)
	})
}

// There, every reader gets a stale value.
func TestExpire_CallersWhoJoinALoadAfterItAreServedWhatIsServedStale(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		o := still[string]()
		o.StaleWhileRevalidate = time.Hour
		p := quiet(newLoader(t, t.client(), o))
		s := newSource[string]()
		first, second := overtakes(t, p, s)
		s.value <- "old"
		gets(t, "old", first, second)
		h, _ := t.entry()
		require.Equal(t, entry.Stale, h.Flags)
	})
}

func TestExplorer_FindsAFlightThatIgnoresExpire(t *testing.T) {
	t.Parallel()
	scenario := func(hides bool) func(*world) {
		return func(w *world) {
			w.replies, w.hides = true, hides
			l, r := w.share()
			w.call("P", "A", w.pair("P", l)) // which the load has read before it ends
			w.expireThen("W", func() { w.check("P", "B", r) })
		}
	}
	requireViolations(t, scenario(true))
	requireNone(t, scenario(false))
}

// hide keeps a client from learning that its key was expired while it held the
// lease.
func hide(name string, cmd redis.Cmder) {
	c, ok := cmd.(*redis.Cmd)
	switch {
	case !ok || c.Err() != nil:
	case name == "store" && c.Val() == int64(StoredStale), (name == "extend" || name == "release") && c.Val() == int64(2):
		c.SetVal(int64(1))
	}
}
