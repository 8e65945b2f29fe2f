package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/ledger"
)

func batch(n int64, token string, deltas map[string]int64) ledger.Batch {
	return ledger.Batch{Namespace: "ns", Bucket: 3, N: n, Token: token, Incarnation: "inc", Deltas: deltas}
}

func TestABatchIsAppliedOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx := t.Context()
		one := batch(1, "t1", map[string]int64{"a": 1, "b": 2})
		for range 3 {
			require.NoError(t, db.persist(ctx, one))
		}
		require.EqualValues(t, 1, db.sum(t, "a"))
		require.NoError(t, db.persist(ctx, batch(2, "t2", map[string]int64{"a": 10})))
		require.EqualValues(t, 11, db.sum(t, "a"))

		// A batch that is late, or of another history, is rejected.
		for _, b := range []ledger.Batch{one, batch(2, "other", one.Deltas), batch(4, "t4", one.Deltas), batch(1<<62, "t", one.Deltas)} {
			err := db.persist(ctx, b)
			conflict, ok := errors.AsType[*ledger.ConflictError](err)
			require.True(t, ok, "%v", err)
			require.Equal(t, b, conflict.Batch)
			require.Equal(t, ledger.Row{N: 2, Token: "t2", Deltas: map[string]int64{"a": 10}}, conflict.Row)
		}
		require.EqualValues(t, 11, db.sum(t, "a"))

		// Buckets and namespaces are independent.
		other := batch(1, "t1", map[string]int64{"a": 100})
		other.Bucket = 4
		require.NoError(t, db.persist(ctx, other))
		other.Namespace = "ns2"
		require.NoError(t, db.persist(ctx, other))
		require.EqualValues(t, 211, db.sum(t, "a"))
	})
}

func TestTheFirstBatchOfAllMustBeTheFirst(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		err := db.persist(t.Context(), batch(7, "t", map[string]int64{"a": 1}))
		conflict, ok := errors.AsType[*ledger.ConflictError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, ledger.Row{}, conflict.Row)
	})
}

func TestABatchThatFailsLeavesNoTrace(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx := t.Context()
		b := batch(1, "t1", map[string]int64{"a": 1})
		sick := errors.New("sick")
		require.ErrorIs(t, db.l.Once(ctx, b, func(tx *sql.Tx) error {
			require.NoError(t, db.add(ctx, tx, b, b.IDs()))
			return sick
		}), sick)
		require.Panics(t, func() {
			_ = db.l.Once(ctx, b, func(tx *sql.Tx) error {
				require.NoError(t, db.add(ctx, tx, b, b.IDs()))
				panic("sick")
			})
		})
		gone, cancel := context.WithCancel(ctx)
		require.Error(t, db.l.Once(gone, b, func(tx *sql.Tx) error {
			require.NoError(t, db.add(ctx, tx, b, b.IDs()))
			cancel()
			return nil
		}))
		require.Zero(t, db.sum(t, "a"))
		require.NoError(t, db.persist(ctx, b))
		require.EqualValues(t, 1, db.sum(t, "a"))
	})
}

func TestWhatIsRefusedIsFoundAndRemembered(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx := t.Context()
		b := batch(1, "t1", map[string]int64{"too much": 2_000_000, "b%/\xff\x00": 0, "worse": 1 << 62})
		delete(b.Deltas, "b%/\xff\x00") // not valid text in a database
		for i := range 20 {
			b.Deltas[fmt.Sprint("id", i)] = int64(i)
		}
		calls := 0
		persist := func() error {
			return db.l.Once(ctx, b, func(tx *sql.Tx) error {
				return db.l.Split(ctx, tx, b.IDs(), func(ids []string) error {
					calls++
					return db.add(ctx, tx, b, ids)
				})
			})
		}
		for range 2 {
			refused, ok := errors.AsType[*ledger.RefusedError](persist())
			require.True(t, ok)
			require.ElementsMatch(t, []string{"too much", "worse"}, refused.IDs)
		}
		require.LessOrEqual(t, calls, 20, "in halves, and once")
		for i := range 20 {
			require.EqualValues(t, i, db.sum(t, fmt.Sprint("id", i)))
		}
		require.Zero(t, db.sum(t, "too much"))
		require.NoError(t, db.persist(ctx, batch(2, "t2", map[string]int64{"id1": 1})))
	})
}

