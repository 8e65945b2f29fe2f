package cachex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

// calls returns every call on a cache, by the Op of its errors.
func calls[K comparable, V any](c *Cache[K, V], key K, value V) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := c.Get(ctx, key); return err },
		"lookup": func(ctx context.Context) error { _, _, err := c.Lookup(ctx, key); return err },
		"set":    func(ctx context.Context) error { return c.Set(ctx, key, value) },
		"delete": func(ctx context.Context) error { return c.Delete(ctx, key) },
	}
}

// requireError checks the whole of an error of a call.
func requireError(t *testing.T, err error, want Error, text string) {
	t.Helper()
	require.EqualError(t, err, text)
	got, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%T is not an *Error", err)
	want.Err = got.Err
	require.Equal(t, want, *got)
}

func TestCache_InvalidCallSendsNothingAndLoadsNothing(t *testing.T) {
	t.Parallel()
	rdb, commands := counted(t, redistest.StartEmbedded(t).Client(nil))
	loads := 0
	spec := Spec[textKey, User]{Key: "users:{id}", Up: func(context.Context, textKey) (User, error) { loads++; return ann, nil }}
	users, closed := newCache(t, rdb, spec), newCache(t, rdb, spec)
	require.NoError(t, closed.Close(t.Context()))
	spec = Spec[textKey, User]{Name: "users", KeyFunc: func(k textKey) string {
		if k == "panic" {
			panic("no key for " + k)
		}
		return ""
	}}
	byFunc := newCache(t, rdb, spec)

	var none context.Context // a literal nil is what linters are for
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	blamed, blame := context.WithCancelCause(t.Context())
	blame(errors.New("the user hung up"))
	late, stop := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer stop()
	long := textKey(strings.Repeat("x", 1019)) // one byte too many after "users:"

	for _, row := range []struct {
		name  string
		cache *Cache[textKey, User]
		ctx   context.Context
		key   textKey
		want  string
		is    error
	}{
		// The standard library panics; a cache must not take the process with it.
		{"a nil ctx", users, none, "1", "ctx is nil", nil},
		{"a cancelled ctx", users, cancelled, "1", "context canceled", context.Canceled},
		// Why it was cancelled is worth more than that it was.
		{"a ctx with a cause", users, blamed, "1", "the user hung up", nil},
		{"a deadline in the past", users, late, "1", "context deadline exceeded", context.DeadlineExceeded},
		{"a closed cache", closed, t.Context(), "1", "closed", ErrClosed},
		// A key of a megabyte would be sent, stored and logged.
		{"a key that is too long", users, t.Context(), long, "key too long: at least 1025 bytes, the limit is 1024", nil},
		// The cause is in the chain; the key is not in the text.
		{"a key whose text cannot be made", users, t.Context(), "fail", "cachex.textKey: MarshalText: unexpected EOF", io.ErrUnexpectedEOF},
		{"a key whose method panics", users, t.Context(), "panic", "cachex.textKey: MarshalText panicked with a cachex.textKey", nil},
		// Redis would take it, and every key would be this one.
		{"a function that makes no key", byFunc, t.Context(), "1", "key is empty", nil},
		{"a function that panics", byFunc, t.Context(), "panic", "Spec.KeyFunc panicked with a cachex.textKey", nil},
	} {
		for op, call := range calls(row.cache, row.key, ann) {
			t.Run(row.name+", "+op, func(t *testing.T) {
				err := call(row.ctx)
				requireError(t, err, Error{Op: op, Cache: "users"}, "cachex: "+op+" users: "+row.want)
				if row.is != nil {
					require.ErrorIs(t, err, row.is)
				}
			})
		}
	}
	require.Empty(t, users.Key("fail"), "Key has no error to return")
	requireError(t, users.Delete(t.Context(), "1", "2", "fail"), Error{Op: "delete", Cache: "users"},
		"cachex: delete users: cachex.textKey: MarshalText: unexpected EOF") // and 1 and 2 are not deleted
	require.Zero(t, commands.Count(), "commands were sent")
	require.Zero(t, loads)
}

func TestError_NamesTheCacheOnlyIfItHasAName(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[string, string]{KeyFunc: func(k string) string { return k }})
	_, err := c.Get(t.Context(), "")
	require.EqualError(t, err, "cachex: get: key is empty")
	// A key that is made by a function may hold anything, and a log is read on a terminal.
	for key, shown := range map[string]string{
		"a b:é":      "a b:é",
		"a\nb":       `"a\nb"`,
		"a\x1b[31mb": `"a\x1b[31mb"`,
		"a\x9b31mb":  `"a\x9b31mb"`, // not UTF-8: the escape of a terminal of 8 bits
	} {
		_, err := c.Get(t.Context(), key)
		require.EqualError(t, err, "cachex: get "+shown+": not found")
	}
}

