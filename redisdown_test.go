package cachex

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// Where nothing answers, reads come from Up, and all else says so.
func TestCache_RedisDownFailsAllButReadsWithUp(t *testing.T) {
	t.Parallel()
	hasty := func(o *redis.Options) {
		o.MaxRetries, o.DialerRetries = -1, 1
		o.DialTimeout, o.ReadTimeout, o.ContextTimeoutEnabled = patience, 100*time.Millisecond, true
	}
	// warm returns a client that has a connection, before harm comes to it.
	warm := func(t *testing.T, server *redistest.Server) *redis.Client {
		rdb := server.Client(hasty)
		eventually(t, "a server that is well should answer", func() bool { return rdb.Ping(t.Context()).Err() == nil })
		return rdb
	}
	for _, f := range []struct {
		name   string
		client func(t *testing.T) *redis.Client
		cause  error
	}{
		{"never started", func(t *testing.T) *redis.Client {
			rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1, DialTimeout: patience})
			t.Cleanup(func() { _ = rdb.Close() })
			return rdb
		}, syscall.ECONNREFUSED},
		{"killed", func(t *testing.T) *redis.Client {
			server := redistest.Start(t)
			rdb := warm(t, server)
			server.Kill()
			return rdb
		}, syscall.ECONNREFUSED},
		{"stopped", func(t *testing.T) *redis.Client {
			server := redistest.Start(t)
			rdb := warm(t, server)
			server.Stop()
			return rdb
		}, os.ErrDeadlineExceeded},
		{"behind a black hole", func(t *testing.T) *redis.Client {
			proxy := redistest.NewProxy(t, redistest.Shared(t).Addr())
			rdb := redistest.Shared(t).Client(func(o *redis.Options) { hasty(o); o.Addr = proxy.Addr() })
			proxy.Hold()
			return rdb
		}, os.ErrDeadlineExceeded},
		{"not for this user", func(t *testing.T) *redis.Client {
			server := redistest.Start(t)
			rdb := warm(t, server)
			require.NoError(t, server.Client(nil).Do(t.Context(), "ACL", "SETUSER", "default", "-@all").Err())
			return rdb
		}, nil},
		{"a closed client", func(t *testing.T) *redis.Client { return closedClient(t) }, redis.ErrClosed},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			rdb := f.client(t)
			spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}"}
			without := newCache(t, rdb, spec)
			s := newSource(t)
			spec.Up = s.up
			with := newCache(t, rdb, spec)

			for n := range int64(2) {
				ch := asking(t.Context(), with, 1)
				s.next(t).returns("loaded", nil)
				gets(t, "loaded", ch)
				stats := with.Stats()
				require.Greater(t, stats.RedisFailures+stats.Bypasses, n)
			}
			require.Equal(t, int64(2), with.Stats().Misses)

			_, get := without.Get(t.Context(), 1)
			_, _, lookup := without.Lookup(t.Context(), 1)
			for op, err := range map[string]error{
				"get": get, "lookup": lookup,
				"set": without.Set(t.Context(), 1, "set"), "delete": without.Delete(t.Context(), 1, 2),
			} {
				require.Error(t, err, op)
				require.NotErrorIs(t, err, ErrNotFound, op)
				if f.cause != nil {
					require.ErrorIs(t, err, f.cause, op)
				}
				e, ok := errors.AsType[*Error](err)
				require.True(t, ok, op)
				require.Equal(t, Error{Op: op, Cache: without.Name(), Key: without.Key(1), Err: e.Err}, *e)
			}
			require.Equal(t, int64(4), without.Stats().RedisFailures+without.Stats().Bypasses)
		})
	}
}

// Callers who come while one loads without Redis wait for the next load, and so
// on as long as they come. None of these may take for granted that Redis is
// still away.
func TestGet_HotKeyIsStoredOnceRedisIsBack(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		bad := faulty(t, rdb, redistest.Fault{Match: redistest.Named("get")})
		s := newSource(t)
		c := newCache(t, bad, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		first := asking(t.Context(), c, 1)
		load := s.next(t)
		second := asking(t.Context(), c, 1)
		joined(t, c, 2)
		load.returns("old", nil)
		gets(t, "old", first)
		s.next(t).returns("new", nil)
		gets(t, "new", second)
		gets(t, "new", asking(t.Context(), c, 1))
	})
}

