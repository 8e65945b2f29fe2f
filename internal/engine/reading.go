package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// A ManyRead is GetMany, or LookupMany, in steps, for whoever has the readings of
// several Engines share their round trips: Ask, send what that queued, Take, Load,
// Wait. Take and Load come again as long as there are servers that have not answered.
// It is for one goroutine, and for one use.
type ManyRead struct {
	target Targets
	l      *Engine
	ctx    context.Context // of the call, which the Reading does not outlive
	keys   []string
	load   ManyFunc // nil: never load
	limit  int
	aim    aim

	asked   []int // keys that were asked for
	got     fetch // of them
	open    []int // which of asked have no answer yet, once some have; else nil
	missing []int // keys to be loaded next
	lacking int   // how many were missing so far
	aside   []int // keys that are served, and loaded meanwhile
	taken   bool
	away    error // why Redis was not asked, or did not answer

	queued   []*flight // that others have queued, and that we have boarded
	together *convoy.Convoy
	places   [nobody + 1]*waitfor.Pool // of the loads of single keys, if limit is not 0
	answers  []Answer
	members  []*member     // of those who wait for a flight; nil if nobody does
	sights   []sight       // of those to be loaded; nil if nothing was read, or all was there
	over     chan struct{} // closed when the soft timeout is over; nil if there is none
	timer    *time.Timer
}

// Reading begins GetMany, or LookupMany if load is nil. It boards the flights that
// are under way. into has the values.
func (l *Engine) Reading(ctx context.Context, keys []string, limit int, load ManyFunc, into Targets) *ManyRead {
	r := &ManyRead{target: into, l: l, ctx: ctx, keys: keys, load: load, limit: limit, aim: l.usual()}
	r.answers, r.missing = l.room(len(keys)), make([]int, 0, len(keys))
	joins := load != nil && l.flights.some.Load()
	for i, key := range keys {
		var m *member
		if joins {
			var queued *flight
			if m, queued, r.answers[i].Err = l.flights.boardOne(ctx, key); queued != nil {
				r.queued = append(r.queued, queued)
			}
			r.await(i, m)
		}
		if m == nil && r.answers[i].Err == nil {
			r.missing = append(r.missing, i)
		}
	}
	return r
}

// room returns n answers that are zero.
func (l *Engine) room(n int) []Answer {
	if spare, ok := l.spare.Get().(*[]Answer); ok && cap(*spare) >= n {
		return (*spare)[:n]
	}
	return make([]Answer, n)
}

// mostSpare is how many answers are kept for the next call.
const mostSpare = 1 << 10

// Reuse says that nobody looks at answers of the Engine any more: they are a good part
// of what a call allocates. It need not be called.
func (l *Engine) Reuse(answers []Answer) {
	if cap(answers) <= mostSpare {
		clear(answers)
		l.spare.Put(&answers)
	}
}

// LookupMany is Find for several keys, in one round trip. into has the values.
func (l *Engine) LookupMany(ctx context.Context, keys []string, into Targets) []Answer {
	r := l.Reading(ctx, keys, 0, nil, into)
	r.read()
	return r.Wait()
}

// GetMany is GetOrLoad for several keys, which must differ. One round trip reads
// the values in Redis, one call of load loads the others, and one more round trip
// stores them. Every key has its own flight and lease: a caller that asks for some
// of the keys at the same time, here or in another process, shares the loads of
// these keys only. into has the values that are in Redis.
//
// Leases cost a round trip, unless GetMany asks for them at once in place of
// reading. It does so while most keys of the last call were missing, and at
// first; but not if StaleWhileRevalidate is set: a caller that is granted a lease
// on a stale value would have to wait for the load.
//
// If limit is not 0, load is called with one key at a time, by at most limit
// goroutines, and each key is answered by itself. Keys that are loaded at the same
// time share round trips; other keys queue. A caller that asks for a queued key
// alone loads it at once. Options.Timeout of a key starts when the key leaves the
// queue. A key that is leased elsewhere does not delay other keys. Close empties
// the queue.
//
// GetMany asks the servers of a Cluster or a Ring concurrently. One call of load
// loads the keys of the servers that have answered. If a server takes much longer
// than the others, another call loads its keys, once it answers or times out.
//
// Every key has its own answer. If load panics or returns too few results, the
// keys without a result get an error.
func (l *Engine) GetMany(ctx context.Context, keys []string, limit int, load ManyFunc, into Targets) []Answer {
	r := l.Reading(ctx, keys, limit, load, into)
	var trips *convoy.FanOut
	if limit > 0 || l.swr > 0 || !l.cold.Load() {
		trips = r.depart()
	}
	for over := false; !over; {
		if over = trips == nil; !over {
			over = trips.Wait(ctx, 0)
			r.Take(trips.Began(), trips.Ended)
		}
		if limit == 0 || len(r.missing) < 2 {
			r.Load(nil)
			continue
		}
		c := convoy.New(l.rdb)
		r.Load(c)
		c.Leave()
	}
	return r.Wait()
}