func TestClose_IsIdempotentAndNeedsACtx(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[int64, string]{Key: "users:{id}"})
	var none context.Context
	requireError(t, c.Close(none), Error{Op: "close", Cache: "users"}, "cachex: close users: ctx is nil")
	require.NoError(t, c.Set(t.Context(), 1, "still open"))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, rdb.Ping(t.Context()).Err(), "the client is the caller's")
}

func TestMust_PanicsWithTheErrorOfNew(t *testing.T) {
	t.Parallel()
	require.PanicsWithError(t, "cachex: client is nil", func() { Must(New(nil, userSpec{Key: "users:{id}", TTL: time.Minute})) })
}

func TestDelete_AcceptsZeroAndManyKeys(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		counting, commands := counted(t, rdb)
		c := newCache(t, counting, Spec[int, string]{})
		require.NoError(t, c.Delete(ctx))
		require.Zero(t, commands.Count(), "there was nothing to delete")

		const n = 10_000
		keys, some := make([]int, n), []int{0, 511, 512, 5_000, n - 1}
		for i := range keys {
			keys[i] = i
		}
		for _, k := range some {
			require.NoError(t, c.Set(ctx, k, "x"))
		}
		commands.Reset()
		require.NoError(t, c.Delete(ctx, keys...))
		require.Equal(t, n, commands.Count("unlink"))
		require.Equal(t, n, commands.Count())
		// Neither one round trip a key, nor one that keeps everybody else waiting.
		require.Equal(t, 20, commands.RoundTrips())
		for _, k := range some {
			_, ok, err := c.Lookup(ctx, k)
			require.NoError(t, err)
			require.False(t, ok, "key %d is still there", k)
		}
	})
}

func TestKey_SimilarKeysAreDistinct(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[twoKey, string]{Key: "users:{id}:{lang}"})
	keys := []twoKey{
		{"a:b", "c"}, {"a", "b:c"}, // the separator in a part
		{"", "a"}, {"a", ""}, {"", ""}, // nothing is a part too
		{"{a}", "b"}, {"a", "{b}"}, {"a%3Ab", "c"}, // what would steer a slot of a Cluster, what is escaped already
		{"a\x00", "b"}, {"a", "\x00b"}, {"a\r\n", "b"}, {"a\xff", "b"},
		{"\u00e9", ""}, {"e\u0301", ""}, {"É", ""}, // one letter to a reader, three keys to Redis
		{"*", "?"}, {"[ab]", "\\"}, {"cachex", "wake"},
	}
	seen := map[string]twoKey{}
	for _, k := range keys {
		rendered := c.Key(k)
		require.NotContains(t, seen, rendered, "%q", k)
		require.NotContains(t, rendered, "{")
		seen[rendered] = k
		require.NoError(t, c.Set(t.Context(), k, rendered))
	}
	for rendered, k := range seen {
		v, err := c.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, rendered, v)
	}
}

func TestTTLFor_InvalidResultFailsSetAndStillReturnsTheLoadedValue(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[string, User]{
		Key: "users:{id}",
		TTLFor: func(k string, u User) time.Duration {
			switch k {
			case "panic":
				panic(u.Name)
			case "error":
				panic(fmt.Errorf("%s: %w", u.Name, io.ErrClosedPipe))
			}
			d, err := time.ParseDuration(k)
			require.NoError(t, err)
			return d
		},
		Up: func(context.Context, string) (User, error) { return ann, nil },
	})
	for i, row := range []struct{ key, want string }{
		{"-1s", "Spec.TTLFor: -1s is too short, must be at least 1ms"},
		{"100us", "Spec.TTLFor: 100µs is too short, must be at least 1ms"},
		{"1500us", "Spec.TTLFor: 1.5ms is not whole milliseconds"},
		{"100000h", "Spec.TTLFor: 100000h0m0s is longer than ten years: use Forever"},
		// What it panicked with may be made of the value.
		{"panic", "Spec.TTLFor panicked with a string"},
	} {
		t.Run(row.key, func(t *testing.T) {
			key := "users:" + row.key
			requireError(t, c.Set(t.Context(), row.key, ann), Error{Op: "set", Cache: "users", Key: key}, "cachex: set "+key+": "+row.want)
			u, err := c.Get(t.Context(), row.key)
			require.NoError(t, err, "the value is there, whatever its TTL")
			require.Equal(t, ann, u)
			require.EqualValues(t, i+1, c.Stats().StoreFailures)
			require.Zero(t, rdb.Exists(t.Context(), key).Val(), "it has no TTL, so it must not be stored")
		})
	}
	require.ErrorIs(t, c.Set(t.Context(), "error", ann), io.ErrClosedPipe, "an error is in the chain")
}

