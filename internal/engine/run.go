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

// A run is the course of a flight of an Engine, or of several that are flown
// together:
//
//	acquire the lease ── granted ──> load under a heartbeat ──> store or release
//	   │    ^      └──── found ────> that is the value
//	   │    └── it ended ── wait <── held by somebody else
//	   └── Redis does not answer ──> load, store nothing
//
// Before each command that can prove the result to be untouched it marks how
// many have joined the flight. What is proven is true for these.
//
// Of several flights, those that have to wait for somebody else part from the
// others, and each goes on by itself. Those of which the server takes much longer to
// answer than others part too, and go on together.
type run struct {
	l    *Engine
	ctx  context.Context // of the flights, until they part
	self *waitfor.Load   // that of ctx
	load ManyFunc
	own  []*pursuit // those that have not parted because of their server
	legs []*pursuit // those to be loaded
	late late       // the servers that others do not wait for
	slot bool       // we have one of MaxLoads

	attempt  *attempt  // the load, once it is started
	portions []portion // of legs, in their order: those that have leases
	company
}

// newRun returns the run of flights that share a ctx.
func (l *Engine) newRun(ctx context.Context, load ManyFunc, with company) *run {
	return &run{l: l, ctx: ctx, self: waitfor.From(ctx), load: load, company: with}
}

// A pursuit is the part that one key has in a run.
type pursuit struct {
	f   *flight
	key string
	i   int // which of the keys that the load knows it is
	w   *wake.Wait
	aim aim

	sight   sight
	unfit   int  // how many values that cannot be used were found
	suspect bool // we have waited longer than any lease holds by itself
	waited  bool

	till  int64     // of the lease on a stale value that was seen last; 0: none was
	seen  time.Time // when it was first seen
	asked bool      // the script was asked about it

	token  Token
	sent   time.Time
	proven int    // members to whom the result may be given
	joined int    // members when the command was sent that is under way
	old    []byte // the entry that the load is to replace
	alone  bool   // without a lease
	orphan bool   // there may be a lease that we do not know of
}

// An aim is what a flight is for.
type aim struct {
	want  string        // of the script acquire
	pause time.Duration // after the first failure of several
	most  time.Duration // after any
}

// usual is the aim of a flight for a value that is missing.
func (l *Engine) usual() aim {
	return aim{pause: l.backoff, most: max(l.backoff, MaxBackoff)}
}

// single returns what flies a flight of one key that was seen so.
func (l *Engine) single(key string, s sight, load Func) func(*flight) {
	return l.flown(key, 0, s, l.usual(), one(load))
}

// one is a load of one key as a load of several.
func one(load Func) ManyFunc {
	return func(ctx context.Context, _ []int) []Loaded {
		v, life, err := load(ctx)
		return []Loaded{{v, life, err}}
	}
}

// flown returns what flies a flight of the i-th key of a load, in the company that
// it has been given. A flight that comes after it, for those who came too late,
// looks again.
func (l *Engine) flown(key string, i int, s sight, a aim, load ManyFunc) func(*flight) {
	return func(f *flight) {
		p := l.pursue(f, key, i, s, a)
		if s = (sight{}); a.want != script.Now {
			a = l.usual()
		}
		r := l.newRun(f.ctx, load, f.with)
		if r.placed != nil { // by whoever has had the flight flown
			r.places.Pass(r.placed, r.self)
			r.placed = r.self
		}
		r.fly(p)
	}
}

// pursue registers an interest in the key too, before the command is sent whose
// answer may make it a wait.
func (l *Engine) pursue(f *flight, key string, i int, s sight, a aim) *pursuit {
	return &pursuit{f: f, key: key, i: i, w: l.expectEnd(key), aim: a, sight: s}
}

// maxUnfit is how many values that cannot be used a run overwrites. One is what
// a new version of a program meets; more mean that somebody keeps writing them.
const maxUnfit = 3

// fly finishes the flights of ps, but for those that part.
func (r *run) fly(ps ...*pursuit) { r.finish(ps, nil, ps) }

