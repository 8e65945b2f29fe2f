package batch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/guard"
)

// Run reads what the Batch asks for: what is in Redis in one round trip for each
// client, which go out side by side, and on a Cluster one for each node; for more
// than 500 commands, one for each 500. Of more keys of a cache than Spec.MaxKeys, those
// that come after these have round trips of their own. What is missing is loaded, all
// sources side by side, by one call of UpMany for each that has one. The leases on what is
// missing cost a second round trip, and what was loaded is stored in a third. A load
// that takes long is stored by itself, so as not to hold up the others.
//
// A node of a Cluster or Ring that takes much longer than the others to answer does not
// hold up what they have not. Its keys are loaded by a call of their own, once it has
// answered or was silent for too long. Run returns when all are done.
//
// What is said of Get is true of every key by itself: flights and leases are shared
// with calls of Get and with other Batches, stale values are served and reloaded in
// the background, and a node that fails, or a source that panics, concerns its own
// keys. If ctx ends first, Run returns, and the loads go on for those who still wait
// for them.
//
// The error is that of Redis, which did not answer, or of the end of ctx, if for all
// that there are Values that have an error; those that succeeded are right all the
// same. What was loaded because Redis does not answer is no error. Nor is an error
// of a key, of Redis perhaps or of a node that moves it: that is in its Value. Called
// a second time, Run returns ErrUsed and does nothing.
//
// An Observer is told of the part of each cache as of a "get". What WithOutcome was
// given is not set: an Outcome is that of one call on one cache.
func (b *Batch) Run(ctx context.Context) error {
	switch {
	case b == nil:
		return ErrNilBatch
	case !b.state.CompareAndSwap(open, running):
		return ErrUsed
	}
	var readers []*sourceReader
	defer func() { // however we leave: a source may have left our goroutine
		for _, r := range readers {
			r.release()
		}
		for _, p := range b.reads {
			p.deliver()
		}
		b.state.Store(done)
	}()
	var refused error
	switch {
	case ctx == nil:
		refused = errNilContext
	case ctx.Err() != nil:
		refused = wrapErr(context.Cause(ctx))
	}
	for _, p := range b.reads {
		if r := p.prepare(); r != nil {
			readers = append(readers, r)
		}
	}
	if refused != nil {
		for _, r := range readers {
			r.finish(refused)
		}
		return refused
	}
	var groups []*clientGroup
	for _, r := range readers {
		if rdb := r.open(ctx); rdb != nil {
			groups = addToGroup(groups, r, rdb)
		}
	}
	var wg sync.WaitGroup
	for i, g := range groups {
		if i == len(groups)-1 {
			g.run(ctx)
		} else {
			wg.Add(1)
			guard.Go(sourceCode, func() error { g.run(ctx); return nil }, func(error) { wg.Done() }) // Run gives what is left its error
		}
	}
	wg.Wait()
	for _, g := range groups {
		if err := g.failure(ctx); err != nil {
			return wrapErr(err)
		}
	}
	return nil
}

// A reader is one Reading, and what became of it.
type sourceReader struct {
	Reading
	loading        convoy.Loading                // the Reading, if it takes part in a Convoy; else nil
	begin          func(context.Context) Reading // of the source
	failUnanswered func(error) (some bool)       // gives an error to the keys that have no answer
	panicked       bool                          // it has panicked
	answered       chan struct{}                 // closed when it has answered, if it takes no part in a Convoy
	first          int                           // where among the commands of its group its own begin,
	end            int                           // and end
	err            error                         // why its commands were not answered; nil if some were

	mu         sync.Mutex
	closed     bool // guarded by mu: who answers now comes too late
	incomplete bool // guarded by mu: there is a key that has an error
}

// end ends the Reading. Keys that have no answer get an error.
func (r *sourceReader) finish(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.closed {
		r.closed = true
		if r.failUnanswered(err) {
			r.incomplete = true
		}
	}
}

// drop is for a Reading that may not have come to its end.
func (r *sourceReader) release() {
	if r.loading != nil {
		r.loading.Drop()
	}
	r.finish(errUnanswered)
}

// guard calls fn, of the source, and ends the Reading if it panics. It reports
// whether it did not.
func (r *sourceReader) recoverInto(fn func()) (ok bool) {
	guard.Run(sourceCode, func() error { fn(); return nil }, func(err error) {
		if ok = err == nil; !ok {
			r.finish(wrapErr(err))
		}
	})
	return ok
}

// source names the code of a Source in errors.
var sourceCode = guard.Named("the source")

// try is guard for a Reading that is not under way in another goroutine, and does
// nothing if it has panicked before.
func (r *sourceReader) call(fn func()) {
	if !r.panicked {
		r.panicked = !r.recoverInto(fn)
	}
}

