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

// sweep looks for what is to be persisted, in every period in which it is the turn of
// this process, until ctx ends. The flushes that it starts go on until work ends.
//
// So what a fleet at rest costs Redis is, of one process, the turn and a pipeline with a
// script for each bucket, and a short script of another process, in each period. A
// process that has written looks in the next period too: if the process that has the
// turns died, what is written is persisted all the same, whatever became of the rest of
// the fleet.
//
// An index of the buckets that have something to do would save the pipeline, but on a
// Cluster it could not be written by the script that adds, which runs where the bucket
// is; and to err towards "nothing to do" would be to lose what is written to a bucket
// that is never written to again.
func (e *Engine) sweep(ctx, work context.Context) {
	s := periodic.Scheduler{
		RDB: e.rdb, TTL: e.o.LeaseTTL, Every: e.o.Every, Keys: []string{e.turnKey()},
		Work:   func(ctx context.Context, _ []int) error { return e.turn(ctx, work) },
		Places: 1, Chunk: 1,
		Spread: e.o.Every / 10, // processes that start together should not ask together
		// A turn is for efficiency. Where it cannot be taken because Redis is full, say,
		// what is pending must be flushed all the more.
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

// turn sweeps. It asks for the policy of eviction the first time. It gives the turn back
// if another process should have it.
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
		// A Persist of ours does not heed the end of its ctx, or this process cannot read
		// something. The process that has the next turn may persist that.
		return &periodic.GiveBack{For: 2 * e.o.Every}
	}
	return nil
}

// dispatch flushes a bucket in a goroutine, and reports whether it does: it does not if
// somebody in this process is at it.
func (e *Engine) dispatch(work context.Context, b int) bool {
	select {
	case e.buckets[b].busy <- struct{}{}:
	default:
		return false
	}
	// Ends with Persist, whose ctx Close ends. An error is told to Notify, and it is
	// tried again.
	spawned := e.spawn(guard.Persist, func() error { return e.flushHeld(work, b, false) }, func(error) { <-e.buckets[b].busy })
	if !spawned {
		<-e.buckets[b].busy
	}
	return spawned
}

// findings are what SurveyBatch says of a bucket.
type findings struct {
	err                   error
	pending, inFlight     int64 // ids
	pendingAge, flightAge time.Duration
	unread                int64 // ids that wait for a process that can read them
	unreadAge             time.Duration
	version               string // of these
	by                    string // whose the batch in flight is
	left                  time.Duration
	refused               int64
	policy                string
}

// due reports whether there is something for me to do.
func (f findings) due(me string) bool {
	if f.err != nil {
		return false
	}
	if f.inFlight > 0 {
		return f.by == me && me != "" || f.left <= 0
	}
	return f.pending > 0
}

// survey asks of every bucket what it has to do.
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
	var since [3]string // of what is pending, in flight, and unread
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

// A wait is what this process knows of the oldest of what waits in a bucket.
type wait struct {
	since string    // by the clock of the server
	first time.Time // when this process first found it, by its own clock
	age   time.Duration
}

// age returns for how long something has waited, in which the clock of the server may
// have been set back: at least as long as this process knows of it.
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

// yields reports whether to leave the turn to another process, since there is something
// that this one has found it cannot read. It does so now and then only: each process
// that takes the turn meanwhile surveys all buckets.
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

// yieldPeriods is how many periods there are at least between two turns that a process
// leaves to others.
const yieldPeriods = 5

// warn tells of buckets that could not be surveyed, and of a Redis that may evict what
// is pending.
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

// An EvictionError says that Redis may evict what is pending when it is full, for its
// maxmemory-policy is one of allkeys-*. With noeviction or one of volatile-* it never
// does, since what is pending has no TTL. Nothing is refused for it: it is for whoever
// runs the Redis to know.
type EvictionError struct{ Policy string }

// Error says what to do.
func (e *EvictionError) Error() string {
	return "maxmemory-policy " + e.Policy + " may evict what is not persisted yet: use noeviction or volatile-*"
}
