package cachex

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A fleet is caches that share a template and a source, each with a client of
// its own, as so many processes have.
type fleet struct {
	caches []*Cache[int, string]
	loads  atomic.Int64
	took   atomic.Int64 // nanoseconds, by the latest load
	come   atomic.Int64 // callers who wait for a load, or have, when all of a rush have come
}

// newFleet returns a fleet of one cache per client, in which a load takes at
// least as long as load says, and until all callers of its rush wait for it.
func newFleet(t *testing.T, load time.Duration, spec Spec[int, string], clients ...*redis.Client) *fleet {
	t.Helper()
	f := new(fleet)
	spec.Key = redistest.Key(t) + ":{id}"
	spec.Up = func(ctx context.Context, id int) (string, error) {
		began := time.Now()
		f.loads.Add(1)
		defer func() { f.took.Store(int64(time.Since(began))) }()
		for wait := load; ; wait = time.Millisecond {
			select {
			case <-time.After(wait):
				if f.stats().Misses >= f.come.Load() {
					return "loaded", nil
				}
			case <-ctx.Done():
				return "", context.Cause(ctx)
			}
		}
	}
	for _, rdb := range clients {
		f.caches = append(f.caches, newCache(t, rdb, spec))
	}
	return f
}

// rush lets so many callers of each cache ask for id at the same moment, and
// returns how long each waited, shortest first. All must get the value.
func (f *fleet) rush(t *testing.T, each, id int) []time.Duration {
	t.Helper()
	waits := make([]time.Duration, each*len(f.caches))
	errs := make([]error, len(waits))
	start := make(chan struct{})
	f.come.Store(f.stats().Misses + int64(len(waits)))
	var ready, wg sync.WaitGroup
	for i := range waits {
		ready.Add(1)
		wg.Go(func() {
			ready.Done()
			<-start
			began := time.Now()
			v, err := f.caches[i%len(f.caches)].Get(t.Context(), id)
			waits[i], errs[i] = time.Since(began), err
			if err == nil && v != "loaded" {
				t.Errorf("a caller got %q", v)
			}
		})
	}
	ready.Wait()
	close(start)
	wg.Wait()
	for _, err := range errs {
		require.NoError(t, err)
	}
	slices.Sort(waits)
	return waits
}

// stats returns the sums over the fleet.
func (f *fleet) stats() (sum Stats) {
	for _, c := range f.caches {
		s := c.Stats()
		sum.Misses += s.Misses
		sum.Loads += s.Loads
		sum.Waits += s.Waits
		sum.Fenced += s.Fenced
		sum.StoreFailures += s.StoreFailures
		sum.RedisFailures += s.RedisFailures
		sum.Bypasses += s.Bypasses
	}
	return sum
}

func (f *fleet) close(t *testing.T) {
	for _, c := range f.caches {
		require.NoError(t, c.Close(t.Context()))
	}
}

// rounds rushes on fresh keys, and requires one load each and no failure. It
// logs what it measures. A server that is given counts the commands, of which
// there may be so many at most, and few more where the machine is slow.
func (f *fleet) rounds(t *testing.T, rounds, each int, server *redistest.Server, most int64) {
	t.Helper()
	f.rush(t, each, -1) // opens connections, loads scripts, subscribes
	var beyond []time.Duration
	var commands []int64
	for id := range rounds {
		loads, before, began := f.loads.Load(), int64(0), time.Now()
		if server != nil {
			before = server.CommandCount()
		}
		waits := f.rush(t, each, id)
		require.Equal(t, loads+1, f.loads.Load(), "round %d", id)
		if server != nil {
			n := server.CommandCount() - before
			commands = append(commands, n)
			// Whoever waits looks at the key now and then.
			slow := int64(time.Since(began) / rushLoad)
			require.LessOrEqual(t, n, most+slow*int64(len(f.caches)), "round %d", id)
		}
		for _, w := range waits {
			beyond = append(beyond, max(0, w-time.Duration(f.took.Load())))
		}
		_, ok, err := f.caches[0].Lookup(t.Context(), id)
		require.NoError(t, err)
		require.True(t, ok, "callers have a value that is not stored")
	}
	stats := f.stats()
	require.Zero(t, stats.Fenced)
	require.Zero(t, stats.StoreFailures)
	require.Zero(t, stats.RedisFailures)
	slices.Sort(beyond)
	t.Logf("%d callers on %d clients: beyond the load p50 %v, p99 %v; commands a round %v",
		each*len(f.caches), len(f.caches), beyond[len(beyond)/2], beyond[len(beyond)*99/100], commands)
}

// clients returns n clients of server.
func clients(server interface {
	Client(func(*redis.Options)) *redis.Client
}, n int, configure func(*redis.Options)) []*redis.Client {
	all := make([]*redis.Client, n)
	for i := range all {
		all[i] = server.Client(configure)
	}
	return all
}

const (
	rushLoad    = 100 * time.Millisecond
	rushClients = 8
	rushEach    = 50
	rushRounds  = 10
)

