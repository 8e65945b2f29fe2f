// Package ledger makes a database apply each batch of a write-behind exactly
// once, whatever process or server dies in between.
//
// A table in the database has one row for each bucket and incarnation: the last
// batch that was applied. An incarnation is the history of a bucket in one
// Redis without a loss. A Redis that comes up empty, or a second Redis,
// therefore begins its own row, and a process with a batch from before the loss
// can still apply it. [Ledger.Once] writes the row in the transaction that
// applies the batch, so both are committed or neither. If the process was
// killed, or the reply to COMMIT was lost, the retry finds the row and applies
// nothing. The row also makes concurrent flushers of a bucket wait for each
// other. It rejects a flusher that was paused for minutes, and continues with a
// batch that others have long finished.
//
// The package needs nothing but database/sql. It is tested with PostgreSQL and
// SQLite.
package ledger

import (
	"cmp"
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/ledgernote"
)

// Dialect is the SQL dialect of a database.
type Dialect int

// The supported dialects. MySQL is not supported for now: it would need few
// statements, but every dialect here is tested against the real database.
const (
	PostgreSQL Dialect = 1 + iota
	SQLite
)

// Options are the options of a Ledger.
type Options struct {
	// Dialect is the SQL dialect of the database. Required.
	Dialect Dialect

	// Table is the name of the table, optionally with a schema and a dot before
	// it. All namespaces may share it. Defaults to "cachex_ledger".
	Table string

	// Permanent reports whether an error of a statement is permanent, because
	// the row causes it and not the moment. Defaults to a function that
	// recognises two databases. For PostgreSQL: data exceptions and constraint
	// violations (SQLSTATE 22… and 23…), if the error has a method SQLState() string, as pgx has. For SQLite: a constraint, a mismatch, or a
	// value that is too big (codes 19, 20, 18), if the error has a method
	// Code() int, as modernc.org/sqlite has.
	Permanent func(error) bool
}

// Ledger is a table of applied batches. It is safe for concurrent use.
type Ledger struct {
	db                             *sql.DB
	schema                         string
	advance, insert, note, current string // statements
	others, prune                  string
	permanent                      func(error) bool
}

// New returns the ledger of a database. It does not call the database: the
// table is created by Create, or by a migration that runs Schema.
func New(db *sql.DB, o Options) (*Ledger, error) {
	if db == nil {
		return nil, errors.New("cachex: new ledger: db is nil")
	}
	if o.Dialect != PostgreSQL && o.Dialect != SQLite {
		return nil, fmt.Errorf("cachex: new ledger: Options.Dialect is %d, must be PostgreSQL or SQLite", o.Dialect)
	}
	o.Table = cmp.Or(o.Table, "cachex_ledger")
	for part := range strings.SplitSeq(o.Table, ".") {
		if !identifier(part) {
			return nil, fmt.Errorf("cachex: new ledger: Options.Table is %q, must be a name of ASCII letters, digits and underscores", o.Table)
		}
	}
	l := &Ledger{db: db, permanent: o.Permanent}
	if l.permanent == nil {
		l.permanent = defaultPermanent(o.Dialect)
	}
	l.schema = `CREATE TABLE IF NOT EXISTS ` + o.Table + ` (
	namespace   VARCHAR(255) NOT NULL,
	bucket      INTEGER      NOT NULL,
	n           BIGINT       NOT NULL,
	token       VARCHAR(255) NOT NULL,
	incarnation VARCHAR(255) NOT NULL,
	content     TEXT         NOT NULL,
	applied_at  BIGINT       NOT NULL,
	PRIMARY KEY (namespace, bucket, incarnation)
)`
	// Both dialects accept $1. The first statement of the transaction must
	// write: it takes the row lock in PostgreSQL, and the database lock in
	// SQLite, which may reject a writer that has read first.
	row := ` WHERE namespace = $1 AND bucket = $2 AND incarnation = $3`
	l.advance = `UPDATE ` + o.Table + ` SET n = $4, token = $5, content = $6, applied_at = $7` + row + ` AND n = $8`
	l.insert = `INSERT INTO ` + o.Table + ` (namespace, bucket, incarnation, n, token, content, applied_at)` +
		` VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT DO NOTHING`
	l.note = `UPDATE ` + o.Table + ` SET content = $4` + row
	l.current = `SELECT n, token, content FROM ` + o.Table + row
	l.others = `SELECT COUNT(*) FROM ` + o.Table + ` WHERE namespace = $1 AND bucket = $2 AND incarnation <> $3`
	l.prune = `DELETE FROM ` + o.Table + row[:len(row)-len(`= $3`)] + `<> $3 AND incarnation IN (SELECT incarnation FROM ` + o.Table +
		` WHERE namespace = $1 AND bucket = $2 ORDER BY applied_at DESC, incarnation LIMIT 1000 OFFSET ` + strconv.Itoa(maxIncarnations) + `)`
	return l, nil
}

// Schema returns the statement that creates the table unless it exists. It may
// run twice. The column content is JSON: the deltas of the last batch of the
// bucket, which are needed if Redis goes back in time, and the ids of it that
// were refused or unread.
func (l *Ledger) Schema() string { return l.schema }

// Create creates the table unless it exists.
func (l *Ledger) Create(ctx context.Context) error {
	if _, err := l.db.ExecContext(ctx, l.schema); err != nil {
		return fmt.Errorf("cachex: create ledger: %w", err)
	}
	return nil
}

