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

// A Fork says how the history of a bucket in Redis and that in the database have parted.
type Fork int

// The forks there are.
const (
	// ForkLost: Redis has a new incarnation of the bucket, after a restart without
	// persistence, a flush or an eviction; or a second Redis has begun to persist to this
	// ledger. All that Redis has is persisted, and nothing is counted twice. What was
	// pending is lost.
	ForkLost Fork = 1 + iota

	// ForkReplayed: Redis has gone back to before the last batch was taken, and has
	// taken what was in it again. What the last batch added to an id is subtracted from
	// what Redis has of it, so everything that Redis has kept is counted once. What Redis
	// has lost of such an id is taken back; an id of which Redis has nothing keeps what
	// was persisted. Values, and counts that were set, are persisted as Redis has them.
	ForkReplayed

	// ForkRolledBack: Redis has gone back by more than one batch, or a backup of it was
	// restored. Some of what it has was persisted before, and nothing tells what.
	// Options.RolledBack or Reconcile chooses.
	ForkRolledBack

	// ForkBehind: the database lacks batches that Redis has seen acknowledged, since a
	// backup of it was restored, its ledger was lost, or an engine was given a ledger
	// later. What is pending is kept and not persisted, until Reconcile chooses.
	ForkBehind
)

// A Choice says what becomes of a batch after a fork.
type Choice int

// The choices there are. A zero Choice is the default of an option, and Hold as the
// answer to Reconcile.
const (
	// Apply persists the batch. After ForkRolledBack it may count twice; after
	// ForkBehind it counts once, and the batches that the database lacks stay lost.
	Apply Choice = 1 + iota

	// PutAside puts the batch aside, with what was refused, and all that is pending if
	// the batch was not all there was. See Engine.Refused and Engine.Retry.
	PutAside

	// Hold keeps the batch in flight, and its bucket waits. Nothing is lost.
	Hold
)

// String names the fork.
func (f Fork) String() string {
	names := [...]string{ForkLost: "lost", ForkReplayed: "replayed", ForkRolledBack: "rolled back", ForkBehind: "behind"}
	if f < ForkLost || f > ForkBehind {
		return fmt.Sprintf("Fork(%d)", int(f))
	}
	return names[f]
}

// A ForkError tells of a fork. Options.Notify is told of every one. One whose batch is
// held makes a flush fail.
type ForkError struct {
	Fork  Fork
	Batch ledger.Batch // as Redis has it
	Row   ledger.Row   // as the database has it

	held bool
}

// Error tells the fork and the two numbers, and what a batch that is held waits for.
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

// resolve answers a conflict: it makes the batch one that the database takes, unless
// another process has gone on with the bucket; then this process was late and nothing
// is wrong. It reports whether to go on at once.
//
// The database is asked before Redis. So if Redis says that the batch is still in
// flight, the database has spoken of the same batch, and has not applied it.
func (e *Engine) resolve(ctx context.Context, b int, t *take, conflict *ledger.ConflictError) (again bool, err error) {
	row := conflict.Row
	fork := &ForkError{Batch: t.batch, Row: row}
	choice := Apply
	switch n := t.batch.N; {
	case n-1 > row.N:
		fork.Fork, choice = ForkBehind, Hold
	case n-1 == row.N:
		return false, conflict // it was another one when Persist looked
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
		if fork.Fork != ForkBehind || t.fails == 0 { // one that was held is counted
			e.counters.fork(fork.Fork)
		}
		e.notify(fmt.Errorf("cachex: flush %s: %w", e.tag(b), fork))
	}
	return true, nil
}

// settleFork carries out a choice, and reports whether the batch was still in flight.
func (e *Engine) settleFork(ctx context.Context, b int, t *take, fork *ForkError, choice Choice) (done bool, err error) {
	last, more, inc := fork.Row.N, "", ""
	if t.more > 0 {
		more = "1"
	}
	if fork.Fork == ForkBehind {
		// Not the number that the database expects: a process that was paused may hold a
		// batch of that number from before the database went back.
		last, inc = 0, renewed+rand.Text()
	}
	lastText := strconv.FormatInt(last, 10)
	if choice == PutAside {
		v, err := e.parts(ctx, script.DropBatch, b, t.n, t.batch.Token, e.o.Merge.arg(), lastText, more, inc, e.atOnce)
		return v == int64(1), err
	}
	cut, has := 0, ""
	if fork.Fork == ForkReplayed {
		has = fork.Row.Token // it may have been parked since this one was taken
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

// subtract returns, as fields and numbers by turns, in the same order every time, what
// to add to deltas that have in them what was applied.
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
