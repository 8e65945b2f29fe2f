package conformance

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// An event is something that somebody did to a key, from a moment to another.
type event struct {
	op         string // "load"; "delete" or "set" that succeeded; "read" that returned a value
	key        int
	version    int    // that was loaded or read; of a delete, that the database had before it began
	start, end int64  // moments, which no two events share
	release    uint32 // of the program, of a read of what is written behind
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
//     database had when the delete began; and so with a set. The exception is a version
//     whose own set has ended without a known outcome: it may come at any time.
//   - A read has no version whose set was refused, where values are written behind.
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

	// behind says that the database has a version some time after its set.
	behind  bool
	by      uint          // the releases that set it, as a set of bits
	unknown map[int]event // sets whose outcome is unknown, by version
	refused map[int]event // sets that have changed nothing, by version
	why     map[int]error // the errors of refused
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
	case "delete", "set":
		if n := len(k.deletes); n == 0 || k.deletes[n-1].version < e.version {
			k.deletes = append(k.deletes, e)
		}
	case "read":
		h.check(k, e)
		k.ended(e)
	}
}

// unknown is told of a set whose outcome is unknown.
func (h *history) unknown(set event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	set.end = h.clock
	h.count["unknown"]++
	h.of(set.key).unknown[set.version] = set
}

// refused is told of a set that has changed nothing, by its error.
func (h *history) refused(set event, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.clock++
	set.end = h.clock
	h.count["refused"]++
	k := h.of(set.key)
	k.refused[set.version], k.why[set.version] = set, err
}

// follows reports whether a version of what is written behind may take the place of
// another one in the database: it is newer, or nobody knows when it was set.
func (h *history) follows(key, before, version int) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, late := h.of(key).unknown[version]
	return version > before || late
}

// least returns "" if version is what key, which is written behind, may have when all
// is persisted.
func (h *history) least(key, version int) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(key)
	if _, late := k.unknown[version]; late || len(k.deletes) == 0 {
		return ""
	}
	switch last := k.deletes[len(k.deletes)-1]; {
	case version < last.version:
		return fmt.Sprintf("and version %d was acknowledged", last.version)
	case version > last.version:
		return fmt.Sprintf("which was not acknowledged, as version %d was last; its set returned: %v", last.version, k.why[version])
	}
	return ""
}

// writtenBehind says that key is written behind, by these releases.
func (h *history) writtenBehind(key int, releases ...uint32) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(key)
	k.behind = true
	for _, r := range releases {
		k.by |= 1 << r
	}
}

func (h *history) check(k *keyHistory, read event) {
	if read.version < 1 || read.version > k.version {
		h.blame("a version that the database never had", []event{read})
	}
	if set, ok := k.refused[read.version]; ok && k.behind {
		h.blame("a value that was refused", []event{set, read})
	}
	if _, ok := k.unknown[read.version]; ok {
		return
	}
	if k.behind && k.by&^(1<<read.release) != 0 {
		return // it cannot read what is pending, and gets what the database has
	}
	for _, d := range slices.Backward(k.deletes) {
		if d.end < read.start && d.version > read.version {
			h.blame("a value that was "+map[string]string{"delete": "deleted", "set": "replaced"}[d.op]+" before the read began", h.because(k, d, read))
		}
		if d.version <= read.version {
			break
		}
	}
	if k.behind {
		return // a version that is newer may be one that was refused
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
	return fmt.Sprintf("%d reads, %d loads, %d commits, %d deletes, %d sets, %d unknown, %d refused", h.count["read"], h.count["load"],
		h.count["commit"], h.count["delete"], h.count["set"], h.count["unknown"], h.count["refused"])
}

// of returns the history of key. The caller holds mu.
func (h *history) of(key int) *keyHistory {
	k := h.keys[key]
	if k == nil {
		k = &keyHistory{version: 1, unknown: map[int]event{}, refused: map[int]event{}, why: map[int]error{}}
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
	// No set of unknown outcome is forgotten: what is written behind may wait for
	// as long as the fault lasts.
	for version, set := range k.refused {
		if now.at-set.at > bound {
			delete(k.refused, version)
			delete(k.why, version)
		}
	}
}

// after returns events from the last one on that is old. Those that are come first.
func after(events []event, old func(event) bool) []event {
	n := 0
	for n < len(events) && old(events[n]) {
		n++
	}
	return events[max(0, n-1):]
}
