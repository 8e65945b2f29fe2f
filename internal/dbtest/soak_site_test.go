package dbtest

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// site is everything that a process of the soak writes to: two caches with
// write-behind, by Down and by DownMany, and counts with a Buffer.
type site struct {
	db     *base
	values *cachex.Cache[string, int64]
	many   *cachex.Cache[string, int64]
	counts *counter.Counter[string]
	buffer *counter.Buffer[string]
}

// The names of the caches begin the keys of the soak, and the names of their
// tables.
const (
	eachCache = "each" // Down
	manyCache = "many" // DownMany
)

// flushEvery is short, so that batches are always in flight.
const flushEvery = 20 * time.Millisecond

// openSite returns the site of a process that runs a release of the program.
// Two releases share a name, so neither can decode the values of the other.
// lease is how long the others wait for the process if it dies.
func openSite(rdb redis.UniversalClient, db *base, name string, release uint32, lease time.Duration) (*site, error) {
	s := &site{db: db}
	spec := func(table string) cachex.Spec[string, int64] {
		return cachex.Spec[string, int64]{
			Key: name + ":" + table + ":{id}", TTL: time.Minute, LeaseTTL: lease, WriteBehind: flushEvery,
			WriteBehindOptions: writebehind.Options{LeaseTTL: lease},
			Codec:              codec.Version(codec.Int[int64](), release),
			Up: func(ctx context.Context, id string) (n int64, err error) {
				err = db.QueryRowContext(ctx, `SELECT n FROM `+table+` WHERE id = $1`, id).Scan(&n)
				if err == sql.ErrNoRows {
					err = cachex.ErrNotFound
				}
				return n, err
			},
		}
	}
	each := spec(eachCache)
	each.Down = func(ctx context.Context, id string, n int64) error {
		return s.once(ctx, func(tx *sql.Tx) error { return put(ctx, tx, eachCache, map[string]int64{id: n}) })
	}
	many := spec(manyCache)
	many.DownMany = func(ctx context.Context, values map[string]int64) error {
		return s.once(ctx, func(tx *sql.Tx) error { return put(ctx, tx, manyCache, values) })
	}
	var err error
	if s.values, err = cachex.New(rdb, each); err != nil {
		return nil, err
	}
	if s.many, err = cachex.New(rdb, many); err != nil {
		return nil, err
	}
	s.counts, err = counter.New(rdb, counter.Spec[string]{
		Key: name + ":count:{id}", TTL: cachex.Forever, LeaseTTL: lease, FlushEvery: flushEvery,
		WriteBehindOptions: writebehind.Options{LeaseTTL: lease},
		Up:                 db.up, Down: db.down,
	})
	if err == nil {
		s.buffer, err = counter.NewBuffer(s.counts, counter.BufferOptions{Every: time.Hour})
	}
	return s, err
}

var errNoBatch = errors.New("Down is told of no batch")

// once applies a batch of values, as the documents show it.
func (s *site) once(ctx context.Context, apply func(*sql.Tx) error) error {
	b, ok := ledger.FromContext(ctx)
	if !ok {
		return errNoBatch
	}
	return s.db.l.Once(ctx, b, apply)
}

// put writes values to a table. It records in another table which of them
// replace a newer version.
func put(ctx context.Context, tx *sql.Tx, table string, values map[string]int64) error {
	for _, id := range slices.Sorted(maps.Keys(values)) {
		if _, err := tx.ExecContext(ctx, `INSERT INTO regress (id, was, n) SELECT id, n, $2 FROM `+table+` WHERE id = $1 AND n > $2`,
			id, values[id]); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO `+table+` (id, n) VALUES ($1, $2)
			ON CONFLICT (id) DO UPDATE SET n = excluded.n`, id, values[id]); err != nil {
			return err
		}
	}
	return nil
}

// createSite makes the tables of a site.
func (db *base) createSite(ctx context.Context) error {
	for _, q := range []string{
		`CREATE TABLE ` + eachCache + ` (id VARCHAR(255) PRIMARY KEY, n BIGINT NOT NULL)`,
		`CREATE TABLE ` + manyCache + ` (id VARCHAR(255) PRIMARY KEY, n BIGINT NOT NULL)`,
		`CREATE TABLE regress (id VARCHAR(255) NOT NULL, was BIGINT NOT NULL, n BIGINT NOT NULL)`,
	} {
		if _, err := db.ExecContext(ctx, q); err != nil {
			return err
		}
	}
	return nil
}

// flush persists all pending data.
func (s *site) flush(ctx context.Context) error {
	return errors.Join(s.values.Flush(ctx), s.many.Flush(ctx), s.counts.Flush(ctx))
}

func (s *site) close(ctx context.Context) error {
	return errors.Join(s.values.Close(ctx), s.many.Close(ctx), s.counts.Close(ctx))
}

// cache returns the cache with a name.
func (s *site) cache(name string) *cachex.Cache[string, int64] {
	if name == eachCache {
		return s.values
	}
	return s.many
}