// The connection itself breaks where the reply to the acquire should come, and
// go-redis does what it does. The lease was granted, and nobody knows.
func TestGet_UnusedLeaseIsReleased(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := server.Client(func(o *redis.Options) { o.Addr = proxy.Addr() })
	faulty(t, rdb, redistest.Fault{Match: redistest.Named("none")}) // the server knows the scripts
	cut := 0
	rdb.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
		if sends(script.Acquire)(cmd) {
			if cut++; cut == 1 {
				proxy.LoseReplies(1)
			}
		}
	}})
	s := newSource(t)
	c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
	ch := asking(t.Context(), c, 1)
	load := s.next(t)
	straight := server.Client(nil)
	require.Equal(t, int64(1), straight.Exists(t.Context(), c.Key(1)).Val(), "the lease was granted")
	load.returns("loaded", nil)
	gets(t, "loaded", ch)
	require.Equal(t, int64(1), c.Stats().RedisFailures)
	eventually(t, "the lease should be given back", func() bool {
		return straight.Exists(t.Context(), c.Key(1)).Val() == 0
	})
	ch = asking(t.Context(), c, 1)
	s.next(t).returns("new", nil)
	gets(t, "new", ch)
}

// Redis answers reads and refuses writes, from before the lease or from after it.
func TestGet_ValueRefusedByRedisIsReturnedAndCounted(t *testing.T) {
	t.Parallel()
	for _, f := range []struct {
		name         string
		refuse, heal []any
		blocks       bool // until then the lease cannot be given back
	}{
		{name: "OOM", refuse: []any{"CONFIG", "SET", "maxmemory", "1"}, heal: []any{"CONFIG", "SET", "maxmemory", "0"}},
		{name: "READONLY", refuse: []any{"REPLICAOF", "127.0.0.1", "1"}, heal: []any{"REPLICAOF", "NO", "ONE"}, blocks: true},
		{name: "NOPERM", refuse: []any{"ACL", "SETUSER", "app", "-eval", "-evalsha"}, heal: []any{"ACL", "SETUSER", "app", "+@all"}, blocks: true},
		{name: "NOREPLICAS", refuse: []any{"CONFIG", "SET", "min-replicas-to-write", "1"},
			heal: []any{"CONFIG", "SET", "min-replicas-to-write", "0"}, blocks: true},
	} {
		for _, leased := range []bool{false, true} {
			t.Run(fmt.Sprint(f.name, ", leased ", leased), func(t *testing.T) {
				t.Parallel()
				server := redistest.Start(t)
				admin := server.Client(nil)
				require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "app", "on", "nopass", "~*", "&*", "+@all").Err())
				rdb := server.Client(func(o *redis.Options) { o.Username, o.Password = "app", "any" })
				s := newSource(t)
				c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
				if !leased {
					require.NoError(t, admin.Do(t.Context(), f.refuse...).Err())
				}
				ch := asking(t.Context(), c, 1)
				load := s.next(t)
				if leased {
					require.NoError(t, admin.Do(t.Context(), f.refuse...).Err())
				}
				load.returns("loaded", nil)
				gets(t, "loaded", ch)
				require.Positive(t, c.Stats().RedisFailures)
				require.Equal(t, int64(1), c.Stats().StoreFailures, "a loaded value was not stored")
				if !f.blocks || !leased {
					eventually(t, "the lease should be free", func() bool {
						return admin.Exists(t.Context(), c.Key(1)).Val() == 0
					})
				}

				require.NoError(t, admin.Do(t.Context(), f.heal...).Err())
				if f.blocks && leased { // for as long as it holds
					require.NoError(t, c.Delete(t.Context(), 1))
				}
				ch = asking(t.Context(), c, 1)
				s.next(t).returns("new", nil)
				gets(t, "new", ch)
				gets(t, "new", asking(t.Context(), c, 1))
			})
		}
	}
}

func TestGet_ScriptsAreSentAgainAfterAScriptFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(nil)
	s := newSource(t)
	c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
	for id := range 2 {
		ch := asking(t.Context(), c, id)
		load := s.next(t)
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		load.returns("loaded", nil)
		gets(t, "loaded", ch)
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		require.NoError(t, c.Set(t.Context(), id, "set"))
		gets(t, "set", asking(t.Context(), c, id))
	}
	require.Zero(t, c.Stats().RedisFailures)
	require.Zero(t, c.Stats().StoreFailures)
}

