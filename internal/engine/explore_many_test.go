package engine

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

// beside is a second key, read together with the one that changes. Its value
// never changes.
func (w *world) beside() string { return w.x.t.key + ":beside" }

// pair returns a reader that reads both keys by a real Loader. It returns the
// value of the key that changes.
func (w *world) pair(proc string, l *Loader[int64]) reader {
	w.two = true
	keys := []string{w.x.t.key, w.beside()}
	return func(ctx context.Context) (int64, error) {
		as := l.GetMany(ctx, keys, 0, func(ctx context.Context, is []int) []typedLoaded[int64] {
			all := make([]typedLoaded[int64], len(is))
			name := "load of " + caller(ctx) + fmt.Sprint(is)
			err := w.step(step{proc, name, readsDB | memory})
			w.mu.Lock()
			for j, i := range is {
				if all[j] = (typedLoaded[int64]{Value: besides, Life: w.life(), Err: err}); keys[i] == w.x.t.key {
					all[j].Value = w.db
				}
			}
			w.mu.Unlock()
			if w.replies && err == nil { // others may join while the reply is on its way
				_ = w.step(step{proc, "reply to " + name, memory})
			}
			return all
		})
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over && (as[1].Err != nil || as[1].Value != besides) {
			w.wrong = append(w.wrong, fmt.Sprintf("%s got %d, %v for the other key", caller(ctx), as[1].Value, as[1].Err))
		}
		return as[0].Value, as[0].Err
	}
}

const besides = 1_000_000

// pairs starts a caller that reads both keys in each of the processes.
func (w *world) pairs(procs ...string) {
	for _, proc := range procs {
		w.call(proc, proc, w.pair(proc, w.loader(proc)))
	}
}

// settled checks the final state of the other key.
func (w *world) settled() {
	b, err := w.x.t.get(w.beside())
	if err == nil {
		h, payload, ok := w.x.t.leasesOf(w.x.t.rdb).parse(w.beside(), b)
		switch {
		case ok && h.State == entry.Lease && (len(w.dead) > 0 || w.orphans):
		case !ok || h.State != entry.Value || string(payload) != fmt.Sprint(besides):
			w.complain("the other key holds %q", b)
		}
	}
}

// manyScenarios are the scenarios with more than one key.
var manyScenarios = map[string]scenario{
	"a reader of two keys and a writer of one": {0, func(w *world) {
		w.most = 1
		w.pairs("A")
		w.change("W", nothingMore, nothingMore)
	}},
	"a reader of two keys and a writer of one, whose replies arrive later": {0, func(w *world) {
		w.most, w.replies = 1, true
		w.pairs("A")
		w.change("W", nothingMore, nothingMore)
	}},
	"a reader of two keys, a writer of one, and a reader of it afterwards": {0, func(w *world) {
		w.pairs("A")
		late := w.reader("B", w.loader("B"))
		w.change("W", nothingMore, func() { w.check("B", "B", late) })
	}},
	"a reader of two keys that are read first, and a writer of one": {0, func(w *world) {
		w.most = 1
		l := w.loader("A")
		l.engine.mostlyMissing.Store(false)
		w.call("A", "A", w.pair("A", l))
		w.change("W", nothingMore, nothingMore)
	}},
	"two processes that read two keys each, and a writer": {150, func(w *world) {
		w.most = 1
		w.pairs("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"two processes that read two keys each, a stale value, and a writer": {100, func(w *world) {
		w.stale, w.most = true, 1
		w.pairs("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"two processes that are served a stale value and read another, and a writer": {100, func(w *world) {
		w.stale, w.swr, w.most = true, 1000*time.Hour, 1
		w.pairs("A", "B")
		w.change("W", nothingMore, nothingMore)
	}},
	"a process in which one reads two keys and another one of them, and a writer elsewhere": {150, func(w *world) {
		w.replies = true
		l, _ := w.share("A")
		w.call("P", "B", w.pair("P", l))
		w.change("W", nothingMore, nothingMore)
	}},
	"a process in which one reads two keys, and one of them after a deletion elsewhere": {0, func(w *world) {
		w.replies = true
		l, r := w.share()
		w.call("P", "A", w.pair("P", l))
		w.change("W", nothingMore, func() { w.check("P", "B", r) })
	}},
	"a process in which one reads two keys, and one of them after it expires elsewhere": {0, func(w *world) {
		w.replies = true
		l, r := w.share()
		w.call("P", "A", w.pair("P", l))
		w.expireThen("W", func() { w.check("P", "B", r) })
	}},
	"a process in which one reads a key, and two after a deletion elsewhere": {150, func(w *world) {
		w.replies = true
		l, _ := w.share("A")
		w.change("W", nothingMore, func() { w.check("P", "B", w.pair("P", l)) })
	}},
	"a process in which one reads two keys, and a writer in it": {150, func(w *world) {
		w.replies = true
		l, r := w.share()
		w.call("P", "A", w.pair("P", l))
		w.change("P", func() { l.Forget(w.x.t.key) }, func() { w.check("P", "B", r) })
	}},
	"two processes that read two keys each, one of which dies, and a writer": {100, func(w *world) {
		w.pairs("A")
		w.read("B")
		w.crash("A")
		w.change("W", nothingMore, nothingMore)
	}},
}

func TestExplorer_NoOrderBreaksTheProtocolOfManyKeys(t *testing.T) {
	t.Parallel()
	explore(t, manyScenarios)
}

// through starts processes that write through: each commits a version of its
// own during its write. The last commit wins.
func (w *world) through(procs ...string) {
	for _, proc := range procs {
		w.writeThrough(proc, nothingMore)
	}
}

// writeThrough is through for one process, which then calls after.
func (w *world) writeThrough(proc string, after func()) {
	w.seized = true
	l := w.loader(proc)
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		ctx := context.WithValue(w.ctx, callerKey{}, proc)
		if w.step(step{proc, "begin " + proc, begins | memory}) != nil {
			return
		}
		ws := []Write{{Key: w.x.t.key, Payload: w.version(proc), Life: w.life()}}
		errs := l.WriteThrough(ctx, ws, func(context.Context) []error { return []error{w.persist(proc)} })
		w.wrote(proc, errs[0])
		after()
	})
}

