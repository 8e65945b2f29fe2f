package engine

import (
	"context"
	"errors"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// A loadRun takes a flight of an Engine, or several flights that run together,
// from the lease to the result:
//
//	acquire the lease ── granted ──> load under a heartbeat ──> store or release
//	   │    ^      └──── found ────> that value is the result
//	   │    └── it ended ── wait <── held elsewhere
//	   └── Redis does not answer ──> load, store nothing
//
// Before each command that can prove the key untouched, the run records how
// many waiters have joined the flight. The proof entitles these waiters to the
// result.
//
// If the key of one of several flights is leased elsewhere, its flight leaves
// the others and continues alone. Flights whose server takes much longer to
// answer than the others leave too, and continue together.
type loadRun struct {
	l       *Engine
	ctx     context.Context // of the flights, until they leave
	self    *waitfor.Load   // the load of ctx in the graph of waits
	load    ManyFunc
	keys    []*keyLoad  // keys that have not left because of their server
	toLoad  []*keyLoad  // keys to load
	late    lateServers // the servers for which the others do not wait
	hasSlot bool        // the run holds one of MaxLoads

	state        *loadState   // the state of the load, once it is started
	leaseBatches []leaseBatch // of toLoad, in its order: the parts that have leases
	runShare
}

// newRun returns the run of flights that share a ctx.
func (l *Engine) newRun(ctx context.Context, load ManyFunc, with runShare) *loadRun {
	return &loadRun{l: l, ctx: ctx, self: waitfor.From(ctx), load: load, runShare: with}
}

// A keyLoad is the state of one key in a run.
type keyLoad struct {
	flight *flight
	key    string
	index  int // the index of the key in the call of the load
	watch  *wake.Wait
	intent intent

	snapshot   snapshot
	badEntries int  // the number of unusable entries that were found
	suspect    bool // has waited longer than any lease holds without an extension
	waited     bool

	leaseUntil  int64     // the end of the lease last seen on a stale value; 0: no such lease
	leaseSeen   time.Time // when that lease was first seen
	askedScript bool      // the script was asked about that lease

	token         Token
	sent          time.Time
	entitled      int    // the number of waiters that may get the result
	waitersAtSend int    // the number of waiters when the last command was sent
	previous      []byte // the entry that the load will replace
	unleased      bool   // loads without a lease
	maybeLeased   bool   // may hold a lease whose grant was lost
}

// An intent is the purpose of a flight.
type intent struct {
	want     string        // the wish that the script acquire is sent
	pause    time.Duration // the back-off after the first of several failures
	maxPause time.Duration // the longest back-off
}

// readIntent returns the intent of a flight for a missing value.
func (l *Engine) readIntent() intent {
	return intent{pause: l.backoff, maxPause: max(l.backoff, MaxBackoff)}
}

// newKeyRun returns the function that runs a flight of one key with this
// snapshot.
func (l *Engine) newKeyRun(key string, s snapshot, load Func) func(*flight) {
	return l.newKeyRunWith(key, 0, s, l.readIntent(), asMany(load))
}

// asMany turns a load of one key into a load of several.
func asMany(load Func) ManyFunc {
	return func(ctx context.Context, _ []int) []LoadResult {
		v, life, err := load(ctx)
		return []LoadResult{{v, life, err}}
	}
}

// newKeyRunWith returns the function that runs a flight of the i-th key of a
// load, with the share that the flight was given. Its next call, for waiters
// that came too late, reads the key again.
func (l *Engine) newKeyRunWith(key string, i int, s snapshot, a intent, load ManyFunc) func(*flight) {
	return func(f *flight) {
		p := l.newKeyLoad(f, key, i, s, a)
		if s = (snapshot{}); a.want != script.Now {
			a = l.readIntent()
		}
		r := l.newRun(f.ctx, load, f.share)
		if r.place != nil { // taken by the caller that runs the flight
			r.places.Pass(r.place, r.self)
			r.place = r.self
		}
		r.run(p)
	}
}

// newKeyLoad also starts to watch the key. It must do so before it sends the
// command after which it may have to wait.
func (l *Engine) newKeyLoad(f *flight, key string, i int, s snapshot, a intent) *keyLoad {
	return &keyLoad{flight: f, key: key, index: i, watch: l.watchLease(key), intent: a, snapshot: s}
}

// maxBadEntries is how many unusable entries a run overwrites. A new version of
// a program meets one; more mean that another program keeps writing them.
const maxBadEntries = 3

// run finishes the flights of ps, except those that leave the run.
func (r *loadRun) run(ps ...*keyLoad) { r.resume(ps, nil, ps) }

// resume is like run, for keys whose leases have been requested, except those
// of notAsked.
func (r *loadRun) resume(ps []*keyLoad, asked *leaseRequest, notAsked []*keyLoad) {
	r.keys = ps
	defer func() {
		tokens := make([]Token, len(r.keys))
		for i, p := range r.keys {
			p.watch.End()
			tokens[i] = p.token
		}
		waitfor.Release(tokens...)
	}()
	defer r.freeSlot()
	defer r.freePlace()
	defer r.leaveConvoy()
	returned := false
	defer func() {
		r.stopHeartbeats()
		if !returned {
			r.releaseInBackground(r.keys)
		}
	}()
	r.steps(ps, asked, notAsked)
	returned = true
}

// releaseInBackground gives leases back in the background. A codec or a hook of
// the client did not return in the goroutine of the run, so its flights crash.
func (r *loadRun) releaseInBackground(ps []*keyLoad) {
	r.l.flights.goHeld(guard.Client, func() error { r.release(ps); return nil }, func(error) {})
}

// steps is resume without its cleanup.
func (r *loadRun) steps(ps []*keyLoad, asked *leaseRequest, notAsked []*keyLoad) {
	// Take the replies before queueing for a slot: a key that is leased
	// elsewhere or found needs no slot.
	ask, held := notAsked, []heldElsewhere(nil)
	if asked != nil { // all were requested
		ask, held = r.takeReplies(asked, nil, nil)
		if len(ps) > 1 {
			r.waitApart(held)
			held = nil
		}
		ask = append(ask, r.releaseUnlessSlot()...)
		r.startHeartbeats(0)
	}
	for ; ; held = nil {
		if err := r.takePlaceAndSlot(len(ask) + len(r.toLoad)); err != nil {
			if asked == nil {
				r.fail(err, ask) // these hold no leases
				ask = nil
			}
			r.giveUp(err, ask, held)
			return
		}
		for len(ask) > 0 && r.ctx.Err() == nil {
			ask, held = r.acquire(ask, held)
		}
		if r.ctx.Err() != nil {
			r.giveUp(context.Cause(r.ctx), ask, held)
			return
		}
		r.runLateApart()
		if len(ps) > 1 || len(held) == 0 {
			r.waitApart(held)
			if len(r.toLoad) > 0 {
				r.loadLeased()
			}
			return
		}
		r.freeSlot()
		r.freePlace()
		r.leaveConvoy()
		if !r.waitForLease(held[0]) {
			return
		}
		ask = ps
	}
}

// takePlaceAndSlot takes a place and a slot for n keys that may have to be
// loaded.
func (r *loadRun) takePlaceAndSlot(n int) error {
	if n == 0 {
		return nil
	}
	if err := r.takePlace(); err != nil {
		return err
	}
	return r.takeSlot()
}

// giveUp ends the flights of the run after ctx has ended.
func (r *loadRun) giveUp(err error, ask []*keyLoad, held []heldElsewhere) {
	for _, h := range held {
		ask = append(ask, h.key)
	}
	ask = append(ask, r.toLoad...)
	r.fail(err, r.late.notAsked)
	r.stopHeartbeats()
	r.fail(err, ask)
	r.release(ask)
}

// A heldElsewhere is a key whose lease is held by another run or process.
type heldElsewhere struct {
	key   *keyLoad
	found AcquireResult
}

// waitApart makes each flight wait in a goroutine of its own.
func (r *loadRun) waitApart(held []heldElsewhere) {
	for _, h := range held {
		r.l.flights.runApart(func() { r.waitAlone(h) }, h.key.flight)
	}
}

// waitAlone continues with one flight alone.
func (r *loadRun) waitAlone(h heldElsewhere) {
	p := *h.key // a copy: the run of the others ends its watch
	p.watch = r.l.watchLease(p.key)
	single := r.l.newRun(p.flight.ctx, r.load, runShare{})
	h.key = &p
	if !single.waitForLease(h) {
		p.watch.End()
		return
	}
	single.run(&p)
}

// finishEarly finishes a flight that need not wait for the holder of the lease.
// It returns false if the flight must wait.
func (l *Engine) finishEarly(p *keyLoad, a AcquireResult) bool {
	if p.flight.hasNoWaiters() {
		p.flight.finish(result{}, 0)
		return true
	}
	if a.Grant == Held {
		return false
	}
	h, _, ok := l.leases.parse(p.key, a.Entry)
	if !ok || !h.Paused() && -h.Soft+time.Now().UnixMilli() >= l.swr {
		return false
	}
	v, ok := l.decodeAnyAge(p.key, a.Entry, l.swr+l.sie)
	if ok {
		res := result{v: v, outcome: OutcomeStale}
		if h.Paused() {
			res.err, res.servedStale = errPaused, true
		}
		p.flight.finish(res, p.entitled)
	}
	return ok
}

// rejectUndecodable reports whether the value kept after a failed load cannot
// be decoded. If so, it calls rejectEntry: such a value is absent, and its
// back-off protects no reader.
func (l *Engine) rejectUndecodable(p *keyLoad, a AcquireResult) bool {
	if a.Grant != HeldStale {
		return false
	}
	h, payload, ok := l.leases.parse(p.key, a.Entry)
	v := l.codec.NewBox()
	if !h.Paused() || ok && !l.sealExpired(payload, time.Now(), l.swr+l.sie) && l.decode(p.key, payload, v) {
		return false
	}
	l.rejectEntry(p, a.Entry)
	return true
}

// acquireRequest returns the request that the key sends to Acquire.
func (p *keyLoad) acquireRequest(expect time.Duration) acquireRequest {
	p.sent = time.Now()
	c := acquireRequest{token: p.token, want: p.intent.want, expect: expect, suspect: p.suspect}
	switch p.snapshot.freshness {
	case undecodable:
		c.want, c.entryToken = script.Unfit, &p.snapshot.token
	case refreshDue:
		c.want, c.entryToken = script.Due, &p.snapshot.token
	}
	return c
}

// foundOutcome returns the outcome of a value that was found and not loaded
// here.
func (p *keyLoad) foundOutcome() Outcome {
	if p.waited {
		return OutcomeWaited
	}
	return OutcomeHit
}

// rejectEntry records that an entry cannot be used.
func (l *Engine) rejectEntry(p *keyLoad, b []byte) {
	h, _, _ := l.leases.parse(p.key, b)
	p.snapshot = snapshot{freshness: undecodable, token: h.Token}
	p.badEntries++
}

// fail ends flights for all their waiters.
func (r *loadRun) fail(err error, ps []*keyLoad) {
	for _, p := range ps {
		p.flight.finish(result{err: err, notAttempted: true}, p.flight.waiterCount())
	}
}

// takeSlot waits for one of MaxLoads. A load that another load has asked for
// needs no slot: the one that waits for it holds a slot, perhaps the last. The
// same is true of a load that other callers started, once a load with a slot
// waits for it.
func (r *loadRun) takeSlot() (err error) {
	if r.trySlot() {
		return nil
	}
	r.leaveConvoy() // the other participants must not wait for this run
	r.hasSlot, err = r.l.loadSlots.Enter(r.ctx, r.self)
	return err
}

// trySlot takes a slot if one is free, and reports whether the run may load.
func (r *loadRun) trySlot() bool {
	if r.l.loadSlots == nil || r.hasSlot || r.self.Nested() {
		return true
	}
	r.hasSlot = r.l.loadSlots.TryEnter(r.self)
	return r.hasSlot
}

func (r *loadRun) freeSlot() {
	if r.hasSlot {
		r.l.loadSlots.Leave(r.self)
		r.hasSlot = false
	}
}

// After its load, a run waits for the other participants to load, for as long
// as its own load took, within these bounds.
const (
	minPeerWait = 10 * time.Millisecond
	maxPeerWait = 50 * time.Millisecond
)

// send runs calls, together with the other participants if there are any. It
// waits for them at most for patience; if loaded is set, also for participants
// that still load.
func (r *loadRun) send(ctx context.Context, calls []*script.Call, loaded bool, patience time.Duration) {
	c := r.convoy
	if c == nil {
		r.l.exec(ctx, calls)
		return
	}
	r.l.execBy(ctx, calls, func() { c.SendOrLeave(ctx, r.l.replyTimeout(), r.l.Spawn, calls, loaded, patience) })
}

// sendPerServer is like send, but sends to each server separately. It neither
// waits nor reports to the breakers.
func (r *loadRun) sendPerServer(ctx context.Context, calls []*script.Call, loaded bool, patience time.Duration) *convoy.FanOut {
	l := r.l
	if c := r.convoy; c != nil {
		return c.SendApart(ctx, l.replyTimeout(), l.Spawn, calls, loaded, patience)
	}
	return convoy.RunApart(ctx, l.rdb, l.replyTimeout(), l.Spawn, calls)
}

var errPaused = errors.New("the last load failed, and its back-off has not ended")
