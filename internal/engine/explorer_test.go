package engine

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/redis/go-redis/v9"
)

// An explorer runs a scenario in every possible order of its steps. A scenario
// is a few processes that share a Redis and a database. A step is a command that
// Redis executes, the arrival of its reply, a read or a commit of the database,
// the beginning of a call, or a mishap. The processes are real: each has a
// Loader, and a client whose commands a hook holds back until their turn. A
// bubble of package synctest tells when nothing moves any more, so that the next
// step can be chosen.
//
// Each order is run from the beginning, with its first steps as before. Some
// orders differ only in steps that have nothing to do with each other, such as a
// read of the database here and a GET there. They are tried once: this is the
// method of sleep sets (Godefroid, "Partial-Order Methods for the Verification
// of Concurrent Systems", LNCS 1032).
type explorer struct {
	t        *lab
	scenario func(*world)
	clients  map[string]*redis.Client // by process
	world    *world                   // of the active schedule

	naive bool // without sleep sets

	schedules, pruned, bad int
	complaint              string          // about the first bad schedule
	complaints             map[string]bool // all complaints
}

// The touches of a step. Two steps may change places if neither writes a thing
// that the other touches.
const (
	readsKey = 1 << iota
	writesKey
	readsBeside
	writesBeside
	readsDB
	writesDB
	begins     // a call whose result is checked against calls that ended before
	ends       // a call that others are checked against
	memory     // of its process
	process    // the end of its process touches it
	everything // the passing of time touches it
)

// A step waits to be taken. Its name is unique among the waiting steps.
type step struct {
	proc, name string
	touches    int
}

// conflicts are the pairs of touches that steps of any processes cannot swap,
// followed by those that steps of one process cannot swap.
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
	steps  []step        // the steps to choose from
	asleep map[step]bool // steps to skip: an order tried before covers them
	chosen int
}

// wake returns the first step from i on that is not asleep, or -1 if all are
// asleep.
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
// If a step starts two goroutines of a process at once, these may go on in
// either order, and later steps may differ. So a schedule that does not repeat
// is tried some more times before its new steps replace the old ones.
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

// some runs n random schedules.
func (x *explorer) some(n int, seed uint64) {
	random := rand.New(rand.NewPCG(seed, 0))
	for range n {
		x.run(func(steps []step) int { return random.IntN(len(steps)) })
	}
}

// run runs one schedule. pick returns the step to take, or -1 to give up.
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
