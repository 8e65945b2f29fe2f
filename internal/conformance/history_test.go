package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// An event is something that somebody did to a key, from a moment to another.
type event struct {
	op         string // "load", "delete" that succeeded, "read" that returned a value
	key        int
	version    int   // that was loaded or read; of a delete, that the database had before it began
	start, end int64 // moments, which no two events share
	at         time.Duration
}

func (e event) String() string {
	return fmt.Sprintf("[%d, %d] %-6s of key %d: version %d, begun at %v", e.start, e.end, e.op, e.key, e.version, e.at.Round(time.Microsecond))
}

// A history checks what happens while it happens, and remembers of each key no more
// than a read under way, or one that is still to come, is measured by. It proves of all
// that it is told:
//
//   - A read that began after a delete had returned has no version older than what the
//     database had when the delete began.
//   - A read has no version that the database had replaced longer than bound before the
//     read began, whether anybody has deleted it or not.
//   - A read has a version that the database had.
//
// It is safe for concurrent use.
type history struct {
	bound time.Duration // of staleness
	began time.Time

	mu      sync.Mutex
	clock   int64               // guarded by mu
	keys    map[int]*keyHistory // guarded by mu
	offence []event             // guarded by mu: the shortest one
	why     string              // guarded by mu: what is wrong about it
	count   map[string]int      // guarded by mu: of events, by op
}

type keyHistory struct {
	version int     // that the database has
	reads   []event // that are under way, in the order in which they began
	commits []event // of versions, in their order; a suffix of all
	deletes []event // in the order in which they returned, and of ever newer versions; a suffix of all
	loads   []event // the latest ones
}

// evidence is how many loads a key keeps. They prove nothing, but tell how a read came
// by what it has.
const evidence = 256

func newHistory(bound time.Duration) *history {
	return &history{bound: bound, began: time.Now(), keys: map[int]*keyHistory{}, count: map[string]int{}}
}

// begin returns the beginning of an event.
func (h *history) begin(op string, key int) event {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	k := h.of(key)
	e := event{op: op, key: key, start: h.clock, version: k.version, at: time.Since(h.began)}
	if op == "read" {
		k.reads = append(k.reads, e)
	}
	return e
}

// drop forgets an event that has come to nothing.
func (h *history) drop(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(e.key).ended(e)
}

// commit writes the next version of key to the database, and returns it.
func (h *history) commit(key int) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(key)
	h.clock++
	k.version++
	e := event{op: "commit", key: key, version: k.version, start: h.clock, end: h.clock, at: time.Since(h.began)}
	k.commits = append(k.commits, e)
	k.forget(e, h.bound)
	h.count["commit"]++
	return k.version
}

// end is told how an event ended; of a read, with which version.
func (h *history) end(e event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	e.end = h.clock
	h.count[e.op]++
	k := h.of(e.key)
	switch e.op {
	case "load":
		k.loads = append(k.loads[max(0, len(k.loads)-evidence+1):], e)
	case "delete":
		if n := len(k.deletes); n == 0 || k.deletes[n-1].version < e.version {
			k.deletes = append(k.deletes, e)
		}
	case "read":
		h.check(k, e)
		k.ended(e)
	}
}

func (h *history) check(k *keyHistory, read event) {
	if read.version < 1 || read.version > k.version {
		h.blame("a version that the database never had", []event{read})
	}
	for _, d := range slices.Backward(k.deletes) {
		if d.end < read.start && d.version > read.version {
			h.blame("a value that was deleted before the read began", h.because(k, d, read))
		}
		if d.version <= read.version {
			break
		}
	}
	// The first commit after the version that was read made it stale. If that is
	// forgotten, the oldest one that is not is too old as well.
	i, _ := slices.BinarySearchFunc(k.commits, read.version+1, func(c event, v int) int { return cmp.Compare(c.version, v) })
	if i < len(k.commits) && read.at-k.commits[i].at > h.bound {
		h.blame(fmt.Sprintf("a value that was replaced more than %v before", h.bound), h.because(k, k.commits[i], read))
	}
}

// because returns the load that the read has its version of, then what should have
// hindered that, and the read.
func (h *history) because(k *keyHistory, hindrance, read event) []event {
	offence := []event{hindrance, read}
	for _, l := range slices.Backward(k.loads) {
		if l.version == read.version && l.start < read.end {
			offence = append(offence, l)
			break
		}
	}
	slices.SortFunc(offence, func(a, b event) int { return cmp.Compare(a.start, b.start) })
	return offence
}

// blame keeps the offence that spans the least.
func (h *history) blame(why string, offence []event) {
	span := func(o []event) int64 { return o[len(o)-1].end - o[0].start }
	if h.offence == nil || span(offence) < span(h.offence) {
		h.why, h.offence = why, offence
	}
}

// verdict returns "" or the shortest history that is wrong.
func (h *history) verdict() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.offence == nil {
		return ""
	}
	var b strings.Builder
	fmt.Fprintf(&b, "a read returned %s:\n", h.why)
	for _, e := range h.offence {
		fmt.Fprintln(&b, e)
	}
	return b.String()
}

func (h *history) counts() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return fmt.Sprintf("%d reads, %d loads, %d commits, %d deletes", h.count["read"], h.count["load"], h.count["commit"], h.count["delete"])
}

