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

// A ManyRead is GetMany, or LookupMany, in steps: Ask, send the queued
// commands, Take, Load, Wait. So the reads of several Engines can share round
// trips. Take and Load are repeated as long as some servers have not answered.
// A ManyRead is for one goroutine, and for one use.
type ManyRead struct {
	target Targets
	l      *Engine
	ctx    context.Context // of the call, which the ManyRead does not outlive
	keys   []string
	load   ManyFunc // nil: never load
	limit  int
	intent intent

	asked        []int    // keys that were asked for
	fetched      multiGet // the commands that read them
	unanswered   []int    // which of asked have no reply yet, once some have; otherwise nil
	missing      []int    // keys to load next
	missingTotal int      // the number of missing keys so far
	refreshing   []int    // keys that are served and refreshed in the background
	taken        bool
	redisErr     error // why Redis was not asked, or did not answer

	queued      []*flight // flights queued by other calls, which this call has joined
	convoy      *convoy.Convoy
	places      [joinBackground + 1]*waitfor.Pool // for loads of single keys, if limit is not 0
	answers     []KeyResult
	waiters     []*waiter     // of keys that wait for a flight; nil if there are none
	snapshots   []snapshot    // of keys to load; nil if no key was read, or all were found
	softTimeout chan struct{} // closed when the soft timeout ends; nil if there is none
	timer       *time.Timer
}

// NewManyRead begins GetMany, or LookupMany if load is nil. It joins the active
// flights. Values are set in into.
func (l *Engine) NewManyRead(ctx context.Context, keys []string, limit int, load ManyFunc, into Targets) *ManyRead {
	r := &ManyRead{target: into, l: l, ctx: ctx, keys: keys, load: load, limit: limit, intent: l.readIntent()}
	r.answers, r.missing = l.newAnswers(len(keys)), make([]int, 0, len(keys))
	joins := load != nil && l.flights.anyActive.Load()
	for i, key := range keys {
		var w *waiter
		if joins {
			var queued *flight
			if w, queued, r.answers[i].Err = l.flights.joinQueued(ctx, key); queued != nil {
				r.queued = append(r.queued, queued)
			}
			r.setWaiter(i, w)
		}
		if w == nil && r.answers[i].Err == nil {
			r.missing = append(r.missing, i)
		}
	}
	return r
}

// newAnswers returns n zero answers.
func (l *Engine) newAnswers(n int) []KeyResult {
	if spare, ok := l.answerPool.Get().(*[]KeyResult); ok && cap(*spare) >= n {
		return (*spare)[:n]
	}
	return make([]KeyResult, n)
}

// maxPooledAnswers is the largest number of answers that is kept for the next
// call.
const maxPooledAnswers = 1 << 10

// Recycle takes answers back, which the caller must no longer use. They are a
// good part of the memory that a call allocates. Calling Recycle is optional.
func (l *Engine) Recycle(answers []KeyResult) {
	if cap(answers) <= maxPooledAnswers {
		clear(answers)
		l.answerPool.Put(&answers)
	}
}

// LookupMany is Find for several keys, in one round trip. Values are set in
// into.
func (l *Engine) LookupMany(ctx context.Context, keys []string, into Targets) []KeyResult {
	r := l.NewManyRead(ctx, keys, 0, nil, into)
	r.readAlone()
	return r.Wait()
}

