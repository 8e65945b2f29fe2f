// Package engine loads each key once: once in a process, by a flight, and once
// in the fleet, by a lease in Redis. It stores the result only if the key was
// not deleted or written since the load began. A caller gets the result only if
// the same is true since its call:
//
//	After a deletion has returned, no call that starts later gets a value whose
//	load began before it.
//
// The rule holds across processes, and for deletions by any program. It does
// not hold if Redis loses the deletion, as an asynchronous failover can.
//
// Package engine has no type parameters for values: it is compiled once for all
// types that a program caches. Values are in boxes; see Codec and Target.
package engine

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// longestPause returns the longest pause that a back-off of d can draw.
func longestPause(d time.Duration) time.Duration { return d / 5 * 6 }

// An Engine loads each key once for the fleet: a flight in this process, and a
// lease in Redis. Packages cachex and loader are typed fronts of it. Its values
// are in boxes. It is safe for concurrent use.
type Engine struct {
	rdb       redis.UniversalClient
	gather    *gather.Client // shared by all readers on rdb
	unbatched bool           // Options.NoCombining
	codec     Codec
	sealer    sealer // nil: the codec does not authenticate
	leases    Leases
	flights   group
	gets      getTable
	loadSlots *waitfor.Pool     // nil: no limit
	listener  *wake.Listener    // nil: only poll
	breakers  *circuit.Circuits // whether Redis is worth asking

	swr, sie     int64         // milliseconds
	longestHold  int64         // milliseconds: the longest duration of a lease or a pause
	softTimeout  time.Duration // 0: no soft timeout
	backoff      time.Duration
	earlyRefresh float64

	closeOnce sync.Once
	released  chan struct{} // closed when listener and gather are released

	entrySize     gather.Size  // of an entry
	answerPool    sync.Pool    // of *[]KeyResult, all zero
	mostlyMissing atomic.Bool  // the last GetMany missed most of its keys
	loadCost      atomic.Int64 // nanoseconds: moving average of the cost of loads; 0 before the first
	fastestLoad   atomic.Int64 // nanoseconds: the fastest of the recent loads; 0 before the first
	stats         counters
}

// Options describe an Engine. They are documented at loader.Options, and at the
// fields of cachex.Spec with the same names.
type Options struct {
	LeaseTTL, Timeout                               time.Duration
	MaxLoads                                        int
	StaleWhileRevalidate, StaleIfError, SoftTimeout time.Duration
	Backoff                                         time.Duration
	EarlyRefresh                                    float64
	NoCombining                                     bool

	// Packed stores every entry in a field of a Redis hash. A key is then the
	// key of the hash, a space, and the field, which contains no space. Redis
	// does not expire fields, so readers decide by their own clocks whether a
	// value is fresh. An entry does not record how long its load took, so
	// EarlyRefresh uses the duration of loads in this process. Defaults to
	// false.
	Packed bool
}

// MaxBackoff is the longest time without a load after failed loads, except for
// jitter, unless Options.Backoff is longer.
const MaxBackoff = time.Minute

