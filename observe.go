package cachex

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/guard"
)

// Outcome is where a value, or the answer that there is no value, came from.
// The zero value means an error, or no answer.
type Outcome uint8

// Outcomes of a read, in the order of their cost.
const (
	Hit      = Outcome(engine.OutcomeHit)      // the value was in Redis
	NotFound = Outcome(engine.OutcomeNotFound) // Redis remembered ErrNotFound
	Stale    = Outcome(engine.OutcomeStale)    // a stale value was in Redis: one process reloads it, or Up failed or was slow
	Waited   = Outcome(engine.OutcomeWaited)   // another process loaded the value during the call
	Loaded   = Outcome(engine.OutcomeLoaded)   // this process loaded the value, for this call or an earlier one
	Bypassed = Outcome(engine.OutcomeBypassed) // this process loaded the value without Redis and did not store it
)

// String returns the outcome in one or two words, or "" for the zero value.
func (o Outcome) String() string { return engine.Outcome(o).String() }

// WithOutcome returns a ctx that records how a call got its value: the call
// sets *o before it returns. The zero value means that the call failed with an
// error other than ErrNotFound. A call for many keys sets the outcome of its
// most expensive key, in the order of the constants.
//
// Calls with this ctx must not overlap. The ctx of Up does not carry it, so
// calls made by Up do not change *o.
func WithOutcome(ctx context.Context, o *Outcome) context.Context {
	return context.WithValue(ctx, outcomeKey{}, o)
}

type outcomeKey struct{}

// setOutcome sets the Outcome of WithOutcome. Every read calls it, even a
// refused one whose ctx is nil.
func setOutcome(ctx context.Context, outcome Outcome) {
	if ctx == nil {
		return
	}
	if o, _ := ctx.Value(outcomeKey{}).(*Outcome); o != nil {
		*o = outcome
	}
}

// Observer observes the calls and loads of a cache. It is the hook for traces,
// metrics and logs, which live in separate modules. Its methods run in the
// goroutine of the call, or while a load waits for them. They must return soon
// and be safe for concurrent use.
//
// An Observer changes no result. If one of its methods panics, the call goes on
// as if no Observer were set, and Stats.ObserverFailures counts it. The same
// holds for runtime.Goexit, except in the goroutine of a caller, which then
// exits.
type Observer interface {
	// Begin is called when a call or load begins. It returns the ctx for the
	// rest of it: ctx, or a ctx derived from it. If Begin returns nil, ctx is
	// used. Up sees the values that Begin of its load has added. If Begin does
	// not return, End is not called.
	Begin(ctx context.Context, e Event) context.Context

	// End is called when the call or load has ended. ctx is the result of
	// Begin.
	End(ctx context.Context, e Event, r Result)
}

// Event describes one call on a cache, or one load.
type Event struct {
	Op    string // one of OpGet, OpSet …
	Cache string // the name of the cache
	Key   string // the key in Redis; the first one if there are several
	Keys  int    // number of keys
}

// Operations that an Observer sees. The Op of an [Error] is one of these, or
// the lower-case name of another method.
const (
	OpGet        = "get" // also of a function returned by Wrap, and of a cache in a batch
	OpGetMany    = "getmany"
	OpLookup     = "lookup"
	OpLookupMany = "lookupmany"
	OpRefresh    = "refresh"
	OpSet        = "set"
	OpSetMany    = "setmany"
	OpDelete     = "delete"
	OpExpire     = "expire"
	OpClear      = "clear"
	OpAdd        = "add"     // of a counter.Counter; Inc included
	OpAddOnce    = "addonce" // of a counter.Counter
	OpLoad       = "load"    // one call of Up or UpMany
	OpPersist    = "persist" // one batch of values written behind
)

// Result is the end of an Event.
type Result struct {
	Outcome Outcome // the outcome of a read; see WithOutcome
	Took    time.Duration
	Err     error // the error of the call, or of Up
}

// observation is one Event in progress. If it is nil, there is no Observer.
type observation struct {
	observer   Observer
	failures   *atomic.Int64 // failures of the observer
	background bool          // the event is not in the goroutine of a caller
	event      Event
	began      time.Time
}

// observerCode names Spec.Observer in errors.
var observerCode = guard.Named("Spec.Observer")

// notify calls fn, a method of the observer, and reports whether it returned.
//
// In a background event, fn runs on a goroutine of its own: a runtime.Goexit
// would otherwise end the load and lose its result.
func (obs *observation) notify(fn func()) bool {
	var err error
	told := func() error { fn(); return nil }
	if obs.background {
		ended := make(chan error, 1)
		guard.Go(observerCode, told, func(err error) { ended <- err })
		err = <-ended
	} else {
		err = guard.Call(observerCode, told)
	}
	if err != nil {
		obs.failures.Add(1)
	}
	return err == nil
}

// observe calls Observer.Begin for a call. Without an Observer, the observation
// is nil, so that the call allocates nothing.
func (c *core) observe(ctx context.Context, op, key string, keys int) (context.Context, *observation) {
	if c.observer == nil {
		return ctx, nil
	}
	obs := &observation{
		observer: c.observer, failures: &c.observerFailures, background: op == OpLoad || op == OpPersist,
		event: Event{Op: op, Cache: c.name, Key: key, Keys: keys}, began: time.Now(),
	}
	inside := ctx
	if !obs.notify(func() { inside = obs.observer.Begin(ctx, obs.event) }) {
		return ctx, nil
	}
	if inside == nil {
		inside = ctx
	}
	return inside, obs
}

// end calls Observer.End. ctx is the result of observe.
func (obs *observation) end(ctx context.Context, outcome Outcome, err error) {
	if obs == nil {
		return
	}
	r := Result{Outcome: outcome, Took: time.Since(obs.began), Err: err}
	obs.notify(func() { obs.observer.End(ctx, obs.event, r) })
}

// observeLoad calls Observer.Begin for a load and hides WithOutcome from its
// ctx. render returns the first key in Redis.
func (c *core) observeLoad(ctx context.Context, keys int, render func() (string, error)) (context.Context, func(error)) {
	if ctx.Value(outcomeKey{}) != nil {
		ctx = context.WithValue(ctx, outcomeKey{}, nil)
	}
	if c.observer == nil {
		return ctx, func(error) {}
	}
	rkey, _ := render() // cannot fail: the call has rendered it before
	ctx, obs := c.observe(ctx, OpLoad, rkey, keys)
	return ctx, func(err error) { obs.end(ctx, 0, err) }
}