// version returns the value that a process writes. Every process writes its
// own.
func (w *world) version(proc string) []byte {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.versions == nil {
		w.versions = make(map[string]int64)
	}
	v := int64(len(w.versions) + 1)
	w.versions[proc] = v
	return strconv.AppendInt(nil, v, 10)
}

// persist puts the version of a process into the database.
func (w *world) persist(proc string) error {
	if err := w.step(step{proc, "commit", writesDB}); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.db = w.versions[proc]
	return nil
}

func (w *world) wrote(proc string, err error) {
	if err != nil && !errors.Is(err, errOver) {
		w.mu.Lock()
		defer w.mu.Unlock()
		if !w.over {
			w.wrong = append(w.wrong, proc+" got the error "+err.Error())
		}
	}
}

// naively is through without leases: down, and then a write.
func (w *world) naively(proc string) {
	leases, err := NewLeases(w.x.client(proc), time.Hour)
	require.NoError(w.x.t, err)
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		ctx := context.WithValue(w.ctx, callerKey{}, proc)
		payload := w.version(proc)
		err := w.persist(proc)
		if err == nil {
			err = leases.Write(ctx, w.x.t.key, payload, hour)
		}
		w.wrote(proc, err)
	})
}

var throughScenarios = map[string]scenario{
	"a reader and a write-through": {0, func(w *world) {
		w.most = 1
		w.read("A")
		w.through("W")
	}},
	"a reader, a write-through, and a reader afterwards": {0, func(w *world) {
		w.read("A")
		late := w.reader("B", w.loader("B"))
		w.writeThrough("W", func() {
			w.mu.Lock()
			w.floor = w.db
			w.mu.Unlock()
			w.check("B", "B", late)
		})
	}},
	"two callers in the process of a write-through, one of them afterwards": {0, func(w *world) {
		w.replies = true
		_, r := w.share("A")
		w.writeThrough("W", func() {
			w.mu.Lock()
			w.floor = w.db
			w.mu.Unlock()
			w.check("P", "B", r)
		})
	}},
	"two write-throughs": {0, func(w *world) {
		w.through("W", "X")
	}},
	"a reader and two write-throughs": {200, func(w *world) {
		w.most = 1
		w.read("A")
		w.through("W", "X")
	}},
	"a reader of a stale value and two write-throughs": {100, func(w *world) {
		w.stale, w.most = true, 1
		w.read("A")
		w.through("W", "X")
	}},
	"a reader, two write-throughs, and a lease that is lost": {100, func(w *world) {
		w.most = 1
		w.read("A")
		w.through("W", "X")
		w.evict()
	}},
	"three write-throughs": {200, func(w *world) {
		w.through("W", "X", "Y")
	}},
}

func TestExplorer_NoOrderMakesWriteThroughLeaveAnOldValue(t *testing.T) {
	t.Parallel()
	explore(t, throughScenarios)
}

func TestExplorer_FindsAWriteThroughWithoutALease(t *testing.T) {
	t.Parallel()
	scenario := func(write func(*world, string)) func(*world) {
		return func(w *world) {
			write(w, "W")
			write(w, "X")
		}
	}
	x := explored(t, scenario((*world).naively))
	require.Positive(t, x.bad, "the explorer is blind")
	require.True(t, slices.ContainsFunc(slices.Collect(maps.Keys(x.complaints)), func(c string) bool {
		return c == "version 1 stays, and the newest is 2" || c == "version 2 stays, and the newest is 1"
	}), "%v", x.complaints)
	requireNone(t, scenario(func(w *world, proc string) { w.through(proc) }))
}
