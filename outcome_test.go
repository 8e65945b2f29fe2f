package cachex

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestWithOutcome_RecordsWhereAValueCameFrom(t *testing.T) {
	t.Parallel()
	spec := Spec[int, string]{
		TTL: time.Second, StaleWhileRevalidate: time.Second, NotFoundTTL: time.Minute, Jitter: NoJitter,
	}
	inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
		here, there := looking(t.Context(), a, 1), looking(t.Context(), a, 1)
		load := s.next(t)
		synctest.Wait() // else b might be first
		elsewhere := looking(t.Context(), b, 1)
		synctest.Wait()
		load.returns("v", nil)
		require.Equal(t, Loaded, receive(t, here).how)
		require.Equal(t, Loaded, receive(t, there).how, "for a call before")
		require.Equal(t, Waited, receive(t, elsewhere).how)
		require.Equal(t, Hit, look(t.Context(), b, 1).how)

		time.Sleep(time.Second)
		require.Equal(t, Stale, look(t.Context(), a, 1).how)
		s.next(t).returns("", ErrNotFound)
		synctest.Wait()
		got := look(t.Context(), b, 1)
		require.Equal(t, NotFound, got.how)
		require.ErrorIs(t, got.err, ErrNotFound)

		var how Outcome
		ctx := WithOutcome(t.Context(), &how)
		_, ok, err := a.Lookup(ctx, 1)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, NotFound, how)
		_, ok, err = a.Lookup(ctx, 2)
		require.NoError(t, err)
		require.False(t, ok)
		require.Zero(t, how, "Redis knows nothing of it")

		refreshed := make(chan error)
		go func() { _, err := a.Refresh(ctx, 1); refreshed <- err }()
		s.next(t).returns("new", nil)
		require.NoError(t, receive(t, refreshed))
		require.Equal(t, Loaded, how)
	})
}

func TestWithOutcome_RecordsABypass(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		faults := new(redistest.Faults)
		faults.Add(redistest.Fault{Times: redistest.Always})
		rdb.AddHook(faults)
		o := &origin{takes: time.Millisecond}
		c := newCache(t, rdb, Spec[int, string]{Up: o.up})
		for n := range 50 {
			got := look(t.Context(), c, n)
			require.NoError(t, got.err)
			require.Equal(t, Bypassed, got.how)
		}
		stats := c.Stats()
		require.NotEqual(t, BreakerClosed, stats.Breaker)
		require.Positive(t, stats.Bypasses)
		require.GreaterOrEqual(t, stats.Bypasses+stats.RedisFailures, int64(50))
		require.EqualValues(t, 50, o.loads())
		var how Outcome
		_, err := c.Refresh(WithOutcome(t.Context(), &how), 1)
		require.NoError(t, err)
		require.Equal(t, Bypassed, how)

		faults.Clear()
		time.Sleep(time.Minute) // beyond any pause of the breaker
		require.Equal(t, Bypassed, look(t.Context(), c, 1).how, "the probe is in the background")
		synctest.Wait()
		require.Equal(t, Loaded, look(t.Context(), c, 1).how)
		require.Equal(t, Hit, look(t.Context(), c, 1).how)
		require.Equal(t, BreakerClosed, c.Stats().Breaker)
	})
}

// Whatever the outcome of the call before was.
func TestWithOutcome_FailedCallHasNoOutcome(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	o := &origin{err: errSource}
	c := newCache(t, rdb, Spec[int, string]{Up: o.up, NotFoundTTL: time.Hour})
	bare := newCache(t, rdb, Spec[int, string]{})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for name, call := range map[string]func(ctx context.Context, c *Cache[int, string]) error{
		"get": func(ctx context.Context, c *Cache[int, string]) error { _, err := c.Get(ctx, 1); return err },
		"lookup": func(ctx context.Context, c *Cache[int, string]) error {
			_, ok, err := c.Lookup(ctx, 1)
			require.False(t, ok)
			return err
		},
		"refresh": func(ctx context.Context, c *Cache[int, string]) error { _, err := c.Refresh(ctx, 1); return err },
		"getmany": func(ctx context.Context, c *Cache[int, string]) error { _, err := c.GetMany(ctx, []int{1}); return err },
		"lookupmany": func(ctx context.Context, c *Cache[int, string]) error {
			_, err := c.LookupMany(ctx, []int{1})
			return err
		},
	} {
		for _, row := range []struct {
			what string
			ctx  context.Context
			c    *Cache[int, string]
		}{{"Up fails, or there is none", t.Context(), c}, {"no Up", t.Context(), bare}, {"ctx has ended", ended, c}} {
			how := Hit
			_ = call(WithOutcome(row.ctx, &how), row.c)
			require.Zero(t, how, "%s where %s", name, row.what)
		}
	}
	require.NoError(t, c.Close(t.Context()))
	how := Hit
	_, err := c.Get(WithOutcome(t.Context(), &how), 1)
	require.ErrorIs(t, err, ErrClosed)
	require.Zero(t, how, "closed")
}