// await notes that the i-th key waits for a flight.
func (r *ManyRead) await(i int, m *member) {
	if m != nil && r.members == nil {
		r.members = make([]*member, len(r.keys))
	}
	if m != nil {
		r.members[i] = m
	}
}

// Ask queues on p the commands that read what has no flight, but not those for
// which Redis is not worth asking.
func (r *ManyRead) Ask(ctx context.Context, p redis.Pipeliner) {
	wanted := r.missing
	r.missing, r.asked = nil, wanted[:0]
	for _, i := range wanted {
		if away := r.l.refusal(r.keys[i]); away != nil {
			r.see(i, nil, away, time.Time{})
			continue
		}
		r.asked = append(r.asked, i)
	}
	if len(r.asked) > 0 {
		keys := r.keys
		if len(r.asked) < len(keys) {
			keys = pick(keys, r.asked)
		}
		r.got = r.l.fetch(ctx, p, keys)
	}
}

// Take takes what the commands were answered that have ended since the last Take, all
// of which were sent at a time. A command of which ended returns an error is not looked
// at.
func (r *ManyRead) Take(sent time.Time, ended convoy.Ended) {
	if r.got.many != nil { // from one server: all have ended
		if _, err := ended(0); r.got.unfit(err) {
			sent = time.Now()
			r.got, err = r.l.again(r.ctx, &r.got)
			ended = convoy.AllEnded(err)
		}
	}
	some := r.answered(ended)
	n, now := len(some), time.Now()
	nth := func(k int) int { return some[k] }
	if some == nil {
		n, nth = len(r.asked), func(k int) int { return k }
	}
	failed := false
	for k := range n {
		j := nth(k)
		i := r.asked[j]
		if _, err := ended(r.got.at(j)); err != nil {
			failed = true
			r.see(i, nil, err, now)
			continue
		}
		b, err := r.got.next(j)
		r.see(i, b, err, now)
	}
	r.l.away.Done(r.ctx, sent, n, func(k int) (string, error) {
		j := nth(k)
		at, _ := r.l.leases.place(r.keys[r.asked[j]])
		if _, err := ended(r.got.at(j)); err != nil {
			return at, err
		}
		return at, r.got.failed(j)
	})
	if !failed {
		r.got.end()
	}
	if !slices.IsSorted(r.missing) { // some were not asked for
		slices.Sort(r.missing)
	}
	if r.load != nil && len(r.open) == 0 {
		r.learn(len(r.asked), r.lacking)
	}
}

// answered returns which of the keys that were asked for have been answered since the
// last Take; nil if all have, and there was none.
func (r *ManyRead) answered(ended convoy.Ended) []int {
	before, again := r.open, r.taken
	n := len(r.asked)
	if again {
		n = len(before)
	}
	r.taken, r.open = true, nil
	if over := func(k int) bool { is, _ := ended(r.got.at(k)); return is }; !again && all(n, over) {
		return nil
	}
	some := make([]int, 0, n)
	for k := range n {
		j := k
		if again {
			j = before[k]
		}
		if over, _ := ended(r.got.at(j)); over {
			some = append(some, j)
		} else {
			r.open = append(r.open, j)
		}
	}
	return some
}

// all reports whether a condition holds for every number below n.
func all(n int, holds func(int) bool) bool {
	for i := range n {
		if !holds(i) {
			return false
		}
	}
	return true
}

