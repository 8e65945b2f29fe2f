package writebehind

import (
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// Fork says how the histories of a bucket in Redis and in the database have
// diverged.
type Fork int

// The kinds of fork.
const (
	// ForkLost: Redis has a new incarnation of the bucket, after a restart
	// without persistence, a flush or an eviction. A second Redis that begins
	// to persist to this ledger has the same effect. Everything that Redis has
	// is persisted, and nothing is counted twice. Ids that were pending before
	// are lost.
	ForkLost Fork = 1 + iota

	// ForkReplayed: Redis has gone back to a time before it took the last
	// batch, and has taken the same ids again. The last batch's delta of an id
	// is subtracted from the delta that Redis has. So everything that Redis has
	// kept is counted once. If Redis has lost a part of such a delta, that part
	// is taken back from the database. If Redis has nothing of an id, the id
	// keeps its persisted delta. Values, and counts that were set, are
	// persisted as Redis has them.
	ForkReplayed

	// ForkRolledBack: Redis has gone back by more than one batch, or a backup
	// of it was restored. Some of its pending ids were persisted before, and no
	// record tells which. Options.RolledBack or Reconcile chooses.
	ForkRolledBack

	// ForkBehind: the database lacks batches that Redis has seen acknowledged.
	// A backup of the database was restored, its ledger was lost, or an engine
	// was given a ledger later. Pending ids are kept and not persisted until
	// Reconcile chooses.
	ForkBehind
)

// Choice says what to do with a batch after a fork.
type Choice int

// The choices. A zero Choice is the default as an option, and Hold as the
// answer to Reconcile.
const (
	// Apply persists the batch. After ForkRolledBack it may count twice. After
	// ForkBehind it counts once, and the batches that the database lacks stay
	// lost.
	Apply Choice = 1 + iota

	// PutAside puts the batch aside, with the refused ids. If the batch was not
	// all that was pending, the other pending ids are put aside too. See
	// Engine.Refused and Engine.Retry.
	PutAside

	// Hold keeps the batch in flight, and its bucket waits. Nothing is lost.
	Hold
)

// String returns the name of the fork.
func (f Fork) String() string {
	names := [...]string{ForkLost: "lost", ForkReplayed: "replayed", ForkRolledBack: "rolled back", ForkBehind: "behind"}
	if f < ForkLost || f > ForkBehind {
		return fmt.Sprintf("Fork(%d)", int(f))
	}
	return names[f]
}

// ForkError reports a fork. Options.Notify receives every one. A flush fails
// with the error if its batch is held.
type ForkError struct {
	Fork  Fork
	Batch ledger.Batch // as Redis has it
	Row   ledger.Row   // as the database has it

	held bool
}

// Error names the fork and both batch numbers. For a held batch, it names the
// call that the batch waits for.
func (e *ForkError) Error() string {
	if e.Fork == ForkLost {
		return fmt.Sprintf("history forked (lost): %v begins a new incarnation", e.Batch)
	}
	text := fmt.Sprintf("history forked (%v): Redis has %v and the database batch %d", e.Fork, e.Batch, e.Row.N)
	if e.held {
		text += ": call Reconcile to say what becomes of it"
	}
	return text
}

// renewed begins the incarnations that Reconcile makes.
const renewed = "renewed."

// resolve answers a conflict by making the batch one that the database accepts.
// If another process has gone on with the bucket, this process was late and
// nothing is wrong. resolve reports whether to go on at once.
//
// The database is asked before Redis. So if Redis says that the batch is still
// in flight, the answer of the database concerns the same batch, which it has
// not applied.
func (e *Engine) resolve(ctx context.Context, b int, t *take, conflict *ledger.ConflictError) (again bool, err error) {
	row := conflict.Row
	fork := &ForkError{Batch: t.batch, Row: row}
	choice := Apply
	switch n := t.batch.N; {
	case n-1 > row.N:
		fork.Fork, choice = ForkBehind, Hold
	case n-1 == row.N:
		return false, conflict // the row had another number when Persist read it
	case n == row.N:
		fork.Fork = ForkReplayed
	default:
		fork.Fork, choice = ForkRolledBack, e.o.RolledBack
	}
	if r, ok := ctx.Value(reconcilingKey{}).(*reconciling); ok {
		choice = r.choose(*fork)
	}
	if choice != Apply && choice != PutAside {
		fork.held = true
		if t.fails == 0 {
			e.counters.fork(fork.Fork)
		}
		return false, fork
	}
	done, err := e.settleFork(ctx, b, t, fork, choice)
	switch {
	case err != nil:
		e.redisFailed(b, err)
		return true, err
	case !done:
		e.counters.stale.Add(1)
	default:
		if fork.Fork != ForkBehind || t.fails == 0 { // a held fork has been counted already
			e.counters.fork(fork.Fork)
		}
		e.notify(fmt.Errorf("cachex: flush %s: %w", e.tag(b), fork))
	}
	return true, nil
}

// settleFork carries out a choice, and reports whether the batch was still in
// flight.
func (e *Engine) settleFork(ctx context.Context, b int, t *take, fork *ForkError, choice Choice) (done bool, err error) {
	last, more, inc := fork.Row.N, "", ""
	if t.more > 0 {
		more = "1"
	}
	if fork.Fork == ForkBehind {
		// Do not use the number that the database expects. A process that was
		// paused may hold a batch of that number, taken before the database
		// went back.
		last, inc = 0, renewed+rand.Text()
	}
	lastText := strconv.FormatInt(last, 10)
	if choice == PutAside {
		v, err := e.parts(ctx, script.DropBatch, b, t.n, t.batch.Token, e.o.Merge.arg(), lastText, more, inc, e.atOnce)
		return v == int64(1), err
	}
	cut, has := 0, ""
	if fork.Fork == ForkReplayed {
		has = fork.Row.Token // that batch may have been parked since this one was taken
		applied := subtract(fork.Row)
		for some := range slices.Chunk(applied, 2*maxAtOnce) {
			args := append([]any{t.n, t.batch.Token, cut, more, has}, some...)
			if v, err := e.call(ctx, script.SubtractBatch, b, args...); err != nil || v != int64(1) {
				return false, err
			}
			cut += len(some) / 2
		}
	}
	v, err := e.call(ctx, script.RenumberBatch, b, t.n, t.batch.Token, lastText, strconv.FormatInt(last+1, 10), rand.Text(), inc, cut, has)
	return v == int64(1), err
}

// subtract returns the numbers to add to deltas that include the applied batch.
// It returns fields and numbers alternately, in the same order every time.
func subtract(row ledger.Row) []any {
	var args []any
	for _, id := range slices.Sorted(maps.Keys(row.Deltas)) {
		delta := row.Deltas[id]
		switch {
		case delta == 0 || slices.Contains(row.Refused, id) || slices.Contains(row.Unread, id):
		case delta == math.MinInt64: // has no opposite
			args = append(args, Field(id), strconv.FormatInt(math.MaxInt64, 10), Field(id), "1")
		default:
			args = append(args, Field(id), strconv.FormatInt(-delta, 10))
		}
	}
	return args
}
