package cachex

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"os"
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
// though the machine stands still for some seconds. If it stands still for longer, the
// tests begin anew: see lapsed.
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

// lapsed requires that what a living child of that time holds may have run out, and
// kills the child. A load of what it holds is then no fault.
func lapsed(t *testing.T, child *redistest.Process, began time.Time) {
	t.Helper()
	require.GreaterOrEqual(t, time.Since(began), childLease*9/10, "a load began under the lease of another process")
	child.Kill()
}

// fleetOfTwo returns a child that is loading, a cache that waits for it, and the
// answer to a caller of that.
func fleetOfTwo(t *testing.T) (child *redistest.Process, rdb *redis.Client, prefix string, s *source, c *Cache[int, string], ch <-chan answer) {
	t.Helper()
	server := redistest.Shared(t)
	for rdb = server.Client(nil); ; {
		began := time.Now()
		prefix = redistest.Key(t)
		child = redistest.Child(t, "lease holder", "REDIS="+server.Addr(), "PREFIX="+prefix)
		child.WaitLine("loading")
		s = newSource(t)
		c = newCache(t, rdb, Spec[int, string]{Key: prefix + ":{id}", Up: s.up, LeaseTTL: longLease})
		ch = asking(t.Context(), c, 1)
		eventually(t, "the caller should wait for the child", func() bool { return c.Stats().Waits == 1 || len(s.calls) > 0 })
		if c.Stats().Waits == 1 {
			return child, rdb, prefix, s, c, ch
		}
		lapsed(t, child, began)
		s.next(t).returns("", errSource)
		require.ErrorIs(t, receive(t, ch).err, errSource)
	}
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
			each := redistest.Each
			if f.renewed { // in real time, a machine that stands still loses the lease
				each = redistest.Bubble
			}
			each(t, func(t *testing.T, rdb *redis.Client) {
				bad := faulty(t, rdb, redistest.Fault{Match: f.match, Executed: f.executed, Err: f.err})
				s := newSource(t)
				spec := Spec[int, string]{Up: s.up, LeaseTTL: longLease}
				if f.renewed {
					spec.LeaseTTL = time.Minute // of which a third passes before it is
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
