package main

import (
	"cmp"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"
	_ "modernc.org/sqlite"             // driver "sqlite"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/ledger"
)

// Job is an entry of the board.
type Job struct {
	ID    int64
	Title string
	Open  bool
}

// allJobs is the number of jobs, numbered from 1. All are open, and job n was
// viewed 10 n times.
const allJobs = 30

// database is the system of record.
type database struct {
	*sql.DB
	applied *ledger.Ledger
}

// openDatabase returns a database with the tables of the job board, and a
// function that removes them. It uses the PostgreSQL that DATABASE_URL names,
// or else SQLite in a file.
func openDatabase(ctx context.Context) (db *database, where string, done func(), err error) {
	driver, dsn, dialect, where := "pgx", os.Getenv("DATABASE_URL"), ledger.PostgreSQL, "the PostgreSQL at DATABASE_URL"
	clean := func() {}
	if dsn == "" {
		dir, err := os.MkdirTemp("", "jobboard")
		if err != nil {
			return nil, "", nil, err
		}
		clean = func() { _ = os.RemoveAll(dir) }
		driver, dialect, where = "sqlite", ledger.SQLite, "SQLite; set DATABASE_URL for PostgreSQL"
		dsn = "file:" + filepath.ToSlash(filepath.Join(dir, "jobs.db")) + "?_pragma=busy_timeout(10000)&_pragma=journal_mode(wal)"
	}
	pool, err := sql.Open(driver, dsn)
	if err != nil {
		clean()
		return nil, "", nil, err
	}
	drop := func() error {
		// The tables are dropped even if ctx has ended.
		_, err := pool.ExecContext(context.WithoutCancel(ctx), `DROP TABLE IF EXISTS jobboard_jobs; DROP TABLE IF EXISTS jobboard_viewers; DROP TABLE IF EXISTS jobboard_ledger`)
		return err
	}
	done = func() {
		_, _ = drop(), pool.Close()
		clean()
	}
	db = &database{DB: pool}
	db.applied, err = ledger.New(pool, ledger.Options{Dialect: dialect, Table: "jobboard_ledger"})
	if err = cmp.Or(err, drop()); err == nil { // tables of an earlier run
		err = db.create(ctx)
	}
	if err != nil {
		done()
		return nil, "", nil, err
	}
	return db, where, done, nil
}

func (db *database) create(ctx context.Context) error {
	for _, q := range []string{
		db.applied.Schema(),
		`CREATE TABLE jobboard_jobs (id BIGINT PRIMARY KEY, title TEXT NOT NULL, open BOOLEAN NOT NULL, views BIGINT NOT NULL)`,
		`CREATE TABLE jobboard_viewers (job_id BIGINT, user_id BIGINT, PRIMARY KEY (job_id, user_id))`,
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	for id := range allJobs {
		_, err := db.ExecContext(ctx, `INSERT INTO jobboard_jobs (id, title, open, views) VALUES ($1, $2, true, $3)`,
			id+1, fmt.Sprint("Gopher ", id+1), 10*(id+1))
		if err != nil {
			return err
		}
	}
	return nil
}

// OpenJobs counts the open jobs.
func (db *database) OpenJobs(ctx context.Context) (n int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM jobboard_jobs WHERE open`).Scan(&n)
	return n, err
}

// SetOpen opens or closes a job.
func (db *database) SetOpen(ctx context.Context, id int64, open bool) error {
	_, err := db.ExecContext(ctx, `UPDATE jobboard_jobs SET open = $1 WHERE id = $2`, open, id)
	return err
}

// Job returns one job.
func (db *database) Job(ctx context.Context, id int64) (Job, error) {
	jobs, err := db.Jobs(ctx, []int64{id})
	if job, ok := jobs[id]; ok || err != nil {
		return job, err
	}
	return Job{}, cachex.ErrNotFound
}

// Jobs returns the existing jobs with these ids.
func (db *database) Jobs(ctx context.Context, ids []int64) (map[int64]Job, error) {
	found := make(map[int64]Job)
	return found, db.each(ctx, `SELECT id, title, open FROM jobboard_jobs WHERE id IN`, ids, func(scan func(...any) error) error {
		var job Job
		err := scan(&job.ID, &job.Title, &job.Open)
		found[job.ID] = job
		return err
	})
}

// Views returns the number of views of a job.
func (db *database) Views(ctx context.Context, id int64) (int64, error) {
	views, err := db.ViewsOf(ctx, []int64{id})
	return views[id], err
}

// ViewsOf returns the number of views of each job.
func (db *database) ViewsOf(ctx context.Context, ids []int64) (map[int64]int64, error) {
	found := make(map[int64]int64)
	return found, db.each(ctx, `SELECT id, views FROM jobboard_jobs WHERE id IN`, ids, func(scan func(...any) error) error {
		var id, n int64
		err := scan(&id, &n)
		found[id] = n
		return err
	})
}

// AddViews adds to the number of views of jobs. The ledger adds each flush
// once, even if it is retried.
func (db *database) AddViews(ctx context.Context, f counter.Flush[int64]) error {
	return db.applied.Once(ctx, f.Batch, func(tx *sql.Tx) error {
		for _, id := range slices.Sorted(maps.Keys(f.Deltas)) { // in order, so that transactions do not deadlock
			if _, err := tx.ExecContext(ctx, `UPDATE jobboard_jobs SET views = views + $1 WHERE id = $2`, f.Deltas[id], id); err != nil {
				return err
			}
		}
		return nil
	})
}

// View records that a user has viewed a job, and reports whether it is the
// first time.
func (db *database) View(ctx context.Context, id, user int64) (first bool, err error) {
	r, err := db.ExecContext(ctx, `INSERT INTO jobboard_viewers (job_id, user_id) VALUES ($1, $2) ON CONFLICT DO NOTHING`, id, user)
	if err != nil {
		return false, err
	}
	n, err := r.RowsAffected()
	return n == 1, err
}

// Viewers counts the users who have viewed a job.
func (db *database) Viewers(ctx context.Context, id int64) (n int64, err error) {
	err = db.QueryRowContext(ctx, `SELECT count(*) FROM jobboard_viewers WHERE job_id = $1`, id).Scan(&n)
	return n, err
}

// each calls f with every row of a query that ends with the list of ids.
func (db *database) each(ctx context.Context, query string, ids []int64, f func(scan func(...any) error) error) error {
	list, args := make([]string, len(ids)), make([]any, len(ids))
	for i, id := range ids {
		list[i], args[i] = fmt.Sprint("$", i+1), id
	}
	rows, err := db.QueryContext(ctx, query+" ("+strings.Join(list, ", ")+")", args...)
	if err != nil {
		return err
	}
	defer func() { _ = rows.Close() }()
	for rows.Next() {
		err = errors.Join(err, f(rows.Scan))
	}
	return errors.Join(err, rows.Err())
}
