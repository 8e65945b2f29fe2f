package dbtest

import (
	"context"
	"database/sql"
	"database/sql/driver"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

var errDead = errors.New("the process is dead")

// errSilent has the text of the error of an engine whose Redis has not answered
// for a second. A busy machine may keep it from that; it is no death.
var errSilent = errors.New("Redis did not answer in time")

// life is the life of a process. It ends before or after one of its steps,
// which are the commands it sends to Redis and to the database. Later steps
// have no effect.
type life struct {
	mu    sync.Mutex
	at    int      // step at which it ends, counted from 0
	after bool     // after that step, not before it
	steps []string // guarded by mu
	dead  bool     // guarded by mu

	// A heartbeat comes when persist asks for one, and persist waits for its
	// end. So heartbeats are steps like any other, at a fixed place. The caller
	// sends a channel, which is then closed.
	beats chan chan struct{}
}

// heartbeat returns after one heartbeat, or when ctx has ended.
func (l *life) heartbeat(ctx context.Context) {
	beaten := make(chan struct{})
	select {
	case l.beats <- beaten:
		<-beaten
	case <-ctx.Done():
	}
}

// do runs a step.
func (l *life) do(name string, effect func() error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dead {
		return errDead
	}
	n := len(l.steps)
	l.steps = append(l.steps, name)
	if n == l.at && !l.after {
		l.dead = true
		return errDead
	}
	err := effect()
	if n == l.at {
		l.dead = true
		return errDead
	}
	return err
}

// reached reports whether the life has ended.
func (l *life) reached() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.steps) > l.at
}

// The steps of Redis.

func (l *life) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l *life) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !strings.HasPrefix(cmd.Name(), "eval") {
			return next(ctx, cmd)
		}
		step := "redis"
		if args := cmd.Args(); (args[1] == script.HoldBatch.SHA() || args[1] == script.HoldBatch.Source()) && args[len(args)-1] == "" {
			step = "heartbeat"
			select {
			case beaten := <-l.beats:
				defer close(beaten)
			case <-ctx.Done():
				cmd.SetErr(ctx.Err())
				return ctx.Err()
			}
		}
		err := l.do(step, func() error { return next(ctx, cmd) })
		if errors.Is(err, errDead) {
			cmd.SetErr(err)
		}
		return err
	}
}

func (l *life) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !strings.HasPrefix(cmds[0].Name(), "eval") {
			return next(ctx, cmds) // commands that open a connection
		}
		err := l.do("redis", func() error { return next(ctx, cmds) })
		if errors.Is(err, errDead) {
			for _, cmd := range cmds {
				cmd.SetErr(err)
			}
		}
		return err
	}
}

// mortal is a connection to the database. It dies with its process.
type mortal struct {
	driver.Conn
	l steps
}

// steps executes or skips the steps of a connection, and returns their results.
// errDead ends the connection.
type steps interface {
	do(name string, effect func() error) error
}

type mortals struct {
	open func() (driver.Conn, error)
	d    driver.Driver
	l    func() steps // of a connection
}

func (m mortals) Connect(context.Context) (driver.Conn, error) {
	c, err := m.open()
	return mortal{c, m.l()}, err
}
func (m mortals) Driver() driver.Driver { return m.d }

func (m mortal) end(err error) error {
	if errors.Is(err, errDead) {
		_ = m.Close() // as the kernel would
		return driver.ErrBadConn
	}
	return err
}

func (m mortal) BeginTx(ctx context.Context, o driver.TxOptions) (driver.Tx, error) {
	var tx driver.Tx
	err := m.l.do("BEGIN", func() (err error) {
		tx, err = m.Conn.(driver.ConnBeginTx).BeginTx(ctx, o)
		return err
	})
	return mortalTx{tx, m}, m.end(err)
}

func (m mortal) ExecContext(ctx context.Context, q string, args []driver.NamedValue) (result driver.Result, err error) {
	err = m.l.do(strings.Fields(q)[0], func() (err error) {
		result, err = m.Conn.(driver.ExecerContext).ExecContext(ctx, q, args)
		return err
	})
	return result, m.end(err)
}

func (m mortal) QueryContext(ctx context.Context, q string, args []driver.NamedValue) (rows driver.Rows, err error) {
	err = m.l.do("SELECT", func() (err error) {
		rows, err = m.Conn.(driver.QueryerContext).QueryContext(ctx, q, args)
		return err
	})
	if errors.Is(err, errDead) && rows != nil {
		_ = rows.Close() // otherwise SQLite keeps the closed connection, and its locks
	}
	return rows, m.end(err)
}

