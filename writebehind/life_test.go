package writebehind

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

func TestNewMakesNoCallAndRefusesWhatCannotBe(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	good := Options{Name: "views", Merge: Sum, Persist: newDatabase().persist}
	_, err := New(rdb, good)
	require.NoError(t, err)
	for want, change := range map[string]func(*Options){
		"Options.Name is empty":      func(o *Options) { o.Name = "" },
		"Options.Name is \"a{b\"":    func(o *Options) { o.Name = "a{b" },
		"Options.Name has 256 bytes": func(o *Options) { o.Name = fmt.Sprintf("%0256d", 1) },
		"Options.Merge is 0":         func(o *Options) { o.Merge = 0 },
		"Options.Persist is nil":     func(o *Options) { o.Persist = nil },
		"Options.Every is 1ms":       func(o *Options) { o.Every = time.Millisecond },
		"Options.Every is 1.0000005": func(o *Options) { o.Every = time.Second + 500 },
		"Options.Buckets is -1":      func(o *Options) { o.Buckets = -1 },
		"Options.MaxBatch is 1001":   func(o *Options) { o.MaxBatch = 1001 },
		"Options.MaxBytes is -1":     func(o *Options) { o.MaxBytes = -1 },
		"Options.Workers is -1":      func(o *Options) { o.Workers = -1 },
		"Options.Timeout is -1":      func(o *Options) { o.Timeout = -1 },
		"Options.LeaseTTL is 1ms":    func(o *Options) { o.LeaseTTL = time.Millisecond },
	} {
		o := good
		change(&o)
		_, err := New(rdb, o)
		require.ErrorContains(t, err, "cachex: new write-behind: "+want)
	}
	_, err = New((*redis.Client)(nil), good)
	require.ErrorContains(t, err, "the Redis client is nil")
}

func TestWhatIsWrittenIsPersistedWithinAPeriodOrSo(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		o.Every, o.Buckets = 10*time.Second, 3
		e := engine(t, rdb, o)
		for i := range 5 {
			at := time.Now()
			require.NoError(t, e.Add(t.Context(), "x", 1))
			for d.sum("x") != int64(i+1) {
				time.Sleep(100 * time.Millisecond)
			}
			require.LessOrEqual(t, time.Since(at), 11*time.Second)
		}
		require.NoError(t, e.Close(t.Context()))
	})
}

// While nothing is written, each period costs one turn for the whole fleet, and
// the check of another process.
func TestAFleetAtRestLooksOnceAPeriod(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		const processes, periods, buckets = 10, 20, 8
		d := newDatabase()
		o := options(t, d, Sum)
		o.Every, o.Buckets = time.Second, buckets
		count := &redistest.Counter{}
		var engines []*Engine
		for range processes {
			client := redis.NewClient(rdb.Options())
			t.Cleanup(func() { _ = client.Close() })
			client.AddHook(count)
			e := engine(t, client, o)
			e.Start()
			engines = append(engines, e)
		}
		time.Sleep(30 * time.Second) // until scripts are known and each process has its place
		count.Reset()
		time.Sleep(periods * o.Every)
		// The turn, the survey, the end of the turn, and the check of another
		// process.
		require.LessOrEqual(t, count.RoundTrips(), (periods+1)*4)
		require.LessOrEqual(t, count.Count(), (periods+1)*(3+buckets))
		require.GreaterOrEqual(t, count.Count(), (periods-1)*buckets)
		for _, e := range engines {
			require.NoError(t, e.Close(t.Context()))
		}
	})
}

// If all processes of a fleet except one die at once, the last one would not
// look for some time. Its own writes make it look.
func TestEngine_PersistsItsOwnWritesThoughTheFleetDied(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		const processes = 40
		d := newDatabase()
		o := options(t, d, Sum)
		o.Every, o.Buckets = time.Second, 2
		var dead atomic.Bool
		over := make(chan struct{})
		frozen := func(context.Context, redis.Cmder) {
			if dead.Load() {
				<-over
			}
		}
		left := engine(t, rdb, o)
		for range processes {
			client := redis.NewClient(rdb.Options())
			t.Cleanup(func() { _ = client.Close() })
			client.AddHook(&redistest.Gate{Before: frozen, After: frozen})
			engine(t, client, o).Start()
			time.Sleep(time.Millisecond)
		}
		t.Cleanup(func() { close(over) })
		time.Sleep(2 * time.Second)
		left.Start() // behind all others
		time.Sleep(5 * time.Second)
		dead.Store(true)
		require.NoError(t, left.Add(t.Context(), "x", 7))
		time.Sleep(2*o.Every + o.LeaseTTL)
		synctest.Wait()
		require.EqualValues(t, 7, d.sum("x"))
		require.NoError(t, left.Close(t.Context()))
	})
}