func TestAnErrorThatMayPassIsNotTheFaultOfARow(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx := t.Context()
		b := batch(1, "t1", map[string]int64{"a": 1, "b": 1})
		calls := 0
		err := db.l.Once(ctx, b, func(tx *sql.Tx) error {
			return db.l.Split(ctx, tx, b.IDs(), func([]string) error {
				calls++
				_, err := tx.ExecContext(ctx, `INSERT INTO no_such_table (id) VALUES (1)`)
				return err
			})
		})
		require.Error(t, err)
		_, refused := errors.AsType[*ledger.RefusedError](err)
		require.False(t, refused, "%v", err)
		require.Equal(t, 1, calls)
		require.NoError(t, db.persist(ctx, b))
	})
}

// If Redis loses a bucket again and again, its rows do not pile up, and the
// rows are independent.
func TestLedger_HasARowForEachIncarnationAndKeepsTheLatest(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx := t.Context()
		for i := range 40 {
			b := batch(1, fmt.Sprint("t", i), map[string]int64{"a": 1})
			b.Incarnation = fmt.Sprint("inc", i)
			require.NoError(t, db.persist(ctx, b))
			require.NoError(t, db.persist(ctx, b), "twice is fine")
			b.N, b.Token = 2, "second"
			require.NoError(t, db.persist(ctx, b))
		}
		require.EqualValues(t, 80, db.sum(t, "a"))
		var rows int
		require.NoError(t, db.QueryRow(`SELECT COUNT(*) FROM cachex_ledger`).Scan(&rows))
		require.Equal(t, 16, rows)
		old := batch(3, "third", map[string]int64{"a": 100})
		old.Incarnation = "inc39"
		require.NoError(t, db.persist(ctx, old))
	})
}

// If a bucket has several flushers, each batch is applied by exactly one of
// them.
func TestFlushersOfABucketWaitForEachOther(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		const batches = 30
		var flushers sync.WaitGroup
		for range 4 {
			flushers.Go(func() {
				for n := int64(1); n <= batches; {
					err := db.persist(ctx, batch(n, fmt.Sprint("t", n), map[string]int64{"a": 1}))
					conflict, late := errors.AsType[*ledger.ConflictError](err)
					switch {
					case err == nil:
						n++
					case late && conflict.Row.N > n:
						n = conflict.Row.N
					case ctx.Err() != nil:
						t.Error(err)
						return
					}
				}
			})
		}
		flushers.Wait()
		require.EqualValues(t, batches, db.sum(t, "a"))
	})
}

func TestAFlusherThatIsPausedInItsTransactionKeepsOthersWaitingAndNoMore(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		require.NoError(t, db.persist(ctx, batch(1, "t1", map[string]int64{"z": 0})))
		b := batch(2, "t2", map[string]int64{"a": 1})
		inside, resume := make(chan struct{}), make(chan struct{})
		paused := make(chan error, 1)
		go func() {
			paused <- db.l.Once(ctx, b, func(tx *sql.Tx) error {
				close(inside)
				<-resume
				return db.add(ctx, tx, b, b.IDs())
			})
		}()
		<-inside
		hasty, hurry := context.WithTimeout(ctx, 50*time.Millisecond)
		defer hurry()
		require.Error(t, db.persist(hasty, b), "it waits")
		close(resume)
		require.NoError(t, <-paused)
		require.NoError(t, db.persist(ctx, b))
		require.EqualValues(t, 1, db.sum(t, "a"))
	})
}