type mortalTx struct {
	tx driver.Tx
	m  mortal
}

func (t mortalTx) Commit() error   { return t.m.end(t.m.l.do("COMMIT", t.tx.Commit)) }
func (t mortalTx) Rollback() error { return t.m.end(t.m.l.do("ROLLBACK", t.tx.Rollback)) }

// persist is persist of db, with a heartbeat before the transaction, in it and
// after it.
func (l *life) persist(ctx context.Context, db *base, b ledger.Batch) error {
	l.heartbeat(ctx)
	defer l.heartbeat(ctx)
	return db.l.Once(ctx, b, func(tx *sql.Tx) error {
		l.heartbeat(ctx)
		return db.l.Split(ctx, tx, b.IDs(), func(ids []string) error { return db.add(ctx, tx, b, ids) })
	})
}

// The persisting process dies before and after each of its steps. A refused row
// makes more steps. Then another process continues.
func TestNothingIsLostOrAppliedTwiceAtWhateverStepAProcessDies(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		rdb := redistest.Shared(t).Client(nil)
		ctx, cancel := context.WithTimeout(t.Context(), long)
		defer cancel()
		deaths, seen := 0, map[string]bool{}
		for at, alive := 0, false; !alive; at++ {
			for _, after := range []bool{false, true} {
				var l *life
				var second *writebehind.Engine
				var id string
				err := errSilent
				for attempt := 0; err != nil && strings.Contains(err.Error(), errSilent.Error()); attempt++ {
					l = &life{at: at, after: after, beats: make(chan chan struct{})}
					id = fmt.Sprintf("x%d%v%d", at, after, attempt)
					name := redistest.Key(t)
					second = db.engine(t, rdb, name, nil)
					require.NoError(t, second.Add(ctx, id, 5))
					require.NoError(t, second.Add(ctx, "poison", 5_000_000))
					err = persisted(db.engine(t, rdb, name, l).Flush(ctx))
				}
				reached := l.reached()
				if alive = err == nil && !reached; err != nil {
					require.True(t, reached, "%v", err)
				}
				if reached {
					deaths++
					seen[l.steps[at]] = true
				}
				require.NoError(t, second.Add(ctx, id, 70))
				require.NoError(t, persisted(second.Flush(ctx)), "%v", l.steps)
				require.EqualValues(t, 75, db.sum(t, id), "%v, after: %v", l.steps, after)
				refused, err := second.Refused(ctx)
				require.NoError(t, err)
				require.Len(t, refused, 1, "%v", l.steps)
				require.Equal(t, "5000000", refused[0].Value)
				require.Zero(t, db.sum(t, "poison"))
			}
		}
		t.Logf("%d deaths, at %v", deaths, seen)
		for _, step := range []string{"redis", "heartbeat", "BEGIN", "UPDATE", "INSERT", "SAVEPOINT", "ROLLBACK", "RELEASE", "COMMIT"} {
			require.True(t, seen[step], step)
		}
	})
}

// engine returns an engine of a process with the life l. If l is nil, the
// process never dies.
func (db *base) engine(t *testing.T, shared *redis.Client, name string, l *life) *writebehind.Engine {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: shared.Options().Addr, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	persist, lease := db.persist, patience
	if l != nil {
		rdb.AddHook(l)
		conn := sql.OpenDB(mortals{func() (driver.Conn, error) { return db.Driver().Open(db.dsn) }, db.Driver(), func() steps { return l }})
		t.Cleanup(func() { _ = conn.Close() })
		lg, err := ledger.New(conn, ledger.Options{Dialect: db.dialect})
		require.NoError(t, err)
		mine := &base{DB: conn, l: lg, dialect: db.dialect}
		persist = func(ctx context.Context, b ledger.Batch) error { return l.persist(ctx, mine, b) }
		lease = 30 * time.Millisecond // heartbeats are soon due
	}
	e, err := writebehind.New(rdb, writebehind.Options{
		Name: name, Merge: writebehind.Sum, Persist: persist, Buckets: 1,
		Every: 24 * time.Hour, LeaseTTL: lease,
	})
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = e.Close(ctx) // if its process is dead, an error
	})
	return e
}

// persisted returns nil if err only says that the database refused some ids.
func persisted(err error) error {
	if aside, beside := errs.Find[*writebehind.AsideError](err); len(aside) > 0 && !beside {
		return nil
	}
	return err
}