// see takes what GET returned for the i-th key.
func (r *ManyRead) see(i int, b []byte, err error, now time.Time) {
	l, a := r.l, &r.answers[i]
	l.size.Learn(len(b))
	v := r.target.Box(i)
	s := l.see(r.keys[i], b, err, r.load != nil, now, v)
	if s.away != nil && (errors.Is(s.away, circuit.ErrAway) || !script.Answered(s.away)) {
		r.away = s.away
	}
	if r.load == nil {
		a.Value, a.Outcome, a.Err = l.looked(r.ctx, v, s)
		return
	}
	switch {
	case s.kind.served():
		a.Value, a.Outcome = v, l.count(s.kind)
		if s.kind != due && s.kind != stale {
			return
		}
		r.aside = append(r.aside, i)
	case s.kind == none:
		*a = Answer{Outcome: l.count(none), Err: ErrNotFound}
		return
	default: // a value that is too old is none
		*a = Answer{}
		r.missing, r.lacking = append(r.missing, i), r.lacking+1
	}
	if r.sights == nil {
		r.sights = make([]sight, len(r.keys))
	}
	r.sights[i] = s
}

// learn notes whether most keys are missing.
func (r *ManyRead) learn(asked, missing int) {
	if asked > 0 {
		r.l.cold.Store(2*missing > asked)
	}
}

// Away returns why Redis was not asked for some of the keys, or did not answer, and
// nil if it was and did. They may have been loaded all the same.
func (r *ManyRead) Away() error { return r.away }

// Load begins to load what was not there, and does not wait for it. The loads take
// part in c, if it is not nil.
func (r *ManyRead) Load(c *convoy.Convoy) {
	if r.load == nil {
		return
	}
	r.together = c
	if len(r.aside) > 0 {
		r.fly(r.aside, nobody)
	}
	if len(r.missing) > 0 || len(r.queued) > 0 {
		members, errs := r.fly(r.missing, readers)
		for j, i := range r.missing {
			r.await(i, members[j])
			r.answers[i].Err = errs[j]
		}
	}
	r.aside, r.missing = nil, nil
	if r.over == nil && r.l.softTimeout > 0 && r.l.swr+r.l.sie > 0 && r.Waits() {
		over := make(chan struct{})
		r.over, r.timer = over, time.AfterFunc(r.l.softTimeout, func() { close(over) })
	}
}

// Waits reports whether Wait has anything to wait for.
func (r *ManyRead) Waits() bool {
	return slices.ContainsFunc(r.members, func(m *member) bool { return m != nil })
}

// Wait returns the answers, when the flights have ended.
func (r *ManyRead) Wait() []Answer {
	if r.timer != nil {
		defer r.timer.Stop()
	}
	l, hits := r.l, 0
	l.flights.awaits(r.ctx, r.members)
	var late []int
	for i, m := range r.members {
		if m == nil {
			continue
		}
		res, done := l.flights.wait(r.ctx, m, r.over)
		if !done {
			late = append(late, i)
			continue
		}
		if r.answer(i, l.rescue(r.ctx, r.keys[i], res)) {
			hits++
		}
	}
	for _, i := range late {
		r.answer(i, l.rescue(r.ctx, r.keys[i], l.waitLate(r.ctx, r.keys[i], r.members[i])))
	}
	if r.load != nil && !r.taken {
		r.learn(len(r.keys), len(r.keys)-hits)
	}
	return r.answers
}

// answer answers a key by what its flight has found, and reports whether that was
// there without one.
func (r *ManyRead) answer(i int, res *result) bool {
	a := &r.answers[i]
	a.Value, a.Outcome, a.Err = r.l.answer(res)
	switch a.Outcome {
	case OutcomeHit:
		r.l.stats.hits.Add(1)
	case OutcomeNotFound:
		r.l.stats.notFoundHits.Add(1)
	case OutcomeStale:
	default:
		r.l.stats.misses.Add(1)
		return false
	}
	return true
}

// read is Ask and Take in round trips of its own. It leaves when ctx is done or
// Redis is silent for too long.
func (r *ManyRead) read() {
	p := r.l.rdb.Pipeline()
	r.Ask(r.ctx, p)
	sent := time.Now()
	var err error
	if p.Len() > 0 {
		err = r.l.sendAll(r.ctx, p)
	}
	r.Take(sent, convoy.AllEnded(err))
}

// depart is Ask, and sends what that queued, to each server by itself.
func (r *ManyRead) depart() *convoy.FanOut {
	p := r.l.rdb.Pipeline()
	r.Ask(r.ctx, p)
	return convoy.Depart(r.ctx, r.l.rdb, r.l.silence(), r.l.Spawn, p)
}
