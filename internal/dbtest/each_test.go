package dbtest

import (
	"context"
	"database/sql"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

func init() { redistest.Register("sets many", setsMany) }

// The number of processes that are killed, and the number of values that each
// sets.
const (
	setters   = 5
	setAtOnce = 200
)

// eachWrites creates a table with a row for each call of Down: a value that is
// written twice has two rows.
const eachWrites = `CREATE TABLE writes (id BIGINT NOT NULL, value VARCHAR(255) NOT NULL)`

// downEach returns a cache whose Down writes one value, as spec.go describes
// it. lease is how long the others wait for the process if it dies.
func (db *base) downEach(rdb redis.UniversalClient, name string, every, lease time.Duration) (*cachex.Cache[int, string], error) {
	return cachex.New(rdb, cachex.Spec[int, string]{
		Key: name + ":{id}", TTL: time.Hour, WriteBehind: every,
		WriteBehindOptions: writebehind.Options{LeaseTTL: lease},
		Down: func(ctx context.Context, id int, value string) error {
			b, ok := ledger.FromContext(ctx)
			if !ok {
				return errNoBatch
			}
			return db.l.Once(ctx, b, func(tx *sql.Tx) error {
				_, err := tx.ExecContext(ctx, `INSERT INTO writes (id, value) VALUES ($1, $2)`, id, value)
				return err
			})
		},
	})
}

// someValues returns n values, starting at the id from.
func someValues(from, n int) map[int]string {
	values := make(map[int]string, n)
	for id := from; id < from+n; id++ {
		values[id] = fmt.Sprint("value ", id)
	}
	return values
}

// requireWrites requires that each of n values was written exactly once.
func (db *base) requireWrites(t *testing.T, n int) {
	t.Helper()
	var rows, ids int
	require.NoError(t, db.QueryRow(`SELECT COUNT(*), COUNT(DISTINCT id) FROM writes WHERE value = 'value ' || id`).Scan(&rows, &ids))
	require.Equal(t, [2]int{n, n}, [2]int{rows, ids}, "rows, and ids that have one")
}

func TestDown_ForEachValueWithALedgerWritesEveryOne(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		_, err := db.ExecContext(t.Context(), eachWrites)
		require.NoError(t, err)
		rdb := redistest.Start(t).Client(nil)
		c, err := db.downEach(rdb, redistest.Key(t), time.Second, patience)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		const n = 1000
		require.NoError(t, c.SetMany(ctx, someValues(0, n)))
		require.NoError(t, c.Close(ctx))
		require.EqualValues(t, n, c.Stats().WriteBehind.Persisted)
		db.requireWrites(t, n)
	})
}

// setsMany is a process that sets values, reports it, and flushes until it is
// killed.
func setsMany() {
	redis.SetLogger(silent{})
	number := func(name string) int {
		n, err := strconv.Atoi(os.Getenv(name))
		if err != nil {
			panic(err)
		}
		return n
	}
	db, err := openChild(ledger.Dialect(number("DIALECT")), os.Getenv("DSN"), 0)
	if err != nil {
		panic(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	c, err := db.downEach(rdb, os.Getenv("NAME"), 20*time.Millisecond, 300*time.Millisecond)
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	if err := c.SetMany(ctx, someValues(number("FROM"), setAtOnce)); err != nil {
		panic(err)
	}
	fmt.Println("set")
	for {
		_ = c.Flush(ctx) // SQLite may be busy
	}
}

// Processes are killed while they call Down for each value. Every value is
// written once.
func TestDown_ForEachValueWithALedgerThroughKills(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		_, err := db.ExecContext(t.Context(), eachWrites)
		require.NoError(t, err)
		server := redistest.Start(t)
		name := redistest.Key(t)
		for i := range setters {
			p := redistest.Child(t, "sets many", "REDIS="+server.Addr(), "DSN="+db.dsn, "DIALECT="+strconv.Itoa(int(db.dialect)),
				"NAME="+name, "FROM="+strconv.Itoa(i*setAtOnce))
			p.WaitLine("set")
			time.Sleep(rand.N(100 * time.Millisecond)) // into the middle of its work
			p.Kill()
		}
		c, err := db.downEach(server.Client(nil), name, time.Second, patience)
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		for err = c.Flush(ctx); err != nil && ctx.Err() == nil; err = c.Flush(ctx) {
			pause(ctx) // after a kill SQLite is busy
		}
		require.NoError(t, err)
		require.NoError(t, c.Close(ctx))
		s := c.Stats().WriteBehind
		require.Zero(t, s.Forks)
		t.Logf("%d values were left, of them %d taken over", s.Persisted, s.Replays)
		db.requireWrites(t, setters*setAtOnce)
	})
}