// New returns an Engine, or an error that names the wrong option. It makes no
// call to Redis.
func New(rdb redis.UniversalClient, c Codec, o Options) (*Engine, error) {
	if o.LeaseTTL == 0 {
		o.LeaseTTL = defaults.LeaseTTL()
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	if err := o.check(); err != nil {
		return nil, err
	}
	leases, err := NewLeases(rdb, o.LeaseTTL)
	if err != nil {
		return nil, err
	}
	l := &Engine{
		rdb: rdb, codec: c, sealer: sealerOf(c.Codec()), leases: *leases, released: make(chan struct{}),
		swr: o.StaleWhileRevalidate.Milliseconds(), sie: o.StaleIfError.Milliseconds(),
		longestHold: saturate.Mul(max(o.LeaseTTL, o.Backoff, MaxBackoff), 2).Milliseconds() + clockSkew,
		softTimeout: o.SoftTimeout, backoff: o.Backoff, earlyRefresh: o.EarlyRefresh,
	}
	l.gather, l.unbatched = gather.For(rdb), o.NoCombining
	l.leases.retainStale, l.leases.earlyRefresh, l.leases.packed = l.swr+l.sie, o.EarlyRefresh > 0, o.Packed
	l.leases.halfPause, l.leases.maxPause = longestPause(o.Backoff).Milliseconds()/2+1, longestPause(max(o.Backoff, MaxBackoff)).Milliseconds()+1
	l.mostlyMissing.Store(true)
	l.flights.timeout = o.Timeout
	l.gets.init()
	l.loadSlots = waitfor.NewPool(o.MaxLoads)
	l.listener, l.breakers = wake.For(rdb), circuit.For(rdb)
	l.leases.listener = l.listener
	return l, nil
}

// check returns an error that names the wrong option.
func (o *Options) check() error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"Timeout", o.Timeout}, {"StaleWhileRevalidate", o.StaleWhileRevalidate}, {"StaleIfError", o.StaleIfError},
		{"SoftTimeout", o.SoftTimeout}, {"Backoff", o.Backoff},
	} {
		if d.d < 0 {
			return fmt.Errorf("%s is %v, must not be negative", d.name, d.d)
		}
	}
	switch {
	case o.MaxLoads < 0:
		return fmt.Errorf("MaxLoads is %d, must not be negative", o.MaxLoads)
	case o.EarlyRefresh < 0 || math.IsNaN(o.EarlyRefresh) || math.IsInf(o.EarlyRefresh, 0):
		return fmt.Errorf("EarlyRefresh is %v, must not be negative", o.EarlyRefresh)
	}
	return nil
}

// GetOrLoad returns the value of key, in a box, and where it came from. If
// Redis has no value, one caller in the fleet calls t.Load and stores the
// result; the other callers wait for it. If Redis does not answer, t.Load is
// called once at a time in this process, and nothing is stored. A hit allocates
// nothing that only a load needs.
//
// A hit is one plain GET. Rejected: a script that takes the lease in the same
// round trip. A server that pauses writes or fails over still answers a GET,
// and a script costs the server several times as much. Callers that ask for the
// same key before the GET is sent share it.
//
// The error is the error of the load; or the cause of the end of ctx, and the
// load goes on for the other callers; or a *PanicError, ErrGoexit, ErrClosed or
// ErrReentrant. An error is not stored: the next caller, in any process, loads
// again. But if a stale value may be served, it is, and the next load waits for
// Options.Backoff. ErrNotFound is stored if the load returned a Life with it.
// If Redis fails, or a value cannot be stored, GetOrLoad returns no error, and
// Stats count it.
func (l *Engine) GetOrLoad(ctx context.Context, key string, t Target) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	r := getTicket{l: l, key: key}
	defer r.end()
	if !r.joinFlight(ctx) {
		if refused := l.breakerErr(key); refused != nil {
			l.stats.bypasses.Add(1)
			r.waiter, r.err = l.joinOrStart(ctx, key, snapshot{redisErr: refused}, nil, t)
		} else if r.await(ctx, true) {
			v := t.Box()
			s := l.readEntry(ctx, &r, true, v)
			switch {
			case s.freshness.served():
				if s.freshness == refreshDue || s.freshness == stale {
					l.refreshInBackground(ctx, key, s, t)
				}
				return v, l.countHit(s.freshness), nil
			case s.freshness == notFound:
				return nil, l.countHit(notFound), ErrNotFound
			}
			r.waiter, r.err = l.joinOrStart(ctx, key, s, r.adopter(), t)
		}
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	if !r.missCounted {
		l.stats.misses.Add(1)
	}
	r.end() // callers that still wait to read find the flight
	return l.answerOf(l.waitWithin(ctx, key, r.waiter))
}

// joinOrStart joins the flight of key or starts one, and passes adopt on. It is
// a separate function because it allocates, and a hit must not.
func (l *Engine) joinOrStart(ctx context.Context, key string, s snapshot, adopt func(*flight), t Target) (*waiter, error) {
	w, _, err := l.flights.joinOrStart(ctx, key, false, l.newKeyRun(key, s, t.Load), adopt)
	return w, err
}

