package engine

import (
	"context"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/singleflight"

	"github.com/cachex-go/cachex/internal/entry"
)

// The tests of this file test the explorer. Each runs a protocol that lacks one
// part of ours, and the explorer must find the order of steps that shows why
// the part is needed. Most also run the protocol with that part, and the
// explorer must find nothing.

// A form is a simple cache-aside protocol, with optional faults.
type form struct {
	token   func() Token // of an attempt
	compare bool         // Store compares tokens
	resend  bool         // the first copy of Acquire is delayed, and the client sends it again
}

func sound() form { return form{token: entry.NewToken, compare: true} }

// reader returns the form's way to read the key in process proc.
func (f form) reader(w *world, proc string) reader {
	rdb, key := w.x.client(proc), w.x.t.key
	leases, err := NewLeases(rdb, time.Hour)
	require.NoError(w.x.t, err)
	return func(ctx context.Context) (int64, error) {
		if f.resend {
			first := f.token()
			w.delay(proc, func() { _, _ = w.x.leases().acquire(ctx, key, acquireRequest{token: first}) })
		}
		token := f.token()
		a, err := leases.acquire(ctx, key, acquireRequest{token: token})
		if err != nil {
			return 0, err
		}
		if a.Grant == Hit {
			_, payload, _ := entry.Parse(key, a.Entry)
			return strconv.ParseInt(string(payload), 10, 64)
		}
		v, err := w.load(ctx, proc)
		if err != nil || a.Grant != Granted {
			return v, err
		}
		payload := strconv.AppendInt(nil, v, 10)
		if f.compare {
			_, err = leases.Store(ctx, key, token, payload, hour, time.Now(), 0)
		} else {
			err = leases.Write(ctx, key, payload, hour)
		}
		return v, err
	}
}

// leases returns leases whose commands are not steps.
func (x *explorer) leases() *Leases {
	leases, err := NewLeases(x.t.rdb, time.Hour)
	require.NoError(x.t, err)
	return leases
}

// delay makes the delivery of a command a step that may come at any later time.
func (w *world) delay(proc string, deliver func()) {
	w.spawn(func() {
		if w.step(step{"network", "a delayed command of " + proc, writesKey}) == nil {
			deliver()
		}
	})
}

// explored returns the explorer of scenario after it has run all its schedules.
func explored(t *testing.T, scenario func(*world)) (x *explorer) {
	embedded(t, func(t *lab) {
		x = newExplorer(t, scenario)
		x.all()
	})
	t.Logf("%d schedules, and %d that others cover, of which %d violate an invariant: %v", x.schedules, x.pruned, x.bad, slices.Sorted(maps.Keys(x.complaints)))
	return x
}

func requireViolations(t *testing.T, scenario func(*world)) {
	t.Helper()
	require.Positive(t, explored(t, scenario).bad, "the explorer is blind")
}

func requireNone(t *testing.T, scenario func(*world)) {
	t.Helper()
	x := explored(t, scenario)
	require.Zero(t, x.bad, x.complaint)
}

// plain is the cache-aside of the textbooks: GET, load, SET.
func plain(w *world, proc string) reader {
	rdb := w.x.client(proc)
	return func(ctx context.Context) (int64, error) {
		v, err := rdb.Get(ctx, w.x.t.key).Int64()
		if err == nil {
			return v, nil
		}
		if v, err = w.load(ctx, proc); err == nil {
			err = rdb.Set(ctx, w.x.t.key, v, 0).Err()
		}
		return v, err
	}
}

func TestExplorer_FindsLoadsWithoutALease(t *testing.T) {
	t.Parallel()
	for name, procs := range map[string][]string{"a reader": {"A"}, "two readers": {"A", "B"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			requireViolations(t, func(w *world) {
				for _, proc := range procs {
					w.call(proc, proc, plain(w, proc))
				}
				w.change("W", nothingMore, nothingMore)
			})
		})
	}
}

