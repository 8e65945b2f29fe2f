package writebehind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// sweep looks for what is to be persisted, in every period in which it is the turn of
// this process, until ctx ends. The flushes that it starts go on until work ends.
//
// So what a fleet at rest costs Redis is one short script for each process and, of one
// of them, a pipeline with a script for each bucket. An index of the buckets that have
// something to do would save that pipeline, but on a Cluster it could not be written by
// the script that adds, which runs where the bucket is; and to err towards "nothing to
// do" would be to lose what is written to a bucket that is never written to again.
func (e *Engine) sweep(ctx, work context.Context) {
	// Processes that start together should not ask together.
	timer := time.NewTimer(rand.N(e.o.Every/10 + 1))
	defer timer.Stop()
	asked := false
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		timer.Reset(e.turn(ctx, work, &asked))
	}
}

// turn sweeps if it is our turn, and returns how long to wait for the next one. It asks
// for the policy of eviction unless that was asked.
func (e *Engine) turn(ctx, work context.Context, asked *bool) time.Duration {
	token := entry.NewToken()
	every := e.o.Every.Milliseconds()
	args := []any{string(token[:]), e.o.LeaseTTL.Milliseconds(), every}
	late := time.Millisecond + rand.N(min(e.o.Every/10, 250*time.Millisecond))
	r := read(e.single(ctx, script.TakeTurn, args))
	kind, left := r.text(), r.duration()
	switch {
	case r.err != nil:
		// A turn is for efficiency. Where it cannot be taken because Redis is full, say,
		// what is pending must be flushed all the more.
		e.redisFailed(0, r.err)
	case kind == "H":
		return min(left, e.o.Every) + late
	case kind == "D":
		return left + late
	}
	all, err := e.survey(ctx, !*asked)
	if err != nil {
		if ctx.Err() == nil {
			e.redisFailed(0, err)
		}
		return max(e.o.Every, time.Second)
	}
	*asked = true
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
		_, _ = e.single(ctx, script.ReturnTurn, args)
		return 2*e.o.Every + late
	}
	ended := read1(e.single(ctx, script.EndTurn, args))
	if ended < 0 { // lost, or not known
		return e.o.Every + late
	}
	return max(saturate.Millis(ended), time.Millisecond)
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

// single runs a script on the key of the turn.
func (e *Engine) single(ctx context.Context, s *script.Script, args []any) (any, error) {
	c := &script.Call{Script: s, Key: e.turnKey(), Args: args}
	ctx, cancel := context.WithTimeoutCause(ctx, max(e.o.LeaseTTL, time.Second), errSilent)
	defer cancel()
	if err := e.ask(ctx, func(ctx context.Context) error { return c.Run(ctx, e.rdb) }); err != nil {
		return nil, err
	}
	return c.Reply, nil
}

// read1 returns a reply that is one number, -1 if it is none.
func read1(v any, err error) int64 {
	n, ok := v.(int64)
	if err != nil || !ok {
		return -1
	}
	return n
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
