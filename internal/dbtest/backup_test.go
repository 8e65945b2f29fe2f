package dbtest

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// tables names the tables to back up.
var tables = []string{"views", "cachex_ledger"}

// backUp copies the tables in one consistent state.
func (db *base) backUp(t *testing.T) {
	t.Helper()
	db.copy(t, func(table string) []string {
		return []string{`DROP TABLE IF EXISTS backup_` + table, `CREATE TABLE backup_` + table + ` AS SELECT * FROM ` + table}
	})
}

// restore sets the tables to the state of the backup.
func (db *base) restore(t *testing.T) {
	t.Helper()
	db.copy(t, func(table string) []string {
		return []string{`DELETE FROM ` + table, `INSERT INTO ` + table + ` SELECT * FROM backup_` + table}
	})
}

func (db *base) copy(t *testing.T, of func(table string) []string) {
	t.Helper()
	attempt := func() error {
		tx, err := db.BeginTx(t.Context(), nil)
		if err != nil {
			return err
		}
		defer func() { _ = tx.Rollback() }()
		if db.dialect == ledger.PostgreSQL {
			if _, err := tx.ExecContext(t.Context(), `SET TRANSACTION ISOLATION LEVEL REPEATABLE READ`); err != nil {
				return err
			}
		}
		for _, table := range tables {
			for _, q := range of(table) {
				if _, err := tx.ExecContext(t.Context(), q); err != nil {
					return err
				}
			}
		}
		return tx.Commit()
	}
	// SQLite may be busy.
	require.Eventually(t, func() bool { return attempt() == nil }, patience, 10*time.Millisecond)
}

// TestBackup_ADatabaseThatIsRestoredGetsWhatRedisStillHas restores a backup of
// the database while Redis goes on. No id is persisted until Reconcile. Then
// the database has the backup and the ids still pending in Redis, once. Updates
// persisted and acknowledged in between are lost, and no others.
func TestBackup_ADatabaseThatIsRestoredGetsWhatRedisStillHas(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		f := newFleet(t, db)
		f.work()
		db.backUp(t) // while they write
		f.kill()
		f.work()
		f.kill()
		db.restore(t)

		e := f.engine()
		want, seen := f.persisted(), f.seen(e)
		behind := 0
		for b := range killedBuckets {
			s := f.bucket(e, b)
			inFlight := s.n > s.acked
			if s.acked > s.row.N {
				behind++
			}
			for id, n := range s.pending {
				want[id] += n
			}
			if inFlight && !(s.row.N == s.n && s.row.Token == s.token) {
				for id, n := range s.inFlight {
					want[id] += n
				}
			}
		}
		require.Positive(t, behind)
		require.NoError(t, addAndSee(ctx, f.rdb, e, "id0", 1)) // by a process that does not know of the backup
		require.Error(t, e.Flush(ctx), "until somebody decides")
		found, err := e.Reconcile(ctx, nil)
		require.Error(t, err)
		require.NotEmpty(t, found)
		for _, fork := range found {
			require.Equal(t, writebehind.ForkBehind, fork.Fork)
		}
		f.eventually(ctx, "reconcile", func() error {
			_, err := e.Reconcile(ctx, func(writebehind.ForkError) writebehind.Choice { return writebehind.Apply })
			return err
		})
		f.requirePersisted(ctx, e, want, seen)
	})
}

// eventually returns when do has succeeded: after a process was killed, SQLite
// is busy for a while.
func (f *fleet) eventually(ctx context.Context, what string, do func() error) {
	f.t.Helper()
	for err := do(); err != nil; err = do() {
		if pause(ctx); ctx.Err() != nil {
			f.t.Fatalf("%s: %v", what, err)
		}
	}
}

