package cachex

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A metered connection counts what is written to it.
type metered struct {
	net.Conn
	out *atomic.Int64
}

func (c metered) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	c.out.Add(int64(n))
	return n, err
}

// meteredClient returns one more client of the server of rdb, and how many bytes
// it has written to sockets.
func meteredClient(t *testing.T, rdb *redis.Client) (*redis.Client, *atomic.Int64) {
	t.Helper()
	out := new(atomic.Int64)
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil
	opts.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, addr)
		return metered{conn, out}, err
	}
	c := redis.NewClient(&opts)
	t.Cleanup(func() { _ = c.Close() })
	return c, out
}

func TestErrNotModified_RenewsTheValueWithoutSendingIt(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		big := make([]byte, 1<<20)
		_, _ = rand.Read(big)
		client, out := meteredClient(t, rdb)
		changed, saw := true, 0
		spec := Spec[int, []byte]{
			TTL: time.Hour, StaleIfError: time.Hour, Jitter: NoJitter,
			Up: func(ctx context.Context, _ int) ([]byte, error) {
				old, ok := Previous[[]byte](ctx)
				if saw = len(old); ok != (saw > 0) {
					return nil, fmt.Errorf("%d bytes, %v", saw, ok)
				}
				if changed {
					return big, nil
				}
				return nil, fmt.Errorf("304: %w", ErrNotModified)
			},
		}
		c := newCache(t, client, spec)
		read := func(id int) (Outcome, int64) {
			before := out.Load()
			var how Outcome
			v, err := c.Get(WithOutcome(t.Context(), &how), id)
			require.NoError(t, err)
			require.Equal(t, big, v)
			return how, out.Load() - before
		}
		for id := 1; id <= 2; id++ { // the first shows the server the scripts
			changed = true
			how, sent := read(id)
			require.Equal(t, Loaded, how)
			require.Zero(t, saw)
			require.Greater(t, sent, int64(len(big)))
			require.NoError(t, c.Expire(t.Context(), id))
			changed = false
			how, sent = read(id)
			require.Equal(t, Loaded, how)
			require.Equal(t, len(big), saw)
			if id == 2 {
				t.Logf("%d bytes are sent to renew %d", sent, len(big))
				require.Less(t, sent, int64(1024))
			}
			how, _ = read(id)
			require.Equal(t, Hit, how, "it is fresh again")
		}
		require.Zero(t, c.Stats().LoadFailures)
		require.Zero(t, c.Stats().StoreFailures)
		require.Equal(t, int64(4), c.Stats().Loads)
	})
}

// notModified is an Up that returns "v1" first, and after that says of whatever
// Previous gives that it is right.
func notModified() func(context.Context, int) (string, error) {
	var loads atomic.Int64
	return func(ctx context.Context, _ int) (string, error) {
		if loads.Add(1) == 1 {
			return "v1", nil
		}
		if old, ok := Previous[string](ctx); !ok || old != "v1" {
			return "", errors.New("not what was there: " + old)
		}
		return "", ErrNotModified
	}
}

func TestErrNotModified_ValueLivesAsLongAsANewOne(t *testing.T) {
	t.Parallel()
	for name, stale := range map[string]Spec[int, string]{
		"reloaded in the background": {StaleWhileRevalidate: time.Second},
		"waited for":                 {StaleIfError: time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := stale
			spec.TTL, spec.Up = 10*time.Second, notModified()
			inCrew(t, nil, spec, func(t *testing.T, c *crew) {
				require.Equal(t, view{v: "v1", how: Loaded}, look(t.Context(), c.caches[0], 1))
				first := c.header()
				for range 3 {
					time.Sleep(10 * time.Second)
					if spec.StaleWhileRevalidate > 0 {
						require.Equal(t, view{v: "v1", how: Stale}, look(t.Context(), c.caches[1], 1))
						synctest.Wait()
					} else {
						require.Equal(t, view{v: "v1", how: Loaded}, look(t.Context(), c.caches[1], 1))
					}
					h := c.header()
					require.Equal(t, time.Now().Add(10*time.Second).UnixMilli(), h.Soft)
					require.Equal(t, time.Now().UnixMilli(), h.Born)
					require.Equal(t, first.Sum, h.Sum)
					require.Equal(t, 11*time.Second, c.rdb.PTTL(t.Context(), "k:1").Val())
					c.agree("v1", Hit, 0)
				}
				time.Sleep(10*time.Second - time.Millisecond)
				c.agree("v1", Hit, 0)
			})
		})
	}
}

func TestErrNotModified_AppliesToRefreshOfAFreshValue(t *testing.T) {
	t.Parallel()
	inCrew(t, nil, Spec[int, string]{TTL: 10 * time.Second, Up: notModified()}, func(t *testing.T, c *crew) {
		require.NoError(t, look(t.Context(), c.caches[0], 1).err)
		time.Sleep(4 * time.Second)
		v, err := c.caches[1].Refresh(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "v1", v)
		require.Equal(t, 10*time.Second, c.rdb.PTTL(t.Context(), "k:1").Val())
	})
}