// finish is fly, of pursuits of which the leases are asked for, but for some of them.
func (r *run) finish(ps []*pursuit, begun *asking, unasked []*pursuit) {
	r.own = ps
	defer func() {
		tokens := make([]Token, len(r.own))
		for i, p := range r.own {
			p.w.End()
			tokens[i] = p.token
		}
		waitfor.Release(tokens...)
	}()
	defer r.freeSlot()
	defer r.vacate()
	defer r.leave()
	returned := false
	defer func() {
		r.still()
		if !returned {
			r.abandon(r.own)
		}
	}()
	r.course(ps, begun, unasked)
	returned = true
}

// abandon gives leases back in the background. A codec or a hook of the client has not
// returned in the goroutine of the run, whose flights crash.
func (r *run) abandon(ps []*pursuit) {
	r.l.flights.spawn(guard.Client, func() error { r.release(ps); return nil }, func(error) {})
}

// course is fly, but for what is to be given back at its end.
func (r *run) course(ps []*pursuit, begun *asking, unasked []*pursuit) {
	// What was asked for is taken before we queue for a slot: a key that is held or found
	// needs none.
	asking, held := unasked, []hold(nil)
	if begun != nil { // all were asked for
		asking, held = r.take(begun, nil, nil)
		if len(ps) > 1 {
			r.partHeld(held)
			held = nil
		}
		asking = append(asking, r.yield()...)
		r.keep(0)
	}
	for ; ; held = nil {
		if err := r.enter(len(asking) + len(r.legs)); err != nil {
			if begun == nil {
				r.fail(err, asking) // which have no leases
				asking = nil
			}
			r.giveUp(err, asking, held)
			return
		}
		for len(asking) > 0 && r.ctx.Err() == nil {
			asking, held = r.acquire(asking, held)
		}
		if r.ctx.Err() != nil {
			r.giveUp(context.Cause(r.ctx), asking, held)
			return
		}
		r.partLate()
		if len(ps) > 1 || len(held) == 0 {
			r.partHeld(held)
			if len(r.legs) > 0 {
				r.lead()
			}
			return
		}
		r.freeSlot()
		r.vacate()
		r.leave()
		if !r.wait(held[0]) {
			return
		}
		asking = ps
	}
}

// enter takes a place and a slot for n pursuits that are to be loaded, perhaps.
func (r *run) enter(n int) error {
	if n == 0 {
		return nil
	}
	if err := r.takePlace(); err != nil {
		return err
	}
	return r.takeSlot()
}

// giveUp ends the flights of the run, since ctx has ended.
func (r *run) giveUp(err error, asking []*pursuit, held []hold) {
	for _, h := range held {
		asking = append(asking, h.p)
	}
	asking = append(asking, r.legs...)
	r.fail(err, r.late.unasked)
	r.still()
	r.fail(err, asking)
	r.release(asking)
}

// A hold is a key of which somebody else has the lease.
type hold struct {
	p *pursuit
	a Acquisition
}

// partHeld has flights wait each by itself.
func (r *run) partHeld(held []hold) {
	for _, h := range held {
		r.l.flights.part(func() { r.part(h) }, h.p.f)
	}
}

// part goes on with one flight by itself.
func (r *run) part(h hold) {
	p := *h.p // of which the others end the interest
	p.w = r.l.expectEnd(p.key)
	alone := r.l.newRun(p.f.ctx, r.load, company{})
	h.p = &p
	if !alone.wait(h) {
		p.w.End()
		return
	}
	alone.fly(&p)
}

// settle finishes a flight that need not wait for the one that has the lease.
func (l *Engine) settle(p *pursuit, a Acquisition) bool {
	if p.f.empty() {
		p.f.finish(result{}, 0)
		return true
	}
	if a.Grant == Held {
		return false
	}
	h, _, ok := l.leases.parse(p.key, a.Entry)
	if !ok || !h.Paused() && -h.Soft+time.Now().UnixMilli() >= l.swr {
		return false
	}
	v, ok := l.value(p.key, a.Entry, l.swr+l.sie)
	if ok {
		res := result{v: v, how: OutcomeStale}
		if h.Paused() {
			res.err, res.kept = errPaused, true
		}
		p.f.finish(res, p.proven)
	}
	return ok
}

