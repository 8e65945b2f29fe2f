package cachex

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A source is an Up whose every call waits for the test to answer it. It heeds
// no ctx: a load that does says so.
type source struct {
	calls chan *loading
	end   <-chan struct{} // of the test, however it ends
}

// A loading is one call of Up.
type loading struct {
	ctx    context.Context
	id     int
	answer chan func() (string, error)
}

func newSource(t *testing.T) *source {
	return &source{calls: make(chan *loading, 1000), end: t.Context().Done()}
}

func (s *source) up(ctx context.Context, id int) (string, error) {
	l := &loading{ctx: ctx, id: id, answer: make(chan func() (string, error), 1)}
	s.calls <- l
	select {
	case f := <-l.answer:
		return f()
	case <-s.end:
		return "", errors.New("the test has ended")
	}
}

// next returns the next call of Up.
func (s *source) next(t *testing.T) *loading {
	t.Helper()
	return receive(t, s.calls)
}

func (l *loading) does(f func() (string, error)) { l.answer <- f }

func (l *loading) returns(v string, err error) {
	l.does(func() (string, error) { return v, err })
}

// An answer is what a Get returned.
type answer struct {
	v   string
	err error
}

// asking calls Get in a goroutine of its own.
func asking(ctx context.Context, c *Cache[int, string], id int) <-chan answer {
	ch := make(chan answer, 1)
	go func() { // ends with Get
		v, err := c.Get(ctx, id)
		ch <- answer{v, err}
	}()
	return ch
}

// gets requires that a Get returns want.
func gets(t *testing.T, want string, ch <-chan answer) {
	t.Helper()
	got := receive(t, ch)
	require.NoError(t, got.err)
	require.Equal(t, want, got.v)
}

// eventually waits for something that no channel tells of.
func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	require.Eventually(t, cond, patience, time.Millisecond, what)
}

// joined waits until n callers of c wait for loads, or have.
func joined(t *testing.T, c *Cache[int, string], n int64) {
	t.Helper()
	eventually(t, "callers should wait for a load", func() bool { return c.Stats().Misses == n })
}

// waiting waits until c waits for a load of another cache for the nth time.
func waiting(t *testing.T, c *Cache[int, string], n int64) {
	t.Helper()
	eventually(t, "a flight should wait for a lease", func() bool { return c.Stats().Waits == n })
}

// foreign are the ways in which others than cachex take a key away.
var foreign = []struct {
	name  string
	harms bool   // other tests of the server, too
	left  string // what the key holds then
	act   func(ctx context.Context, rdb *redis.Client, key string) error
}{
	{name: "DEL", act: func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.Del(ctx, key).Err()
	}},
	{name: "UNLINK", act: func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.Unlink(ctx, key).Err()
	}},
	{name: "SET", left: "foreign", act: func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.Set(ctx, key, "foreign", 0).Err()
	}},
	{name: "PEXPIRE", act: func(ctx context.Context, rdb *redis.Client, key string) error {
		return rdb.PExpire(ctx, key, time.Millisecond).Err()
	}},
	{name: "FLUSHDB", harms: true, act: func(ctx context.Context, rdb *redis.Client, _ string) error {
		return rdb.FlushDB(ctx).Err()
	}},
	{name: "eviction", harms: true, act: evict},
}

// evict makes the server evict keys at random until it has hit key.
func evict(ctx context.Context, rdb *redis.Client, key string) error {
	if err := rdb.ConfigSet(ctx, "maxmemory-policy", "allkeys-random").Err(); err != nil {
		return err
	}
	if err := rdb.ConfigSet(ctx, "maxmemory", "3mb").Err(); err != nil {
		return err
	}
	for i := 0; rdb.Exists(ctx, key).Val() == 1; i++ {
		if err := rdb.Set(ctx, fmt.Sprint("filler:", i), strings.Repeat("x", 32<<10), 0).Err(); err != nil {
			return err
		}
	}
	return rdb.ConfigSet(ctx, "maxmemory", "0").Err()
}

// eachForeign runs f for each foreign act, on a real server and, eviction aside,
// on an embedded one.
func eachForeign(t *testing.T, f func(t *testing.T, rdb *redis.Client, act func(key string), left string)) {
	for _, a := range foreign {
		run := func(server string, client func(t *testing.T) *redis.Client) {
			t.Run(a.name+"/"+server, func(t *testing.T) {
				t.Parallel()
				rdb := client(t)
				f(t, rdb, func(key string) {
					require.NoError(t, a.act(t.Context(), rdb, key))
					eventually(t, "the lease should be gone", func() bool {
						return rdb.Get(t.Context(), key).Val() == a.left
					})
				}, a.left)
			})
		}
		run("redis", func(t *testing.T) *redis.Client {
			if a.harms {
				return redistest.Start(t).Client(nil)
			}
			return redistest.Shared(t).Client(nil)
		})
		if a.name != "eviction" {
			run("embedded", func(t *testing.T) *redis.Client { return redistest.StartEmbedded(t).Client(nil) })
		}
	}
}

