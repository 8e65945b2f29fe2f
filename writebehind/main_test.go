package writebehind

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/ledgernote"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// database is the database of the tests: a table of counts, a table of values,
// and a ledger that works like package ledger. A module of its own tests
// package ledger against real databases.
type database struct {
	mu      sync.Mutex
	sums    map[string]int64         // guarded by mu
	values  map[string]string        // guarded by mu
	rows    map[place]ledger.Row     // guarded by mu
	last    map[int]string           // guarded by mu; the incarnation that was applied last, by bucket
	poison  map[string]bool          // guarded by mu; ids that are refused
	failing func(ledger.Batch) error // guarded by mu; nil, or returns the error of a commit
	commits int                      // guarded by mu
	naive   bool                     // without the ledger
	amnesia bool                     // the ledger does not record unread ids
	step    func(do func()) error    // nil, or a step at which the process may be killed
}

// place identifies a row of the ledger.
type place struct {
	bucket int
	inc    string
}

func newDatabase() *database {
	return &database{
		sums: map[string]int64{}, values: map[string]string{}, rows: map[place]ledger.Row{},
		last: map[int]string{}, poison: map[string]bool{},
	}
}

// persist is an Options.Persist.
func (d *database) persist(ctx context.Context, b ledger.Batch) error {
	return d.apply(ctx, b, func(_ string, do func()) error { do(); return nil })
}

// apply is persist in two steps, as in a transaction: the work before COMMIT,
// which has no effect without it, and COMMIT.
func (d *database) apply(ctx context.Context, b ledger.Batch, step func(name string, do func()) error) error {
	d.mu.Lock()
	failing := d.failing
	d.mu.Unlock()
	if failing != nil {
		if err := failing(b); err != nil {
			return err
		}
	}
	if err := step("begin", func() {}); err != nil {
		return err
	}
	var result error
	other := false
	if err := step("commit", func() { result, other = d.commit(b) }); err != nil {
		return err
	}
	if other {
		ledgernote.Tell(ctx)
	}
	return result
}

func (d *database) commit(b ledger.Batch) (err error, other bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := place{b.Bucket, b.Incarnation}
	row := d.rows[at]
	switch {
	case d.naive:
	case row.N == b.N && row.Token == b.Token && !slices.Equal(row.Unread, b.Unread):
		return &ledger.AppliedError{Refused: row.Refused, Unread: row.Unread}, false
	case row.N == b.N && row.Token == b.Token:
		if len(row.Refused) > 0 {
			return &ledger.RefusedError{IDs: row.Refused}, false
		}
		return nil, false
	case row.N != b.N-1:
		return &ledger.ConflictError{Batch: b, Row: row}, false
	}
	other = b.N == 1 && d.last[b.Bucket] != ""
	d.commits++
	if d.amnesia {
		b.Unread = nil
	}
	row = ledger.Row{N: b.N, Token: b.Token, Deltas: maps.Clone(b.Deltas), Unread: b.Unread}
	for _, id := range b.IDs() {
		switch {
		case d.poison[id]:
			row.Refused = append(row.Refused, id)
		case b.Deltas != nil && b.Values[id] != nil:
			d.sums[id] = number(string(b.Values[id]))
		case b.Deltas != nil:
			d.sums[id] += b.Deltas[id]
		default:
			d.values[id] = string(b.Values[id])
		}
	}
	d.rows[at], d.last[b.Bucket] = row, b.Incarnation
	if len(row.Refused) > 0 {
		err = &ledger.RefusedError{IDs: row.Refused, Err: errors.New("poison")}
	}
	return err, other
}

func (d *database) fail(failing func(ledger.Batch) error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.failing = failing
}

// row returns the row that was written last.
func (d *database) row(bucket int) ledger.Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[place{bucket, d.last[bucket]}]
}

func (d *database) setRow(bucket int, row ledger.Row) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rows[place{bucket, d.last[bucket]}] = row
}

func (d *database) rowOf(bucket int, inc string) ledger.Row {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rows[place{bucket, inc}]
}

func (d *database) sum(id string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.sums[id]
}

// lock runs f while no process persists.
func (d *database) lock(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f()
}

func (d *database) value(id string) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.values[id]
}

// requireAside fails unless err reports these numbers of refused and unread
// ids.
func requireAside(t *testing.T, err error, refused, unread int64) {
	t.Helper()
	aside, ok := errors.AsType[*AsideError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, AsideError{Refused: refused, Unread: unread}, *aside)
}

// someLease is the LeaseTTL of an engine whose test sets none. A reply of Redis
// may take as long, so it is longer than a busy machine needs. It is shorter
// than the time by which a test sets back a clock.
const someLease = 2 * time.Minute

// options returns the Options of a test. Ids stay pending until a flush,
// because the sweeper has its turn once a day.
func options(t *testing.T, d *database, m Merge) Options {
	return Options{
		Name: redistest.Key(t), Merge: m, Persist: d.persist, Buckets: 1, Every: 24 * time.Hour,
		LeaseTTL: someLease,
	}
}

// engine returns an engine that is closed when the test ends, drained or not.
func engine(t *testing.T, rdb redis.UniversalClient, o Options) *Engine {
	t.Helper()
	e, err := New(rdb, o)
	require.NoError(t, err)
	e.grace = patience // a busy machine may need more time than a user would wait
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := e.Close(ctx); err != nil {
			t.Logf("in the end: %v", err)
		}
		// A test may leave ids that cannot be persisted.
		require.True(t, e.wait(ctx, true), "a goroutine has not ended")
	})
	return e
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// bounded returns the ctx of a test. It lasts for many times the patience,
// because a test has thousands of calls, which take long on a slow machine.
func bounded(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 10*patience)
	t.Cleanup(cancel)
	return ctx
}
