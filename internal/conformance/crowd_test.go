package conformance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/writebehind"
)

const (
	crowdKeys  = 8
	crowdCount = 5                      // keys of counts
	crowdLoads = 4                      // MaxLoads
	crowdTTL   = 300 * time.Millisecond // short, so that values come and go
	crowdBatch = 5 * time.Second        // the lease of a batch, as users have it: much shorter than patience
)

// A store is what a crowd reads and deletes: a cache, or what has a fault on purpose.
type store interface {
	Get(ctx context.Context, key int) (string, error)
	Delete(ctx context.Context, keys ...int) error
}

// A crowd is two processes full of readers, of writers who commit a version and
// delete, and of those who count. Whatever it does is checked.
type crowd struct {
	h        *history
	prefix   string // of keys
	clients  []redis.UniversalClient
	stores   []store
	caches   []*cachex.Cache[int, string]
	counters []*counter.Counter[int]
	visitors *visitors     // nil: none come
	lost     func() int64  // how many calls of the clients had no answer; nil: nobody counts
	pace     time.Duration // between two operations of one of them

	loads, most atomic.Int32 // under way, and at most
	ops         atomic.Int64
	readErr     atomic.Pointer[error]
	refused     atomic.Int64 // deletes that returned an error
	writing     sync.RWMutex // held by who writes

	mu        sync.Mutex
	persisted [crowdCount]int64 // guarded by mu
	applied   map[string]int64  // guarded by mu: the last batch of each bucket, in persisted
	acked     [crowdCount]int64 // guarded by mu
	unknown   [crowdCount]int64 // guarded by mu

	done    []*atomic.Int64 // of each of them, what it has done
	reading []*atomic.Int64 // of done, those who read
	stop    chan struct{}
	wg      sync.WaitGroup
	closed  bool
}

// newCrowd returns a crowd of the clients. It is not counting without counts.
func newCrowd(t *testing.T, counts bool, clients ...redis.UniversalClient) *crowd {
	t.Helper()
	// What is deleted in vain is stale for its TTL, counted by a server that may have
	// been stopped; the rest is for a machine that is busy.
	c := &crowd{clients: clients, h: newHistory(crowdTTL + 20*time.Second), pace: 4 * time.Millisecond, stop: make(chan struct{}), applied: map[string]int64{}}
	c.prefix = redistest.Key(t)
	for _, rdb := range clients {
		cache, err := cachex.New(rdb, cachex.Spec[int, string]{
			Key: c.prefix + ":{id}", TTL: crowdTTL, LeaseTTL: time.Second, MaxLoads: crowdLoads, Up: c.up,
		})
		require.NoError(t, err)
		c.caches, c.stores = append(c.caches, cache), append(c.stores, cache)
		if !counts {
			continue
		}
		views, err := c.counter(rdb)
		require.NoError(t, err)
		c.counters = append(c.counters, views)
	}
	if counts {
		c.visitors = newVisitors(c)
	}
	t.Cleanup(func() { c.end(t) })
	return c
}

// counter returns a counter of the counts that all processes share.
func (c *crowd) counter(rdb redis.UniversalClient) (*counter.Counter[int], error) {
	return counter.New(rdb, counter.Spec[int]{
		Key: c.prefix + ":count:{id}", TTL: time.Minute, FlushEvery: 500 * time.Millisecond, LeaseTTL: time.Second,
		WriteBehindOptions: writebehind.Options{LeaseTTL: crowdBatch},
		Up: func(_ context.Context, id int) (int64, error) {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.persisted[id], nil
		},
		Down: c.down,
	})
}

// up reads the version first and takes its time then.
func (c *crowd) up(_ context.Context, key int) (string, error) {
	n := c.loads.Add(1)
	defer c.loads.Add(-1)
	for most := c.most.Load(); n > most && !c.most.CompareAndSwap(most, n); most = c.most.Load() {
	}
	load := c.h.begin("load", key)
	<-time.After(time.Millisecond)
	c.h.end(load)
	return fmt.Sprintf("%d:%d", key, load.version), nil
}

// down applies a batch once, as package ledger does in a database: which was the last
// one of a bucket is all that is remembered.
func (c *crowd) down(_ context.Context, f counter.Flush[int]) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	bucket := fmt.Sprint(f.Batch.Namespace, f.Batch.Bucket)
	if f.Batch.N <= c.applied[bucket] {
		return nil
	}
	c.applied[bucket] = f.Batch.N
	for key, delta := range f.Deltas {
		c.persisted[key] += delta
	}
	return nil
}

func (c *crowd) start(t *testing.T) {
	t.Helper()
	for _, s := range c.stores {
		for range 4 {
			c.reading = append(c.reading, c.worker(func(ctx context.Context) { c.read(ctx, s, rand.IntN(crowdKeys)) }))
		}
		c.worker(func(ctx context.Context) { c.write(ctx, s, rand.IntN(crowdKeys)) })
	}
	for _, s := range c.counters {
		c.worker(func(ctx context.Context) { c.add(ctx, s, 2+rand.IntN(2)) })
		c.worker(func(ctx context.Context) { c.addOnce(ctx, s, rand.IntN(2)) })
	}
	if c.visitors != nil {
		c.visitors.start(t)
	}
}

