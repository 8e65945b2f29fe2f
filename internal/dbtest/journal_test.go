package dbtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// note is a line of a journal: an operation that a worker starts, or its
// outcome. A worker runs one operation at a time.
type note struct {
	Worker  string   `json:"w"`  // unique among all processes
	Op      string   `json:"op"` // see the constants
	Key     string   `json:"k,omitempty"`
	Keys    []string `json:"ks,omitempty"` // of opSet
	N       int64    `json:"n,omitempty"`  // the version written or read, or the delta
	ID      string   `json:"id,omitempty"` // of opOnce
	Release uint32   `json:"r,omitempty"`  // of the program
	Outcome string   `json:"o,omitempty"`  // see the constants; "" if the operation starts
	Err     string   `json:"e,omitempty"`
	At      int64    `json:"at,omitempty"` // microseconds since 1970
}

// The operations.
const (
	opSet    = "set"    // of a value
	opRead   = "read"   // of a value
	opAdd    = "add"    // to a count
	opOnce   = "once"   // to a count, with an id
	opBuffer = "buffer" // to a count, by a Buffer and its Flush
	opClose  = "close"  // of the process
)

// The outcomes.
const (
	done    = "done"    // acknowledged
	unknown = "unknown" // it may have been carried out, or may still be
	refused = "refused" // nothing has changed, and nothing will
)

// journal keeps notes in a file, so that they survive the process.
type journal struct{ f *os.File }

func openJournal(name string) (*journal, error) {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	return &journal{f}, err
}

// add writes a note with one call of write, which kill -9 does not split.
func (j *journal) add(n note) {
	n.At = time.Now().UnixMicro()
	line, err := json.Marshal(n)
	if err == nil {
		_, err = j.f.Write(append(line, '\n'))
	}
	if err != nil {
		panic(err)
	}
}

// readJournal returns the notes of a file.
func readJournal(t *testing.T, name string) (all []note) {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		var n note
		require.NoError(t, json.Unmarshal(lines.Bytes(), &n), lines.Text())
		all = append(all, n)
	}
	return all
}

// register is the knowledge of the journals about one value. Its workers write
// and read it one after the other, so its operations have an order.
type register struct {
	acked   note           // the last acknowledged write; N is 0 before
	maybe   map[int64]bool // writes that may be carried out at any time
	written map[int64]note
}

// may reports whether the register may have version n now. An acknowledged
// write must not come back after a later one.
func (r *register) may(n int64) bool { return n == r.acked.N || r.maybe[n] }

// allowed describes the versions that may accepts.
func (r *register) allowed() string {
	return fmt.Sprintf("%d, which was acknowledged, or %v, whose outcome is unknown", r.acked.N, slices.Sorted(maps.Keys(r.maybe)))
}

// count is the knowledge of the journals about one count: it is at least acked,
// and at most acked plus unknown.
type count struct{ acked, unknown int64 }

// span is a period, in microseconds since 1970.
type span struct{ from, to int64 }

// record is the content of the journals, read in the order of the lives of
// their processes.
type record struct {
	registers map[string]*register
	counts    map[string]*count
	pending   map[string]note // per worker, the operation that has started and not ended
	away      []span          // spans without Redis: reads may then be from the database alone
	inDoubt   []note          // of opOnce, to be retried to learn the outcome
	wrong     []string        // violations
	reads     int             // checked reads
	writes    int             // acknowledged writes
	unknowns  int
	refusals  int
	left      int // processes that could not persist everything before they were closed
}

func newRecord() *record {
	return &record{registers: map[string]*register{}, counts: map[string]*count{}, pending: map[string]note{}}
}

func (r *record) register(key string) *register {
	if r.registers[key] == nil {
		r.registers[key] = &register{maybe: map[int64]bool{}, written: map[int64]note{}}
	}
	return r.registers[key]
}

func (r *record) count(key string) *count {
	if r.counts[key] == nil {
		r.counts[key] = new(count)
	}
	return r.counts[key]
}

