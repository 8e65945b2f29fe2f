package loader

import (
	"container/heap"
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// A rota is one Run. All its fields belong to the goroutine of Run; what others
// find comes through its channels.
//
// Each key goes through this, and is in one place at a time:
//
//	due ── take ──> held, being refreshed ──> over ── end or give back ──> due
//	 ^      │└ unknown: may have been taken ─────^
//	 └──────┘ somebody has it, or had it
type rota struct {
	t       *Turns
	every   time.Duration
	away    time.Duration // to wait for a Redis that does not answer
	lease   time.Duration // of a turn: so much less than LeaseTTL as others look late
	refresh func(ctx context.Context, due []int) error
	work    context.Context // of refresh; its end is that of Run
	settled context.Context // of calls to Redis, which the end of Run does not cut

	due    shifts              // by when to look
	held   map[*shift]struct{} // being refreshed
	over   []*shift            // to be ended or given back
	places int                 // free
	chunk  int

	taking, telling, beating bool // a round trip is on its way

	took, told, beats chan trip // at most one each is on its way
	ended             chan done
}

// A shift is the part of this process in the turns of one key.
type shift struct {
	i     int
	key   string
	at    time.Time // when to look
	token entry.Token
	back  bool // to be given back, not to be ended
}

// done is the end of one call of refresh.
type done struct {
	shifts []*shift
	err    error
}

func (r *rota) run() {
	heartbeat := time.NewTicker(r.t.ttl / 3)
	defer heartbeat.Stop()
	look := time.NewTimer(0)
	defer look.Stop()
	for {
		r.take(look)
		select {
		case <-r.work.Done():
			r.stop()
			return
		case <-look.C:
		case trip := <-r.took:
			r.taking = false
			r.begin(trip)
		case d := <-r.ended:
			r.end(d)
			r.tell()
		case trip := <-r.told:
			if more, failed := r.rest(trip); more && !failed {
				r.tell() // what ended meanwhile
			}
		case <-heartbeat.C:
			r.tell() // what failed the last time
			r.beat()
		case <-r.beats:
			r.beating = false
		}
	}
}

// take asks for the turns that are due, as many as there are places for, or sets
// look to when one will be.
func (r *rota) take(look *time.Timer) {
	if r.taking || r.places == 0 || len(r.due) == 0 {
		look.Stop() // what has to come first wakes us
		return
	}
	now := time.Now()
	if next := r.due[0].at; next.After(now) {
		look.Reset(next.Sub(now))
		return
	}
	look.Stop()
	var shifts []*shift
	most := min(r.places*r.chunk, maxTake)
	for len(shifts) < most && len(r.due) > 0 && !r.due[0].at.After(now) {
		s := heap.Pop(&r.due).(*shift)
		s.token, s.back = entry.NewToken(), false
		shifts = append(shifts, s)
	}
	r.taking = true
	r.ask(r.took, script.TakeTurn, shifts)
}

// begin refreshes the keys whose turns we got.
func (r *rota) begin(trip trip) {
	now := time.Now()
	slow := now.Sub(trip.sent) >= r.t.ttl/2 // it might run out before the first heartbeat
	var won []*shift
	for n, s := range trip.shifts {
		answer, ms := trip.answer(n)
		switch {
		case answer == "T" && !slow:
			won = append(won, s)
			r.held[s] = struct{}{}
		case answer == "H":
			// Within a tenth of LeaseTTL after it ran out, which is what the lease of
			// a turn is short of; and before that, since it may be given back.
			s.at = now.Add(min(ms, r.t.ttl/4) + rand.N(r.t.ttl/20))
			heap.Push(&r.due, s)
		case answer == "D":
			s.at = now.Add(ms + r.late())
			heap.Push(&r.due, s)
		default:
			// Nobody knows whether it was taken. It is not asked for again before
			// Redis has said that it was given back, so each key costs a Redis that is
			// away one question, and one answer that is still owed at each heartbeat.
			s.at, s.back = now.Add(r.away+rand.N(r.away/4)), true
			r.over = append(r.over, s)
		}
	}
	for shifts := range slices.Chunk(won, r.chunk) {
		r.places--
		due := make([]int, len(shifts))
		for n, s := range shifts {
			due[n] = s.i
		}
		// Ends with refresh, for which run and stop wait.
		r.t.spawn(guard.Load, func() error { return r.refresh(r.work, due) }, func(err error) { r.ended <- done{shifts, err} })
	}
	if len(r.over) > 0 {
		r.tell()
	}
}

// end takes back the place of a refresh.
func (r *rota) end(d done) {
	r.places++
	for _, s := range d.shifts {
		delete(r.held, s)
		s.back = d.err != nil && r.work.Err() != nil
		r.over = append(r.over, s)
	}
}

// lookAgain looks soon at a key of which nothing is known: to ask for the turn
// tells when the next one is.
func (r *rota) lookAgain(s *shift) {
	s.at = later(s.at, time.Now().Add(r.late()))
	heap.Push(&r.due, s)
}

// late is how much later to look than whoever had the last turn. It differs from
// process to process.
func (r *rota) late() time.Duration {
	return time.Millisecond + rand.N(min(r.every/10, 250*time.Millisecond))
}

// tell ends the turns that are over, or gives them back.
func (r *rota) tell() {
	if r.telling || len(r.over) == 0 {
		return
	}
	r.telling = true
	n := min(len(r.over), maxTake)
	shifts := slices.Clone(r.over[:n])
	r.over = slices.Delete(r.over, 0, n)
	r.ask(r.told, nil, shifts)
}

// rest plans when to look again at what was told to be over. What failed waits for
// the next heartbeat, for as long as Redis is away, since nothing else can be done
// about the key meanwhile. rest reports whether anything else waits to be told, and
// whether anything failed.
func (r *rota) rest(trip trip) (more, failed bool) {
	r.telling = false
	more = len(r.over) > 0
	for n, s := range trip.shifts {
		left, ok := trip.number(n)
		switch {
		case !ok:
			failed = true
			r.over = append(r.over, s)
		case left < 0 || s.back:
			r.lookAgain(s)
		default: // before the others, who look later than they are told
			s.at = time.Now().Add(saturate.Millis(left))
			heap.Push(&r.due, s)
		}
	}
	return more, failed
}

// beat prolongs the turns under way. What it is told is of no use: a turn that is
// lost cannot be ended either, and its refresh goes on.
func (r *rota) beat() {
	if !r.beating && len(r.held) > 0 {
		r.beating = true
		r.ask(r.beats, script.ExtendTurn, slices.Collect(maps.Keys(r.held)))
	}
}

// stop gives back what is held. It waits for all refreshes, whose ctx has ended, and for Redis as long as its patience lasts. Whoever is not told
// waits for the lease of a turn.
func (r *rota) stop() {
	for len(r.held) > 0 {
		r.end(<-r.ended)
	}
	patience := time.NewTimer(turnPatience)
	defer patience.Stop()
	for r.taking || r.telling || len(r.over) > 0 {
		r.tell()
		select {
		case trip := <-r.took:
			r.taking = false
			for n, s := range trip.shifts {
				if answer, _ := trip.answer(n); answer != "H" && answer != "D" {
					s.back = true
					r.over = append(r.over, s)
				}
			}
		case trip := <-r.told:
			if _, failed := r.rest(trip); failed {
				return
			}
		case <-patience.C:
			return
		}
	}
}

// ask sends one call for each shift: s, or what is due to one that is over.
func (r *rota) ask(ch chan<- trip, s *script.Script, shifts []*shift) {
	t := trip{shifts: shifts, calls: make([]*script.Call, len(shifts)), sent: time.Now()}
	for n, shift := range shifts {
		run := s
		switch {
		case s == nil && shift.back:
			run = script.ReturnTurn
		case s == nil:
			run = script.EndTurn
		}
		t.calls[n] = &script.Call{
			Script: run, Key: shift.key,
			Args: []any{string(shift.token[:]), r.lease.Milliseconds(), r.every.Milliseconds()},
		}
	}
	patience := turnPatience
	if s == script.ExtendTurn {
		patience = r.t.ttl / 4 // so that the next heartbeat is not late
	}
	// Ends within the patience; ch has room.
	r.t.spawn(guard.Client, func() error {
		ctx, cancel := context.WithTimeoutCause(r.settled, patience, convoy.ErrSilent)
		defer cancel()
		t.err = r.t.send(ctx, t.calls)
		t.known = t.err == nil || ctx.Err() == nil
		if t.err != nil || slices.ContainsFunc(t.calls, func(c *script.Call) bool { return c.Err != nil }) {
			r.t.failed()
		}
		return nil
	}, func(err error) {
		if err != nil {
			t.err, t.known = err, false
		}
		ch <- t
	})
}

// send runs the calls in one round trip. If ctx ends first, it leaves them to the
// client, which heeds ctx or not: then they are not ours to read.
func (t *Turns) send(ctx context.Context, calls []*script.Call) error {
	ch := make(chan error, 1)
	t.spawn(guard.Client, func() error { return script.Pipeline(ctx, t.rdb, calls) }, func(err error) { ch <- err })
	select {
	case err := <-ch:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A trip is one round trip, with the call of each shift.
type trip struct {
	shifts []*shift
	calls  []*script.Call
	sent   time.Time
	err    error // some of the calls were not answered
	known  bool  // the calls are ours to read
}

// answer returns what TakeTurn said to shift n, "" if nothing.
func (t *trip) answer(n int) (kind string, left time.Duration) {
	if !t.known || t.calls[n].Err != nil {
		return "", 0
	}
	parts, _ := t.calls[n].Reply.([]any)
	if len(parts) != 2 {
		return "", 0
	}
	kind, _ = parts[0].(string)
	ms, _ := parts[1].(int64)
	return kind, saturate.Millis(ms)
}

// number returns what another script said to shift n, and whether it did.
func (t *trip) number(n int) (int64, bool) {
	if !t.known {
		return 0, false
	}
	i, ok := t.calls[n].Reply.(int64)
	return i, ok && t.calls[n].Err == nil
}

// Shifts are a heap: the first one is the first to be looked at.
type shifts []*shift

// Len implements sort.Interface.
func (s shifts) Len() int { return len(s) }

// Less implements sort.Interface.
func (s shifts) Less(i, j int) bool { return s[i].at.Before(s[j].at) }

// Swap implements sort.Interface.
func (s shifts) Swap(i, j int) { s[i], s[j] = s[j], s[i] }

// Push implements heap.Interface.
func (s *shifts) Push(x any) { *s = append(*s, x.(*shift)) }

// Pop implements heap.Interface.
func (s *shifts) Pop() any {
	last := len(*s) - 1
	x := (*s)[last]
	(*s)[last] = nil
	*s = (*s)[:last]
	return x
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