func (c *crowd) worker(do func(context.Context)) *atomic.Int64 {
	done := new(atomic.Int64)
	c.done = append(c.done, done)
	c.wg.Go(func() {
		for {
			select {
			case <-c.stop:
				return
			case <-time.After(c.pace):
			}
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			do(ctx)
			cancel()
			c.ops.Add(1)
			done.Add(1)
		}
	})
	return done
}

func (c *crowd) read(ctx context.Context, s store, key int) {
	e := c.h.begin("read", key)
	v, err := s.Get(ctx, key)
	var of, version int
	if err == nil {
		_, err = fmt.Sscanf(v, "%d:%d", &of, &version)
		if err == nil && of != key {
			err = fmt.Errorf("key %d has the value %q", key, v)
		}
	}
	if err != nil {
		c.readErr.CompareAndSwap(nil, &err)
		c.h.drop(e)
		return
	}
	e.version = version
	c.h.end(e)
}

func (c *crowd) write(ctx context.Context, s store, key int) {
	c.writing.RLock()
	defer c.writing.RUnlock()
	c.h.commit(key)
	e := c.h.begin("delete", key)
	if err := s.Delete(ctx, key); err != nil {
		c.refused.Add(1)
		return
	}
	c.h.end(e)
}

func (c *crowd) add(ctx context.Context, s *counter.Counter[int], key int) {
	c.writing.RLock()
	defer c.writing.RUnlock()
	_, err := s.Inc(ctx, key)
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case err == nil:
		c.acked[key]++
	case errors.Is(err, counter.ErrOutcomeUnknown):
		c.unknown[key]++
	}
}

// addOnce tries until it is told that it has counted.
func (c *crowd) addOnce(ctx context.Context, s *counter.Counter[int], key int) {
	c.writing.RLock()
	defer c.writing.RUnlock()
	op := fmt.Sprint(rand.Uint64())
	for {
		_, err := s.AddOnce(ctx, key, 1, op)
		if err == nil {
			break
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			c.mu.Lock()
			c.unknown[key]++
			c.mu.Unlock()
			return
		}
	}
	c.mu.Lock()
	c.acked[key]++
	c.mu.Unlock()
}

// does returns when so many more things have been done.
func (c *crowd) does(t *testing.T, n int64) {
	t.Helper()
	target := c.ops.Load() + n
	for at := c.ops.Load(); at < target; at = c.ops.Load() {
		eventually(t, "the crowd stands still", func() bool { return c.ops.Load() > at })
	}
}

// turns returns when each of who has ended what he was at, and what he began next.
func (c *crowd) turns(t *testing.T, who []*atomic.Int64) {
	t.Helper()
	for _, done := range who {
		target := done.Load() + 2
		eventually(t, "somebody stands still", func() bool { return done.Load() >= target })
	}
}

// quietly calls f while nobody writes, and nothing waits to be persisted. Reads go on.
func (c *crowd) quietly(t *testing.T, f func()) {
	t.Helper()
	c.writing.Lock()
	defer c.writing.Unlock()
	for _, s := range c.counters { // by clients that a busy machine may keep from an answer in time
		eventually(t, "counts are not persisted", func() bool { return s.Flush(t.Context()) == nil })
	}
	if c.visitors != nil {
		require.NoError(t, c.visitors.flush(t.Context()))
	}
	f()
}

// recovered returns how long it takes until what is loaded is served from Redis again,
// through each client.
func (c *crowd) recovered(t *testing.T) time.Duration {
	t.Helper()
	began := time.Now()
	for _, cache := range c.caches {
		for key := crowdKeys; key < 2*crowdKeys; key++ { // nobody deletes these
			eventually(t, "Redis is not used again", func() bool {
				var how cachex.Outcome
				_, err := cache.Get(cachex.WithOutcome(t.Context(), &how), key)
				return err == nil && how.String() == "hit"
			})
		}
	}
	if c.visitors != nil {
		c.visitors.hurt.Store(false)
	}
	return time.Since(began)
}

// end stops everybody, and says whether all was well.
func (c *crowd) end(t *testing.T) {
	t.Helper()
	if c.closed {
		return
	}
	c.closed = true
	close(c.stop)
	c.wg.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	left := false
	for _, s := range c.counters {
		if err := closing(ctx, s.Close); err != nil {
			left = true
			t.Errorf("counts are left: %v", err)
		}
	}
	for _, s := range c.caches {
		if err := s.Close(ctx); err != nil {
			t.Errorf("loads are left: %v", err)
		}
	}
	if c.visitors != nil {
		c.visitors.end(ctx, t)
	}
	if wrong := c.h.verdict(); wrong != "" {
		t.Error(wrong)
	}
	if err := c.readErr.Load(); err != nil {
		t.Errorf("a read failed, although the database answers: %v", *err)
	}
	if most, limit := int(c.most.Load()), crowdLoads*len(c.caches); len(c.caches) > 0 && most > limit {
		t.Errorf("%d loads at once; MaxLoads allows %d", most, limit)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for key := range c.acked {
		if n := c.persisted[key]; n < c.acked[key] && !left || n > c.acked[key]+c.unknown[key] {
			t.Errorf("count %d is %d, of %d acknowledged and %d unknown", key, n, c.acked[key], c.unknown[key])
		}
	}
	t.Logf("%s; %d deletes failed; at most %d loads at once; counts acknowledged %v, unknown %v, persisted %v",
		c.h.counts(), c.refused.Load(), c.most.Load(), c.acked, c.unknown, c.persisted)
}