// The load of a stale value goes on when its reader is gone, who may look at the
// outcome then: whatever Up asks for must not touch it. The race detector sees
// more of that than the test does.
func TestWithOutcome_CallsOfUpDoNotChangeIt(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		inner := newCache(t, rdb, Spec[int, string]{Key: "inner:{id}"})
		require.NoError(t, inner.Set(t.Context(), 1, "inner"))
		var own Outcome
		outer := newCache(t, rdb, Spec[int, string]{
			Key: "outer:{id}", TTL: time.Second, StaleWhileRevalidate: time.Hour, Jitter: NoJitter,
			Up: func(ctx context.Context, id int) (string, error) {
				<-time.After(time.Second)
				if _, err := inner.GetMany(ctx, []int{id}); err != nil {
					return "", err
				}
				if _, _, err := inner.Lookup(ctx, id); err != nil {
					return "", err
				}
				if _, err := inner.Get(WithOutcome(ctx, &own), id); err != nil {
					return "", err
				}
				return inner.Get(ctx, id)
			},
		})
		require.NoError(t, outer.Set(t.Context(), 1, "old"))
		time.Sleep(time.Second)
		var how Outcome
		_, err := outer.Get(WithOutcome(t.Context(), &how), 1)
		require.NoError(t, err)
		for range 15 {
			require.Equal(t, Stale, how)
			time.Sleep(100 * time.Millisecond)
		}
		synctest.Wait()
		require.Equal(t, Hit, own)
		require.Equal(t, view{v: "inner", how: Hit}, look(t.Context(), outer, 1))
	})
}

func TestWithOutcome_ManyKeysRecordTheMostExpensive(t *testing.T) {
	t.Parallel()
	for name, together := range map[string]bool{"Up": false, "UpMany": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				o := &origin{}
				missing := errors.New("the key that there is not")
				up := func(ctx context.Context, id int) (string, error) {
					if id == 3 {
						return "", ErrNotFound
					}
					if id == 9 {
						return "", missing
					}
					return o.up(ctx, id)
				}
				spec := Spec[int, string]{
					Key: "k:{id}", TTL: time.Second, StaleWhileRevalidate: time.Minute, NotFoundTTL: time.Hour, Jitter: NoJitter, Up: up,
				}
				if together {
					spec.UpMany = func(ctx context.Context, ids []int) (map[int]string, error) {
						values := make(map[int]string)
						var failed error
						for _, id := range ids {
							v, err := up(ctx, id)
							if err == nil {
								values[id] = v
							} else if !errors.Is(err, ErrNotFound) {
								failed = err
							}
						}
						return values, failed
					}
				}
				c := newCache(t, rdb, spec)
				get := func(ids ...int) (how Outcome) {
					_, err := c.GetMany(WithOutcome(t.Context(), &how), ids)
					require.NoError(t, err)
					synctest.Wait()
					return how
				}
				require.Equal(t, Loaded, get(1, 3))
				require.Equal(t, Hit, get(1))
				require.Equal(t, NotFound, get(3, 1))
				time.Sleep(time.Second)
				require.NoError(t, c.Set(t.Context(), 2, "fresh"))
				require.Equal(t, Stale, get(2, 1, 3))
				require.Equal(t, Hit, get(1, 2))
				require.Equal(t, Loaded, get(1, 2, 3, 4))
				require.Zero(t, get())

				how := Outcome(0)
				values, err := c.GetMany(WithOutcome(t.Context(), &how), []int{2, 9})
				require.ErrorIs(t, err, missing)
				require.Equal(t, map[int]string{2: "fresh"}, values)
				require.Zero(t, how, "a call that fails has no outcome, whatever it returns")
				how = Loaded
				_, err = c.LookupMany(WithOutcome(t.Context(), &how), []int{1, 3, 77})
				require.NoError(t, err)
				require.Equal(t, NotFound, how)
			})
		})
	}
}

// A diary is an Observer that keeps what it is told.
type diary struct {
	mu    sync.Mutex
	lines []string // guarded by mu
}

type diaryKey struct{ op string }

func (d *diary) Begin(ctx context.Context, e Event) context.Context {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, fmt.Sprintf("begin %s %s %s %d", e.Op, e.Cache, e.Key, e.Keys))
	return context.WithValue(ctx, diaryKey{e.Op}, len(d.lines))
}

func (d *diary) End(ctx context.Context, e Event, r Result) {
	d.mu.Lock()
	defer d.mu.Unlock()
	began, _ := ctx.Value(diaryKey{e.Op}).(int)
	d.lines = append(d.lines, fmt.Sprintf("end %s %s %s %d (%d): %q %v %v", e.Op, e.Cache, e.Key, e.Keys, began, r.Outcome, r.Took, r.Err))
}

// read returns the lines since the last time.
func (d *diary) read() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	lines := d.lines
	d.lines = nil
	return lines
}
