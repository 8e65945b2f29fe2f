// Package writebehind persists what was written to Redis, some time later and in
// batches: counts, which are added up, and values, of which the last one wins.
//
// What is pending lies in Redis, in hashes without a TTL, and not in the memory of a
// process. It is taken from there in batches that stay in Redis until they are
// acknowledged. So whoever dies, at whatever step, loses nothing: somebody else
// finds the batch and persists it. With a [ledger.Ledger] nothing is applied twice
// either. See docs/write-behind.md for the protocol, and for what is not guaranteed.
//
// Package cachex and its counters are built on this. By itself it is for buffers that
// nobody reads from Redis.
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

// A Merge says what becomes of two writes to one id, of which none is persisted yet.
type Merge int

// The ways to merge.
const (
	Sum  Merge = 1 + iota // counts, which are added up
	Last                  // values, of which the last one wins
)

// Options are the options of an Engine. All processes that use a Name must agree on
// Merge and Buckets.
type Options struct {
	// Name is the namespace: what the keys in Redis begin with, in braces, and the
	// first column of the ledger. Printable, without braces, of at most 255 bytes.
	// Required.
	Name string

	// Merge is Sum or Last. Required.
	Merge Merge

	// Persist writes a batch to the database: its Deltas if Merge is Sum, its Values
	// if it is Last. Required.
	//
	// Ledger.Once in it makes the database apply each batch once. Without, a batch is
	// persisted at least once: again, if its process dies or Redis fails between here
	// and the acknowledgement, or if Persist fails after it has written something.
	//
	// It is called by one goroutine at a time for a bucket, in one process of the
	// fleet as long as nobody is paused, and by Workers goroutines at once. Its ctx
	// ends after Timeout. nil means that all of the batch is persisted; an error that
	// refuses some ids for good, and says nothing else, that all others are: see
	// [ledger.Batch.Refused]. Any other error, or a panic, means that the batch must
	// be persisted again. It must return some time after its ctx has ended: until
	// then, its bucket waits.
	Persist func(ctx context.Context, b ledger.Batch) error

	// Check returns an error if this process cannot read an id, or its value, which a
	// process of another release may have written. value is the value, the decimal
	// delta, or '=' and the decimal total. Persist does not get such ids: they stay in
	// Redis for processes that can read them, and other ids do not wait for them. See
	// Backlog.Unread. It is called for each id of each batch, must be safe for
	// concurrent use, and must not keep value. A panic is an error. Defaults to nil:
	// this process can read all.
	Check func(id string, value []byte) error

	// Every is how long a write waits, about, before it is persisted. In whole
	// milliseconds. Defaults to a second.
	Every time.Duration

	// Buckets is how many parts the ids fall into. Each has batches of its own, so a
	// flush makes as many transactions as there are buckets with something to do. On a
	// Cluster there should be sixteen for each master, or one gets much more than
	// another. It is part of how things lie in Redis: flush everything before you
	// change it. Defaults to 64.
	Buckets int

	// MaxBatch is how many ids a batch has at most. If it is 1 and Merge is Last, Persist
	// is always given one id. If Merge is Sum, a batch that a process with a larger
	// MaxBatch has taken is persisted as it is. At most 1000, which one script may move. Defaults to 1000.
	MaxBatch int

	// MaxBytes is how many bytes of values and ids a batch has at most, unless it
	// has one id only. It is for Last alone. Defaults to 8 MiB.
	MaxBytes int

	// Workers is how many batches are persisted at once in this process. Defaults
	// to 4.
	Workers int

	// Timeout ends the ctx of one call of Persist. Defaults to 30 s.
	Timeout time.Duration

	// LeaseTTL is how soon somebody else persists the batch of a process that was
	// killed. Whoever persists one prolongs that. Defaults to 5 s.
	LeaseTTL time.Duration

	// RolledBack says what becomes of what is pending if Redis has gone back in time by
	// more than one batch, as a failover or a restored backup may make it: see
	// ForkRolledBack. Apply persists it, and some of it may count twice; PutAside puts it
	// aside; Hold keeps it until Reconcile chooses. Defaults to Apply.
	RolledBack Choice

	// Notify is told of what goes wrong in the background: of what Persist returns, of
	// Redis, of a *ForkError, a *ledger.RefusedError, an *EvictionError. It must not
	// block, and may be called by several goroutines at once. Defaults to nothing.
	Notify func(error)
}

// An Engine persists what is pending under one name. It is safe for concurrent use.
//
// A field that is not guarded by mu is written by New alone, before there is a goroutine;
// or it is a channel, an atomic, or the property of one goroutine, as its comment says.
// Tests that change rdb, o, me, atOnce or grace do so before the first call: the sweeper,
// which the first Add, Put, Flush or Settle starts, reads them.
type Engine struct {
	rdb      redis.UniversalClient
	o        Options
	me       string        // who takes batches
	atOnce   int           // ids that one script takes or returns at most
	buckets  []bucket      // by number; see there for what guards its fields
	workers  chan struct{} // has an element for each batch being persisted
	counters counters      // of Stats; atomics, but for one
	closing  chan struct{} // has an element while a Close drains
	begun    atomic.Bool   // Start was called
	yielded  time.Time     // the sweeper's alone; when it last left its turn to others
	asked    bool          // the sweeper's alone; the policy of eviction is known
	wrote    *periodic.Nudge
	grace    time.Duration // what Redis has to tell Close how much is left

	// mu is held for a few instructions: while it is, no call is made to Redis, to Persist
	// or to Notify, and no other lock is taken.
	mu     sync.Mutex
	closed bool               // guarded by mu; no more calls
	ended  bool               // guarded by mu; no more goroutines
	halt   context.CancelFunc // guarded by mu; ends the sweeper
	cancel context.CancelFunc // guarded by mu; ends the flushes in the background
	kick   func(bucket int)   // guarded by mu; begins one
	last   Backlog            // guarded by mu; as the sweeper found it
	alive  int                // guarded by mu; goroutines
	idle   chan struct{}      // guarded by mu; nil, or to be closed when there are none
}

// A bucket is what this process knows of one.
type bucket struct {
	busy chan struct{} // has an element while a goroutine of this process flushes it

	// done is the batch that was persisted and perhaps not acknowledged. It belongs to
	// the goroutine that has put an element into busy. Commands that this one has left get
	// copies of the strings, which are not changed.
	done struct {
		n, token string
		outcome
	}

	seen   string    // guarded by mu of the Engine; what this process found it cannot read
	seenAt time.Time // guarded by mu of the Engine
	waits  [3]wait   // guarded by mu of the Engine; see age
}

// New returns an engine. It makes no call to Redis and starts no goroutine: the first
// Add, Put, Flush or Start does. The engine must be closed. New refuses a Ring that
// may drop a shard: what is pending there would not be persisted. Its
// HeartbeatFrequency must be cachex.Forever.
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
	maxAtOnce  = 100     // a millisecond or so of the server, where a million are pending
	maxPeriod  = 24 * time.Hour
)

// complete fills in what was left out, and returns an error about what cannot be.
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