func TestABatchThatFailsIsTriedLessAndLessOftenByTheWholeFleet(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		var tries []time.Time
		d.fail(func(ledger.Batch) error {
			tries = append(tries, time.Now())
			return errors.New("sick")
		})
		o := options(t, d, Sum)
		o.Every = 10 * time.Second
		first := engine(t, rdb, o)
		second := engine(t, rdb, o)
		require.NoError(t, first.Add(t.Context(), "x", 5))
		second.Start()
		time.Sleep(10 * time.Minute)
		synctest.Wait()
		// After 10, 20 and 40 seconds, and then once a minute, minus a fifth
		// and plus a period.
		require.GreaterOrEqual(t, len(tries), 3+7)
		require.LessOrEqual(t, len(tries), 3+12)
		for i := 1; i < len(tries); i++ {
			wait := min(10*time.Second<<(i-1), time.Minute)
			require.GreaterOrEqual(t, tries[i].Sub(tries[i-1]), wait*8/10, i)
			require.LessOrEqual(t, tries[i].Sub(tries[i-1]), wait+12*time.Second, i)
		}
		backlog, err := first.Backlog(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, backlog.Oldest, 10*time.Minute, "the lag shows")
		s := first.Stats()
		require.Equal(t, int64(len(tries)), s.Failures+second.Stats().Failures)

		d.fail(nil)
		require.NoError(t, second.Flush(t.Context()), "Flush does not wait")
		require.EqualValues(t, 5, d.sum("x"))
		require.NoError(t, first.Close(t.Context()))
		require.NoError(t, second.Close(t.Context()))
	})
}

func TestTheBatchOfAProcessThatHangsIsPersistedByAnother(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		o.Every, o.Timeout, o.LeaseTTL = time.Second, 30*time.Second, 5*time.Second
		hang, entered := make(chan struct{}), make(chan struct{})
		hanging := o
		hanging.Persist = func(ctx context.Context, b ledger.Batch) error {
			close(entered)
			<-hang // whatever ctx says
			return d.persist(ctx, b)
		}
		first := engine(t, rdb, hanging)
		require.NoError(t, first.Add(t.Context(), "x", 5))
		<-entered
		at := time.Now()
		second := engine(t, rdb, o)
		second.Start()
		for d.sum("x") == 0 {
			time.Sleep(time.Second)
		}
		// While its ctx lasts, the process renews its lease.
		require.GreaterOrEqual(t, time.Since(at), 30*time.Second)
		require.LessOrEqual(t, time.Since(at), 42*time.Second)
		require.NoError(t, second.Add(t.Context(), "x", 70))
		require.NoError(t, second.Flush(t.Context()))
		close(hang)
		synctest.Wait()
		require.EqualValues(t, 75, d.sum("x"), "it comes late, and does no harm")
		require.NoError(t, first.Close(t.Context()))
		require.NoError(t, second.Close(t.Context()))
	})
}

func TestCloseDrainsAndTellsWhatIsLeft(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		e := engine(t, rdb, options(t, d, Sum))
		ctx := bounded(t)
		require.NoError(t, e.Add(ctx, "x", 5))
		require.NoError(t, e.Add(ctx, "y", 5))
		sick := errors.New("sick")
		d.fail(func(ledger.Batch) error { return sick })
		err := e.Close(ctx)
		require.ErrorIs(t, err, sick)
		left, ok := errors.AsType[*LeftError](err)
		require.True(t, ok)
		require.True(t, left.Known)
		require.EqualValues(t, 2, left.IDs)
		require.ErrorIs(t, e.Add(ctx, "x", 1), ErrClosed)
		require.ErrorIs(t, e.Flush(ctx), ErrClosed)

		d.fail(nil)
		require.NoError(t, e.Close(ctx), "it tries again")
		require.EqualValues(t, 5, d.sum("x"))
		require.NoError(t, e.Close(ctx))
	})
}

func TestCloseTriesAgainWhatRedisHasFailedAt(t *testing.T) {
	t.Parallel()
	for kind, match := range map[string]func(redis.Cmder) bool{"any": nil, "scripts": redistest.Named("eval", "evalsha")} {
		for _, executed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, executed: %v", kind, executed), func(t *testing.T) {
				t.Parallel()
				redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
					d, faults := newDatabase(), new(redistest.Faults)
					rdb.AddHook(faults)
					e := engine(t, rdb, options(t, d, Sum))
					require.NoError(t, e.Add(t.Context(), "x", 5))
					faults.Add(redistest.Fault{Match: match, Times: 3, Executed: executed})
					require.NoError(t, e.Close(t.Context()))
					require.EqualValues(t, 5, d.sum("x"))
				})
			})
		}
	}
}

