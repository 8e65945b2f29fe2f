package cachex

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// fill sets keys to something in one round trip.
func fill(t testing.TB, rdb redis.UniversalClient, keys ...string) {
	t.Helper()
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for _, k := range keys {
			p.Set(t.Context(), k, "filled", 0)
		}
		return nil
	})
	require.NoError(t, err)
}

// numbered returns n keys that begin with prefix.
func numbered(prefix string, n int) []string {
	keys := make([]string, n)
	for i := range keys {
		keys[i] = prefix + strconv.Itoa(i)
	}
	return keys
}

// left returns how many of keys there are, on whichever node.
func left(t testing.TB, rdb redis.UniversalClient, keys []string) (n int) {
	t.Helper()
	cmds, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		for _, k := range keys {
			p.Exists(t.Context(), k)
		}
		return nil
	})
	require.NoError(t, err)
	for _, cmd := range cmds {
		n += int(cmd.(*redis.IntCmd).Val())
	}
	return n
}

// clears requires that Clear of a cache with this template, after a prefix of the
// test, takes the values of own and none of others.
func clears[K comparable](t *testing.T, template string, own []K, others ...string) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		c := newCache(t, rdb, Spec[K, string]{Key: prefix + template})
		for _, k := range own {
			require.NoError(t, c.Set(t.Context(), k, "own"))
		}
		foreign := []string{prefix, "x" + prefix + template}
		for _, k := range others {
			foreign = append(foreign, prefix+k)
		}
		fill(t, rdb, foreign...)
		n, err := c.Clear(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, len(own), n)
		for _, k := range own {
			require.Zero(t, rdb.Exists(t.Context(), c.Key(k)).Val(), c.Key(k))
		}
		for _, k := range foreign {
			require.EqualValues(t, 1, rdb.Exists(t.Context(), k).Val(), "%s is not its own", k)
		}
		n, err = c.Clear(t.Context())
		require.NoError(t, err)
		require.Zero(t, n)
	})
}

func TestClear_RemovesOnlyKeysOfItsTemplate(t *testing.T) {
	t.Parallel()
	type feed struct {
		User int
		Lang string
	}
	for name, run := range map[string]func(*testing.T){
		"numbers": func(t *testing.T) {
			clears(t, ":users:{id}", []int{0, -1, math.MaxInt}, ":users:", ":users:abc", ":users:42:posts", ":users:042", ":user:1",
				":users:1 ", ":users:99999999999999999999", ":users")
		},
		"what ends in more": func(t *testing.T) {
			clears(t, ":users:{id}:posts", []int{1, 2}, ":users:1", ":users:1:posts:2", ":users:1:post", ":users:x:posts")
		},
		"text": func(t *testing.T) {
			clears(t, ":users:{id}", []string{"", "a:b", "*", "größe", "[a]?", "\\"}, ":users:1:posts", ":users:%", ":users:%3a", ":users:{1}", ":user:a")
		},
		"globs": func(t *testing.T) {
			clears(t, ":a[b]*?-^c:{id}", []int{1, 2}, ":ab:1", ":ab*?-^c:1", ":abxx-^c:1", ":a[b]xx-^c:1", ":a[b]**-^c:1", ":axx:1")
		},
		"a backslash": func(t *testing.T) {
			clears(t, `:a\*:{id}`, []int{1}, `:a*:1`, `:a\b:1`, `:a\:1`, ":ab:1")
		},
		"a hash tag": func(t *testing.T) {
			clears(t, ":cart:{{id}}:items", []int{1, 2}, ":cart:1:items", ":cart:{1}:item", ":cart:{x}:items", ":cart:{}:items")
		},
		"fields": func(t *testing.T) {
			clears(t, ":feed:{user}:{lang}", []feed{{1, "en"}, {-2, ""}, {3, "a:b"}}, ":feed:1", ":feed:x:en", ":feed:1:en:2", ":feed:1:{en}")
		},
		"bytes": func(t *testing.T) {
			clears(t, ":d:{x}", [][2]byte{{1, 2}, {255, 0}}, ":d:010", ":d:01020", ":d:FF00", ":d:xyzw")
		},
		"texts": func(t *testing.T) {
			clears(t, ":ip:{x}", []netip.Addr{netip.IPv6Loopback()}, ":ip:::1", ":ip:%3A%3A1:x")
		},
		"one value": func(t *testing.T) { clears(t, ":config", []struct{}{{}}, ":config:", ":config1", ":confi") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t)
		})
	}
}

func TestClear_FencesALoadInFlight(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"this cache", "another cache"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newSource(t)
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
				c := newCache(t, rdb, spec)
				by := c
				if from != "this cache" {
					by = newCache(t, again(t, rdb), spec)
				}
				first := asking(t.Context(), c, 1)
				load := s.next(t)
				n, err := by.Clear(t.Context())
				require.NoError(t, err)
				require.EqualValues(t, 1, n, "the lease is a key like any other")
				late := asking(t.Context(), c, 1)
				joined(t, c, 2)
				if by == c {
					s.next(t).returns("new", nil) // it does not wait for what is old
					gets(t, "new", late)
				}
				load.returns("old", nil)
				gets(t, "old", first) // who asked before it happened
				if by != c {
					s.next(t).returns("new", nil)
					gets(t, "new", late)
				}
				gets(t, "new", asking(t.Context(), by, 1))
				require.Equal(t, int64(1), c.Stats().Fenced)
				require.Empty(t, s.calls)
			})
		})
	}
}

