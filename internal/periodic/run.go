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

// run is one call of Run. All its fields belong to the goroutine of Run; other
// goroutines answer through its channels.
//
// Each turn moves through these places, and is in one place at a time:
//
//	due ── take ──> held, being worked on ──> over ── end or give back ──> due
//	 ^      │└ unknown: may have been taken ────^
//	 └──────┘ another process has it, or had it
type run struct {
	*Scheduler
	work    context.Context // of Work; it ends with Run
	settled context.Context // of calls to Redis, which the end of Run does not cancel
	away    time.Duration   // the wait for a Redis that does not answer
	lease   time.Duration   // of a turn: TTL minus the delay of the others' looks
	longest int             // periods between two looks

	due  turns
	held map[*turn]struct{} // being worked on
	over []*turn            // to be ended or given back
	free int                // number of free Places

	taking, telling, beating bool // a round trip is in flight

	took, told, beats chan trip // at most one of each is in flight
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
				heartbeat.Stop() // an idle process is not woken
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
				r.tell() // turns that ended meanwhile
			}
		case <-again.C:
			r.tell() // turns that failed the last time
		case <-heartbeat.C:
			r.beat()
		case <-r.beats:
			r.beating = false
		}
	}
}

// take asks for the turns that are due, as many as there are free places, or
// sets look to the time when one will be due.
func (r *run) take(look *time.Timer) {
	if r.taking || r.free == 0 || len(r.due) == 0 {
		look.Stop() // the pending event wakes the loop
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

// nudge moves all looks forward to the next period.
func (r *run) nudge() {
	late := r.stagger()
	for _, t := range r.due {
		t.nudged(r.Every, late)
	}
	heap.Init(&r.due)
}

// begin works on the keys whose turns this process got.
func (r *run) begin(trip trip) {
	now := time.Now()
	slow := now.Sub(trip.sent) >= r.TTL/2 // it might expire before the first heartbeat
	var won []*turn
	for n, t := range trip.turns {
		answer, left := trip.answer(n)
		// A malformed answer must not make this process wait for ever.
		left = min(left, time.Duration(r.longest+2)*r.Every)
		switch {
		case answer == "T" && !slow, answer != "H" && answer != "D" && r.Anyway:
			won = append(won, t)
			t.begins, t.watched = time.Time{}, false
			r.held[t] = struct{}{}
		case answer == "H":
			// Look within a tenth of TTL after its expiry, by which the lease
			// of a turn is shorter; and before that, since it may be given
			// back.
			t.watched = true
			r.look(t, now.Add(min(left, r.TTL/4, r.Every)+rand.N(r.TTL/20)))
		case answer == "D":
			t.watched, t.begins = false, now.Add(left)
			if t.keeps() {
				r.look(t, t.place)
			} else {
				r.look(t, t.begins.Add(r.stagger()))
			}
			t.place = time.Time{}
			if r.Nudge.pending() { // since the command was sent
				r.nudge()
			}
		default:
			// It may have been taken. It is not asked for again before Redis
			// has confirmed that it was given back. So each key costs a Redis
			// that is down one command, and then one a second to give it back.
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
		// It ends with Work, for which loop and stop wait.
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

// end frees the place of a call of Work.
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

// stagger is the extra delay for processes that did not own the last turn. It
// differs between processes.
func (r *run) stagger() time.Duration {
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

// rest plans the next look at turns whose end was reported. A failed report is
// repeated after a second, or a third of TTL if that is shorter, while Redis is
// down, since nothing else can be done about the key. With Anyway, the work can
// be done meanwhile. rest reports whether other turns wait for their report,
// and whether any report failed.
func (r *run) rest(trip trip) (more, failed bool) {
	r.telling = false
	more = len(r.over) > 0
	for n, t := range trip.turns {
		left, ok := trip.number(n)
		switch {
		case r.Anyway && (!ok || left < 0): // it was not taken, or is lost
			failed = failed || !ok
			r.look(t, time.Now().Add(max(t.pause, r.Every)+r.stagger()))
		case !ok:
			failed = true
			r.over = append(r.over, t)
		case left < 0 || t.back:
			// Its state is unknown: asking for the turn reveals the next one.
			at := time.Now().Add(t.pause + r.stagger())
			if t.at.After(at) {
				at = t.at
			}
			r.look(t, at)
		default: // before the others, which look later than told
			r.look(t, time.Now().Add(min(saturate.Millis(left), r.Every)))
		}
	}
	return more, failed
}

// beat prolongs the running turns. The replies are not used: a lost turn cannot
// be ended either, and its work goes on.
func (r *run) beat() {
	if !r.beating && len(r.held) > 0 {
		r.beating = true
		r.ask(r.beats, script.ExtendTurn, slices.Collect(maps.Keys(r.held)))
	}
}

// stop gives back the held turns. It waits for all work, whose ctx has ended,
// and for Redis within its patience. If that fails, the next process waits for
// the lease of the turn.
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
