package loader

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

// longest returns the longest pause that a back-off of d makes at random.
func longest(d time.Duration) time.Duration { return d / 5 * 6 }

// An Engine is a Loader whose values are in boxes: package cachex makes its
// caches of it. It is safe for concurrent use.
type Engine struct {
	rdb     redis.UniversalClient
	gather  *gather.Client // of all who read on rdb
	apart   bool           // Options.NoCombining
	codec   BoxCodec
	seal    sealer // nil: the codec does not authenticate
	leases  Leases
	flights group
	reads   reads
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
	spare sync.Pool    // of *[]BoxAnswer, zero
	cold  atomic.Bool  // most of many keys were missing
	cost  atomic.Int64 // nanoseconds: moving average of what loads cost, 0 before the first
	quick atomic.Int64 // nanoseconds: what the quickest load of late took, 0 before the first
	stats counters
}

// EngineOptions are Options without the codec.
type EngineOptions struct {
	LeaseTTL, Timeout                               time.Duration
	MaxLoads                                        int
	StaleWhileRevalidate, StaleIfError, SoftTimeout time.Duration
	Backoff                                         time.Duration
	EarlyRefresh                                    float64
	Packed, NoCombining                             bool
}

// NewEngine is New for boxes.
func NewEngine(rdb redis.UniversalClient, c BoxCodec, o EngineOptions) (*Engine, error) {
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
		rdb: rdb, codec: c, seal: sealerOf(c.Codec()), leases: *leases, deaf: make(chan struct{}),
		swr: o.StaleWhileRevalidate.Milliseconds(), sie: o.StaleIfError.Milliseconds(),
		longest:     saturate.Mul(max(o.LeaseTTL, o.Backoff, MaxBackoff), 2).Milliseconds() + slack,
		softTimeout: o.SoftTimeout, backoff: o.Backoff, early: o.EarlyRefresh,
	}
	l.gather, l.apart = gather.For(rdb), o.NoCombining
	l.leases.stale, l.leases.timed, l.leases.packed = l.swr+l.sie, o.EarlyRefresh > 0, o.Packed
	l.leases.pause, l.leases.most = longest(o.Backoff).Milliseconds()/2+1, longest(max(o.Backoff, MaxBackoff)).Milliseconds()+1
	l.cold.Store(true)
	l.flights.timeout = o.Timeout
	l.reads.init()
	l.slots = waitfor.NewPool(o.MaxLoads)
	l.hear, l.away = wake.For(rdb), circuit.For(rdb)
	l.leases.hear = l.hear
	return l, nil
}

// check returns an error that names the option that is wrong.
func (o *EngineOptions) check() error {
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

// GetOrLoad is Loader.Get, and tells how the value was come by. A hit allocates
// nothing for what only a load needs.
func (l *Engine) GetOrLoad(ctx context.Context, key string, t BoxTarget) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	r := reading{l: l, key: key}
	defer r.end()
	if !r.join(ctx) {
		if away := l.refusal(key); away != nil {
			l.stats.bypasses.Add(1)
			r.m, r.err = l.board(ctx, key, sight{away: away}, nil, t)
		} else if r.await(ctx, true) {
			v := t.Box()
			s := l.open(ctx, &r, true, v)
			switch {
			case s.kind.served():
				if s.kind == due || s.kind == stale {
					l.ahead(ctx, key, s, t)
				}
				return v, l.count(s.kind), nil
			case s.kind == none:
				return nil, l.count(none), ErrNotFound
			}
			r.m, r.err = l.board(ctx, key, s, r.followers(), t)
		}
	}
	if r.err != nil {
		return nil, 0, r.err
	}
	if !r.counted {
		l.stats.misses.Add(1)
	}
	r.end() // who still waits to read finds the flight
	return l.answer(l.wait(ctx, key, r.m))
}

// board joins the flight of key, or starts one, and has bring take others on
// board. It is a function of its own since it allocates what a hit has no use
// for.
func (l *Engine) board(ctx context.Context, key string, s sight, bring func(*flight), t BoxTarget) (*member, error) {
	m, _, err := l.flights.embark(ctx, key, false, l.single(key, s, t.Load), bring)
	return m, err
}

// ahead loads a new value while the one that is there is served.
func (l *Engine) ahead(ctx context.Context, key string, s sight, t BoxTarget) {
	l.flights.leaveAside(ctx, key, l.single(key, s, t.Load))
}

// Find is Loader.Find, where v is a pointer to a zero value. It returns v, or
// nil if there is no value.
func (l *Engine) Find(ctx context.Context, key string, v any) (any, Outcome, error) {
	if ctx.Err() != nil {
		return nil, 0, context.Cause(ctx)
	}
	if away := l.refusal(key); away != nil {
		l.stats.bypasses.Add(1)
		return nil, 0, away
	}
	r := reading{l: l, key: key}
	defer r.end()
	if !r.await(ctx, false) {
		return nil, 0, context.Cause(ctx)
	}
	return l.looked(ctx, v, l.open(ctx, &r, false, v))
}

// looked is what Find returns of what was seen.
func (l *Engine) looked(ctx context.Context, v any, s sight) (any, Outcome, error) {
	switch {
	case s.kind.served() && s.kind != pausing:
		return v, l.count(s.kind), nil
	case s.kind == none:
		return nil, l.count(none), nil
	case s.away != nil && ctx.Err() != nil:
		return nil, 0, context.Cause(ctx)
	case s.away != nil:
		return nil, 0, s.away
	}
	l.stats.misses.Add(1)
	return nil, 0, nil
}

// Forget makes callers who come after it begin anew, in place of joining a load
// that is under way here. Whoever deletes or writes a key calls it when Redis
// has answered.
func (l *Engine) Forget(keys ...string) { l.flights.Forget(keys...) }

// Leases returns the leases that the Loader takes, for code that writes or
// expires keys.
func (l *Engine) Leases() *Leases { return &l.leases }

// Stats returns what the Loader has counted since New.
func (l *Engine) Stats() Stats {
	s := l.stats.snapshot()
	s.Breaker = l.away.State()
	return s
}

// Close is Flights.Close, and ends the subscription for waits. What is in Redis
// can still be read; a miss is ErrClosed. The client stays open.
func (l *Engine) Close(ctx context.Context) error {
	err := l.flights.Close(ctx)
	l.closing.Do(func() {
		wait, idle := l.hear.Release(), l.gather.Release()
		if wait == nil && over(idle) {
			close(l.deaf)
			return
		}
		// Ends with the listener's goroutine, which the client may hold up
		// while it dials, and with reads that their callers have left.
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
func (l *Engine) expect() time.Duration { return time.Duration(l.cost.Load()) }

// learn takes a load's cost into the average. Two at the same time may lose
// one.
func (l *Engine) learn(took time.Duration) {
	old := l.cost.Load()
	if old == 0 {
		old = int64(took)
	}
	l.cost.Store(max(1, old+(int64(took)-old)/4))
	l.hasten(took)
}

// hasten takes into the shortest time of late what a load took, even one that
// failed.
func (l *Engine) hasten(took time.Duration) {
	old := l.quick.Load()
	if old == 0 || int64(took) < old {
		old = int64(took)
	}
	l.quick.Store(max(1, old+(int64(took)-old)/8))
}