// In these tests a lease holds for an hour, so that no heartbeat finds out what
// happens to it, however long the machine stands still: what is stored must
// depend on the token alone.
const longLease = time.Hour

func TestGet_LoadIsNotStoredIfItsKeyIsRemoved(t *testing.T) {
	t.Parallel()
	eachForeign(t, func(t *testing.T, rdb *redis.Client, act func(string), left string) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		first := asking(t.Context(), c, 1)
		load := s.next(t)
		act(c.Key(1))
		load.returns("old", nil)
		gets(t, "old", first) // who asked before it happened
		require.Equal(t, left, rdb.Get(t.Context(), c.Key(1)).Val())
		require.Equal(t, int64(1), c.Stats().Fenced)

		second := asking(t.Context(), c, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", second)
		gets(t, "new", asking(t.Context(), c, 1)) // a hit: nobody answers a load
		require.Equal(t, int64(1), c.Stats().Fenced)
		require.Zero(t, c.Stats().StoreFailures)
	})
}

func TestGet_CallerAfterARemovalGetsALaterLoad(t *testing.T) {
	t.Parallel()
	eachForeign(t, func(t *testing.T, rdb *redis.Client, act func(string), _ string) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		first := asking(t.Context(), c, 1)
		load := s.next(t)
		act(c.Key(1))
		late := asking(t.Context(), c, 1)
		joined(t, c, 2) // this process does not know better yet
		load.returns("old", nil)
		gets(t, "old", first)
		s.next(t).returns("new", nil)
		gets(t, "new", late)
		gets(t, "new", asking(t.Context(), c, 1))
		require.Equal(t, int64(1), c.Stats().Fenced)
	})
}

// Whether it comes from this process or from another one, what the user does
// during a load wins.
func TestGet_SetAndDeleteDuringALoadWin(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"this cache", "another cache"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			begin := func(t *testing.T, rdb *redis.Client) (s *source, c, by *Cache[int, string], first <-chan answer, load *loading) {
				s = newSource(t)
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
				c = newCache(t, rdb, spec)
				if by = c; from != "this cache" {
					by = newCache(t, again(t, rdb), spec)
				}
				first = asking(t.Context(), c, 1)
				return s, c, by, first, s.next(t)
			}
			t.Run("Set", func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
					s, c, by, first, load := begin(t, rdb)
					require.NoError(t, by.Set(t.Context(), 1, "set"))
					late := asking(t.Context(), c, 1)
					eventually(t, "the late caller should have begun", func() bool {
						return c.Stats().Misses == 2 || c.Stats().Hits == 1
					})
					load.returns("old", nil)
					gets(t, "old", first)
					gets(t, "set", late)
					gets(t, "set", asking(t.Context(), by, 1))
					require.Equal(t, int64(1), c.Stats().Fenced)
					require.Empty(t, s.calls, "there was nothing to load")
				})
			})
			t.Run("Delete", func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
					s, c, by, first, load := begin(t, rdb)
					require.NoError(t, by.Delete(t.Context(), 1))
					require.Zero(t, rdb.Exists(t.Context(), c.Key(1)).Val())
					late := asking(t.Context(), c, 1)
					joined(t, c, 2)
					load.returns("old", nil)
					gets(t, "old", first)
					s.next(t).returns("new", nil)
					gets(t, "new", late)
					gets(t, "new", asking(t.Context(), by, 1))
					require.Equal(t, int64(1), c.Stats().Fenced)
				})
			})
		})
	}
}

func TestDelete_FencedLoadDoesNotDisturbALaterLoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, oldFirst := range []bool{true, false} {
			t.Run(fmt.Sprint("old first ", oldFirst), func(t *testing.T) {
				t.Parallel()
				s := newSource(t)
				c := newCache(t, again(t, rdb), Spec[int, string]{Up: s.up, LeaseTTL: longLease})
				before := asking(t.Context(), c, 1)
				old := s.next(t)
				require.NoError(t, c.Delete(t.Context(), 1))
				after := asking(t.Context(), c, 1)
				fresh := s.next(t) // at the same time: nobody after a Delete waits for what is old
				if oldFirst {
					old.returns("old", nil)
					gets(t, "old", before)
					between := asking(t.Context(), c, 1)
					joined(t, c, 3)
					fresh.returns("new", nil)
					gets(t, "new", between)
					gets(t, "new", after)
				} else {
					fresh.returns("new", nil)
					gets(t, "new", after)
					gets(t, "new", asking(t.Context(), c, 1))
					old.returns("old", nil)
					gets(t, "old", before)
				}
				gets(t, "new", asking(t.Context(), c, 1))
				require.Equal(t, int64(1), c.Stats().Fenced)
				require.Equal(t, int64(2), c.Stats().Loads)
			})
		}
	})
}
