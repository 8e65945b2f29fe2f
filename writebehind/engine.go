// Package writebehind persists values that were written to Redis, some time
// later and in batches. It adds up counts, and keeps the last of several
// values.
//
// Pending counts and values are stored in Redis, in hashes without a TTL, and
// not in the memory of a process. A batch taken from there stays in Redis until
// it is acknowledged. So a process that dies at any step loses nothing: another
// process finds the batch and persists it. With a [ledger.Ledger], no batch is
// applied twice either. See docs/write-behind.md for the protocol and for the
// limits of its guarantees.
//
// Package cachex and its counters use this package. Used directly, it serves
// buffers that no caller reads from Redis.
package writebehind

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/periodic"
	"github.com/cachex-go/cachex/ledger"
)

// Merge says how two writes to one id are combined if neither is persisted yet.
type Merge int

// The ways to merge.
const (
	Sum  Merge = 1 + iota // adds up counts
	Last                  // keeps the last value
)

// Options configures an Engine. All processes that use a Name must agree on
// Merge and Buckets.
type Options struct {
	// Name is the namespace: the keys in Redis begin with it, in braces, and it
	// is the first column of the ledger. It must be printable, without braces,
	// and at most 255 bytes long. Required.
	Name string

	// Merge is Sum or Last. Required.
	Merge Merge

	// Persist writes a batch to the database: its Deltas if Merge is Sum, its
	// Values if Merge is Last.
	//
	// If Persist uses Ledger.Once, the database applies each batch once.
	// Otherwise a batch is persisted at least once. It is persisted again if
	// Persist fails after a partial write. The same holds if the process dies
	// or Redis fails between Persist and the acknowledgement.
	//
	// For each bucket, Persist is called by one goroutine at a time, in one
	// process of the fleet as long as no process is paused. Up to Workers
	// goroutines call it at once. Its ctx ends after Timeout.
	//
	// A nil error means that the whole batch is persisted. An error that only
	// refuses some ids for good means that all other ids are persisted: see
	// [ledger.Batch.Refused]. Any other error, or a panic, means that the batch
	// must be persisted again. Persist must return some time after its ctx has
	// ended: until then, its bucket waits.
	//
	// Required.
	Persist func(ctx context.Context, b ledger.Batch) error

	// Check returns an error if this process cannot read an id or its value,
	// which a process of another release may have written. value is the value,
	// the decimal delta, or '=' and the decimal total. Persist does not get
	// such ids: they stay in Redis for processes that can read them, and other
	// ids do not wait for them. See Backlog.Unread. Check is called for each id
	// of each batch. It must be safe for concurrent use and must not keep
	// value. A panic counts as an error. Defaults to nil: this process can read
	// every id.
	Check func(id string, value []byte) error

	// Every is about how long a write waits before it is persisted, in whole
	// milliseconds. Defaults to a second.
	Every time.Duration

	// Buckets is the number of parts into which the ids are divided. Each
	// bucket has its own batches, so a flush makes one transaction for each
	// bucket with pending ids. On a Cluster, use at least sixteen buckets for
	// each master: with fewer, the load of the masters differs widely. Buckets
	// is part of the layout in Redis: flush everything before you change it.
	// Defaults to 64.
	Buckets int

	// MaxBatch is the largest number of ids in a batch. If it is 1 and Merge is
	// Last, Persist always gets one id. If Merge is Sum, a batch that a process
	// with a larger MaxBatch has taken is persisted as it is. At most 1000, the
	// number of ids that one script may move. Defaults to 1000.
	MaxBatch int

	// MaxBytes is the largest number of bytes of values and ids in a batch. A
	// batch of one id may exceed it. MaxBytes applies only if Merge is Last.
	// Defaults to 8 MiB.
	MaxBytes int

	// Workers is the number of batches that this process persists at once.
	// Defaults to 4.
	Workers int

	// Timeout ends the ctx of one call of Persist. Defaults to 30 s.
	Timeout time.Duration

	// LeaseTTL is how long the batch of a killed process waits before another
	// process persists it. A process that persists a batch renews its lease.
	// Defaults to 5 s.
	LeaseTTL time.Duration

	// RolledBack says what to do with pending ids if Redis has gone back in
	// time by more than one batch. A failover or a restored backup may cause
	// that: see ForkRolledBack. Apply persists them, and some may count twice.
	// PutAside puts them aside. Hold keeps them until Reconcile chooses.
	// Defaults to Apply.
	RolledBack Choice

	// Notify receives the errors of background work: the errors of Persist and
	// of Redis, a *ForkError, a *ledger.RefusedError, an *EvictionError. It
	// must not block, and may be called by several goroutines at once. Defaults
	// to nil: the errors are dropped.
	Notify func(error)
}

// Engine persists the pending ids of one name. It is safe for concurrent use.
//
// A field that mu does not guard is written by New alone, before any goroutine
// starts. Otherwise it is a channel, an atomic, or the property of one
// goroutine, as its comment says. Tests that change rdb, o, me, atOnce or grace
// do so before the first call. The sweeper, which the first Add, Put, Flush or
// Settle starts, reads these fields.
type Engine struct {
	rdb      redis.UniversalClient
	o        Options
	me       string        // names this process as the holder of batches
	atOnce   int           // the most ids that one script takes or returns
	buckets  []bucket      // by number; the type says what guards its fields
	workers  chan struct{} // has an element for each batch being persisted
	counters counters      // of Stats; atomics, except for policy
	closing  chan struct{} // has an element while a Close drains
	begun    atomic.Bool   // Start was called
	yielded  time.Time     // used by the sweeper alone; when it last left its turn to others
	asked    bool          // used by the sweeper alone; the eviction policy is known
	wrote    *periodic.Nudge
	grace    time.Duration // how long Close waits for Redis to tell how much is left

	// mu is held for a few instructions only. While it is held, no call is made
	// to Redis, to Persist or to Notify, and no other lock is taken.
	mu     sync.Mutex
	closed bool               // guarded by mu; no more calls
	ended  bool               // guarded by mu; no more goroutines
	halt   context.CancelFunc // guarded by mu; ends the sweeper
	cancel context.CancelFunc // guarded by mu; ends the background flushes
	kick   func(bucket int)   // guarded by mu; begins a background flush
	last   Backlog            // guarded by mu; as the sweeper last found it
	alive  int                // guarded by mu; the number of goroutines
	idle   chan struct{}      // guarded by mu; nil, or closed when alive becomes 0
}

