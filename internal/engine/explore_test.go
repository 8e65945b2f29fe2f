package engine

import (
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// These environment variables extend the tests of scenarios: to every order of
// every scenario, or to the random orders of a run that failed.
const (
	exploreAll  = "CACHEX_EXPLORE_ALL"  // not empty
	exploreSeed = "CACHEX_EXPLORE_SEED" // a number
)

func newExplorer(t *lab, scenario func(*world)) *explorer {
	return &explorer{t: t, scenario: scenario, clients: make(map[string]*redis.Client), complaints: make(map[string]bool)}
}

// read starts a caller in each of the processes, which have Loaders.
func (w *world) read(procs ...string) {
	for _, proc := range procs {
		w.call(proc, proc, w.reader(proc, w.loader(proc)))
	}
}

// share starts callers in one process P.
func (w *world) share(callers ...string) (*Loader[int64], reader) {
	l := w.loader("P")
	r := w.reader("P", l)
	for _, name := range callers {
		w.call("P", name, r)
	}
	return l, r
}

func nothingMore() {}

// A scenario is explored in many orders. Without a sample it is small enough to
// always try all orders.
type scenario struct {
	sample int
	play   func(*world)
}

var scenarios = map[string]scenario{
	"a reader and a writer": {0, func(w *world) {
		w.replies = true
		w.read("A")
		w.change("W", nothingMore, nothingMore)
	}},
	"two readers and a writer": {0, func(w *world) {
		w.most = 1
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"two readers and two writers": {100, func(w *world) {
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
		w.change("X", nothingMore, nothingMore)
	}},
	"two readers, a writer, and a lease that is lost": {100, func(w *world) {
		w.most = 1
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
		w.evict()
	}},
	"two readers, a writer, and a reader afterwards": {100, func(w *world) {
		w.read("A", "B")
		late := w.reader("C", w.loader("C"))
		w.change("W", nothingMore, func() { w.check("C", "C", late) })
	}},
	"two readers and an Expire": {0, func(w *world) {
		w.most = 1
		w.read("A", "B")
		w.expire("W")
	}},
	"a reader, an Expire, and a reader afterwards": {0, func(w *world) {
		w.most = 1
		w.read("A")
		late := w.reader("B", w.loader("B"))
		w.expireThen("W", func() { w.check("B", "B", late) })
	}},
	"two callers of one process, the last one after the key expires elsewhere": {0, func(w *world) {
		w.replies = true
		_, r := w.share("A")
		w.expireThen("W", func() { w.check("P", "B", r) })
	}},
	"two callers of one process that reloads a stale value, the last one after it expires, and heartbeats": {100, func(w *world) {
		w.stale, w.replies = true, true
		_, r := w.share("A")
		w.expireThen("W", func() { w.check("P", "B", r) })
		w.heartbeat()
		w.heartbeat()
	}},
	"two readers, a writer, and an Expire": {100, func(w *world) {
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
		w.expire("X")
	}},
	"two readers of a stale value and a writer": {0, func(w *world) {
		w.stale = true
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"two readers, one of which dies, and a writer": {100, func(w *world) {
		w.read("A", "B")
		w.crash("A")
		w.change("W", nothingMore, nothingMore)
	}},
	"two readers, a writer, and a network that delivers twice": {100, func(w *world) {
		w.copies = true
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"three readers and a writer": {100, func(w *world) {
		w.read("A", "B", "C")
		w.change("W", nothingMore, nothingMore)
	}},
	"two callers of one process, and a writer elsewhere": {0, func(w *world) {
		w.replies = true
		w.share("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"three callers of one process, the last one after a deletion elsewhere": {0, func(w *world) {
		_, r := w.share("A", "B")
		w.change("W", nothingMore, func() { w.check("P", "C", r) })
	}},
	"two callers of one process, the last one after a deletion elsewhere, and heartbeats": {100, func(w *world) {
		w.replies = true
		_, r := w.share("A")
		w.change("W", nothingMore, func() { w.check("P", "B", r) })
		w.heartbeat()
		w.heartbeat()
	}},
	"two callers in the process of the writer": {100, func(w *world) {
		w.replies = true
		l, _ := w.share("A", "B")
		w.change("P", func() { l.Forget(w.x.t.key) }, nothingMore)
	}},
	"two callers in the process of the writer, the last one after the deletion": {0, func(w *world) {
		w.replies = true
		l, r := w.share("A")
		w.change("P", func() { l.Forget(w.x.t.key) }, func() { w.check("P", "B", r) })
	}},
	"two readers that get a stale value, and a writer": {0, func(w *world) {
		w.stale, w.swr, w.most = true, 1000*time.Hour, 1
		w.read("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"a process that reloads a stale value, and a caller there after a deletion elsewhere": {0, func(w *world) {
		w.stale, w.swr, w.replies = true, 1000*time.Hour, true
		_, r := w.share("A")
		w.change("W", nothingMore, func() { w.check("P", "B", r) })
	}},
	"two callers of one process that reloads a stale value, and one after a deletion elsewhere": {100, func(w *world) {
		w.stale, w.swr, w.replies = true, 1000*time.Hour, true
		_, r := w.share("A", "B")
		w.change("W", nothingMore, func() { w.check("P", "C", r) })
		w.heartbeat()
	}},
	"two readers of a stale value, one of which dies, a writer, and an Expire": {100, func(w *world) {
		w.stale, w.swr = true, 1000*time.Hour
		w.read("A", "B")
		w.crash("A")
		w.change("W", nothingMore, nothingMore)
		w.expire("X")
	}},
	"a reader, a Refresh, and a writer": {0, func(w *world) {
		w.most = 1
		w.read("A")
		w.refresh("R", "R", w.loader("R"))
		w.change("W", nothingMore, nothingMore)
	}},
	"two processes that refresh, and a writer": {100, func(w *world) {
		w.stale = true
		w.refresh("R", "R", w.loader("R"))
		w.refresh("S", "S", w.loader("S"))
		w.change("W", nothingMore, nothingMore)
	}},
	"a reader and two Refreshes in one process, and a writer elsewhere": {100, func(w *world) {
		w.replies = true
		l, _ := w.share("A")
		w.refresh("P", "R", l)
		w.refresh("P", "S", l)
		w.change("W", nothingMore, nothingMore)
	}},
	"two callers of one process, one elsewhere, and a writer": {100, func(w *world) {
		w.share("A", "B")
		w.read("Q")
		w.change("W", nothingMore, nothingMore)
	}},
}

func TestExplorer_NoOrderBreaksTheProtocol(t *testing.T) {
	t.Parallel()
	explore(t, scenarios)
}

// Packed entries follow the same protocol in other places, so a few random
// orders of every scenario are enough.
func TestExplorer_NoOrderBreaksTheProtocolOfPackedEntries(t *testing.T) {
	t.Parallel()
	const sample = 8
	seed := exploringSeed(t)
	for _, some := range []map[string]scenario{scenarios, manyScenarios, throughScenarios} {
		for name, s := range some {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				bubbles(t, func(t *lab) {
					t.pack()
					exploring(t, s, sample, seed)
				})
			})
		}
	}
}

func explore(t *testing.T, scenarios map[string]scenario) {
	t.Helper()
	seed := exploringSeed(t)
	for name, s := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) { exploring(t, s, s.sample, seed) })
		})
	}
}

func exploringSeed(t *testing.T) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(exploreSeed); s != "" {
		var err error
		seed, err = strconv.ParseUint(s, 10, 64)
		require.NoError(t, err)
	}
	return seed
}

// exploring tries sample random orders of a scenario; if sample is 0, all of
// them.
func exploring(t *lab, s scenario, sample int, seed uint64) {
	x := newExplorer(t, s.play)
	if sample == 0 || os.Getenv(exploreAll) != "" {
		x.all()
	} else {
		t.Logf("%s=%d", exploreSeed, seed)
		x.some(sample, seed)
	}
	t.Logf("%d schedules, and %d that others cover", x.schedules, x.pruned)
	require.Zero(t, x.bad, x.complaint)
}