// requirePersisted requires that the database has want plus the sums added
// since the state in seen, and that further additions are persisted.
func (f *fleet) requirePersisted(ctx context.Context, e *writebehind.Engine, want, seen map[string]int64) {
	f.t.Helper()
	for range 2 {
		f.eventually(ctx, "flush", func() error { return e.Flush(ctx) })
		now, got := f.seen(e), f.persisted()
		for id := range want {
			want[id] += now[id] - seen[id]
		}
		require.Equal(f.t, want, got)
		seen = now
		f.work()
		f.kill()
	}
}

// TestBackup_ARedisThatIsRestoredCountsNothingTwice restores a backup of Redis
// while the database goes on. If the ledger proves that the database lacks
// pending data of the backup, they are persisted. If that is unknown, Reconcile
// puts them aside.
func TestBackup_ARedisThatIsRestoredCountsNothingTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		f := newFleet(t, db)
		f.work()
		dump := f.dump() // while they write
		f.kill()
		f.work()
		f.kill()
		require.Zero(t, f.goBack(dump)["none"], "two batches of each bucket are missing")
	})
}

// This is the same test with a backup of a moment ago: some buckets have lost
// one batch or none.
func TestBackup_ARedisThatIsRestoredAtOnceCountsNothingTwice(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		f := newFleet(t, db)
		f.work()
		dump := f.dump()
		f.kill()
		f.goBack(dump)
	})
}

// goBack restores a backup of Redis, and checks the database afterwards. It
// returns the number of forks of each kind.
func (f *fleet) goBack(dump string) map[string]int {
	t := f.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	f.server.Kill()
	require.NoError(t, os.Rename(dump, filepath.Join(filepath.Dir(dump), "dump.rdb")))
	f.server.Restart()

	e := f.engine()
	want, seen, aside := f.persisted(), f.seen(e), map[string]int64{}
	forks, states := map[string]int{}, map[int]bucketState{}
	for b := range killedBuckets {
		s := f.bucket(e, b)
		states[b] = s
		inFlight := s.n > s.acked
		next := s.acked + 1 // number of the batch in flight, or of the next one
		applied := inFlight && s.row.N == s.n && s.row.Token == s.token
		to := want
		switch {
		case s.row.N == s.acked || applied: // the database has not advanced
			forks["none"]++
		case s.row.N == next:
			forks["replayed"]++
		default:
			forks["rolled back"]++
			to = aside
		}
		for id, n := range s.pending {
			to[id] += n
		}
		for id, n := range s.inFlight {
			if !applied {
				to[id] += n
			}
		}
		if s.row.N == next && !applied {
			for id, n := range s.row.Deltas {
				_, p := s.pending[id]
				_, i := s.inFlight[id]
				if p || i {
					want[id] -= n
				}
			}
		}
	}
	t.Log(forks)
	var found []writebehind.ForkError
	f.eventually(ctx, "reconcile", func() error {
		some, err := e.Reconcile(ctx, func(writebehind.ForkError) writebehind.Choice { return writebehind.PutAside })
		found = append(found, some...)
		return err
	})
	refused, err := e.Refused(ctx)
	require.NoError(t, err)
	for _, r := range refused {
		n, err := strconv.ParseInt(r.Value, 10, 64)
		require.NoError(t, err)
		aside[r.ID] -= n
	}
	for id, n := range aside {
		require.Zero(t, n, "put aside of %s: %+v\n%v", id, states[e.Bucket(id)], found)
	}
	f.requirePersisted(ctx, e, want, seen)
	return forks
}

// dump makes Redis take a snapshot, and returns the file.
func (f *fleet) dump() string {
	f.t.Helper()
	dir, err := f.rdb.ConfigGet(f.t.Context(), "dir").Result()
	require.NoError(f.t, err)
	require.NoError(f.t, f.rdb.Save(f.t.Context()).Err())
	from, to := filepath.Join(dir["dir"], "dump.rdb"), filepath.Join(dir["dir"], "backup.rdb")
	require.NoError(f.t, os.Rename(from, to))
	return to
}
