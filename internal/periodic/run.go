package periodic

import (
	"container/heap"
	"context"
	"errors"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// A run is one call of Run. All its fields belong to the goroutine of Run; other
// goroutines answer through its channels.
//
// Each turn goes through this, and is in one place at a time:
//
//	due ── take ──> held, being worked on ──> over ── end or give back ──> due
//	 ^      │└ unknown: may have been taken ────^
//	 └──────┘ another process has it, or had it
type run struct {
	*Scheduler
	work    context.Context // of Work; its end is the one of Run
	settled context.Context // of calls to Redis, which the end of Run does not cut
	away    time.Duration   // to wait for a Redis that does not answer
	lease   time.Duration   // of a turn: so much less than TTL as others look late
	longest int             // periods between two looks

	due  turns
	held map[*turn]struct{} // being worked on
	over []*turn            // to be ended or given back
	free int                // of Places

	taking, telling, beating bool // a round trip is on its way

	took, told, beats chan trip // at most one each is on its way
	ended             chan done
}

// done is the end of one call of Work.
type done struct {
	turns []*turn
	err   error
}

func (r *run) loop() {
	heartbeat := time.NewTicker(r.TTL / 3)
	defer heartbeat.Stop()
	beats := true
	look, again := time.NewTimer(0), time.NewTimer(patience)
	again.Stop()
	defer look.Stop()
	defer again.Stop()
	for {
		r.take(look)
		if busy := len(r.held) > 0; busy != beats {
			if beats = busy; busy {
				heartbeat.Reset(r.TTL / 3)
			} else {
				heartbeat.Stop() // a process at rest is not woken
			}
		}
		select {
		case <-r.work.Done():
			r.stop()
			return
		case <-look.C:
		case <-r.Nudge.wait():
			r.nudge()
		case trip := <-r.took:
			r.taking = false
			r.begin(trip)
		case d := <-r.ended:
			r.end(d)
			r.tell()
		case trip := <-r.told:
			if more, failed := r.rest(trip); failed {
				again.Reset(min(r.TTL/3, patience))
			} else if more {
				r.tell() // what ended meanwhile
			}
		case <-again.C:
			r.tell() // what failed the last time
		case <-heartbeat.C:
			r.beat()
		case <-r.beats:
			r.beating = false
		}
	}
}

// take asks for the turns that are due, as many as there are places for, or sets
// look to when one will be.
func (r *run) take(look *time.Timer) {
	if r.taking || r.free == 0 || len(r.due) == 0 {
		look.Stop() // what has to come first wakes the loop
		return
	}
	now := time.Now()
	if next := r.due[0].at; next.After(now) {
		look.Reset(next.Sub(now))
		return
	}
	look.Stop()
	r.Nudge.looked()
	var turns []*turn
	most := min(r.free*r.Chunk, maxTake)
	for len(turns) < most && len(r.due) > 0 && !r.due[0].at.After(now) {
		t := heap.Pop(&r.due).(*turn)
		t.token, t.back, t.pause = entry.NewToken(), false, 0
		turns = append(turns, t)
	}
	r.taking = true
	r.ask(r.took, script.TakeTurn, turns)
}

// nudge brings all looks forward to the next period.
func (r *run) nudge() {
	late := r.late()
	for _, t := range r.due {
		t.nudged(r.Every, late)
	}
	heap.Init(&r.due)
}

// begin works on the keys whose turns this process got.
func (r *run) begin(trip trip) {
	now := time.Now()
	slow := now.Sub(trip.sent) >= r.TTL/2 // it might run out before the first heartbeat
	var won []*turn
	for n, t := range trip.turns {
		answer, left := trip.answer(n)
		// Not even a nonsensical answer makes this process wait for ever.
		left = min(left, time.Duration(r.longest+2)*r.Every)
		switch {
		case answer == "T" && !slow, answer != "H" && answer != "D" && r.Anyway:
			won = append(won, t)
			t.begins, t.watched = time.Time{}, false
			r.held[t] = struct{}{}
		case answer == "H":
			// Within a tenth of TTL after it ran out, which is what the lease of a turn is
			// short of; and before that, since it may be given back.
			t.watched = true
			r.look(t, now.Add(min(left, r.TTL/4, r.Every)+rand.N(r.TTL/20)))
		case answer == "D":
			t.watched, t.begins = false, now.Add(left)
			if t.keeps() {
				r.look(t, t.place)
			} else {
				r.look(t, t.begins.Add(r.late()))
			}
			t.place = time.Time{}
			if r.Nudge.pending() { // since the question was sent
				r.nudge()
			}
		default:
			// It may have been taken. It is not asked for again before Redis has said
			// that it was given back, so each key costs a Redis that is away one
			// question, and then one a second to give it back.
			t.at, t.back = now.Add(r.away+rand.N(r.away/4)), true
			r.over = append(r.over, t)
		}
	}
	for turns := range slices.Chunk(won, r.Chunk) {
		r.free--
		due := make([]int, len(turns))
		for n, t := range turns {
			due[n] = t.i
		}
		// Ends with Work, for which loop and stop wait.
		r.Spawn(r.Code, func() error { return r.Work(r.work, due) }, func(err error) { r.ended <- done{turns, err} })
	}
	if len(r.over) > 0 {
		r.tell()
	}
}

// look plans the next look at a turn.
func (r *run) look(t *turn, at time.Time) {
	t.at = at
	heap.Push(&r.due, t)
}

// end takes back the place of a call of Work.
func (r *run) end(d done) {
	r.free++
	back, _ := errors.AsType[*GiveBack](d.err)
	for _, t := range d.turns {
		delete(r.held, t)
		t.at = time.Time{}
		if t.back = d.err != nil && r.work.Err() != nil; back != nil {
			t.back, t.pause = true, back.For
		}
		r.over = append(r.over, t)
	}
}

// late is how much later to look than the process that had the last turn. It differs
// from process to process.
func (r *run) late() time.Duration {
	return time.Millisecond + rand.N(min(r.Every/10, 250*time.Millisecond))
}

// tell ends the turns that are over, or gives them back.
func (r *run) tell() {
	if r.telling || len(r.over) == 0 {
		return
	}
	r.telling = true
	n := min(len(r.over), maxTake)
	turns := slices.Clone(r.over[:n])
	r.over = slices.Delete(r.over, 0, n)
	r.ask(r.told, nil, turns)
}

// rest plans when to look again at what was told to be over. What failed is told
// again after a second, or a third of TTL if that is shorter, for as long as Redis is
// away, since nothing else can be done about the key meanwhile; with Anyway, the work
// can. rest reports whether anything else waits to be told, and whether anything failed.
func (r *run) rest(trip trip) (more, failed bool) {
	r.telling = false
	more = len(r.over) > 0
	for n, t := range trip.turns {
		left, ok := trip.number(n)
		switch {
		case r.Anyway && (!ok || left < 0): // it was not taken, or is lost
			failed = failed || !ok
			r.look(t, time.Now().Add(max(t.pause, r.Every)+r.late()))
		case !ok:
			failed = true
			r.over = append(r.over, t)
		case left < 0 || t.back:
			// Nothing is known of it: to ask for the turn tells when the next one is.
			at := time.Now().Add(t.pause + r.late())
			if t.at.After(at) {
				at = t.at
			}
			r.look(t, at)
		default: // before the others, who look later than they are told
			r.look(t, time.Now().Add(min(saturate.Millis(left), r.Every)))
		}
	}
	return more, failed
}

// beat prolongs the turns under way. What it is told is of no use: a turn that is
// lost cannot be ended either, and its work goes on.
func (r *run) beat() {
	if !r.beating && len(r.held) > 0 {
		r.beating = true
		r.ask(r.beats, script.ExtendTurn, slices.Collect(maps.Keys(r.held)))
	}
}

// stop gives back what is held. It waits for all work, whose ctx has ended, and for
// Redis as long as its patience lasts. A process that is not told waits for the lease
// of a turn.
func (r *run) stop() {
	for len(r.held) > 0 {
		r.end(<-r.ended)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for r.taking || r.telling || len(r.over) > 0 {
		r.tell()
		select {
		case trip := <-r.took:
			r.taking = false
			for n, t := range trip.turns {
				if answer, _ := trip.answer(n); answer != "H" && answer != "D" {
					t.back = true
					r.over = append(r.over, t)
				}
			}
		case trip := <-r.told:
			if _, failed := r.rest(trip); failed {
				return
			}
		case <-timer.C:
			return
		}
	}
}
