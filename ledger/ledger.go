// Package ledger makes a database apply each batch of a write-behind once, whatever
// dies in between.
//
// A table of the database has a row for each bucket and incarnation of it: which batch
// was applied last. An incarnation is what Redis has kept of the bucket without a loss,
// so a Redis that comes up empty, or a second Redis, begins a row of its own, and a
// process that still holds a batch from before the loss can apply it.
// [Ledger.Once] writes that row in the very transaction that applies the batch, so
// either both are there or neither. Who tries again, because the process was killed or
// the reply to COMMIT was lost, finds the row and applies nothing. The row also makes
// flushers of one bucket wait for each other, and turns away one that was paused for
// minutes and goes on with what others have long finished.
//
// The package needs nothing but database/sql. It is tested with PostgreSQL and SQLite.
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

// A Dialect is the SQL that a database speaks.
type Dialect int

// The dialects there are. MySQL is not one of them for now: the statements are few, but
// none that is not tested against the real thing is offered here.
const (
	PostgreSQL Dialect = 1 + iota
	SQLite
)

// Options are the options of a Ledger.
type Options struct {
	// Dialect is what the database speaks. Required.
	Dialect Dialect

	// Table is the name of the table, perhaps after that of a schema and a dot. It
	// may be shared by all namespaces. Defaults to "cachex_ledger".
	Table string

	// Permanent tells whether an error of a statement is there to stay, because the
	// row is at fault and not the moment. Defaults to: what PostgreSQL calls a data
	// exception or the violation of a constraint (SQLSTATE 22… and 23…), if the
	// error has a method SQLState() string, as that of pgx has; and of SQLite a
	// constraint, a mismatch, or too much (codes 19, 20, 18), if the error has a method
	// Code() int, as that of modernc.org/sqlite has.
	Permanent func(error) bool
}

// A Ledger is a table of batches that were applied. It is safe for concurrent use.
type Ledger struct {
	db                             *sql.DB
	schema                         string
	advance, insert, note, current string // statements
	others, prune                  string
	permanent                      func(error) bool
}

// New returns the ledger of a database. It makes no call to it: Create makes the table,
// or a migration of yours that runs Schema.
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
		l.permanent = permanent(o.Dialect)
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
	// Both dialects know $1. The first statement of a transaction is one that writes: it
	// takes the lock of the row in PostgreSQL, and in SQLite that of the database, which
	// a transaction that has read first may be refused.
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

// Schema returns the statement that makes the table, if it is not there. It may run
// twice. Column content is JSON: what was added by the last batch of the bucket, which
// is needed if Redis goes back in time, and which ids of it were refused or not read.
func (l *Ledger) Schema() string { return l.schema }

// Create makes the table, if it is not there.
func (l *Ledger) Create(ctx context.Context) error {
	if _, err := l.db.ExecContext(ctx, l.schema); err != nil {
		return fmt.Errorf("cachex: create ledger: %w", err)
	}
	return nil
}

// Once calls apply in a transaction that also records b, and commits it, unless b was
// recorded before. It returns nil if b is applied, now or before.
//
// If apply refuses some ids for good, and says nothing else (see [Batch.Refused]), then
// what it has done is committed and the ids are recorded: Once returns that error now,
// and a *RefusedError for the same batch ever after. See Split. An *AppliedError says
// that b was applied before, with other ids unread. A *ConflictError says that b is not
// the batch that follows; then nothing was done. With any other error of apply, of a
// statement, or of COMMIT, b may be applied: call Once again with the same batch, at any
// time and from any process.
//
// apply must do all its work by the tx, must not end it, and may be called again after
// a failure. Who calls Once for a bucket while somebody else does waits, in the
// database.
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
	defer func() { _ = tx.Rollback() }() // does nothing after Commit
	first, others, err := l.record(ctx, tx, b)
	if err != nil {
		return err
	}
	if !first {
		return l.judge(ctx, tx, b)
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

// maxIncarnations is how many rows a bucket has at most: of a Redis that often comes up
// empty, the rows that were written to longest ago go. A batch of one of these is then
// held as ForkBehind, or, if it is the first of its incarnation, taken for a new one.
const maxIncarnations = 16

// record makes b the last batch of its bucket and incarnation if it follows the last
// one, and reports whether it did; and whether the bucket had other incarnations before
// this one.
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

// judge says what became of a batch that does not follow the last one.
func (l *Ledger) judge(ctx context.Context, tx *sql.Tx, b Batch) error {
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

// content is what column content has. Ids may be any bytes, and JSON and databases
// want text: they are escaped as in a URL.
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

// decode fills in what text says of the batch of the row.
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