func TestUp_ErrorIsReturnedUnchangedAndNothingIsStored(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, failsInEveryWay) // where a load that ends at once takes no time
}

func failsInEveryWay(t *testing.T, rdb *redis.Client) {
	ctx := t.Context()
	var c *Cache[string, User]
	c = newCache(t, rdb, Spec[string, User]{
		Key:       "users:{id}",
		UpTimeout: 100 * time.Millisecond,
		Up: func(ctx context.Context, k string) (User, error) {
			switch k {
			case "missing":
				return User{}, fmt.Errorf("no row: %w", ErrNotFound)
			case "both": // as a careless function does that fills a named result
				return ann, io.ErrClosedPipe
			case "again":
				return c.Get(ctx, k)
			case "around":
				return c.Get(ctx, "about")
			case "about":
				return c.Get(ctx, "around")
			case "late":
				<-ctx.Done()
				return User{}, ctx.Err()
			case "exit":
				runtime.Goexit()
			}
			panic(k)
		},
	})
	for _, row := range []struct {
		key, want string
		is        error
	}{
		{"missing", "no row: not found", ErrNotFound},
		{"both", "io: read/write on closed pipe", io.ErrClosedPipe},
		// It would wait for itself.
		{"again", "get users:again: load asks for the key that it loads", loader.ErrReentrant},
		{"around", "get users:about: get users:around: load asks for the key that it loads", loader.ErrReentrant},
		// Up returns the bare error of its ctx. Why that ended is what the caller asks.
		{"late", "load took longer than 100ms: context deadline exceeded", context.DeadlineExceeded},
		{"exit", "load called runtime.Goexit", loader.ErrGoexit},
		{"boom", "load panicked: boom", nil},
	} {
		t.Log(row.key)
		key := "users:" + row.key
		u, err := c.Get(ctx, row.key)
		requireError(t, err, Error{Op: "get", Cache: "users", Key: key}, "cachex: get "+key+": "+row.want)
		if row.is != nil {
			require.ErrorIs(t, err, row.is)
		}
		require.Zero(t, u, "an error comes with no value")
		require.Zero(t, rdb.Exists(ctx, key).Val())
	}
	_, err := c.Get(ctx, "boom")
	p, ok := errors.AsType[*loader.PanicError](err)
	require.True(t, ok)
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "failsInEveryWay", "the stack is that of the panic")
	require.EqualValues(t, 1, c.Stats().Loads-c.Stats().LoadFailures, "only ErrNotFound is no failure")
}

func TestGet_MissWithoutUpIsErrNotFound(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[int, User]{Key: "users:{id}"})
	_, err := c.Get(t.Context(), 7)
	requireError(t, err, Error{Op: "get", Cache: "users", Key: "users:7"}, "cachex: get users:7: not found")
	require.ErrorIs(t, err, ErrNotFound)
}

// Where an operator has taken a command away, Redis quotes what it was sent.
func TestError_OfRedisDoesNotQuoteTheValue(t *testing.T) {
	t.Parallel()
	without := func(names ...string) (args []string) {
		for _, name := range names {
			args = append(args, "--rename-command", name, "")
		}
		return args
	}
	for want, row := range map[string]struct {
		names []string
		spec  Spec[int, string]
	}{
		"cachex: set users:1: ERR unknown command":               {[]string{"SET"}, Spec[int, string]{Key: "users:{id}"}},
		"cachex: set users:1: script write: ERR unknown command": {[]string{"EVALSHA", "EVAL"}, Spec[int, string]{Key: "users:{id}", StaleIfError: time.Minute}},
	} {
		rdb := redistest.Start(t, without(row.names...)...).Client(nil)
		c := newCache(t, rdb, row.spec)
		for range 2 {
			err := c.Set(t.Context(), 1, "s3cret")
			require.ErrorContains(t, err, want)
			require.NotContains(t, err.Error(), "s3cret")
		}
		require.NotContains(t, c.SetMany(t.Context(), map[int]string{1: "s3cret", 2: "s3cret"}).Error(), "s3cret")
	}
}

// A KeyFunc that checks something with a testing.T leaves its goroutine.
func TestClose_DoesNotWaitForACallEndedByGoexit(t *testing.T) {
	t.Parallel()
	c, err := New(closedClient(t), Spec[int, string]{TTL: time.Minute, KeyFunc: func(int) string { runtime.Goexit(); return "" }})
	require.NoError(t, err)
	var gone sync.WaitGroup
	gone.Go(func() { _, _ = c.Get(t.Context(), 1) })
	gone.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	require.NoError(t, c.Close(ctx))
}