// GetMany is GetOrLoad for several keys, which must differ. One round trip
// reads the values in Redis, one call of load loads the others, and one more
// round trip stores them. Every key has its own flight and lease: a caller that
// asks for some of the keys at the same time, here or in another process,
// shares the loads of these keys only. Values found in Redis are set in into.
//
// Leases cost a round trip, unless GetMany asks for them at once instead of
// reading. It does so at first, and while the last call missed most of its
// keys. It does not if StaleWhileRevalidate is set: a caller that is granted a
// lease on a stale value would have to wait for the load.
//
// If limit is not 0, load is called with one key at a time, by at most limit
// goroutines, and each key is answered independently. Keys that are loaded at
// the same time share round trips; other keys queue. A caller that asks for a
// queued key alone loads it at once. Options.Timeout of a key starts when the
// key leaves the queue. A key that is leased elsewhere does not delay other
// keys. Close empties the queue.
//
// GetMany asks the servers of a Cluster or a Ring concurrently. One call of
// load loads the keys of the servers that have answered. If a server takes much
// longer than the others, another call loads its keys, once it answers or times
// out.
//
// Every key has its own answer. If load panics or returns too few results, the
// keys without a result get an error.
func (l *Engine) GetMany(ctx context.Context, keys []string, limit int, load ManyFunc, into Targets) []KeyResult {
	r := l.NewManyRead(ctx, keys, limit, load, into)
	var trips *convoy.FanOut
	if limit > 0 || l.swr > 0 || !l.mostlyMissing.Load() {
		trips = r.askPerServer()
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

// setWaiter records that the i-th key waits for a flight.
func (r *ManyRead) setWaiter(i int, w *waiter) {
	if w != nil && r.waiters == nil {
		r.waiters = make([]*waiter, len(r.keys))
	}
	if w != nil {
		r.waiters[i] = w
	}
}

// Ask queues on p the commands that read the keys without a flight. It leaves
// out keys whose servers are not worth asking.
func (r *ManyRead) Ask(ctx context.Context, p redis.Pipeliner) {
	wanted := r.missing
	r.missing, r.asked = nil, wanted[:0]
	for _, i := range wanted {
		if away := r.l.breakerErr(r.keys[i]); away != nil {
			r.takeReply(i, nil, away, time.Time{})
			continue
		}
		r.asked = append(r.asked, i)
	}
	if len(r.asked) > 0 {
		keys := r.keys
		if len(r.asked) < len(keys) {
			keys = subset(keys, r.asked)
		}
		r.fetched = r.l.queueGets(ctx, p, keys)
	}
}

// Take handles the replies to the commands that have ended since the last Take;
// all of these were sent at sent. If ended returns an error for a command, Take
// does not look at it.
func (r *ManyRead) Take(sent time.Time, ended convoy.Ended) {
	if r.fetched.mgets != nil { // from one server: all have ended
		if _, err := ended(0); r.fetched.needsFallback(err) {
			sent = time.Now()
			r.fetched, err = r.l.readEach(r.ctx, &r.fetched)
			ended = convoy.AllEnded(err)
		}
	}
	some := r.newlyAnswered(ended)
	n, now := len(some), time.Now()
	nth := func(k int) int { return some[k] }
	if some == nil {
		n, nth = len(r.asked), func(k int) int { return k }
	}
	failed := false
	for k := range n {
		j := nth(k)
		i := r.asked[j]
		if _, err := ended(r.fetched.at(j)); err != nil {
			failed = true
			r.takeReply(i, nil, err, now)
			continue
		}
		b, err := r.fetched.next(j)
		r.takeReply(i, b, err, now)
	}
	r.l.breakers.Done(r.ctx, sent, n, func(k int) (string, error) {
		j := nth(k)
		at, _ := r.l.leases.locate(r.keys[r.asked[j]])
		if _, err := ended(r.fetched.at(j)); err != nil {
			return at, err
		}
		return at, r.fetched.errOf(j)
	})
	if !failed {
		r.fetched.release()
	}
	if !slices.IsSorted(r.missing) { // some keys were not asked for
		slices.Sort(r.missing)
	}
	if r.load != nil && len(r.unanswered) == 0 {
		r.recordMissing(len(r.asked), r.missingTotal)
	}
}

// newlyAnswered returns which of the asked keys were answered since the last
// Take. It returns nil if this is the first Take and all were answered.
func (r *ManyRead) newlyAnswered(ended convoy.Ended) []int {
	before, again := r.unanswered, r.taken
	n := len(r.asked)
	if again {
		n = len(before)
	}
	r.taken, r.unanswered = true, nil
	if over := func(k int) bool { is, _ := ended(r.fetched.at(k)); return is }; !again && allBelow(n, over) {
		return nil
	}
	some := make([]int, 0, n)
	for k := range n {
		j := k
		if again {
			j = before[k]
		}
		if over, _ := ended(r.fetched.at(j)); over {
			some = append(some, j)
		} else {
			r.unanswered = append(r.unanswered, j)
		}
	}
	return some
}

// allBelow reports whether a condition holds for every number below n.
func allBelow(n int, holds func(int) bool) bool {
	for i := range n {
		if !holds(i) {
			return false
		}
	}
	return true
}

// takeReply handles the reply to the GET of the i-th key.
func (r *ManyRead) takeReply(i int, b []byte, err error, now time.Time) {
	l, a := r.l, &r.answers[i]
	l.entrySize.Learn(len(b))
	v := r.target.Box(i)
	s := l.classifyReply(r.keys[i], b, err, r.load != nil, now, v)
	if s.redisErr != nil && (errors.Is(s.redisErr, circuit.ErrAway) || !script.Answered(s.redisErr)) {
		r.redisErr = s.redisErr
	}
	if r.load == nil {
		a.Value, a.Outcome, a.Err = l.lookupAnswer(r.ctx, v, s)
		return
	}
	switch {
	case s.freshness.served():
		a.Value, a.Outcome = v, l.countHit(s.freshness)
		if s.freshness != refreshDue && s.freshness != stale {
			return
		}
		r.refreshing = append(r.refreshing, i)
	case s.freshness == notFound:
		*a = KeyResult{Outcome: l.countHit(notFound), Err: ErrNotFound}
		return
	default: // including values that are too old
		*a = KeyResult{}
		r.missing, r.missingTotal = append(r.missing, i), r.missingTotal+1
	}
	if r.snapshots == nil {
		r.snapshots = make([]snapshot, len(r.keys))
	}
	r.snapshots[i] = s
}

// recordMissing records whether most keys are missing.
func (r *ManyRead) recordMissing(asked, missing int) {
	if asked > 0 {
		r.l.mostlyMissing.Store(2*missing > asked)
	}
}

// Away returns why Redis was not asked for some of the keys, or did not answer.
// It returns nil if Redis answered for all. The keys may have been loaded all
// the same.
func (r *ManyRead) Away() error { return r.redisErr }

// Load starts to load the missing keys, and does not wait for them. If c is not
// nil, the loads take part in c.
func (r *ManyRead) Load(c *convoy.Convoy) {
	if r.load == nil {
		return
	}
	r.convoy = c
	if len(r.refreshing) > 0 {
		r.joinFlights(r.refreshing, joinBackground)
	}
	if len(r.missing) > 0 || len(r.queued) > 0 {
		waiters, errs := r.joinFlights(r.missing, joinRead)
		for j, i := range r.missing {
			r.setWaiter(i, waiters[j])
			r.answers[i].Err = errs[j]
		}
	}
	r.refreshing, r.missing = nil, nil
	if r.softTimeout == nil && r.l.softTimeout > 0 && r.l.swr+r.l.sie > 0 && r.Waits() {
		over := make(chan struct{})
		r.softTimeout, r.timer = over, time.AfterFunc(r.l.softTimeout, func() { close(over) })
	}
}

// Waits reports whether Wait has to wait for a flight.
func (r *ManyRead) Waits() bool {
	return slices.ContainsFunc(r.waiters, func(w *waiter) bool { return w != nil })
}

// Wait returns the answers, once the flights have ended.
func (r *ManyRead) Wait() []KeyResult {
	if r.timer != nil {
		defer r.timer.Stop()
	}
	l, hits := r.l, 0
	l.flights.recordWaits(r.ctx, r.waiters)
	var late []int
	for i, w := range r.waiters {
		if w == nil {
			continue
		}
		res, done := l.flights.wait(r.ctx, w, r.softTimeout)
		if !done {
			late = append(late, i)
			continue
		}
		if r.setAnswer(i, l.serveStaleOnTimeout(r.ctx, r.keys[i], res)) {
			hits++
		}
	}
	for _, i := range late {
		r.setAnswer(i, l.serveStaleOnTimeout(r.ctx, r.keys[i], l.waitOrStale(r.ctx, r.keys[i], r.waiters[i])))
	}
	if r.load != nil && !r.taken {
		r.recordMissing(len(r.keys), len(r.keys)-hits)
	}
	return r.answers
}

// setAnswer answers a key with the result of its flight, and reports whether
// the value was found without a load.
func (r *ManyRead) setAnswer(i int, res *result) bool {
	a := &r.answers[i]
	a.Value, a.Outcome, a.Err = r.l.answerOf(res)
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

// readAlone is Ask and Take in round trips of their own. It leaves when ctx is
// done, or when Redis is silent for too long.
func (r *ManyRead) readAlone() {
	p := r.l.rdb.Pipeline()
	r.Ask(r.ctx, p)
	sent := time.Now()
	var err error
	if p.Len() > 0 {
		err = r.l.execPipeline(r.ctx, p)
	}
	r.Take(sent, convoy.AllEnded(err))
}

// askPerServer calls Ask, and sends the queued commands to each server
// separately.
func (r *ManyRead) askPerServer() *convoy.FanOut {
	p := r.l.rdb.Pipeline()
	r.Ask(r.ctx, p)
	return convoy.Depart(r.ctx, r.l.rdb, r.l.replyTimeout(), r.l.Spawn, p)
}
