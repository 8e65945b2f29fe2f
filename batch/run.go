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

// Run executes the reads of b. Values in Redis are read in one round trip per
// client, and all clients are asked at the same time. On a Cluster it is one
// round trip per node, and for more than 500 commands, one per 500. If a cache
// has more keys than Spec.MaxKeys, the keys after that have their own round
// trips.
//
// Missing values are loaded, all sources at the same time, by one call of
// UpMany for each source that has one. The leases on missing keys take a second
// round trip, and loaded values are stored in a third. The result of a slow
// load is stored separately, so that it does not delay the others. If a node of
// a Cluster or Ring answers much later than the others, it delays only its own
// keys. They are loaded by a separate call, once the node has answered or was
// silent for too long. Run returns when all reads are done.
//
// Each key follows the rules of Get, independently of the others. Flights and
// leases are shared with calls of Get and with other Batches. Stale values are
// served and reloaded in the background. A node that fails, or a source that
// panics, affects only its own keys. If ctx ends first, Run returns, and the
// loads go on for their other waiters.
//
// If some Value has an error, Run returns the error of Redis if it did not
// answer, or the cause of the end of ctx. Values without an error are valid
// even then. A value that was loaded because Redis did not answer is not an
// error. An error of a single key, such as a Redis error or a slot that moves,
// is in its Value only. A second call of Run returns ErrUsed and does nothing.
//
// An Observer sees the part of each cache as a "get". The Outcome of
// WithOutcome is not set, because it describes one call on one cache.
func (b *Batch) Run(ctx context.Context) error {
	switch {
	case b == nil:
		return ErrNilBatch
	case !b.state.CompareAndSwap(open, running):
		return ErrUsed
	}
	var readers []*sourceReader
	defer func() { // deferred, because a source may call runtime.Goexit
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
			guard.Go(sourceCode, func() error { g.run(ctx); return nil }, func(error) { wg.Done() }) // Run gives keys without an answer their error
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

// sourceReader executes one Reading and holds its state.
type sourceReader struct {
	Reading
	loading        convoy.Loading                // the Reading, if it takes part in a Convoy; else nil
	begin          func(context.Context) Reading // calls BatchRead of the source
	failUnanswered func(error) (some bool)       // gives an error to the keys without an answer
	panicked       bool                          // the source has panicked
	answered       chan struct{}                 // closed after Answer; nil if the Reading takes part in a Convoy
	first          int                           // index of its first command in the group
	end            int                           // index after its last command
	err            error                         // why its commands have no replies; nil if some have

	mu         sync.Mutex
	closed     bool // guarded by mu: later answers are ignored
	incomplete bool // guarded by mu: some key has an error
}

// finish ends the Reading. Keys without an answer get err.
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

// release ends a Reading that may be incomplete.
func (r *sourceReader) release() {
	if r.loading != nil {
		r.loading.Drop()
	}
	r.finish(errUnanswered)
}

// recoverInto calls fn, which is code of the source. If fn panics, it finishes
// the Reading with that error. It reports whether fn returned.
func (r *sourceReader) recoverInto(fn func()) (ok bool) {
	guard.Run(sourceCode, func() error { fn(); return nil }, func(err error) {
		if ok = err == nil; !ok {
			r.finish(wrapErr(err))
		}
	})
	return ok
}

// sourceCode names the code of a Source in errors.
var sourceCode = guard.Named("the source")

// call is recoverInto for the goroutine that owns the Reading. It does nothing
// if the source has panicked before.
func (r *sourceReader) call(fn func()) {
	if !r.panicked {
		r.panicked = !r.recoverInto(fn)
	}
}

// open begins the Reading and returns its client, or nil if there is none.
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

// clientGroup is the readers of one client.
type clientGroup struct {
	rdb     redis.UniversalClient
	readers []*sourceReader
}

// addToGroup adds r to the group of its client.
func addToGroup(groups []*clientGroup, r *sourceReader, rdb redis.UniversalClient) []*clientGroup {
	for _, g := range groups {
		if client.Same(g.rdb, rdb) {
			g.readers = append(g.readers, r)
			return groups
		}
	}
	return append(groups, &clientGroup{rdb: rdb, readers: []*sourceReader{r}})
}

// run executes the reads of one client, and returns when every key has an
// answer.
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

// distribute passes new replies to the readers. A reader outside of Convoys
// answers when all of its commands have replies.
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
			// Ends with Answer, which heeds ctx. If it does not, run leaves it
			// behind.
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

// unansweredErr returns the error of keys that a source has not answered.
func unansweredErr(ctx context.Context, err error) error {
	switch {
	case err != nil:
		return wrapErr(err)
	case ctx.Err() != nil:
		return wrapErr(context.Cause(ctx))
	}
	return errUnanswered
}

// send sends the commands of the readers, to each server separately.
func (g *clientGroup) send(ctx context.Context) *convoy.FanOut {
	p := g.rdb.Pipeline()
	spawn := guard.Go         // ends with the call of the client
	var silence time.Duration // the largest of all readers
	for _, r := range g.readers {
		r.first = p.Len()
		r.call(func() { r.Ask(ctx, p) })
		own := defaults.LeaseTTL() // for a Source without its own time limit
		if r.end = p.Len(); r.loading != nil {
			spawn, own = r.loading.Spawn, r.loading.Silence()
		}
		silence = max(silence, own)
	}
	return convoy.Depart(ctx, g.rdb, silence, spawn, p)
}

// failure returns the error of Redis or of ctx if some key has an error, and
// nil otherwise.
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
