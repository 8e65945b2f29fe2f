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
	var readers []*reader
	defer func() { // however we leave: a source may have left our goroutine
		for _, r := range readers {
			r.drop()
		}
		for _, p := range b.parts {
			p.finish()
		}
		b.state.Store(done)
	}()
	var refused error
	switch {
	case ctx == nil:
		refused = errNilContext
	case ctx.Err() != nil:
		refused = inBatch(context.Cause(ctx))
	}
	for _, p := range b.parts {
		if r := p.prepare(); r != nil {
			readers = append(readers, r)
		}
	}
	if refused != nil {
		for _, r := range readers {
			r.end(refused)
		}
		return refused
	}
	var groups []*group
	for _, r := range readers {
		if rdb := r.client(ctx); rdb != nil {
			groups = grouped(groups, r, rdb)
		}
	}
	var wg sync.WaitGroup
	for i, g := range groups {
		if i == len(groups)-1 {
			g.run(ctx)
		} else {
			wg.Add(1)
			guard.Go(source, func() error { g.run(ctx); return nil }, func(error) { wg.Done() }) // Run gives what is left its error
		}
	}
	wg.Wait()
	for _, g := range groups {
		if err := g.failure(ctx); err != nil {
			return inBatch(err)
		}
	}
	return nil
}

// A reader is one Reading, and what became of it.
type reader struct {
	Reading
	loading convoy.Loading                // the Reading, if it takes part in a Convoy; else nil
	begin   func(context.Context) Reading // of the source
	fill    func(error) (some bool)       // gives an error to the keys that have no answer
	dead    bool                          // it has panicked
	over    chan struct{}                 // closed when it has answered, if it takes no part in a Convoy
	from    int                           // where among the commands of its group its own begin,
	to      int                           // and end
	failed  error                         // why its commands were not answered; nil if some were

	mu    sync.Mutex
	ended bool // guarded by mu: who answers now comes too late
	lacks bool // guarded by mu: there is a key that has an error
}

// end ends the Reading. Keys that have no answer get an error.
func (r *reader) end(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.ended = true
		if r.fill(err) {
			r.lacks = true
		}
	}
}

// drop is for a Reading that may not have come to its end.
func (r *reader) drop() {
	if r.loading != nil {
		r.loading.Drop()
	}
	r.end(errUnanswered)
}

// guard calls fn, of the source, and ends the Reading if it panics. It reports
// whether it did not.
func (r *reader) guard(fn func()) (ok bool) {
	guard.Run(source, func() error { fn(); return nil }, func(err error) {
		if ok = err == nil; !ok {
			r.end(inBatch(err))
		}
	})
	return ok
}

// source names the code of a Source in errors.
var source = guard.Named("the source")

// try is guard for a Reading that is not under way in another goroutine, and does
// nothing if it has panicked before.
func (r *reader) try(fn func()) {
	if !r.dead {
		r.dead = !r.guard(fn)
	}
}

// client begins the Reading, and returns its client; nil if that cannot be had.
func (r *reader) client(ctx context.Context) (rdb redis.UniversalClient) {
	r.try(func() {
		if r.Reading = r.begin(ctx); r.Reading != nil {
			r.loading, _ = r.Reading.(convoy.Loading)
			rdb = r.Client()
		}
	})
	switch {
	case r.dead || r.Reading == nil:
		return nil
	case isNil(rdb):
		r.end(errNilClient)
		return nil
	}
	return rdb
}

// A group is the readers of one client.
type group struct {
	rdb     redis.UniversalClient
	readers []*reader
}

// grouped adds r to the group of its client.
func grouped(groups []*group, r *reader, rdb redis.UniversalClient) []*group {
	for _, g := range groups {
		if client.Same(g.rdb, rdb) {
			g.readers = append(g.readers, r)
			return groups
		}
	}
	return append(groups, &group{rdb: rdb, readers: []*reader{r}})
}

// run reads, and returns when every key has its answer.
func (g *group) run(ctx context.Context) {
	trips := g.ask(ctx)
	for over := false; !over; {
		over = trips.Wait(ctx, 0)
		g.take(ctx, trips)
		together := convoy.New(g.rdb)
		for _, r := range g.readers {
			if r.loading != nil {
				r.try(func() { r.loading.Load(together) })
			}
		}
		together.Leave()
	}
	for _, r := range g.readers {
		if r.loading != nil {
			r.try(func() { r.Answer(ctx, r.failed) })
			r.end(unanswered(ctx, r.failed))
		}
	}
	for _, r := range g.readers {
		if r.over == nil {
			continue
		}
		select {
		case <-r.over:
		case <-ctx.Done():
			r.end(unanswered(ctx, r.failed))
		}
	}
}

// take has the readers take what was answered. One that takes no part in a Convoy
// answers when all that it asks for was.
func (g *group) take(ctx context.Context, trips *convoy.FanOut) {
	for _, r := range g.readers {
		over, err := trips.EndedAll(r.from, r.to)
		if over {
			r.failed = err
		}
		switch {
		case r.loading != nil:
			r.try(func() {
				r.loading.Take(trips.Began(), func(i int) (bool, error) { return trips.Ended(r.from + i) })
			})
		case over && !r.dead && r.over == nil:
			r.over = make(chan struct{})
			// Ends with Answer, which heeds ctx, as we do if it does not.
			guard.Go(source, func() error { r.Answer(ctx, err); return nil }, func(failed error) {
				if failed != nil {
					failed = inBatch(failed)
				}
				r.end(cmp.Or(failed, unanswered(ctx, err)))
				close(r.over)
			})
		}
	}
}

// unanswered returns the error of keys that a source has not answered.
func unanswered(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return inBatch(err)
	case ctx.Err() != nil:
		return inBatch(context.Cause(ctx))
	}
	return errUnanswered
}

// ask sends what the readers ask for, to each server by itself.
func (g *group) ask(ctx context.Context) *convoy.FanOut {
	p := g.rdb.Pipeline()
	spawn := guard.Go         // ends with the call of the client
	var silence time.Duration // of the most patient reader
	for _, r := range g.readers {
		r.from = p.Len()
		r.try(func() { r.Ask(ctx, p) })
		own := defaults.LeaseTTL() // of a Source that has no time limit
		if r.to = p.Len(); r.loading != nil {
			spawn, own = r.loading.Spawn, r.loading.Silence()
		}
		silence = max(silence, own)
	}
	return convoy.Depart(ctx, g.rdb, silence, spawn, p)
}

// failure returns the error of Redis, or of ctx, if there are keys that have an
// error.
func (g *group) failure(ctx context.Context) error {
	for _, r := range g.readers {
		r.mu.Lock()
		lacks := r.lacks
		r.mu.Unlock()
		switch {
		case !lacks:
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case r.loading != nil && r.loading.Away() != nil:
			return r.loading.Away()
		case r.loading == nil && r.failed != nil:
			return r.failed
		}
	}
	return nil
}

func inBatch(err error) error { return fmt.Errorf("cachex: batch: %w", err) }

var (
	errNilContext = errors.New("cachex: batch: ctx is nil")
	errNilClient  = errors.New("cachex: batch: the source has no client: Client returned nil")
	errUnanswered = errors.New("cachex: batch: the source did not answer")
)
