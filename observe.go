package cachex

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/guard"
)

// Outcome says where a value, or the answer that there is none, came from. The
// zero value means no answer, or an error.
type Outcome uint8

// The outcomes of a read, in the order of their cost.
const (
	Hit      = Outcome(engine.OutcomeHit)      // the value was in Redis
	NotFound = Outcome(engine.OutcomeNotFound) // Redis remembered that there is no value
	Stale    = Outcome(engine.OutcomeStale)    // a stale value was in Redis: one process reloads it, or Up failed or is slow
	Waited   = Outcome(engine.OutcomeWaited)   // another process loaded the value during the call
	Loaded   = Outcome(engine.OutcomeLoaded)   // this process loaded the value, for this call or an earlier one
	Bypassed = Outcome(engine.OutcomeBypassed) // this process loaded the value without Redis, and did not store it
)

// String returns the outcome in a word or two, "" for the zero value.
func (o Outcome) String() string { return engine.Outcome(o).String() }

// WithOutcome returns a ctx by which a call tells how it came by its value: it
// sets *o before it returns. 0 means that it returns no value, but for an error
// that is ErrNotFound. A call for many keys sets the outcome of the one that took
// the most: they are in the order above.
//
// The calls that are given this ctx must not overlap. It is not seen by Up, so
// that calls that Up makes do not set *o.
func WithOutcome(ctx context.Context, o *Outcome) context.Context {
	return context.WithValue(ctx, outcomeKey{}, o)
}

type outcomeKey struct{}

// tell sets what WithOutcome was given. Every call that reads does it, also one that
// is refused, for a ctx that is nil perhaps.
func setOutcome(ctx context.Context, outcome Outcome) {
	if ctx == nil {
		return
	}
	if o, _ := ctx.Value(outcomeKey{}).(*Outcome); o != nil {
		*o = outcome
	}
}

// An Observer is told of the calls on a cache and of its loads. It is a seam for
// traces, metrics and logs, which live in modules of their own. Its methods are
// called in the goroutine of the call, or while a load waits for them, must return
// soon, and must be safe for concurrent use.
//
// An Observer changes no result. If a method of it panics, the call goes on as if
// there were no Observer, and Stats.ObserverFailures counts it; and so if it calls
// runtime.Goexit, unless it does so in the goroutine of a caller, which then exits.
type Observer interface {
	// Begin is told that something begins, and returns the ctx with which it goes
	// on: ctx, or one made of it. nil stands for ctx. Up sees what Begin of its load has
	// put in it. If Begin does not return, End is not called.
	Begin(ctx context.Context, e Event) context.Context

	// End is told that it has ended. ctx is the one that Begin returned.
	End(ctx context.Context, e Event, r Result)
}

// An Event is one call on a cache, or one load.
type Event struct {
	Op    string // one of OpGet, OpSet …
	Cache string // the name of the cache
	Key   string // the key in Redis, the first one if there are several
	Keys  int    // how many
}

// The operations of which an Observer is told. The Op of an [Error] is one of them too,
// or the name of another method in lower case.
const (
	OpGet        = "get" // also of a function that Wrap returns, and of a cache in a batch
	OpGetMany    = "getmany"
	OpLookup     = "lookup"
	OpLookupMany = "lookupmany"
	OpRefresh    = "refresh"
	OpSet        = "set"
	OpSetMany    = "setmany"
	OpDelete     = "delete"
	OpExpire     = "expire"
	OpClear      = "clear"
	OpAdd        = "add"     // of a counter.Counter; also of Inc
	OpAddOnce    = "addonce" // of a counter.Counter
	OpLoad       = "load"    // one call of Up or UpMany
	OpPersist    = "persist" // one batch that is written behind
)

// A Result is how an Event ended.
type Result struct {
	Outcome Outcome // of a call that reads, as WithOutcome has it
	Took    time.Duration
	Err     error // what the call returns, or Up
}

// A watch is one Event under way. A nil watch is one without an Observer.
type observation struct {
	observer   Observer
	failures   *atomic.Int64 // of the observer
	background bool          // it is not told in the goroutine of a caller
	event      Event
	began      time.Time
}

// observer names Spec.Observer in errors.
var observerCode = guard.Named("Spec.Observer")

// tell calls fn, of the observer, and reports whether it returned.
//
// In a goroutine of ours that is done in yet another one, for a runtime.Goexit would
// take along the load, and what it returns.
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

// begin tells the observer, if there is one, of a call. Without one, the watch is nil,
// so that a call allocates none.
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

// end tells the observer that it has ended. ctx is the one that begin returned.
func (obs *observation) end(ctx context.Context, outcome Outcome, err error) {
	if obs == nil {
		return
	}
	r := Result{Outcome: outcome, Took: time.Since(obs.began), Err: err}
	obs.notify(func() { obs.observer.End(ctx, obs.event, r) })
}

// beginLoad is begin for a load, whose ctx does not show whose outcome is asked for. render
// returns the first of so many keys.
func (c *core) observeLoad(ctx context.Context, keys int, render func() (string, error)) (context.Context, func(error)) {
	if ctx.Value(outcomeKey{}) != nil {
		ctx = context.WithValue(ctx, outcomeKey{}, nil)
	}
	if c.observer == nil {
		return ctx, func(error) {}
	}
	rkey, _ := render() // it was rendered before, for the call
	ctx, obs := c.observe(ctx, OpLoad, rkey, keys)
	return ctx, func(err error) { obs.end(ctx, 0, err) }
}
