package cachex

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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

func init() { redistest.Register("lease holder", holdLease) }

// childLease is how long a dead child is waited for. A child that lives does not lose it,
// though the machine stands still for some seconds.
const childLease = 10 * time.Second

// holdLease is another process of the fleet. It loads key 1, says so, and its Up
// returns what is then pushed to a list.
func holdLease() {
	ctx, prefix := context.Background(), os.Getenv("PREFIX")
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: patience})
	c := Must(New(rdb, Spec[int, string]{
		Key: prefix + ":{id}", TTL: time.Minute, LeaseTTL: childLease,
		Up: func(context.Context, int) (string, error) {
			fmt.Println("loading")
			popped, err := rdb.BLPop(ctx, 0, prefix+":go").Result()
			if err != nil {
				return "", err
			}
			return popped[1], nil
		},
	}))
	v, err := c.Get(ctx, 1)
	fmt.Println("got", v, err, "fenced", c.Stats().Fenced)
}

// fleetOfTwo returns a child that is loading, a cache that waits for it, and the
// answer to a caller of that.
func fleetOfTwo(t *testing.T) (child *redistest.Process, rdb *redis.Client, prefix string, s *source, c *Cache[int, string], ch <-chan answer) {
	t.Helper()
	server := redistest.Shared(t)
	rdb, prefix = server.Client(nil), redistest.Key(t)
	child = redistest.Child(t, "lease holder", "REDIS="+server.Addr(), "PREFIX="+prefix)
	child.WaitLine("loading")
	s = newSource(t)
	c = newCache(t, rdb, Spec[int, string]{Key: prefix + ":{id}", Up: s.up, LeaseTTL: longLease})
	ch = asking(t.Context(), c, 1)
	waiting(t, c, 1)
	return child, rdb, prefix, s, c, ch
}

func TestUp_KilledProcessIsReplaced(t *testing.T) {
	t.Parallel()
	child, _, _, s, c, ch := fleetOfTwo(t)
	child.Kill()
	killed := time.Now()
	load := s.next(t)
	t.Logf("taken over %v after kill -9, with leases of %v", time.Since(killed), childLease)
	load.returns("new", nil)
	gets(t, "new", ch)
	gets(t, "new", asking(t.Context(), c, 1))
	require.Equal(t, int64(1), c.Stats().Loads, "one load here and one in the process that died")
	require.Zero(t, c.Stats().Fenced)
}

func TestUp_ProcessPausedBeyondItsLeaseStoresNothing(t *testing.T) {
	t.Parallel()
	child, rdb, prefix, s, c, ch := fleetOfTwo(t)
	child.Stop()
	s.next(t).returns("new", nil) // once the lease has run out
	gets(t, "new", ch)
	child.Cont()
	require.NoError(t, rdb.LPush(t.Context(), prefix+":go", "old").Err())
	require.Equal(t, "got old <nil> fenced 1", child.WaitLine("got"))
	require.NoError(t, child.Wait())
	gets(t, "new", asking(t.Context(), c, 1))
}

// sends matches the commands that run s.
func sends(s *script.Script) func(redis.Cmder) bool {
	sum := sha1.Sum([]byte(s.Source()))
	sha := hex.EncodeToString(sum[:])
	return func(cmd redis.Cmder) bool {
		args := cmd.Args()
		return len(args) > 1 && (args[1] == sha || args[1] == s.Source())
	}
}

// faulty returns a client of the server of rdb that fails as fault says. The
// server knows all scripts, so that a command that fails is the one that would
// have done the work.
func faulty(t *testing.T, rdb *redis.Client, fault redistest.Fault) *redis.Client {
	t.Helper()
	for _, s := range []*script.Script{script.Acquire, script.Store, script.Extend, script.Release, script.Write} {
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
	}
	faults := new(redistest.Faults)
	faults.Add(fault)
	second := again(t, rdb)
	second.AddHook(faults)
	return second
}