// Once calls apply in a transaction that also records b, and commits it. If b
// was recorded before, apply is not called. Once returns nil if b is applied,
// now or before.
//
// If apply refuses some ids permanently and has no other error (see
// [Batch.Refused]), its changes are committed and the ids are recorded. Once
// returns that error now, and a *RefusedError for the same batch from then on.
// See [Ledger.Split]. An *AppliedError reports that b was applied before, with
// other ids unread. A *ConflictError reports that b is not the next batch; then
// nothing was changed. After any other error, of apply, of a statement or of
// COMMIT, b may be applied: call Once again with the same batch, at any time
// and from any process.
//
// apply must do all its work through tx, must not end it, and may be called
// again after a failure. Concurrent calls of Once for a bucket wait for each
// other, in the database.
func (l *Ledger) Once(ctx context.Context, b Batch, apply func(*sql.Tx) error) error {
	err := b.check()
	if err == nil {
		err = l.once(ctx, b, apply)
	}
	if err != nil {
		return fmt.Errorf("cachex: apply %v: %w", b, err)
	}
	return nil
}

func (l *Ledger) once(ctx context.Context, b Batch, apply func(*sql.Tx) error) error {
	tx, err := l.db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }() // no effect after Commit
	first, others, err := l.record(ctx, tx, b)
	if err != nil {
		return err
	}
	if !first {
		return l.explain(ctx, tx, b)
	}
	err = apply(tx)
	refused, some := b.Refused(err)
	if err != nil && !some {
		return err
	}
	if some {
		text, jsonErr := encode(b, refused)
		if jsonErr != nil {
			return jsonErr
		}
		if _, noteErr := tx.ExecContext(ctx, l.note, b.Namespace, b.Bucket, b.Incarnation, text); noteErr != nil {
			return noteErr
		}
	}
	if commitErr := tx.Commit(); commitErr != nil {
		return commitErr
	}
	if others {
		ledgernote.Tell(ctx)
	}
	return err
}

// maxIncarnations limits the rows of a bucket: if Redis often comes up empty,
// the rows with the oldest writes are deleted. A batch of a deleted row is then
// held as ForkBehind, or, if it is the first of its incarnation, taken for a
// new one.
const maxIncarnations = 16

// record makes b the last batch of its bucket and incarnation if it follows the
// last one. It reports whether it did, and whether the bucket had other
// incarnations before.
func (l *Ledger) record(ctx context.Context, tx *sql.Tx, b Batch) (first, others bool, err error) {
	text, err := encode(b, nil)
	if err != nil {
		return false, false, err
	}
	args := []any{b.Namespace, b.Bucket, b.Incarnation, b.N, b.Token, text, time.Now().UnixMilli()}
	n, err := affected(tx.ExecContext(ctx, l.advance, append(args, b.N-1)...))
	if err != nil || n > 0 || b.N > 1 {
		return n > 0, false, err
	}
	if n, err = affected(tx.ExecContext(ctx, l.insert, args...)); err != nil || n == 0 {
		return false, false, err
	}
	var count int
	if err = tx.QueryRowContext(ctx, l.others, args[:3]...).Scan(&count); err == nil && count >= maxIncarnations {
		_, err = tx.ExecContext(ctx, l.prune, args[:3]...)
	}
	return true, count > 0, err
}

// explain returns the state of a batch that does not follow the last one.
func (l *Ledger) explain(ctx context.Context, tx *sql.Tx, b Batch) error {
	var row Row
	var text string
	err := tx.QueryRowContext(ctx, l.current, b.Namespace, b.Bucket, b.Incarnation).Scan(&row.N, &row.Token, &text)
	if errors.Is(err, sql.ErrNoRows) {
		return &ConflictError{Batch: b}
	}
	if err != nil {
		return err
	}
	err = row.decode(text)
	switch {
	case err != nil:
		return fmt.Errorf("column content: %w", err)
	case row.N != b.N || row.Token != b.Token:
		return &ConflictError{Batch: b, Row: row}
	case !slices.Equal(row.Unread, b.Unread):
		return &AppliedError{Refused: row.Refused, Unread: row.Unread}
	case len(row.Refused) > 0:
		return &RefusedError{IDs: row.Refused}
	}
	return nil
}

func affected(result sql.Result, err error) (int64, error) {
	if err != nil {
		return 0, err
	}
	return result.RowsAffected()
}

// content is the content of the column of that name. Ids may be any bytes, but
// JSON and databases need text, so they are escaped like in a URL.
type content struct {
	Deltas  map[string]int64 `json:"deltas,omitempty"`
	Refused []string         `json:"refused,omitempty"`
	Unread  []string         `json:"unread,omitempty"`
}

func encode(b Batch, refused []string) (string, error) {
	c := content{Deltas: make(map[string]int64, len(b.Deltas)), Refused: escape(refused), Unread: escape(b.Unread)}
	for id, delta := range b.Deltas {
		c.Deltas[url.PathEscape(id)] = delta
	}
	text, err := json.Marshal(c)
	return string(text), err
}

func escape(ids []string) (escaped []string) {
	for _, id := range ids {
		escaped = append(escaped, url.PathEscape(id))
	}
	return escaped
}

func unescape(escaped []string) (ids []string, err error) {
	for _, id := range escaped {
		if id, err = url.PathUnescape(id); err != nil {
			return nil, err
		}
		ids = append(ids, id)
	}
	return ids, nil
}

// decode fills r from the column content.
func (r *Row) decode(text string) (err error) {
	var c content
	if err = json.Unmarshal([]byte(text), &c); err != nil {
		return err
	}
	r.Deltas = make(map[string]int64, len(c.Deltas))
	for id, delta := range c.Deltas {
		if id, err = url.PathUnescape(id); err != nil {
			return err
		}
		r.Deltas[id] = delta
	}
	if r.Refused, err = unescape(c.Refused); err == nil {
		r.Unread, err = unescape(c.Unread)
	}
	return err
}

func identifier(s string) bool {
	for i, c := range []byte(s) {
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != ""
}