// of returns the history of key. The caller holds mu.
func (h *history) of(key int) *keyHistory {
	k := h.keys[key]
	if k == nil {
		k = &keyHistory{version: 1}
		h.keys[key] = k
	}
	return k
}

// ended takes a read away from those under way.
func (k *keyHistory) ended(e event) {
	k.reads = slices.DeleteFunc(k.reads, func(r event) bool { return r.start == e.start })
}

// forget drops what nothing can be measured by any more: no read that is under way now,
// nor one that begins later.
func (k *keyHistory) forget(now event, bound time.Duration) {
	if len(k.reads) > 0 {
		now = k.reads[0]
	}
	// The last delete that had returned before it is the one that counts, and so is the
	// last commit that was too long before it.
	k.deletes = after(k.deletes, func(d event) bool { return d.end < now.start })
	k.commits = after(k.commits, func(c event) bool { return now.at-c.at > bound })
}

// after returns events from the last one on that is old. Those that are come first.
func after(events []event, old func(event) bool) []event {
	n := 0
	for n < len(events) && old(events[n]) {
		n++
	}
	return events[max(0, n-1):]
}

// The checker is what everything else here rests on, so it is shown histories that
// are right and such that are not.
func TestTheCheckerKnowsRightFromWrong(t *testing.T) {
	t.Parallel()
	const many = 5000
	read := func(h *history, version int) {
		e := h.begin("read", 1)
		e.version = version
		h.end(e)
	}
	for name, c := range map[string]struct {
		happens func(h *history)
		wrong   string
	}{
		"a read after a delete is new": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			read(h, 2)
		}, ""},
		"a read after a delete is old": {func(h *history) {
			h.end(h.begin("load", 1))
			h.commit(1)
			h.end(h.begin("delete", 1))
			read(h, 1)
		}, "deleted before the read began"},
		"a read that began before the delete returned may be old": {func(h *history) {
			h.commit(1)
			d, r := h.begin("delete", 1), h.begin("read", 1)
			h.end(d)
			r.version = 1
			h.end(r)
		}, ""},
		"a commit after the delete began is not its matter": {func(h *history) {
			d := h.begin("delete", 1)
			h.commit(1)
			h.end(d)
			read(h, 1)
		}, ""},
		"a delete that returns late with an old version changes nothing": {func(h *history) {
			late := h.begin("delete", 1)
			h.commit(1)
			h.end(h.begin("delete", 1))
			h.end(late)
			read(h, 1)
		}, "deleted before the read began"},
		"a delete of another key": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 2))
			read(h, 1)
		}, ""},
		"a version out of nowhere": {func(h *history) { read(h, 7) }, "never had"},
		"no version":               {func(h *history) { read(h, 0) }, "never had"},
		"a value that was replaced long ago": {func(h *history) {
			h.commit(1)
			e := h.begin("read", 1)
			e.version, e.at = 1, e.at+2*h.bound
			h.end(e)
		}, "was replaced more than"},
		"a wrong one after very many": {func(h *history) {
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			read(h, many)
		}, "deleted before the read began"},
		"a wrong one that took very long": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			r := h.begin("read", 1)
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			r.version = 1
			h.end(r)
		}, "deleted before the read began"},
		"a right one that took very long": {func(h *history) {
			h.commit(1)
			h.end(h.begin("delete", 1))
			r := h.begin("read", 1)
			for range many {
				h.commit(1)
				h.end(h.begin("delete", 1))
			}
			r.version = 2
			h.end(r)
		}, ""},
		"a value that was replaced before all that is remembered": {func(h *history) {
			h.bound = 0
			for range many {
				h.commit(1)
			}
			e := h.begin("read", 1)
			e.version, e.at = 1, e.at+1
			h.end(e)
		}, "was replaced more than"},
	} {
		h := newHistory(time.Hour)
		c.happens(h)
		if c.wrong == "" {
			require.Empty(t, h.verdict(), name)
		} else {
			require.Contains(t, h.verdict(), c.wrong, name)
		}
	}
	h := newHistory(time.Hour)
	h.end(h.begin("load", 1))
	h.commit(1)
	h.end(h.begin("delete", 1))
	read(h, 1)
	for range 10 {
		read(h, 1)
	}
	require.Len(t, strings.Split(strings.TrimSpace(h.verdict()), "\n"), 4, "the load, the delete, the first read: %s", h.verdict())
}

func TestTheCheckerForgetsWhatNothingIsMeasuredByAnyMore(t *testing.T) {
	t.Parallel()
	h := newHistory(0)
	long, gone := h.begin("read", 1), h.begin("read", 1)
	h.drop(gone)
	for range 5000 {
		h.end(h.begin("load", 1))
		h.commit(1)
		h.end(h.begin("delete", 1))
	}
	k := h.keys[1]
	require.Len(t, k.deletes, 5000, "the read that is under way may have the version of any of them")
	require.Len(t, k.loads, evidence)
	long.version = k.version
	h.end(long)
	h.commit(1)
	require.Empty(t, k.reads)
	require.Len(t, k.deletes, 1)
	require.LessOrEqual(t, len(k.commits), 2)
}
