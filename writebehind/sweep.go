package writebehind

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/periodic"
	"github.com/cachex-go/cachex/internal/script"
)

// sweep looks for pending ids, in every period in which this process has the
// turn, until ctx ends. The flushes that it starts go on until work ends.
//
// So in each period an idle fleet costs Redis one turn and one pipeline with a
// script for each bucket, sent by one process. Another process adds a short
// script. A process that has written also looks in the next period. So even if
// the process that has the turns dies, its writes are persisted, whatever
// happens to the rest of the fleet.
//
// An index of the buckets with pending ids would save the pipeline. But on a
// Cluster the script that adds runs on the node of the bucket, and cannot write
// the index. An index that wrongly says "nothing pending" loses the writes to a
// bucket that is never written to again.
func (e *Engine) sweep(ctx, work context.Context) {
	s := periodic.Scheduler{
		RDB: e.rdb, TTL: e.o.LeaseTTL, Every: e.o.Every, Keys: []string{e.turnKey()},
		Work:   func(ctx context.Context, _ []int) error { return e.turn(ctx, work) },
		Places: 1, Chunk: 1,
		First: e.o.Every / 10, // processes that start together should not ask together
		// A turn is only an optimization. If it cannot be taken, for example
		// because Redis is full, the pending ids must be flushed all the more.
		Anyway: true,
		Nudge:  e.wrote,
		Code:   notify,
		Failed: func(err error) { e.redisFailed(0, err) },
		Spawn: func(code guard.Code, fn func() error, done func(error)) {
			if !e.spawn(code, fn, done) {
				done(ErrClosed)
			}
		},
	}
	s.Run(ctx)
}

// turn sweeps. The first time, it asks for the eviction policy. If another
// process should have the turn, it gives the turn back.
func (e *Engine) turn(ctx, work context.Context) error {
	all, err := e.survey(ctx, !e.asked)
	if err != nil {
		if ctx.Err() == nil {
			e.redisFailed(0, err)
		}
		return &periodic.GiveBack{For: max(e.o.Every, time.Second), Err: err}
	}
	e.asked = true
	backlog := total(all)
	backlog.At = time.Now()
	e.mu.Lock()
	e.last = backlog
	e.mu.Unlock()
	stuck := false
	for b, f := range all {
		if (f.due(e.me) || e.unseen(b, f.version)) && !e.dispatch(work, b) && f.inFlight > 0 && f.left <= 0 {
			stuck = true
		}
	}
	e.warn(all)
	if stuck || e.yields(all) {
		// A Persist of this process does not heed the end of its ctx, or this
		// process cannot read some ids. The process that has the next turn may
		// persist them.
		return &periodic.GiveBack{For: 2 * e.o.Every}
	}
	return nil
}

// dispatch flushes a bucket in a goroutine, and reports whether it does. It
// does not if another goroutine of this process flushes the bucket.
func (e *Engine) dispatch(work context.Context, b int) bool {
	select {
	case e.buckets[b].busy <- struct{}{}:
	default:
		return false
	}
	// Ends with Persist, whose ctx Close ends. Notify receives an error, and
	// the flush is tried again.
	spawned := e.spawn(guard.Persist, func() error { return e.flushHeld(work, b, false) }, func(error) { <-e.buckets[b].busy })
	if !spawned {
		<-e.buckets[b].busy
	}
	return spawned
}

// findings are the reply of SurveyBatch about a bucket.
type findings struct {
	err                   error
	pending, inFlight     int64 // ids
	pendingAge, flightAge time.Duration
	unread                int64 // ids that wait for a process that can read them
	unreadAge             time.Duration
	version               string // of the unread ids
	by                    string // the holder of the batch in flight
	left                  time.Duration
	refused               int64
	policy                string
}

// due reports whether the process me has something to persist.
func (f findings) due(me string) bool {
	if f.err != nil {
		return false
	}
	if f.inFlight > 0 {
		return f.by == me && me != "" || f.left <= 0
	}
	return f.pending > 0
}

