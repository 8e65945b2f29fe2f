package dbtest

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"
	_ "modernc.org/sqlite" // driver "sqlite"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// long bounds a test of many calls, each of which may take long on a busy
// machine.
var long = 10 * patience

// base is a database with a ledger and a table of counts.
type base struct {
	*sql.DB
	l       *ledger.Ledger
	dialect ledger.Dialect
	dsn     string
}

// each runs f against both databases.
func each(t *testing.T, f func(t *testing.T, db *base)) {
	t.Helper()
	t.Run("sqlite", func(t *testing.T) {
		t.Parallel()
		f(t, newSQLite(t))
	})
	t.Run("postgres", func(t *testing.T) {
		t.Parallel()
		f(t, newPostgres(t))
	})
}

// newPostgres returns a new schema on the shared server.
func newPostgres(t testing.TB) *base {
	t.Helper()
	p := Shared(t)
	schema := strings.ToLower(redistest.Key(t))
	schema = "s" + schema[max(0, len(schema)-40):]
	_, err := p.Open().ExecContext(t.Context(), `CREATE SCHEMA `+schema)
	require.NoError(t, err)
	dsn := p.DSN() + "&search_path=" + schema
	db, err := sql.Open("pgx", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return newBase(t, db, ledger.PostgreSQL, dsn)
}

func newSQLite(t testing.TB) *base {
	t.Helper()
	// No test kills the system, so nothing needs to be synced.
	dsn := fmt.Sprintf("file:%s?_pragma=busy_timeout(%d)&_pragma=journal_mode(wal)&_pragma=synchronous(off)",
		filepath.Join(t.TempDir(), "db"), patience.Milliseconds())
	db, err := sql.Open("sqlite", dsn)
	require.NoError(t, err)
	t.Cleanup(func() { _ = db.Close() })
	return newBase(t, db, ledger.SQLite, dsn)
}

func newBase(t testing.TB, db *sql.DB, d ledger.Dialect, dsn string) *base {
	t.Helper()
	l, err := ledger.New(db, ledger.Options{Dialect: d})
	require.NoError(t, err)
	b := &base{db, l, d, dsn}
	ctx := t.Context()
	require.NoError(t, l.Create(ctx))
	require.NoError(t, l.Create(ctx), "twice is fine")
	_, err = db.ExecContext(ctx, `CREATE TABLE views (id VARCHAR(255) PRIMARY KEY, n BIGINT NOT NULL CHECK (n < 1000000))`)
	require.NoError(t, err)
	return b
}

// add applies the deltas of a batch, in one statement.
func (db *base) add(ctx context.Context, tx *sql.Tx, b ledger.Batch, ids []string) error {
	var q strings.Builder
	var args []any
	q.WriteString(`INSERT INTO views (id, n) VALUES `)
	for i, id := range ids {
		if i > 0 {
			q.WriteString(", ")
		}
		fmt.Fprintf(&q, "($%d, $%d)", 2*i+1, 2*i+2)
		args = append(args, id, b.Deltas[id])
	}
	q.WriteString(` ON CONFLICT (id) DO UPDATE SET n = views.n + excluded.n`)
	_, err := tx.ExecContext(ctx, q.String(), args...)
	return err
}

// persist is an Options.Persist, as the documents show it.
func (db *base) persist(ctx context.Context, b ledger.Batch) error {
	return db.l.Once(ctx, b, func(tx *sql.Tx) error {
		return db.l.Split(ctx, tx, b.IDs(), func(ids []string) error { return db.add(ctx, tx, b, ids) })
	})
}

func (db *base) sum(t testing.TB, id string) int64 {
	t.Helper()
	var n int64
	err := db.QueryRow(`SELECT n FROM views WHERE id = $1`, id).Scan(&n)
	if err != sql.ErrNoRows {
		require.NoError(t, err)
	}
	return n
}