func TestStampede_IsOneLoadAndFewCommands(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	f := newFleet(t, rushLoad, Spec[int, string]{LeaseTTL: longLease}, clients(server, rushClients, nil)...)
	// 46 on an idle machine: a GET and an acquire for each client, what the scripts
	// call, and an SSUBSCRIBE and a GET for each that waited. One channel for all keys
	// would save the SSUBSCRIBE, but deliver each message to every process that has
	// waited for any key.
	f.rounds(t, rushRounds, rushEach, server, 45)
}

// Where time is exact, and one caller comes after the other, so is the number of
// commands, however many callers there are.
func TestStampede_SendsOneCommandForEachStepOfAProcess(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		sent := new(redistest.Counter) // by all clients
		all := make([]*redis.Client, rushClients)
		for i := range all {
			all[i] = again(t, rdb)
			all[i].AddHook(sent)
		}
		f := newFleet(t, rushLoad, Spec[int, string]{LeaseTTL: longLease}, all...)
		defer f.close(t) // the server ends before the cleanups of the test
		for id := range 4 {
			sent.Reset()
			f.come.Store(f.stats().Misses + rushClients*rushEach)
			var callers sync.WaitGroup
			for i := range rushClients * rushEach {
				callers.Go(func() {
					if v, err := f.caches[i%rushClients].Get(t.Context(), id); err != nil || v != "loaded" {
						t.Errorf("a caller got %q, %v", v, err)
					}
				})
				synctest.Wait()
			}
			callers.Wait()
			require.EqualValues(t, id+1, f.loads.Load())
			if id == 0 {
				continue // the server learns the scripts, and the processes how long a load takes
			}
			require.Equal(t, rushClients+1, sent.Count("evalsha"), "each acquires, and one stores")
			require.Equal(t, 2*rushClients-1, sent.Count("get"), "each reads, and those that waited read once more")
			require.Equal(t, 3*rushClients, sent.Count())
		}
	})
}

func TestStampede_OnTheEmbeddedServerIsOneLoad(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	f := newFleet(t, rushLoad, Spec[int, string]{LeaseTTL: longLease}, clients(server, rushClients, nil)...)
	f.rounds(t, rushRounds, rushEach, nil, 0)
}

func TestStampede_WithoutPubSubIsOneLoad(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(nil)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "mute", "on", "nopass", "~*", "+@all", "resetchannels").Err())
	mute := clients(server, rushClients, func(o *redis.Options) { o.Username, o.Password = "mute", "any" })
	require.ErrorContains(t, mute[0].Publish(t.Context(), "cachex:wake:{k}", "").Err(), "NOPERM")
	f := newFleet(t, rushLoad, Spec[int, string]{LeaseTTL: longLease}, mute...)
	// How often they look depends on the machine: less than ten times each.
	f.rounds(t, rushRounds, rushEach, server, 50+10*rushClients)
}

// A load that takes many times as long as its lease holds is one load as long as
// its process lives. Here time is exact, so it must be one.
func TestStampede_LoadSlowerThanItsLeaseIsOneLoad(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		f := newFleet(t, 1500*time.Millisecond, Spec[int, string]{LeaseTTL: 200 * time.Millisecond},
			rdb, again(t, rdb), again(t, rdb), again(t, rdb))
		defer f.close(t) // the server ends before the cleanups of the test
		f.rush(t, 10, 1)
		require.Equal(t, int64(1), f.loads.Load())
		require.Zero(t, f.stats().Fenced)
		_, ok, err := f.caches[0].Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.True(t, ok)
	})
}

// Where time is not exact a process can be kept from renewing its lease: each
// load whose lease was lost is one more, and is not stored.
func TestStampede_LoadSlowerThanItsLeaseIsStoredOnce(t *testing.T) {
	t.Parallel()
	for name, server := range map[string]func(testing.TB) []*redis.Client{
		"redis":    func(t testing.TB) []*redis.Client { return clients(redistest.Shared(t), 4, nil) },
		"embedded": func(t testing.TB) []*redis.Client { return clients(redistest.StartEmbedded(t), 4, nil) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// It is renewed each third of a second. A round in which a process or Redis stood
			// still for most of a second is repeated.
			f := newFleet(t, 2*time.Second, Spec[int, string]{LeaseTTL: time.Second}, server(t)...)
			for id, until := 1, time.Now().Add(patience); ; id++ {
				before := f.stats()
				waits := f.rush(t, 10, id)
				stats := f.stats()
				loads, fenced := stats.Loads-before.Loads, stats.Fenced-before.Fenced
				silent := stats.RedisFailures+stats.Bypasses > before.RedisFailures+before.Bypasses
				if (silent || loads == fenced) && time.Now().Before(until) {
					continue // its callers have a value all the same
				}
				require.Zero(t, stats.StoreFailures-before.StoreFailures)
				require.Equal(t, 1+fenced, loads)
				_, ok, err := f.caches[0].Lookup(t.Context(), id)
				require.NoError(t, err)
				require.True(t, ok)
				t.Logf("%d loads for %d callers, beyond the load p50 %v",
					loads, len(waits), waits[len(waits)/2]-time.Duration(f.took.Load()))
				return
			}
		})
	}
}