// read adds the journal of one process, to the end of its life.
func (r *record) read(notes []note) {
	for _, n := range notes {
		if n.Outcome == "" {
			r.pending[n.Worker] = n
			for _, key := range n.Keys {
				reg := r.register(key)
				reg.written[n.N] = n
				reg.maybe[n.N] = true // until the outcome is known
			}
			continue
		}
		began := r.pending[n.Worker]
		delete(r.pending, n.Worker)
		r.ended(began, n)
	}
	for worker, n := range r.pending {
		delete(r.pending, worker)
		if n.Op != opClose {
			r.ended(n, note{Op: n.Op, Outcome: unknown}) // the worker was killed
		}
	}
}

func (r *record) ended(began, n note) {
	if began.Op != n.Op {
		r.wrong = append(r.wrong, fmt.Sprintf("journal: %+v ends %+v", n, began))
		return
	}
	switch {
	case n.Op == opRead || n.Op == opClose:
	case n.Outcome == done:
		r.writes++
	case n.Outcome == unknown:
		r.unknowns++
	case n.Outcome == refused:
		r.refusals++
	}
	switch n.Op {
	case opSet:
		for _, key := range began.Keys {
			reg := r.register(key)
			switch n.Outcome {
			case done:
				delete(reg.maybe, began.N)
				reg.acked = began
			case refused:
				delete(reg.maybe, began.N)
			}
		}
	case opRead:
		if n.Outcome != done || slices.ContainsFunc(r.away, func(s span) bool { return began.At <= s.to && s.from <= n.At }) {
			return
		}
		reg := r.register(began.Key)
		if reg.acked.Release != 0 && reg.acked.Release != n.Release {
			return // the worker cannot read the pending value, and gets the database's
		}
		r.reads++
		if !reg.may(n.N) {
			r.wrong = append(r.wrong, fmt.Sprintf("%s was read as %d by release %d, and may be %s; its last write: %+v",
				began.Key, n.N, n.Release, reg.allowed(), reg.acked))
		}
	case opAdd, opBuffer, opOnce:
		switch c := r.count(began.Key); n.Outcome {
		case done:
			c.acked += began.N
		case unknown:
			c.unknown += began.N
			if n.Op == opOnce {
				r.inDoubt = append(r.inDoubt, began)
			}
		}
	case opClose:
		if n.Outcome != done {
			r.left++
		}
	}
}

// requireRight fails if the journals contain a violation.
func (r *record) requireRight(t *testing.T) {
	t.Helper()
	require.Empty(t, strings.Join(r.wrong[:min(len(r.wrong), 5)], "\n"), "%d of these", len(r.wrong))
}

func TestRecord_KnowsRightFromWrong(t *testing.T) {
	t.Parallel()
	set := func(n int64, outcome string) []note {
		return []note{{Worker: "w", Op: opSet, Keys: []string{"x"}, N: n}, {Worker: "w", Op: opSet, Outcome: outcome}}
	}
	read := func(n int64) []note {
		return []note{{Worker: "w", Op: opRead, Key: "x"}, {Worker: "w", Op: opRead, N: n, Outcome: done}}
	}
	for name, c := range map[string]struct {
		notes []note
		wrong bool
	}{
		"a read of what was acknowledged":      {slices.Concat(set(1, done), set(2, done), read(2)), false},
		"a read of what is older":              {slices.Concat(set(1, done), set(2, done), read(1)), true},
		"a read of what was refused":           {slices.Concat(set(1, done), set(2, refused), read(2)), true},
		"a read of what is unknown":            {slices.Concat(set(1, done), set(2, unknown), read(2)), false},
		"a read of what was before an unknown": {slices.Concat(set(1, done), set(2, unknown), read(1)), false},
		"an unknown write that comes late":     {slices.Concat(set(1, unknown), set(2, done), read(2), read(1)), false},
		"a read of nothing after a write":      {slices.Concat(set(1, done), read(0)), true},
		"a read of nothing":                    {read(0), false},
	} {
		r := newRecord()
		r.read(c.notes)
		require.Equal(t, c.wrong, len(r.wrong) > 0, "%s: %v", name, r.wrong)
	}
	r := newRecord()
	r.read(set(1, done)[:1]) // killed
	require.True(t, r.register("x").may(1))
	require.True(t, r.register("x").may(0))
	r.read([]note{{Worker: "a", Op: opAdd, Key: "c", N: 5}, {Worker: "a", Op: opAdd, Outcome: done}, {Worker: "a", Op: opAdd, Key: "c", N: 7}})
	require.Equal(t, count{acked: 5, unknown: 7}, *r.count("c"))
}