func TestExplorer_FindsATokenUsedTwice(t *testing.T) {
	t.Parallel()
	scenario := func(f form) func(*world) {
		return func(w *world) {
			// Two attempts of one process. They share no memory, which saves
			// orders.
			w.call("A", "A", f.reader(w, "A"))
			w.call("B", "B", f.reader(w, "B"))
			w.change("W", nothingMore, nothingMore)
		}
	}
	ofTheProcess := sound()
	ofTheProcess.token = func() Token { return Token{1} }
	requireViolations(t, scenario(ofTheProcess))
	requireNone(t, scenario(sound()))
}

func TestExplorer_FindsAStoreThatComparesNoToken(t *testing.T) {
	t.Parallel()
	scenario := func(f form) func(*world) {
		return func(w *world) {
			w.call("A", "A", f.reader(w, "A"))
			w.call("B", "B", f.reader(w, "B"))
			w.change("W", nothingMore, nothingMore)
		}
	}
	careless := sound()
	careless.compare = false
	requireViolations(t, scenario(careless))
	requireNone(t, scenario(sound()))
}

// M9 of interleaving_test.go.
func TestExplorer_FindsAnAcquireSentTwice(t *testing.T) {
	t.Parallel()
	scenario := func(f func() form) func(*world) {
		return func(w *world) {
			w.orphans = true
			w.call("A", "A", f().reader(w, "A"))
			w.change("W", nothingMore, nothingMore)
		}
	}
	requireViolations(t, scenario(func() form {
		resent := sound()
		resent.resend = true
		resent.token = func() Token { return Token{1} }
		return resent
	}))
	requireNone(t, scenario(func() form {
		fresh := sound()
		fresh.resend = true
		return fresh
	}))
}

// A flight in the manner of singleflight answers every waiter, also one who
// came after a deletion by another process. (Forget does not help: the process
// does not hear of that deletion.)
func TestExplorer_FindsAFlightThatAnswersEveryWaiter(t *testing.T) {
	t.Parallel()
	scenario := func(wrap func(reader) reader) func(*world) {
		return func(w *world) {
			r := wrap(sound().reader(w, "P"))
			w.call("P", "A", r)
			w.change("W", nothingMore, func() { w.check("P", "B", r) })
		}
	}
	requireViolations(t, scenario(func(r reader) reader {
		var group singleflight.Group
		return func(ctx context.Context) (int64, error) {
			v, err, _ := group.Do("key", func() (any, error) { return r(ctx) })
			return v.(int64), err
		}
	}))
	requireNone(t, scenario(func(r reader) reader { return r }))
}

func TestExplorer_FindsADeletionThatForgetsNoFlight(t *testing.T) {
	t.Parallel()
	scenario := func(forget bool) func(*world) {
		return func(w *world) {
			w.replies = true
			var fs Flights[int64]
			r := sound().reader(w, "P")
			shared := func(ctx context.Context) (int64, error) { return fs.Do(ctx, "key", r) }
			w.call("P", "A", shared)
			w.change("P", func() {
				if forget {
					fs.Forget("key")
				}
			}, func() { w.check("P", "B", shared) })
		}
	}
	requireViolations(t, scenario(false))
	requireNone(t, scenario(true))
}

// The orders that sleep sets skip must be covered by other orders.
func TestExplorer_FindsTheSameWithSleepSets(t *testing.T) {
	t.Parallel()
	for name, scenario := range map[string]func(*world){
		"without a lease": func(w *world) {
			w.call("A", "A", plain(w, "A"))
			w.change("W", nothingMore, func() { w.check("W", "B", plain(w, "B")) })
		},
		"with replies": func(w *world) {
			w.replies = true
			w.call("A", "A", plain(w, "A"))
			w.change("W", nothingMore, nothingMore)
		},
		"without comparing": func(w *world) {
			careless := sound()
			careless.compare = false
			w.call("A", "A", careless.reader(w, "A"))
			w.change("W", nothingMore, nothingMore)
			w.evict()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				reduced, naive := newExplorer(t, scenario), newExplorer(t, scenario)
				naive.naive = true
				reduced.all()
				naive.all()
				t.Logf("%d schedules and %d cut short, in place of %d", reduced.schedules, reduced.pruned, naive.schedules)
				require.NotEmpty(t, naive.complaints)
				require.Equal(t, naive.complaints, reduced.complaints)
				require.Less(t, reduced.schedules+reduced.pruned, naive.schedules)
			})
		})
	}
}
