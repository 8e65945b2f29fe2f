package dbtest

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

func init() { redistest.Register("adder", adder) }

// adder is a process that adds until it is killed. The same script adds to a
// key of Redis, so that the sum is known.
func adder() {
	redis.SetLogger(silent{})
	d, err := strconv.Atoi(os.Getenv("DIALECT"))
	if err != nil {
		panic(err)
	}
	db, err := openChild(ledger.Dialect(d), os.Getenv("DSN"), 0)
	if err != nil {
		panic(err)
	}
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	e, err := db.adding(rdb, os.Getenv("NAME"))
	if err != nil {
		panic(err)
	}
	e.Start()
	for {
		if err := addAndSee(context.Background(), rdb, e, fmt.Sprint("id", rand.N(killedIDs)), 1+rand.N(9)); err != nil {
			panic(err)
		}
		time.Sleep(time.Millisecond) // gives the others their share
	}
}

// adding returns the engine of an adder. Batches are small, so that there are
// many.
func (db *base) adding(rdb redis.UniversalClient, name string) (*writebehind.Engine, error) {
	return writebehind.New(rdb, writebehind.Options{
		Name: name, Merge: writebehind.Sum, Persist: db.persist, Buckets: killedBuckets,
		Every: 10 * time.Millisecond, LeaseTTL: 500 * time.Millisecond, MaxBatch: 7, Workers: 2, RolledBack: writebehind.Hold,
	})
}

// addAndSee adds to the pending sum of an id, and to the key that records all
// additions.
func addAndSee(ctx context.Context, rdb redis.UniversalClient, e *writebehind.Engine, id string, delta int) error {
	add := script.Call{
		Script: addSeen, Key: e.Keys(e.Bucket(id)).Pending, More: []string{e.Tag(id) + id},
		Args: []any{writebehind.Field(id), delta}, Once: true,
	}
	return writebehind.Outcome(add.Run(ctx, rdb))
}

// fleet is a set of adders that share a Redis and a database. Backups of both
// are taken and restored.
type fleet struct {
	t      *testing.T
	db     *base
	server *redistest.Server
	rdb    *redis.Client
	name   string
	procs  []*redistest.Process
	app    string // by which PostgreSQL knows the processes
}

var fleets atomic.Int64

func newFleet(t *testing.T, db *base) *fleet {
	server := redistest.Start(t)
	f := &fleet{t: t, db: db, server: server, rdb: server.Client(nil), name: strings.ToLower(redistest.Key(t))}
	if db.dialect == ledger.PostgreSQL {
		f.app = fmt.Sprint("fleet", fleets.Add(1))
		db.dsn += "&application_name=" + f.app
	}
	return f
}

// work runs processes that add until two more batches of each bucket are
// persisted, and a little longer. In the end each of them is killed with -9, at
// any step.
func (f *fleet) work() {
	f.t.Helper()
	before := f.batches()
	for range 3 {
		f.procs = append(f.procs, redistest.Child(f.t, "adder", "REDIS="+f.server.Addr(), "DSN="+f.db.dsn,
			"DIALECT="+strconv.Itoa(int(f.db.dialect)), "NAME="+f.name))
	}
	require.Eventually(f.t, func() bool {
		now := f.batches()
		for b := range now {
			if now[b] < before[b]+2 {
				return false
			}
		}
		return true
	}, patience, 5*time.Millisecond, "nothing is persisted")
	time.Sleep(rand.N(10 * time.Millisecond)) // to die at any step
}

// batches returns the number of batches of each bucket in the ledger.
func (f *fleet) batches() (n [killedBuckets]int64) {
	f.t.Helper()
	for b := range n {
		var sum sql.NullInt64
		err := f.db.QueryRowContext(f.t.Context(), `SELECT SUM(n) FROM cachex_ledger WHERE namespace = $1 AND bucket = $2`,
			f.name, b).Scan(&sum)
		require.NoError(f.t, err)
		n[b] = sum.Int64
	}
	return n
}

// kill kills the processes. It returns when the database has ended their
// transactions: PostgreSQL may commit some time after the death of its client.
func (f *fleet) kill() {
	f.t.Helper()
	for _, p := range f.procs {
		p.Kill()
	}
	f.procs = nil
	if f.db.dialect != ledger.PostgreSQL {
		return
	}
	require.Eventually(f.t, func() bool {
		var left int
		err := f.db.QueryRowContext(f.t.Context(), `SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = $1`, f.app).Scan(&left)
		return err == nil && left == 0
	}, patience, time.Millisecond, "PostgreSQL does not notice that its clients are gone")
}

// engine returns an engine that flushes only on demand.
func (f *fleet) engine() *writebehind.Engine {
	f.t.Helper()
	e, err := f.db.adding(f.rdb, f.name)
	require.NoError(f.t, err)
	f.t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = e.Close(ctx)
	})
	return e
}

// seen returns the sum added to each id, as far as Redis knows.
func (f *fleet) seen(e *writebehind.Engine) map[string]int64 {
	f.t.Helper()
	sums := map[string]int64{}
	for i := range killedIDs {
		id := fmt.Sprint("id", i)
		n, err := f.rdb.Get(f.t.Context(), e.Tag(id)+id).Int64()
		if err != redis.Nil {
			require.NoError(f.t, err)
		}
		sums[id] = n
	}
	return sums
}

func (f *fleet) persisted() map[string]int64 {
	f.t.Helper()
	sums := map[string]int64{}
	for i := range killedIDs {
		id := fmt.Sprint("id", i)
		sums[id] = f.db.sum(f.t, id)
	}
	return sums
}

// bucketState is the state of a bucket in Redis and in the ledger.
type bucketState struct {
	n, acked          int64 // numbers of batches, in Redis
	token             string
	pending, inFlight map[string]int64
	row               ledger.Row
}

func (f *fleet) bucket(e *writebehind.Engine, b int) bucketState {
	f.t.Helper()
	keys := e.Keys(b)
	p, err := f.rdb.HGetAll(f.t.Context(), keys.Pending).Result()
	require.NoError(f.t, err)
	i, err := f.rdb.HGetAll(f.t.Context(), keys.InFlight).Result()
	require.NoError(f.t, err)
	s := bucketState{token: i["#tok"], pending: deltas(f.t, p), inFlight: deltas(f.t, i)}
	s.n, _ = strconv.ParseInt(i["#n"], 10, 64)
	s.acked, _ = strconv.ParseInt(i["#a"], 10, 64)
	var content string
	err = f.db.QueryRowContext(f.t.Context(), `SELECT n, token, content FROM cachex_ledger WHERE namespace = $1 AND bucket = $2
		AND incarnation = $3`, f.name, b, i["#inc"]).Scan(&s.row.N, &s.row.Token, &content)
	if err == sql.ErrNoRows {
		return s
	}
	require.NoError(f.t, err)
	var applied struct{ Deltas map[string]int64 }
	require.NoError(f.t, json.Unmarshal([]byte(content), &applied))
	s.row.Deltas = map[string]int64{}
	for id, n := range applied.Deltas {
		id, err := url.PathUnescape(id)
		require.NoError(f.t, err)
		s.row.Deltas[id] = n
	}
	return s
}

func deltas(t *testing.T, hash map[string]string) map[string]int64 {
	t.Helper()
	all := map[string]int64{}
	for field, v := range hash {
		if strings.HasPrefix(field, "#") {
			continue
		}
		n, err := strconv.ParseInt(v, 10, 64)
		require.NoError(t, err)
		all[field] = n
	}
	return all
}