func TestErrNotModified_WithoutAPreviousValueIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{StaleIfError: time.Hour, Up: func(ctx context.Context, _ int) (string, error) {
			_, there := Previous[string](ctx)
			return fmt.Sprint(there), ErrNotModified
		}})
		before := map[string]func(id int) error{
			"nothing":   func(int) error { return nil },
			"foreign":   func(id int) error { return rdb.Set(t.Context(), c.Key(id), "foreign", 0).Err() },
			"a list":    func(id int) error { return rdb.RPush(t.Context(), c.Key(id), 1).Err() },
			"a deleted": func(id int) error { return errors.Join(c.Set(t.Context(), id, "v"), c.Delete(t.Context(), id)) },
		}
		id := 0
		for name, put := range before {
			id++
			require.NoError(t, put(id), name)
			got := look(t.Context(), c, id)
			require.ErrorContains(t, got.err, "not modified", name)
			require.Empty(t, got.v, name)
			require.Zero(t, got.how, name)
			require.Zero(t, rdb.Exists(t.Context(), c.Key(id)).Val(), "the lease is given back")
		}
	})
}

func TestPrevious_OutsideOfALoadReturnsFalse(t *testing.T) {
	t.Parallel()
	v, ok := Previous[string](t.Context())
	require.False(t, ok)
	require.Empty(t, v)
	NoStore(t.Context())
}

func TestNoStore_ReturnsTheValueAndKeepsTheOldEntry(t *testing.T) {
	t.Parallel()
	loads := 0
	spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, Up: func(ctx context.Context, _ int) (string, error) {
		if loads++; loads > 1 {
			NoStore(ctx)
		}
		return fmt.Sprint("v", loads), nil
	}}
	inCrew(t, nil, spec, func(t *testing.T, c *crew) {
		a := c.caches[0]
		require.Equal(t, "v1", look(t.Context(), a, 1).v)
		time.Sleep(time.Second)
		old := c.header()
		require.Equal(t, view{v: "v2", how: Loaded}, look(t.Context(), a, 1))
		now := c.header()
		require.Equal(t, old.Sum, now.Sum)
		require.Equal(t, old.Soft, now.Soft)
		require.Zero(t, now.Till, "there is neither a lease nor a pause")
		require.Equal(t, view{v: "v3", how: Loaded}, look(t.Context(), a, 1), "who comes later loads")
		require.Equal(t, view{v: "v4", how: Loaded}, look(t.Context(), a, 2))
		require.Zero(t, c.rdb.Exists(t.Context(), a.Key(2)).Val())
		require.Zero(t, a.Stats().StoreFailures)
		require.Zero(t, a.Stats().Fenced)
		v, err := a.Refresh(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "v5", v)
		require.Equal(t, old.Sum, c.header().Sum)
	})
}

// What a load learns and says by its ctx is its own, and not that of a load that
// it asks for.
func TestPrevious_IsHiddenFromNestedLoads(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		var log []string
		note := func(ctx context.Context, who string) {
			v, ok := Previous[string](ctx)
			log = append(log, fmt.Sprint(who, " ", ok, " ", v))
		}
		inner := newCache(t, rdb, Spec[int, string]{Key: "inner:{id}", Up: func(ctx context.Context, _ int) (string, error) {
			note(ctx, "inner")
			NoStore(ctx)
			return "from inside", nil
		}})
		outer := newCache(t, rdb, Spec[int, string]{
			Key: "outer:{id}", TTL: time.Second, StaleIfError: time.Minute, Jitter: NoJitter,
			Up: func(ctx context.Context, id int) (string, error) {
				v, err := inner.Get(ctx, id)
				note(ctx, "outer")
				return v, err
			},
		})
		require.NoError(t, outer.Set(t.Context(), 1, "old"))
		time.Sleep(time.Second)
		require.Equal(t, view{v: "from inside", how: Loaded}, look(t.Context(), outer, 1))
		synctest.Wait()
		require.Equal(t, []string{"inner false ", "outer true old"}, log)
		require.Equal(t, view{v: "from inside", how: Hit}, look(t.Context(), outer, 1))
		require.Zero(t, rdb.Exists(t.Context(), inner.Key(1)).Val())
	})
}

// The value that is not modified is that of before: what was done to it since wins.
func TestErrNotModified_RenewalIsFenced(t *testing.T) {
	t.Parallel()
	for name, what := range map[string]func(ctx context.Context, c *Cache[int, string]) error{
		"Set":    func(ctx context.Context, c *Cache[int, string]) error { return c.Set(ctx, 1, "set") },
		"Delete": func(ctx context.Context, c *Cache[int, string]) error { return c.Delete(ctx, 1) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			spec := Spec[int, string]{TTL: time.Second, StaleIfError: time.Minute, Jitter: NoJitter}
			inBubble(t, spec, func(t *testing.T, rdb *redis.Client, s *source, a, b *Cache[int, string]) {
				require.NoError(t, a.Set(t.Context(), 1, "old"))
				time.Sleep(time.Second)
				first := looking(t.Context(), a, 1)
				load := s.next(t)
				require.NoError(t, what(t.Context(), b))
				late := looking(t.Context(), a, 1)
				synctest.Wait()
				load.returns("", ErrNotModified)
				require.Equal(t, "old", receive(t, first).v)
				require.EqualValues(t, 1, a.Stats().Fenced)
				if name == "Set" {
					require.Equal(t, "set", receive(t, late).v)
				} else {
					s.next(t).returns("new", nil)
					require.Equal(t, "new", receive(t, late).v)
				}
				require.NotEqual(t, "old", look(t.Context(), b, 1).v)
			})
		})
	}
}