// survey asks every bucket for its findings.
func (e *Engine) survey(ctx context.Context, policy bool) ([]findings, error) {
	flag := ""
	if policy {
		flag = "1"
	}
	calls := make([]*script.Call, len(e.buckets))
	for b := range calls {
		calls[b] = e.on(script.SurveyBatch, b, flag)
	}
	if err := e.pipeline(ctx, calls); err != nil {
		return nil, err
	}
	all := make([]findings, len(calls))
	for b, c := range calls {
		all[b] = e.finding(b, read(c.Reply, c.Err))
	}
	return all, nil
}

func (e *Engine) finding(b int, r *reply) findings {
	var since [3]string // of the pending ids, the ids in flight, and the unread ids
	f := findings{}
	f.pending, since[0] = r.int(), r.text()
	f.inFlight, since[1] = r.int(), r.text()
	_ = r.int() // how often it has failed
	f.by, f.left, f.refused, f.policy = r.text(), r.duration(), r.int(), r.text()
	f.unread, since[2] = r.int(), r.text()
	f.version = unreadVersion(r.text(), r.text())
	now := r.int()
	if r.err != nil {
		return findings{err: fmt.Errorf("survey %s: %w", e.tag(b), r.err)}
	}
	f.pendingAge, f.flightAge, f.unreadAge = e.age(b, 0, since[0], now), e.age(b, 1, since[1], now), e.age(b, 2, since[2], now)
	return f
}

// wait is what this process knows of the oldest waiting id of a bucket.
type wait struct {
	since string    // by the clock of the server
	first time.Time // when this process first found it, by its own clock
	age   time.Duration
}

// age returns how long an id has waited, which is at least as long as this
// process knows of it. The clock of the server may have been set back.
func (e *Engine) age(b, which int, since string, now int64) time.Duration {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := &e.buckets[b].waits[which]
	if since == "" {
		*w = wait{}
		return 0
	}
	began, _ := strconv.ParseInt(since, 10, 64)
	age := (time.Duration(now-began)*time.Microsecond + time.Millisecond - 1).Truncate(time.Millisecond)
	if w.since != since {
		*w = wait{since, time.Now(), max(age, time.Millisecond)}
	}
	return max(age, w.age+time.Since(w.first))
}

// yields reports whether to leave the turn to another process, because this one
// cannot read some ids. It does so only now and then: each process that takes
// the turn meanwhile surveys all buckets.
func (e *Engine) yields(all []findings) bool {
	for b, f := range all {
		if f.unread > 0 && !e.unseen(b, f.version) {
			if time.Since(e.yielded) < yieldPeriods*e.o.Every {
				return false
			}
			e.yielded = time.Now()
			return true
		}
	}
	return false
}

// yieldPeriods is the least number of periods between two turns that a process
// leaves to others.
const yieldPeriods = 5

// warn reports buckets that could not be surveyed, and a Redis that may evict
// pending ids.
func (e *Engine) warn(all []findings) {
	policy := ""
	for b, f := range all {
		if f.err != nil {
			e.redisFailed(b, f.err)
		}
		if strings.HasPrefix(f.policy, "allkeys-") {
			policy = f.policy
		}
	}
	if policy != "" {
		e.mu.Lock()
		e.counters.policy = policy
		e.mu.Unlock()
		e.notify(fmt.Errorf("cachex: write-behind %s: %w", e.o.Name, &EvictionError{Policy: policy}))
	}
}

// EvictionError says that Redis may evict pending ids when it is full, because
// its maxmemory-policy is one of allkeys-*. With noeviction or one of
// volatile-* it never does, because pending ids have no TTL. The engine refuses
// no write because of it: the error informs the operator of Redis.
type EvictionError struct{ Policy string }

// Error says what to do.
func (e *EvictionError) Error() string {
	return "maxmemory-policy " + e.Policy + " may evict what is not persisted yet: use noeviction or volatile-*"
}
