// Package loader loads each key once: once in a process, by Flights, and once in
// a fleet of processes that share a Redis, by Leases. A Loader does both, and is
// what a cache uses when it has no value.
//
// The result of a load is stored only if nothing has happened to the key since
// the load began, and is given only to callers of whom the same can be said:
//
//	After a deletion has returned, no call that starts later gets a value whose
//	load began before it.
//
// That holds across processes and however the key was deleted. It does not hold
// where Redis itself forgets the deletion, as an asynchronous failover can.
package loader

import (
	"context"
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// Options describe a Loader.
type Options[V any] struct {
	// Codec turns values into the bytes that Redis keeps. Defaults to
	// codec.For[V]().
	Codec codec.Codec[V]

	// LeaseTTL is how long a lease holds that is not renewed, in whole
	// milliseconds: how long the fleet waits for a process that has died. A load
	// may take longer, its lease is renewed every third of this. Defaults to 3 s.
	LeaseTTL time.Duration

	// Timeout bounds one load, from the first caller's miss on. Its callers then
	// get an error that is context.DeadlineExceeded. Defaults to a minute.
	Timeout time.Duration

	// MaxLoads is how many loads run at once in this process. The others wait,
	// and hold no lease while they do. A load that another one asks for is not
	// counted, since that one waits for it; nor is one that queues when a load
	// comes to wait for it that it would queue for. Defaults to 0: no limit.
	MaxLoads int

	// StaleWhileRevalidate is how long after its end a value is served all the
	// same, while one caller in the fleet sees to a new one and nobody waits.
	// Defaults to 0.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long a value is then kept, to be served if its load
	// fails. Life.Keep of a value must be its Fresh and both of these together.
	// Defaults to 0.
	StaleIfError time.Duration

	// SoftTimeout is how long a caller waits for a load if there is a value that
	// StaleIfError keeps. It is then served, and the load goes on. Defaults to 0:
	// as long as the load takes.
	SoftTimeout time.Duration

	// Backoff is how long nobody tries again after a load that failed while a
	// value stays. It doubles with each failure, up to MaxBackoff, and is a fifth
	// longer or shorter at random. Defaults to 1 s.
	Backoff time.Duration

	// EarlyRefresh is how eagerly values are loaded again before they are stale:
	// by each reader at random, so that on the average the load begins EarlyRefresh
	// times the time that it takes ahead. 1 is what XFetch proposes. Defaults to
	// 0: not before.
	EarlyRefresh float64

	// Packed says that every entry is in the field of a hash: a key is then that of the
	// hash, a space, and the field, in which there is no space. Redis does not know when
	// a field ends. So a value is fresh and of use by the clocks of its readers, and
	// EarlyRefresh goes by what loads take here, since what the load of a value took is
	// not kept. Defaults to false.
	Packed bool

	// NoCombining has every read, Write and Delete sent by itself. Defaults to false:
	// those that come while a few are under way leave together, whichever Loader they
	// are of, writes apart from reads.
	NoCombining bool
}

// longest returns the longest pause that a back-off of d makes at random.
func longest(d time.Duration) time.Duration { return d / 5 * 6 }

// MaxBackoff is the longest time without a load after loads that failed, but for
// the random part, unless Options.Backoff is longer.
const MaxBackoff = time.Minute

// A Loader loads each key once for the whole fleet. It is safe for concurrent
// use.
type Loader[V any] struct {
	rdb     redis.UniversalClient
	gather  *gather.Client // of all who read on rdb
	apart   bool           // Options.NoCombining
	codec   codec.Keyed[V]
	seal    sealer // nil: the codec does not authenticate
	leases  Leases
	flights Flights[V]
	reads   reads[V]
	slots   *waitfor.Pool     // nil: no limit
	hear    *wake.Listener    // nil: poll only
	away    *circuit.Circuits // whether Redis is worth asking

	swr, sie    int64         // milliseconds
	longest     int64         // milliseconds that a lease or a pause can last
	softTimeout time.Duration // 0: without end
	backoff     time.Duration
	early       float64

	closing sync.Once
	deaf    chan struct{} // closed when hear and gather are released

	size  gather.Size  // of an entry
	spare sync.Pool    // of *[]Answer[V], zero
	cold  atomic.Bool  // most of many keys were missing
	cost  atomic.Int64 // nanoseconds: moving average of what loads cost, 0 before the first
	quick atomic.Int64 // nanoseconds: what the quickest load of late took, 0 before the first
	stats counters
}

// New returns a Loader, or an error that names the option that is wrong. It
// makes no call to Redis.
func New[V any](rdb redis.UniversalClient, o Options[V]) (*Loader[V], error) {
	if o.Codec == nil {
		o.Codec = codec.For[V]()
	}
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
	l := &Loader[V]{
		rdb: rdb, codec: codec.Bind(o.Codec), leases: *leases, deaf: make(chan struct{}),
		swr: o.StaleWhileRevalidate.Milliseconds(), sie: o.StaleIfError.Milliseconds(),
		longest:     saturate.Mul(max(o.LeaseTTL, o.Backoff, MaxBackoff), 2).Milliseconds() + slack,
		softTimeout: o.SoftTimeout, backoff: o.Backoff, early: o.EarlyRefresh,
	}
	l.seal = sealerOf(l.codec)
	l.gather, l.apart = gather.For(rdb), o.NoCombining
	l.leases.stale, l.leases.timed, l.leases.packed = l.swr+l.sie, o.EarlyRefresh > 0, o.Packed
	l.leases.pause, l.leases.most = longest(o.Backoff).Milliseconds()/2+1, longest(max(o.Backoff, MaxBackoff)).Milliseconds()+1
	l.cold.Store(true)
	l.flights.Timeout = o.Timeout
	l.reads.init()
	l.slots = waitfor.NewPool(o.MaxLoads)
	l.hear, l.away = wake.For(rdb), circuit.For(rdb)
	l.leases.hear = l.hear
	return l, nil
}

// check returns an error that names the option that is wrong.
func (o *Options[V]) check() error {
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

// A Func loads the value of one key and says how long it lives. It returns
// ErrNotFound, perhaps wrapped, if there is none.
type Func[V any] func(ctx context.Context) (V, Life, error)

// Get returns the value of key: from Redis, or else what load returns, here or
// in another process, and then it is stored. One call of load at a time runs in
// the whole fleet, as long as Redis answers. Where it does not, load is called
// here, one call at a time, and nothing is stored.
//
// A hit is one plain GET, and not a script that would take the lease in the same
// round trip: a server that pauses writes or fails over still answers a GET, and
// a script costs it several times as much. Callers who ask for the same key at
// the same time share the GET, as far as they came before it was sent.
//
// The error is the one of load, or one of Flights.Do. An error is not stored: the
// next caller, in any process, loads again; but if a stale value may be served,
// it is, and the next load waits for Options.Backoff. ErrNotFound is stored if
// load says for how long. That Redis failed, or that a value could not be stored,
// is no error: Stats count it.
func (l *Loader[V]) Get(ctx context.Context, key string, load Func[V]) (V, error) {
	v, _, err := GetWith(ctx, l, key, load, callFunc)
	return v, err
}

func callFunc[V any](ctx context.Context, load Func[V]) (V, Life, error) { return load(ctx) }

// GetWith is Get for a load that takes an argument, and says how the value was
// come by. It saves a hit the closure.
func GetWith[A, V any](ctx context.Context, l *Loader[V], key string, arg A, load func(context.Context, A) (V, Life, error)) (V, Outcome, error) {
	var zero V
	if ctx.Err() != nil {
		return zero, 0, context.Cause(ctx)
	}
	r := reading[V]{l: l, key: key}
	defer r.end()
	if !r.join(ctx) {
		if away := l.refusal(key); away != nil {
			l.stats.bypasses.Add(1)
			r.m, r.err = board(ctx, l, key, sight{away: away}, nil, arg, load)
		} else if r.await(ctx, true) {
			v, s := l.open(ctx, &r, true)
			switch {
			case s.kind.served():
				if s.kind == due || s.kind == stale {
					ahead(ctx, l, key, s, arg, load)
				}
				return v, l.count(s.kind), nil
			case s.kind == none:
				return zero, l.count(none), ErrNotFound
			}
			r.m, r.err = board(ctx, l, key, s, r.followers(), arg, load)
		}
	}
	if r.err != nil {
		return zero, 0, r.err
	}
	if !r.counted {
		l.stats.misses.Add(1)
	}
	r.end() // who still waits to read finds the flight
	return l.answer(l.wait(ctx, key, r.m))
}

// board joins the flight of key, or starts one, and has bring take others on board. It
// is a function of its own since it allocates what a hit has no use for.
func board[A, V any](ctx context.Context, l *Loader[V], key string, s sight, bring func(*flight[V]), arg A, load func(context.Context, A) (V, Life, error)) (*member[V], error) {
	run := l.single(key, s, func(ctx context.Context) (V, Life, error) { return load(ctx, arg) })
	m, _, err := l.flights.embark(ctx, key, false, run, bring)
	return m, err
}

// ahead loads a new value while the one that is there is served.
func ahead[A, V any](ctx context.Context, l *Loader[V], key string, s sight, arg A, load func(context.Context, A) (V, Life, error)) {
	l.flights.leaveAside(ctx, key, l.single(key, s, func(ctx context.Context) (V, Life, error) { return load(ctx, arg) }))
}

// Lookup returns the value of key in Redis, and whether there is one. It never
// loads, and does not wait for a load. A value that is stale is one as long as
// StaleWhileRevalidate says. The error is that of Redis, or the cause of the end
// of ctx. Bytes that cannot be used are no value, and are counted.
func (l *Loader[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	v, how, err := l.Find(ctx, key)
	return v, how == OutcomeHit || how == OutcomeStale, err
}

// Find is Lookup, and says how the value was come by: OutcomeHit, OutcomeStale,
// OutcomeNotFound, or 0 if Redis does not know.
func (l *Loader[V]) Find(ctx context.Context, key string) (V, Outcome, error) {
	var zero V
	if ctx.Err() != nil {
		return zero, 0, context.Cause(ctx)
	}
	if away := l.refusal(key); away != nil {
		l.stats.bypasses.Add(1)
		return zero, 0, away
	}
	r := reading[V]{l: l, key: key}
	defer r.end()
	if !r.await(ctx, false) {
		return zero, 0, context.Cause(ctx)
	}
	v, s := l.open(ctx, &r, false)
	return l.looked(ctx, v, s)
}

// looked is what Find returns of what was seen.
func (l *Loader[V]) looked(ctx context.Context, v V, s sight) (V, Outcome, error) {
	var zero V
	switch {
	case s.kind.served() && s.kind != pausing:
		return v, l.count(s.kind), nil
	case s.kind == none:
		return zero, l.count(none), nil
	case s.away != nil && ctx.Err() != nil:
		return zero, 0, context.Cause(ctx)
	case s.away != nil:
		return zero, 0, s.away
	}
	l.stats.misses.Add(1)
	return zero, 0, nil
}

// Forget makes callers who come after it begin anew, in place of joining a load
// that is under way here. Whoever deletes or writes a key calls it when Redis
// has answered.
func (l *Loader[V]) Forget(keys ...string) { l.flights.Forget(keys...) }

// Leases returns the leases that the Loader takes, for code that writes or
// expires keys.
func (l *Loader[V]) Leases() *Leases { return &l.leases }

// Stats returns what the Loader has counted since New.
func (l *Loader[V]) Stats() Stats {
	s := l.stats.snapshot()
	s.Breaker = l.away.State()
	return s
}

// Close is Flights.Close, and ends the subscription for waits. What is in Redis
// can still be read; a miss is ErrClosed. The client stays open.
func (l *Loader[V]) Close(ctx context.Context) error {
	err := l.flights.Close(ctx)
	l.closing.Do(func() {
		wait, idle := l.hear.Release(), l.gather.Release()
		if wait == nil && over(idle) {
			close(l.deaf)
			return
		}
		// Ends with the listener's goroutine, which the client may hold up while it dials,
		// and with reads that their callers have left.
		guard.Go(guard.Client, func() error {
			if wait != nil {
				wait()
			}
			<-idle
			return nil
		}, func(error) { close(l.deaf) })
	})
	if err != nil {
		return err
	}
	select {
	case <-l.deaf:
		return nil
	default:
	}
	select {
	case <-l.deaf:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expect returns what a load is going to cost, 0 before the first.
func (l *Loader[V]) expect() time.Duration { return time.Duration(l.cost.Load()) }

// learn takes a load's cost into the average. Two at the same time may lose one.
func (l *Loader[V]) learn(took time.Duration) {
	old := l.cost.Load()
	if old == 0 {
		old = int64(took)
	}
	l.cost.Store(max(1, old+(int64(took)-old)/4))
	l.hasten(took)
}

// hasten takes into the shortest time of late what a load took, even one that failed.
func (l *Loader[V]) hasten(took time.Duration) {
	old := l.quick.Load()
	if old == 0 || int64(took) < old {
		old = int64(took)
	}
	l.quick.Store(max(1, old+(int64(took)-old)/8))
}