// client begins the Reading, and returns its client; nil if that cannot be had.
func (r *sourceReader) open(ctx context.Context) (rdb redis.UniversalClient) {
	r.call(func() {
		if r.Reading = r.begin(ctx); r.Reading != nil {
			r.loading, _ = r.Reading.(convoy.Loading)
			rdb = r.Client()
		}
	})
	switch {
	case r.panicked || r.Reading == nil:
		return nil
	case isNil(rdb):
		r.finish(errNilClient)
		return nil
	}
	return rdb
}

// A group is the readers of one client.
type clientGroup struct {
	rdb     redis.UniversalClient
	readers []*sourceReader
}

// grouped adds r to the group of its client.
func addToGroup(groups []*clientGroup, r *sourceReader, rdb redis.UniversalClient) []*clientGroup {
	for _, g := range groups {
		if client.Same(g.rdb, rdb) {
			g.readers = append(g.readers, r)
			return groups
		}
	}
	return append(groups, &clientGroup{rdb: rdb, readers: []*sourceReader{r}})
}

// run reads, and returns when every key has its answer.
func (g *clientGroup) run(ctx context.Context) {
	trips := g.send(ctx)
	for over := false; !over; {
		over = trips.Wait(ctx, 0)
		g.distribute(ctx, trips)
		together := convoy.New(g.rdb)
		for _, r := range g.readers {
			if r.loading != nil {
				r.call(func() { r.loading.Load(together) })
			}
		}
		together.Leave()
	}
	for _, r := range g.readers {
		if r.loading != nil {
			r.call(func() { r.Answer(ctx, r.err) })
			r.finish(unansweredErr(ctx, r.err))
		}
	}
	for _, r := range g.readers {
		if r.answered == nil {
			continue
		}
		select {
		case <-r.answered:
		case <-ctx.Done():
			r.finish(unansweredErr(ctx, r.err))
		}
	}
}

// take has the readers take what was answered. One that takes no part in a Convoy
// answers when all that it asks for was.
func (g *clientGroup) distribute(ctx context.Context, trips *convoy.FanOut) {
	for _, r := range g.readers {
		over, err := trips.EndedAll(r.first, r.end)
		if over {
			r.err = err
		}
		switch {
		case r.loading != nil:
			r.call(func() {
				r.loading.Take(trips.Began(), func(i int) (bool, error) { return trips.Ended(r.first + i) })
			})
		case over && !r.panicked && r.answered == nil:
			r.answered = make(chan struct{})
			// Ends with Answer, which heeds ctx, as we do if it does not.
			guard.Go(sourceCode, func() error { r.Answer(ctx, err); return nil }, func(failed error) {
				if failed != nil {
					failed = wrapErr(failed)
				}
				r.finish(cmp.Or(failed, unansweredErr(ctx, err)))
				close(r.answered)
			})
		}
	}
}

// unanswered returns the error of keys that a source has not answered.
func unansweredErr(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return wrapErr(err)
	case ctx.Err() != nil:
		return wrapErr(context.Cause(ctx))
	}
	return errUnanswered
}

// ask sends what the readers ask for, to each server by itself.
func (g *clientGroup) send(ctx context.Context) *convoy.FanOut {
	p := g.rdb.Pipeline()
	spawn := guard.Go         // ends with the call of the client
	var silence time.Duration // of the most patient reader
	for _, r := range g.readers {
		r.first = p.Len()
		r.call(func() { r.Ask(ctx, p) })
		own := defaults.LeaseTTL() // of a Source that has no time limit
		if r.end = p.Len(); r.loading != nil {
			spawn, own = r.loading.Spawn, r.loading.Silence()
		}
		silence = max(silence, own)
	}
	return convoy.Depart(ctx, g.rdb, silence, spawn, p)
}

// failure returns the error of Redis, or of ctx, if there are keys that have an
// error.
func (g *clientGroup) failure(ctx context.Context) error {
	for _, r := range g.readers {
		r.mu.Lock()
		lacks := r.incomplete
		r.mu.Unlock()
		switch {
		case !lacks:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case r.loading != nil && r.loading.Away() != nil:
			return r.loading.Away()
		case r.loading == nil && r.err != nil:
			return r.err
		}
	}
	return nil
}

func wrapErr(err error) error { return fmt.Errorf("cachex: batch: %w", err) }

var (
	errNilContext = errors.New("cachex: batch: ctx is nil")
	errNilClient  = errors.New("cachex: batch: the source has no client: Client returned nil")
	errUnanswered = errors.New("cachex: batch: the source did not answer")
)