func TestCloseGivesUpOnARedisThatIsAwayAfterASecond(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d, faults := newDatabase(), new(redistest.Faults)
		rdb.AddHook(faults)
		e := engine(t, rdb, options(t, d, Sum))
		require.NoError(t, e.Add(t.Context(), "x", 5))
		faults.Add(redistest.Fault{Times: redistest.Always})
		began := time.Now()
		err := e.Close(t.Context())
		require.Equal(t, 1050*time.Millisecond, time.Since(began))
		left, ok := errors.AsType[*LeftError](err)
		require.True(t, ok)
		require.False(t, left.Known)
		require.ErrorIs(t, err, io.EOF)
		faults.Clear()
		require.NoError(t, e.Close(t.Context()))
		require.EqualValues(t, 5, d.sum("x"))

		closed := engine(t, rdb, options(t, d, Sum))
		require.NoError(t, closed.Add(t.Context(), "x", 5))
		faults.Add(redistest.Fault{Times: redistest.Always, Err: redis.ErrClosed})
		began = time.Now()
		require.ErrorIs(t, closed.Close(t.Context()), redis.ErrClosed)
		require.Zero(t, time.Since(began), "a client that is closed stays so")
		faults.Clear()
	})
}

func TestCloseLeavesWhenItsTimeIsUp(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		hang := make(chan struct{})
		o.Persist = func(ctx context.Context, b ledger.Batch) error {
			<-hang
			return d.persist(ctx, b)
		}
		e := engine(t, rdb, o)
		require.NoError(t, e.Add(bounded(t), "x", 5))
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		err := e.Close(ctx)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		left, ok := errors.AsType[*LeftError](err)
		require.True(t, ok, "%v", err)
		require.EqualValues(t, 1, left.IDs)
		close(hang)
	})
}

func TestCloseOfWhatWasNeverUsedAsksNobody(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	e, err := New(rdb, Options{Name: "views", Merge: Sum, Persist: newDatabase().persist})
	require.NoError(t, err)
	require.NoError(t, e.Close(t.Context()))
	require.NoError(t, e.Close(t.Context()))
	e.Start()
	require.False(t, e.begun.Load())
}

func TestAPanicOfPersistIsAnErrorAndGoexitToo(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		o := options(t, d, Sum)
		var mode atomic.Int32
		cause := errors.New("cause")
		o.Persist = func(ctx context.Context, b ledger.Batch) error {
			switch mode.Load() {
			case 0:
				panic(cause)
			case 1:
				runtime.Goexit()
			}
			return d.persist(ctx, b)
		}
		e := engine(t, rdb, o)
		ctx := bounded(t)
		require.NoError(t, e.Add(ctx, "x", 5))
		err := e.Flush(ctx)
		require.ErrorIs(t, err, cause)
		_, ok := errors.AsType[*PanicError](err)
		require.True(t, ok)
		mode.Store(1)
		require.ErrorIs(t, e.Flush(ctx), guard.ErrGoexit)
		mode.Store(2)
		require.NoError(t, e.Flush(ctx))
		require.EqualValues(t, 5, d.sum("x"))
	})
}

// The back-off with a long period is at most that period, and does not
// overflow.
func TestFlush_BacksOffForAPeriodOfADay(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		sick := errors.New("sick")
		d.fail(func(ledger.Batch) error { return sick })
		e := engine(t, rdb, options(t, d, Sum)) // Every is a day
		ctx := bounded(t)
		require.NoError(t, e.Add(ctx, "x", 1))
		for _, fails := range []int64{0, 16, 17, 18, 19, 20, 63, 64, math.MaxInt64 - 10, -1} {
			require.ErrorIs(t, e.Flush(ctx), sick, fails)
			f := e.finding(0, read(e.call(ctx, script.SurveyBatch, 0, "")))
			require.Greater(t, f.left, 18*time.Hour, fails)
			require.LessOrEqual(t, f.left, 24*time.Hour, fails)
			require.NoError(t, rdb.HSet(ctx, e.Keys(0).InFlight, "#f", fails).Err())
		}
		d.fail(nil)
		require.NoError(t, e.Flush(ctx))
	})
}