// A command of a read that fails costs the caller nothing, whether the server
// has run it or not, and does not block the key.
func TestGet_SurvivesTheLossOfAnySingleCommand(t *testing.T) {
	t.Parallel()
	reset := &net.OpError{Op: "read", Net: "tcp", Err: os.NewSyscallError("read", syscall.ECONNRESET)}
	for _, f := range []struct {
		name     string
		match    func(redis.Cmder) bool
		executed bool
		err      error // of the client
		fails    bool  // Up does
		renewed  bool  // the lease is, before Up returns
		stored   bool
	}{
		{name: "get", match: redistest.Named("get")},
		{name: "get, run", match: redistest.Named("get"), executed: true},
		{name: "acquire", match: sends(script.Acquire)},
		{name: "acquire, run", match: sends(script.Acquire), executed: true},
		{name: "acquire, run, then reset", match: sends(script.Acquire), executed: true, err: reset},
		{name: "extend", match: sends(script.Extend), renewed: true, stored: true},
		{name: "extend, run", match: sends(script.Extend), executed: true, renewed: true, stored: true},
		{name: "store", match: sends(script.Store)},
		{name: "store, run", match: sends(script.Store), executed: true, stored: true},
		{name: "release, run", match: sends(script.Release), executed: true, fails: true},
	} {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				bad := faulty(t, rdb, redistest.Fault{Match: f.match, Executed: f.executed, Err: f.err})
				s := newSource(t)
				spec := Spec[int, string]{Up: s.up, LeaseTTL: longLease}
				if f.renewed {
					spec.LeaseTTL = 18 * time.Second // of which a third passes before it is
				}
				c := newCache(t, bad, spec)
				ch := asking(t.Context(), c, 1)
				load := s.next(t)
				if f.renewed {
					eventually(t, "it should have failed", func() bool { return c.Stats().RedisFailures == 1 })
				}
				if f.fails {
					load.returns("", errSource)
					require.ErrorIs(t, receive(t, ch).err, errSource)
				} else {
					load.returns("loaded", nil)
					gets(t, "loaded", ch)
				}
				require.Equal(t, int64(1), c.Stats().RedisFailures)

				left := int64(0)
				if f.stored {
					left = 1
				}
				eventually(t, "the key should hold the value or nothing", func() bool {
					return rdb.Exists(t.Context(), c.Key(1)).Val() == left
				})
				ch = asking(t.Context(), c, 1)
				if !f.stored {
					s.next(t).returns("loaded", nil)
				}
				gets(t, "loaded", ch)
				require.Empty(t, s.calls)
				require.Equal(t, int64(1), c.Stats().RedisFailures)
			})
		})
	}
}

func TestGet_LeaseExpiresIfItsReleaseIsLost(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		bad := faulty(t, rdb, redistest.Fault{Match: sends(script.Release)})
		s := newSource(t)
		c := newCache(t, bad, Spec[int, string]{Up: s.up, LeaseTTL: 100 * time.Millisecond})
		ch := asking(t.Context(), c, 1)
		s.next(t).returns("", errSource)
		require.ErrorIs(t, receive(t, ch).err, errSource)
		ch = asking(t.Context(), c, 1)
		s.next(t).returns("new", nil)
		gets(t, "new", ch)
	})
}

func TestGet_WaiterLoadsIfItLosesSightOfTheLease(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		bad := faulty(t, rdb, redistest.Fault{Match: redistest.Named("get"), Skip: 1}) // the first is not of the wait
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: s.up, LeaseTTL: longLease}
		a, b := newCache(t, rdb, spec), newCache(t, bad, spec)
		here := asking(t.Context(), a, 1)
		load := s.next(t)
		elsewhere := asking(t.Context(), b, 1)
		s.next(t).returns("own", nil)
		gets(t, "own", elsewhere)
		require.Equal(t, int64(1), b.Stats().RedisFailures)
		load.returns("loaded", nil)
		gets(t, "loaded", here)
		gets(t, "loaded", asking(t.Context(), b, 1))
	})
}

// What fails is said, since nobody knows what became of it.
func TestError_OfAFailedWriteNamesItsKey(t *testing.T) {
	t.Parallel()
	for _, executed := range []bool{false, true} {
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			bad := faulty(t, rdb, redistest.Fault{Executed: executed, Match: redistest.Named("set", "unlink"), Times: redistest.Always})
			c := newCache(t, bad, Spec[int, string]{})
			require.ErrorIs(t, c.Set(t.Context(), 1, "set"), io.EOF)
			v, _, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, executed, v == "set")

			err = c.Delete(t.Context(), 1)
			require.ErrorIs(t, err, io.EOF)
			require.EqualError(t, err, "cachex: delete "+c.Key(1)+": EOF")
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
			err = c.Delete(t.Context(), 2, 3)
			require.ErrorIs(t, err, io.EOF)
			require.EqualError(t, err, "cachex: delete "+c.Key(2)+": EOF")
			require.Equal(t, int64(3), c.Stats().RedisFailures)
		})
	}
}

// Where nothing answers, reads come from Up, and all else says so.
func TestCache_RedisDownFailsAllButReadsWithUp(t *testing.T) {
	t.Parallel()
	hasty := func(o *redis.Options) {
		o.MaxRetries, o.DialerRetries = -1, 1
		o.ReadTimeout, o.ContextTimeoutEnabled = 100*time.Millisecond, true
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
			rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialerRetries: 1})
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