// refreshInBackground loads a new value while the current one is served.
func (l *Engine) refreshInBackground(ctx context.Context, key string, s snapshot, t Target) {
	l.flights.startBackground(ctx, key, l.newKeyRun(key, s, t.Load))
}

// Find returns the value of key in Redis, and its Outcome: OutcomeHit,
// OutcomeStale, OutcomeNotFound, or 0 if Redis has no entry. It neither loads
// nor waits for a load. A stale value counts for StaleWhileRevalidate.
//
// v is a pointer to a zero value. Find sets it and returns it, or returns nil
// if there is no value. The error is a failure of Redis, or the cause of the
// end of ctx. Undecodable bytes count as no value, and Stats count them.
func (l *Engine) Find(ctx context.Context, key string, v any) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if refused := l.breakerErr(key); refused != nil {
		l.stats.bypasses.Add(1)
		return nil, 0, refused
	}
	r := getTicket{l: l, key: key}
	defer r.end()
	if !r.await(ctx, false) {
		return nil, 0, context.Cause(ctx)
	}
	return l.lookupAnswer(ctx, v, l.readEntry(ctx, &r, false, v))
}

// lookupAnswer returns the result of Find for a snapshot.
func (l *Engine) lookupAnswer(ctx context.Context, v any, s snapshot) (any, Outcome, error) {
	switch {
	case s.freshness.served() && s.freshness != staleBackoff:
		return v, l.countHit(s.freshness), nil
	case s.freshness == notFound:
		return nil, l.countHit(notFound), nil
	case s.redisErr != nil && ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case s.redisErr != nil:
		return nil, 0, s.redisErr
	}
	l.stats.misses.Add(1)
	return nil, 0, nil
}

// Forget detaches the loads of keys in this process: their callers get the
// result, and later callers load again. After a write or a deletion of a key,
// call it when Redis has answered.
func (l *Engine) Forget(keys ...string) { l.flights.Forget(keys...) }

// ForgetAll is Forget for every key that is being loaded in this process.
func (l *Engine) ForgetAll() { l.flights.ForgetAll() }

// Leases returns the leases of l, for code that writes or expires keys.
func (l *Engine) Leases() *Leases { return &l.leases }

// Stats returns a snapshot of the counters.
func (l *Engine) Stats() Stats {
	s := l.stats.snapshot()
	s.Breaker = l.breakers.State()
	return s
}

// Close makes further loads return ErrClosed, waits for active loads, and ends
// the subscription for wake-ups. If ctx ends first, Close cancels the loads and
// returns the cause. Values in Redis can still be read. The client stays open.
func (l *Engine) Close(ctx context.Context) error {
	err := l.flights.Close(ctx)
	l.closeOnce.Do(func() {
		wait, idle := l.listener.Release(), l.gather.Release()
		if wait == nil && isClosed(idle) {
			close(l.released)
			return
		}
		// Ends with the listener's goroutine, which the client may delay while
		// it dials, and with reads that their callers have left.
		guard.Go(guard.Client, func() error {
			if wait != nil {
				wait()
			}
			<-idle
			return nil
		}, func(error) { close(l.released) })
	})
	if err != nil {
		return err
	}
	select {
	case <-l.released:
		return nil
	default:
	}
	select {
	case <-l.released:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expectedCost returns the expected cost of a load; 0 before the first.
func (l *Engine) expectedCost() time.Duration { return time.Duration(l.loadCost.Load()) }

// recordCost adds the cost of a load to the moving average. Of two concurrent
// calls, one may be lost.
func (l *Engine) recordCost(took time.Duration) {
	old := l.loadCost.Load()
	if old == 0 {
		old = int64(took)
	}
	l.loadCost.Store(max(1, old+(int64(took)-old)/4))
	l.recordFastest(took)
}

// recordFastest updates the fastest recent load, also by loads that failed.
func (l *Engine) recordFastest(took time.Duration) {
	old := l.fastestLoad.Load()
	if old == 0 || int64(took) < old {
		old = int64(took)
	}
	l.fastestLoad.Store(max(1, old+(int64(took)-old)/8))
}