// spoilt reports whether the value after a load that failed cannot be decoded. It
// is none then, and its pause is for nobody. If so, it is noted as misfit.
func (l *Engine) spoilt(p *pursuit, a Acquisition) bool {
	if a.Grant != Stale {
		return false
	}
	h, payload, ok := l.leases.parse(p.key, a.Entry)
	v := l.codec.NewBox()
	if !h.Paused() || ok && !l.over(payload, time.Now(), l.swr+l.sie) && l.decode(p.key, payload, v) {
		return false
	}
	l.misfit(p, a.Entry)
	return true
}

// claim is what a pursuit has to say to Acquire.
func (p *pursuit) claim(expect time.Duration) claim {
	p.sent = time.Now()
	c := claim{token: p.token, want: p.aim.want, expect: expect, suspect: p.suspect}
	switch p.sight.kind {
	case unfit:
		c.want, c.seen = script.Unfit, &p.sight.token
	case due:
		c.want, c.seen = script.Due, &p.sight.token
	}
	return c
}

// found is the outcome of a value that was found, and not loaded here.
func (p *pursuit) found() Outcome {
	if p.waited {
		return OutcomeWaited
	}
	return OutcomeHit
}

// misfit notes that an entry cannot be used.
func (l *Engine) misfit(p *pursuit, b []byte) {
	h, _, _ := l.leases.parse(p.key, b)
	p.sight = sight{kind: unfit, token: h.Token}
	p.unfit++
}

// fail ends flights for all their members.
func (r *run) fail(err error, ps []*pursuit) {
	for _, p := range ps {
		p.f.finish(result{err: err, vain: true}, p.f.mark())
	}
}

// takeSlot waits for one of MaxLoads. A load that a load of ours has asked for
// goes without: the one that waits for it has a slot, and might have the last. So
// does one that has been asked for by others first, if a load with a slot waits
// for it by now.
func (r *run) takeSlot() (err error) {
	if r.trySlot() {
		return nil
	}
	r.leave() // the others shall not wait with us
	r.slot, err = r.l.slots.Enter(r.ctx, r.self)
	return err
}

// trySlot takes a slot if one is free, and reports whether the run may load.
func (r *run) trySlot() bool {
	if r.l.slots == nil || r.slot || r.self.Nested() {
		return true
	}
	r.slot = r.l.slots.TryEnter(r.self)
	return r.slot
}

func (r *run) freeSlot() {
	if r.slot {
		r.l.slots.Leave(r.self)
		r.slot = false
	}
}

// What was loaded waits for what the other parties load, for as long as it took to
// load itself, within these bounds.
const (
	shortestWait = 10 * time.Millisecond
	longestWait  = 50 * time.Millisecond
)

// send sends calls, together with the other parties if there are any. It waits for
// them no longer than patience; and for those who load if it has loaded itself.
func (r *run) send(ctx context.Context, calls []*script.Call, loaded bool, patience time.Duration) {
	c := r.together
	if c == nil {
		r.l.send(ctx, calls)
		return
	}
	r.l.sendBy(ctx, calls, func() { c.SendOrLeave(ctx, r.l.silence(), r.l.Spawn, calls, loaded, patience) })
}

// sendApart is send, to each server by itself. It does not wait, and notes nothing.
func (r *run) sendApart(ctx context.Context, calls []*script.Call, loaded bool, patience time.Duration) *convoy.FanOut {
	l := r.l
	if c := r.together; c != nil {
		return c.SendApart(ctx, l.silence(), l.Spawn, calls, loaded, patience)
	}
	return convoy.RunApart(ctx, l.rdb, l.silence(), l.Spawn, calls)
}

var errPaused = errors.New("a load has failed, and it is too early for another")
