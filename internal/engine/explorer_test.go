package engine

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// An explorer runs a scenario, which is a few processes that share a Redis and a
// database, in every order in which their steps can come. A step is a command
// that Redis executes, the arrival of its reply, a read or a commit of the
// database, the beginning of a call, or a mishap. The processes are real: each
// has a Loader, and a client whose commands a hook holds back until it is their
// turn. All of it is in a bubble of package synctest, which tells when nothing
// moves any more, so that the next step can be chosen.
//
// An order is tried again from the beginning with its first steps as before.
// Orders that differ only in steps that have nothing to do with each other, such
// as a read of the database here and a GET there, are tried once: this is the
// method of sleep sets (Godefroid, "Partial-Order Methods for the Verification
// of Concurrent Systems", LNCS 1032).
type explorer struct {
	t        *lab
	scenario func(*world)
	clients  map[string]*redis.Client // by process
	world    *world                   // of the schedule under way

	naive bool // without sleep sets

	schedules, pruned, bad int
	complaint              string          // about the first schedule that was bad
	complaints             map[string]bool // all that there were
}

// What a step touches. Two steps may change places if neither writes what the
// other one touches.
const (
	readsKey = 1 << iota
	writesKey
	readsBeside
	writesBeside
	readsDB
	writesDB
	begins     // a call whose result is checked against what ended before
	ends       // a call that others are checked against
	memory     // of its process
	process    // as its end does
	everything // as time does
)

// A step is one that waits to be taken. Its name is unique among those.
type step struct {
	proc, name string
	touches    int
}

// conflicts are what steps of any processes cannot do in either order, and then
// what steps of one process cannot.
var conflicts = [...]struct{ a, b int }{
	{readsKey, writesKey}, {writesKey, writesKey},
	{readsBeside, writesBeside}, {writesBeside, writesBeside},
	{readsDB, writesDB}, {writesDB, writesDB},
	{begins, ends},
	{everything, ^0},
	{memory, memory}, {process, ^0},
}

const conflictsOfAll = len(conflicts) - 2

func (s step) independent(of step) bool {
	for i, c := range conflicts {
		if i >= conflictsOfAll && s.proc != of.proc {
			break
		}
		if s.touches&c.a != 0 && of.touches&c.b != 0 || s.touches&c.b != 0 && of.touches&c.a != 0 {
			return false
		}
	}
	return true
}

// A node is one choice of a schedule.
type node struct {
	steps  []step        // that could be taken
	asleep map[step]bool // those that need not be: an order tried before covers it
	chosen int
}

// wake returns the first step from i on that is not asleep, -1 if all are.
func (n *node) wake(i int) int {
	for ; i < len(n.steps); i++ {
		if !n.asleep[n.steps[i]] {
			return i
		}
	}
	return -1
}

// all runs every schedule.
//
// Where a step sets two goroutines of a process going at once, these may go on
// in either order, and what follows may differ. So a schedule that does not
// repeat is tried some more times before what follows now takes the place of
// what followed then.
func (x *explorer) all() {
	const patience = 50
	var path []*node
	for strays := 0; ; {
		depth, strayed := 0, false
		x.run(func(steps []step) int {
			if depth == len(path) {
				path = append(path, x.node(path, steps))
			} else if !slices.Equal(steps, path[depth].steps) {
				strayed = true
				return -1
			}
			depth++
			return path[depth-1].chosen
		})
		if strayed {
			if strays++; strays > patience {
				path = path[:depth]
			}
			continue
		}
		strays = 0
		for {
			if len(path) == 0 {
				return
			}
			n := path[len(path)-1]
			if n.chosen >= 0 {
				n.asleep[n.steps[n.chosen]] = true
				n.chosen = n.wake(n.chosen + 1)
			}
			if n.chosen >= 0 {
				break
			}
			path = path[:len(path)-1]
		}
	}
}

// node returns the choice that comes after path.
func (x *explorer) node(path []*node, steps []step) *node {
	n := &node{steps: steps, asleep: make(map[step]bool)}
	if len(path) > 0 && !x.naive {
		last := path[len(path)-1]
		for s := range last.asleep {
			if s.independent(last.steps[last.chosen]) {
				n.asleep[s] = true
			}
		}
	}
	n.chosen = n.wake(0)
	return n
}

// some runs n schedules at random.
func (x *explorer) some(n int, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	for range n {
		x.run(func(steps []step) int { return random.IntN(len(steps)) })
	}
}

// run runs one schedule. pick returns which step to take, -1 to give up.
func (x *explorer) run(pick func([]step) int) {
	w := &world{
		x: x, pending: make(map[step]chan struct{}), dead: make(map[string]bool),
		polls: make(map[string]int), open: make(map[string]int),
	}
	w.ctx, w.cancel = context.WithCancel(x.t.Context())
	x.world = w
	x.scenario(w)
	if w.stale {
		x.t.stale("0")
	}
	complete := w.play(pick)
	if complete {
		w.verdict()
	}
	w.end()
	if !complete {
		x.pruned++
		return
	}
	x.schedules++
	if len(w.wrong) > 0 {
		x.bad++
		for _, c := range w.wrong {
			x.complaints[c] = true
		}
		if x.complaint == "" {
			x.complaint = strings.Join(w.wrong, "\n") + "\nin the schedule\n\t" + strings.Join(w.taken, "\n\t")
		}
	}
}
