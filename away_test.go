package cachex

import (
	"context"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

const (
	awayReaders = 64
	awayLoads   = 8 // MaxLoads
	awayKeys    = 50
	awayLoad    = 2 * time.Millisecond
)

// A crowd is readers of one cache, who read one key after the other until they
// are told to stop. Each reads keys of its own, so that none is answered by the
// load of another.
type crowd struct {
	c       *Cache[int, string]
	loading atomic.Int64 // calls of Up at this moment
	most    atomic.Int64 // the most there were
	reads   atomic.Int64
	wrong   atomic.Pointer[view] // one that was not answered as it should be

	stop chan struct{}
	wg   sync.WaitGroup
}

// newCrowd begins to read by rdb.
func newCrowd(t *testing.T, rdb *redis.Client) *crowd {
	t.Helper()
	r := &crowd{stop: make(chan struct{})}
	r.c = newCache(t, rdb, Spec[int, string]{MaxLoads: awayLoads, Up: func(_ context.Context, id int) (string, error) {
		n := r.loading.Add(1)
		defer r.loading.Add(-1)
		for most := r.most.Load(); n > most && !r.most.CompareAndSwap(most, n); most = r.most.Load() {
		}
		<-time.After(awayLoad)
		return strconv.Itoa(id), nil
	}})
	for i := range awayReaders {
		r.wg.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-r.stop:
					return
				default:
					r.read(t.Context(), i*awayKeys+n%awayKeys)
				}
			}
		})
	}
	return r
}

func (r *crowd) read(ctx context.Context, id int) view {
	got := look(ctx, r.c, id)
	if got.err != nil || got.v != strconv.Itoa(id) {
		r.wrong.CompareAndSwap(nil, &got)
	}
	r.reads.Add(1)
	return got
}

// end lets the readers stop, and requires that each was answered.
func (r *crowd) end(t *testing.T) {
	t.Helper()
	close(r.stop)
	r.wg.Wait()
	if wrong := r.wrong.Load(); wrong != nil {
		require.NoError(t, wrong.err)
		require.Fail(t, "another value", "%q", wrong.v)
	}
	require.LessOrEqual(t, r.most.Load(), int64(awayLoads))
}

// survives requires that the readers are answered while Redis is away, without
// asking it, and that they return to it when it is back.
func (r *crowd) survives(t *testing.T, away, back func()) {
	t.Helper()
	eventually(t, "the keys should be stored", func() bool { return r.c.Stats().Hits > 2*awayReaders*awayKeys })
	began := time.Now()
	away()
	eventually(t, "the breaker should open", func() bool { return r.c.Stats().Breaker == BreakerOpen })
	opened := time.Since(began)
	before := r.reads.Load()
	eventually(t, "every reader should be past the calls that hang", func() bool { return r.reads.Load() > before+10*awayReaders })

	// By a caller alone, whose loads wait for those of no other.
	close(r.stop)
	r.wg.Wait()
	bypasses := r.c.Stats().Bypasses
	added := make([]time.Duration, 1000)
	for i := range added {
		got := r.read(t.Context(), i)
		require.NoError(t, got.err)
		require.Equal(t, Bypassed, got.how)
		added[i] = got.took - awayLoad
	}
	slices.Sort(added)
	stats := r.c.Stats()
	require.NotEqual(t, BreakerClosed, stats.Breaker)
	require.GreaterOrEqual(t, stats.Bypasses, bypasses+int64(len(added)))
	require.Error(t, r.c.Delete(t.Context(), 1), "a deletion that is lost is none")

	began = time.Now()
	back()
	until := func(how Outcome) time.Duration {
		eventually(t, "a reader should get: "+how.String(), func() bool { return r.read(t.Context(), 1).how == how })
		return time.Since(began)
	}
	hit := until(Hit)
	require.Equal(t, BreakerClosed, r.c.Stats().Breaker)
	eventually(t, "a key should be deleted", func() bool { return r.c.Delete(t.Context(), 1) == nil })
	t.Logf("open after %v; added to a load while it was: p50 %v, p99 %v; first hit %v after Redis was back; %d reads, %d without Redis",
		opened, added[len(added)/2], added[len(added)*99/100], hit, r.reads.Load(), stats.Bypasses)
	r.stop = make(chan struct{})
	r.end(t)
}

// With the options that go-redis has by default, it is refused a connection and
// tries for long.
func TestGet_KilledRedisIsBypassedAndUsedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newCrowd(t, server.Client(func(o *redis.Options) { o.ReadTimeout = 0 }))
	r.survives(t, server.Kill, server.Restart)
}

// Connections stay open, and nothing comes of them.
func TestGet_HangingRedisIsBypassedAndUsedAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	r := newCrowd(t, server.Client(func(o *redis.Options) { o.ReadTimeout = 300 * time.Millisecond }))
	r.survives(t, server.Stop, server.Cont)
}
