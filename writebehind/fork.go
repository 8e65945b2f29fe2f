package writebehind

import (
	"context"
	"crypto/rand"
	"fmt"
	"math"
	"strconv"

	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// A Fork says how the history of a bucket in Redis and that in the database have parted.
type Fork int

// The forks there are.
const (
	// ForkLost: Redis has lost the bucket, by a restart without persistence, a flush or
	// an eviction. What it has now is new, and is persisted. What was pending is lost,
	// and nothing is counted twice.
	ForkLost Fork = 1 + iota

	// ForkReplayed: Redis has gone back to before the last batch was taken, and has
	// taken what was in it again. Of counts, the last batch is subtracted from this
	// one, but not beyond 0: that is exact if Redis has kept all that the last batch
	// had. Values are persisted as Redis has them.
	ForkReplayed

	// ForkRolledBack: Redis has gone back by more than one batch. What it has is
	// persisted, and may be counted twice; or is put aside. See
	// Options.DropRolledBack.
	ForkRolledBack

	// ForkBehind: the database has lost batches that Redis has seen acknowledged, since
	// it was restored from a backup or lost its ledger. What is pending is kept and not
	// persisted, until somebody has set column n of the ledger to one less than the
	// number of the batch.
	ForkBehind
)

// String names the fork.
func (f Fork) String() string {
	names := [...]string{ForkLost: "lost", ForkReplayed: "replayed", ForkRolledBack: "rolled back", ForkBehind: "behind"}
	if f < ForkLost || f > ForkBehind {
		return fmt.Sprintf("Fork(%d)", int(f))
	}
	return names[f]
}

// A ForkError tells of a fork. Options.Notify is told of every one; only ForkBehind
// makes a flush fail.
type ForkError struct {
	Fork  Fork
	Batch ledger.Batch // as Redis had it
	Row   ledger.Row   // as the database had it
}

// Error tells the fork and the two numbers.
func (e *ForkError) Error() string {
	return fmt.Sprintf("history forked (%v): Redis has %v and the database batch %d", e.Fork, e.Batch, e.Row.N)
}

// resolve answers a conflict: it makes the batch one that the database takes, unless
// somebody else has gone on with the bucket, and then this process was late and nothing
// is wrong. It reports whether to go on at once.
//
// The database is asked before Redis. So if Redis says that the batch is in flight
// still, what the database said was about the same one, or about one from before Redis
// had lost its memory, of a process that was paused since. In either case it follows
// that the batch was not applied.
func (e *Engine) resolve(ctx context.Context, b int, t *take, conflict *ledger.ConflictError) (again bool, err error) {
	row := conflict.Row
	fork := &ForkError{Batch: t.batch, Row: row}
	switch n := t.batch.N; {
	case n-1 > row.N:
		fork.Fork = ForkBehind
		if t.fails == 0 {
			e.counters.fork(ForkBehind)
		}
		return false, fork
	case n-1 == row.N:
		return false, conflict // it was another one when Persist looked
	case row.Incarnation != t.batch.Incarnation:
		fork.Fork = ForkLost
	case n == row.N:
		fork.Fork = ForkReplayed
	default:
		fork.Fork = ForkRolledBack
	}
	last, more := strconv.FormatInt(row.N, 10), ""
	if t.more > 0 {
		more = "1"
	}
	var done any
	if fork.Fork == ForkRolledBack && e.o.DropRolledBack {
		done, err = e.call(ctx, script.DropBatch, b, t.n, t.batch.Token, e.o.Merge.arg(), last, more)
	} else {
		args := []any{t.n, t.batch.Token, last, strconv.FormatInt(row.N+1, 10), rand.Text(), more}
		if fork.Fork == ForkReplayed {
			args = append(args, subtract(row.Deltas)...)
		}
		done, err = e.call(ctx, script.RenumberBatch, b, args...)
	}
	switch {
	case err != nil:
		e.redisFailed(b, err)
		return true, err
	case done == int64(1):
		e.counters.fork(fork.Fork)
		e.notify(fmt.Errorf("cachex: flush %s: %w", e.tag(b), fork))
	default:
		e.counters.stale.Add(1)
	}
	return true, nil
}

// subtract returns, as fields and numbers by turns, what to add to deltas that have in
// them what was applied.
func subtract(applied map[string]int64) []any {
	var args []any
	for id, delta := range applied {
		switch delta {
		case 0:
		case math.MinInt64: // has no opposite
			args = append(args, Field(id), strconv.FormatInt(math.MaxInt64, 10), Field(id), "1")
		default:
			args = append(args, Field(id), strconv.FormatInt(-delta, 10))
		}
	}
	return args
}