// bucket is the state that this process keeps of one bucket.
type bucket struct {
	busy chan struct{} // has an element while a goroutine of this process flushes it

	// done is the batch that was persisted and perhaps not acknowledged. It
	// belongs to the goroutine that has put an element into busy. If that
	// goroutine stops waiting for a command, the command keeps copies of the
	// strings, which are never changed.
	done struct {
		n, token string
		outcome
	}

	seen   string    // guarded by mu of the Engine; the version that this process cannot read
	seenAt time.Time // guarded by mu of the Engine
	waits  [3]wait   // guarded by mu of the Engine; see age
}

// New returns an Engine. It makes no call to Redis and starts no goroutine: the
// first Add, Put, Flush or Start does. The caller must close the Engine. New
// returns an error for a Ring that may drop a shard, because pending ids on
// that shard would not be persisted. The HeartbeatFrequency of a Ring must be
// cachex.Forever.
func New(rdb redis.UniversalClient, o Options) (*Engine, error) {
	if client.Nil(rdb) {
		return nil, errors.New("cachex: new write-behind: the Redis client is nil")
	}
	err := o.complete()
	if err == nil {
		err = client.CheckShards(rdb)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: new write-behind: %w", err)
	}
	e := &Engine{
		rdb: rdb, o: o, me: rand.Text(), atOnce: maxAtOnce,
		buckets: make([]bucket, o.Buckets),
		workers: make(chan struct{}, o.Workers),
		closing: make(chan struct{}, 1),
		wrote:   periodic.NewNudge(),
		grace:   grace,
	}
	for b := range e.buckets {
		e.buckets[b].busy = make(chan struct{}, 1)
	}
	return e, nil
}

// Limits of Options.
const (
	maxName    = 255
	maxBuckets = 1 << 14 // a Cluster has as many slots
	maxIDs     = 1000    // of a batch, which one script may have to move: 10,000 take the server 40 ms
	maxAtOnce  = 100     // takes the server about a millisecond while a million ids are pending
	maxPeriod  = 24 * time.Hour
)

// complete sets the defaults, and returns an error for an invalid option.
func (o *Options) complete() error {
	o.Every = cmp.Or(o.Every, time.Second)
	o.Buckets = cmp.Or(o.Buckets, 64)
	o.MaxBatch = cmp.Or(o.MaxBatch, 1000)
	o.MaxBytes = cmp.Or(o.MaxBytes, 8<<20)
	o.Workers = cmp.Or(o.Workers, 4)
	o.Timeout = cmp.Or(o.Timeout, 30*time.Second)
	o.LeaseTTL = cmp.Or(o.LeaseTTL, defaults.BatchLeaseTTL())
	if o.Name == "" {
		return errors.New("Options.Name is empty: it names the keys in Redis")
	}
	if strings.ContainsFunc(o.Name, func(r rune) bool { return r == '{' || r == '}' || r <= ' ' || r == 0x7f || r == '\ufffd' }) {
		return fmt.Errorf("Options.Name is %q, must have no braces, spaces or control characters", o.Name)
	}
	if len(o.Name) > maxName {
		return fmt.Errorf("Options.Name has %d bytes, must have at most %d", len(o.Name), maxName)
	}
	if o.Merge != Sum && o.Merge != Last {
		return fmt.Errorf("Options.Merge is %d, must be Sum or Last", o.Merge)
	}
	o.RolledBack = cmp.Or(o.RolledBack, Apply)
	if o.RolledBack < Apply || o.RolledBack > Hold {
		return fmt.Errorf("Options.RolledBack is %d, must be Apply, PutAside or Hold", o.RolledBack)
	}
	if o.Persist == nil {
		return errors.New("Options.Persist is nil: it writes to the database")
	}
	for _, n := range []struct {
		name      string
		val, most int
	}{{"Buckets", o.Buckets, maxBuckets}, {"MaxBatch", o.MaxBatch, maxIDs}, {"MaxBytes", o.MaxBytes, 512 << 20}, {"Workers", o.Workers, 1 << 10}} {
		if n.val < 1 || n.val > n.most {
			return fmt.Errorf("Options.%s is %d, must be from 1 to %d", n.name, n.val, n.most)
		}
	}
	for _, d := range []struct {
		name  string
		val   time.Duration
		least time.Duration
	}{{"Every", o.Every, 10 * time.Millisecond}, {"Timeout", o.Timeout, time.Millisecond}, {"LeaseTTL", o.LeaseTTL, 30 * time.Millisecond}} {
		if d.val < d.least || d.val > maxPeriod || d.val%time.Millisecond != 0 {
			return fmt.Errorf("Options.%s is %v, must be whole milliseconds from %v to %v", d.name, d.val, d.least, maxPeriod)
		}
	}
	return nil
}