func TestGet_RedisThatRestartsEmptyIsUsedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	s := newSource(t)
	c := newCache(t, server.Client(nil), Spec[int, string]{Up: s.up, LeaseTTL: longLease})
	ch := asking(t.Context(), c, 1)
	load := s.next(t)
	server.Restart()
	load.returns("old", nil)
	gets(t, "old", ch)
	require.Equal(t, int64(1), c.Stats().Fenced, "a server that lost the lease may have lost a deletion")
	ch = asking(t.Context(), c, 1)
	s.next(t).returns("new", nil)
	gets(t, "new", ch)
	gets(t, "new", asking(t.Context(), c, 1))
}

// A client whose connections are cut while they idle does not even notice.
func TestGet_KilledConnectionsAreReplaced(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(nil)
	s := newSource(t)
	c := newCache(t, server.Client(nil), Spec[int, string]{Up: s.up, LeaseTTL: longLease})
	kill := func() { require.NoError(t, admin.Do(t.Context(), "CLIENT", "KILL", "SKIPME", "yes").Err()) }
	ch := asking(t.Context(), c, 1)
	load := s.next(t)
	kill()
	load.returns("loaded", nil)
	gets(t, "loaded", ch)
	kill()
	gets(t, "loaded", asking(t.Context(), c, 1))
	require.NoError(t, c.Set(t.Context(), 1, "set"))
	kill()
	require.NoError(t, c.Delete(t.Context(), 1))
	require.Zero(t, c.Stats().RedisFailures)
}

// Whoever waits for others leaves on its own ctx, whatever Redis does.
func TestGet_WaiterLeavesOnItsCtxWhileRedisHangs(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb, reads := server.Client(nil), make(chan struct{}, 100)
	rdb.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
		if cmd.Name() == "get" {
			reads <- struct{}{}
		}
	}})
	s := newSource(t)
	spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
	a, b := newCache(t, rdb, spec), newCache(t, server.Client(nil), spec)
	first := asking(t.Context(), a, 1)
	running := s.next(t)
	second := asking(t.Context(), a, 2)
	storing := s.next(t)
	elsewhere := asking(t.Context(), b, 1)
	waiting(t, b, 1)
	receive(t, reads)
	receive(t, reads)
	server.Stop()
	storing.returns("loaded", nil)
	third := asking(t.Context(), a, 3)
	receive(t, reads)

	leaves := func(c *Cache[int, string], id int) {
		t.Helper()
		soon, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		ch := asking(soon, c, id)
		<-soon.Done()
		ended := time.Now()
		require.ErrorIs(t, receive(t, ch).err, context.DeadlineExceeded)
		t.Logf("left %v after its deadline", time.Since(ended))
	}
	leaves(a, 1) // Up is running
	leaves(a, 2) // the value is being stored
	leaves(a, 3) // another caller of this process reads
	leaves(b, 1) // another process loads

	server.Cont()
	running.returns("loaded", nil)
	for _, ch := range []<-chan answer{first, second, elsewhere} {
		gets(t, "loaded", ch)
	}
	s.next(t).returns("loaded", nil)
	gets(t, "loaded", third)
}

// Nor does Close wait for a subscription that Redis does not answer.
func TestClose_ReturnsOnItsCtxWhileASubscriptionHangs(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var hang atomic.Bool
		silent := make(chan net.Conn, 100)
		opts := &redis.Options{
			Addr: rdb.Options().Addr, DialTimeout: time.Hour, ReadTimeout: time.Hour, WriteTimeout: time.Hour,
			Dialer: func(_ context.Context, network, addr string) (net.Conn, error) {
				if !hang.Load() {
					return net.Dial(network, addr)
				}
				conn, end := net.Pipe()
				silent <- end
				return conn, nil
			},
		}
		hanging := redis.NewClient(opts)
		t.Cleanup(func() { _ = hanging.Close() })
		hanging.AddHook(&redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			if sends(script.Acquire)(cmd) {
				hang.Store(true) // what it dials next is for the subscription
			}
		}})
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, hanging, spec)
		first := asking(t.Context(), a, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), b, 1)
		end := receive(t, silent)
		t.Cleanup(func() { _ = end.Close() })

		ended, cancel := context.WithCancel(t.Context())
		cancel()
		closed := make(chan error, 1)
		go func() { closed <- b.Close(ended) }()
		require.ErrorIs(t, receive(t, closed), context.Canceled)
		require.ErrorIs(t, receive(t, elsewhere).err, ErrClosed)
		load.returns("loaded", nil)
		gets(t, "loaded", first)
		require.NoError(t, end.Close())
		require.NoError(t, b.Close(t.Context()))
	})
}