// held returns a client of the server of rdb whose first command of that name
// waits, once it has said so, until goOn is closed.
func held(t *testing.T, rdb *redis.Client, name string) (client *redis.Client, arrived <-chan bool, goOn chan<- bool) {
	t.Helper()
	at, wait := make(chan bool), make(chan bool)
	var once sync.Once
	client = again(t, rdb)
	client.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
		if cmd.Name() == name {
			once.Do(func() {
				at <- true
				<-wait
			})
		}
	}})
	return client, at, wait
}

// A value that is stored in place of its lease is the same key, which SCAN finds
// as it would have found the lease.
func TestClear_RemovesAValueStoredDuringTheWalk(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		slow, arrived, goOn := held(t, rdb, "scan")
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		c, by := newCache(t, rdb, spec), newCache(t, slow, spec)
		first := asking(t.Context(), c, 1)
		load := s.next(t)
		cleared := make(chan error, 1)
		go func() { // ends with Clear
			_, err := by.Clear(t.Context())
			cleared <- err
		}()
		receive(t, arrived)
		load.returns("old", nil)
		gets(t, "old", first)
		gets(t, "old", asking(t.Context(), c, 1)) // it was stored
		close(goOn)
		require.NoError(t, receive(t, cleared))
		after := asking(t.Context(), c, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", after)
	})
}

func TestClear_SendsOnlyScanAndPipelinedUnlinks(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t) + ":"
		fill(t, rdb, numbered(prefix, 1500)...)
		counting, commands := counted(t, rdb)
		c := newCache(t, counting, Spec[int, string]{Key: prefix + "{id}"})
		n, err := c.Clear(t.Context())
		require.NoError(t, err)
		require.EqualValues(t, 1500, n)
		require.Equal(t, 1500, commands.Count("unlink"))
		scans := commands.Count("scan")
		require.Positive(t, scans)
		require.Equal(t, 1500+scans, commands.Count(), "something else was sent")
		require.LessOrEqual(t, commands.RoundTrips(), 4*scans, "too many, or too small batches")
	})
}

func TestClear_InvalidCallSendsNothing(t *testing.T) {
	t.Parallel()
	rdb, commands := counted(t, redistest.StartEmbedded(t).Client(nil))
	users := newCache(t, rdb, Spec[int, string]{Key: "users:{id}"})
	closed := newCache(t, rdb, Spec[int, string]{Key: "users:{id}"})
	require.NoError(t, closed.Close(t.Context()))
	byFunc := newCache(t, rdb, Spec[int, string]{Name: "users", KeyFunc: strconv.Itoa})
	bare := newCache(t, rdb, Spec[int, string]{Name: "users", Key: "{{id}}:users"})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	t.Cleanup(func() { _ = cluster.Close() })
	auto, err := cluster.AutoPipeline()
	require.NoError(t, err)
	t.Cleanup(func() { _ = auto.Close() })
	wrapped := struct{ redis.UniversalClient }{cluster}

	const hidden = "Clear has to reach every master, and the client hides them: make the cache with the ClusterClient or Ring itself"
	var none context.Context
	blamed, blame := context.WithCancelCause(t.Context())
	hungUp := errors.New("the user hung up")
	blame(hungUp)
	for _, row := range []struct {
		name  string
		cache *Cache[int, string]
		ctx   context.Context
		want  string
		is    error
	}{
		{"a nil ctx", users, none, "ctx is nil", nil},
		{"a ctx that has ended", users, blamed, "the user hung up", hungUp},
		{"a closed cache", closed, t.Context(), "closed", ErrClosed},
		{"a function that makes the keys", byFunc, t.Context(), "the keys are made by Spec.KeyFunc, so nobody can tell which they are: it takes a Spec.Key", nil},
		{"a template without a name", bare, t.Context(),
			"Spec.Key begins with a placeholder, so keys of others could be taken for its own: begin it with a name, such as \"users:\"", nil},
		{"an AutoPipeline of a Cluster", newCache(t, redis.UniversalClient(auto), Spec[int, string]{Key: "users:{id}"}), t.Context(), hidden, nil},
		{"a Cluster in something else", newCache(t, redis.UniversalClient(wrapped), Spec[int, string]{Key: "users:{id}"}), t.Context(), hidden, nil},
	} {
		t.Run(row.name, func(t *testing.T) {
			n, err := row.cache.Clear(row.ctx)
			require.Zero(t, n)
			requireError(t, err, Error{Op: "clear", Cache: "users"}, "cachex: clear users: "+row.want)
			if row.is != nil {
				require.ErrorIs(t, err, row.is)
			}
			require.Zero(t, row.cache.Stats().RedisFailures)
		})
	}
	require.Zero(t, commands.Count(), "commands were sent")
}

func TestClear_EndsDuringConcurrentSets(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}"}
		a, b := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		var all sync.WaitGroup
		for i := range 4 {
			all.Go(func() {
				for n := range 300 {
					if err := a.Set(t.Context(), n*4+i, "set"); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		for _, c := range []*Cache[int, string]{a, b} {
			all.Go(func() {
				for range 5 {
					if _, err := c.Clear(t.Context()); err != nil {
						t.Error(err)
						return
					}
				}
			})
		}
		all.Wait()
		_, err := a.Clear(t.Context())
		require.NoError(t, err)
		require.Zero(t, left(t, rdb, numbered(fmt.Sprintf("%s:", a.Name()), 1200)))
	})
}
