package engine

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A fleet is some processes in a bubble that refresh the same keys. It records
// their refreshes, counted from when the fleet was made.
type fleet struct {
	*testing.T
	rdb   *redis.Client
	keys  []string
	every time.Duration
	began time.Time
	over  chan struct{} // closed when the test ends, before anything else is
	end   sync.Once     // closes over

	mu    sync.Mutex
	turns map[int][]time.Duration // guarded by mu: when a key was refreshed
	by    map[int][]string        // guarded by mu: and by which process
}

// A crew is one process of a fleet.
type crew struct {
	*fleet
	name   string
	loader *Loader[int]
	turns  *Periodic
	cancel context.CancelCauseFunc
	ended  chan error // the result of Run
}

var errStopped = errors.New("stopped by the test")

func inFleet(t *testing.T, keys int, every time.Duration, f func(*fleet)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		fl := &fleet{
			T: t, rdb: rdb, every: every, began: time.Now(), over: make(chan struct{}),
			turns: map[int][]time.Duration{}, by: map[int][]string{},
		}
		for i := range keys {
			fl.keys = append(fl.keys, fmt.Sprint("turn:", i))
		}
		// Then a fault of the first evalsha is a fault of the script itself.
		for _, s := range []*script.Script{script.TakeTurn, script.ExtendTurn, script.EndTurn, script.ReturnTurn} {
			require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
		}
		f(fl)
	})
}

// start starts a process. refresh refreshes one key; nil does nothing.
func (f *fleet) start(name string, refresh func(ctx context.Context, i int) error, hooks ...redis.Hook) *crew {
	f.Helper()
	return f.startWith(name, nil, refresh, hooks...)
}

func (f *fleet) startWith(name string, set func(*Periodic), refresh func(ctx context.Context, i int) error, hooks ...redis.Hook) *crew {
	f.Helper()
	rdb := redis.NewClient(f.rdb.Options())
	for _, h := range hooks {
		rdb.AddHook(h)
	}
	l, err := newTyped(rdb, typedOptions[int]{LeaseTTL: 3 * time.Second})
	require.NoError(f, err)
	ctx, cancel := context.WithCancelCause(f.Context())
	p := &crew{fleet: f, name: name, loader: l, turns: l.Turns(), cancel: cancel, ended: make(chan error, 1)}
	if set != nil {
		set(p.turns)
	}
	f.Cleanup(func() {
		f.end.Do(func() { close(f.over) })
		cancel(errStopped)
		require.NoError(f, l.Close(context.Background()))
		require.NoError(f, rdb.Close())
	})
	go func() {
		p.ended <- p.turns.Run(ctx, f.every, f.keys, func(ctx context.Context, due []int) error {
			var err error
			for _, i := range due {
				f.mu.Lock()
				f.turns[i] = append(f.turns[i], time.Since(f.began))
				f.by[i] = append(f.by[i], name)
				f.mu.Unlock()
				if refresh != nil {
					err = errors.Join(err, refresh(ctx, i))
				}
			}
			return err
		})
	}()
	return p
}

// stop ends a process cleanly.
func (p *crew) stop() {
	p.Helper()
	p.cancel(errStopped)
	require.Equal(p, errStopped, <-p.ended)
}

// until lets time pass.
func (f *fleet) until(d time.Duration) {
	time.Sleep(d - time.Since(f.began))
	synctest.Wait()
}

// refreshed returns when key i was refreshed.
func (f *fleet) refreshed(i int) []time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.turns[i])
}

func (f *fleet) who(i int) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.by[i])
}

// periods returns n moments, one a period.
func (f *fleet) periods(n int) []time.Duration {
	var at []time.Duration
	for i := range n {
		at = append(at, time.Duration(i)*f.every)
	}
	return at
}

func takes(d time.Duration) func(context.Context, int) error {
	return func(ctx context.Context, _ int) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func TestPeriodic_OneTurnPerKeyAndPeriodInTheFleet(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		took          time.Duration
		keys, periods int
	}{
		{10 * time.Millisecond, 100, 20}, {0, 10, 5}, {700 * time.Millisecond, 100, 3},
	} {
		inFleet(t, test.keys, 10*time.Second, func(f *fleet) {
			for i := range 5 {
				f.start(fmt.Sprint(i), takes(test.took))
			}
			periods := test.periods
			f.until(time.Duration(periods)*f.every - time.Millisecond)
			total := 0
			for i := range f.keys {
				at := f.refreshed(i)
				total += len(at)
				require.Len(f, at, periods, "key %d, at %v, by %v", i, at, f.who(i))
				require.Less(f, at[0], 3*time.Second, "key %d", i)
				for n := range at {
					require.Equal(f, at[0]+time.Duration(n)*f.every, at[n], "key %d has drifted", i)
				}
			}
			require.Equal(f, len(f.keys)*periods, total)
		})
	}
}

func TestPeriodic_HangingRefreshDelaysNoOtherKey(t *testing.T) {
	t.Parallel()
	inFleet(t, 10, time.Second, func(f *fleet) {
		p := f.startWith("only", func(turns *Periodic) { turns.Places = 10 }, func(ctx context.Context, i int) error {
			if i == 3 {
				return takes(4500*time.Millisecond)(ctx, i) // and fails, as after UpTimeout
			}
			return takes(10*time.Millisecond)(ctx, i)
		})
		f.until(10*time.Second - time.Millisecond)
		for i := range f.keys {
			if i != 3 {
				require.Equal(f, f.periods(10), f.refreshed(i), "key %d", i)
			}
		}
		// Its turns begin where the previous ones end, and keep to the periods.
		require.Equal(f, []time.Duration{0, 4500 * time.Millisecond, 9 * time.Second}, f.refreshed(3))
		p.stop()
	})
}

func TestPeriodic_HangingProcessDelaysNoOtherProcess(t *testing.T) {
	t.Parallel()
	inFleet(t, 40, time.Second, func(f *fleet) {
		hangs := f.start("hangs", func(ctx context.Context, _ int) error {
			<-ctx.Done()
			return context.Cause(ctx)
		})
		synctest.Wait() // has sixteen turns, and keeps them
		f.start("lives", nil)
		f.until(20*time.Second - time.Millisecond)
		hung := 0
		for i := range f.keys {
			if f.who(i)[0] == "hangs" {
				require.Len(f, f.who(i), 1, "its turn was taken away")
				hung++
				continue
			}
			require.Equal(f, f.periods(20), f.refreshed(i), "key %d", i)
		}
		require.Equal(f, defaultPlaces, hung)
		hangs.stop()
		stopped := time.Since(f.began)
		f.until(stopped + 3*time.Second/3)
		for i := range f.keys {
			if f.who(i)[0] == "hangs" {
				require.Equal(f, "lives", f.who(i)[1], "key %d was not taken over within a third of LeaseTTL", i)
			}
		}
	})
}

func TestPeriodic_FailedRefreshUsesItsTurn(t *testing.T) {
	t.Parallel()
	inFleet(t, 5, time.Second, func(f *fleet) {
		for i := range 3 {
			f.start(fmt.Sprint(i), func(context.Context, int) error { return errBroken })
		}
		f.until(10*time.Second - time.Millisecond)
		for i := range f.keys {
			require.Equal(f, f.periods(10), f.refreshed(i), "key %d", i)
		}
	})
}

func TestPeriodic_RefreshesAtMostPlacesAtOnce(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ places, chunk, most, calls int }{
		{0, 0, 16, 16}, {3, 1, 3, 3}, {2, 20, 40, 2}, {1, 1000, 100, 1},
	} {
		inFleet(t, 100, time.Minute, func(f *fleet) {
			var calls, keys peak
			rdb := redis.NewClient(f.rdb.Options())
			l, err := newTyped(rdb, typedOptions[int]{LeaseTTL: 3 * time.Second})
			require.NoError(f, err)
			turns := l.Turns()
			turns.Places, turns.Chunk = test.places, test.chunk
			ctx, cancel := context.WithTimeout(f.Context(), 59*time.Second)
			defer cancel()
			var total atomic.Int64
			err = turns.Run(ctx, f.every, f.keys, func(_ context.Context, due []int) error {
				calls.add(1)
				keys.add(len(due))
				time.Sleep(10 * time.Millisecond)
				calls.add(-1)
				keys.add(-len(due))
				total.Add(int64(len(due)))
				return nil
			})
			require.Equal(f, context.DeadlineExceeded, err)
			require.Equal(f, int64(len(f.keys)), total.Load())
			require.Equal(f, test.most, keys.highest())
			require.Equal(f, test.calls, calls.highest())
			require.NoError(f, l.Close(f.Context()))
			require.NoError(f, rdb.Close())
		})
	}
}

func TestPeriodic_EndOfRunCancelsAndGivesTheTurnBack(t *testing.T) {
	t.Parallel()
	for _, stopped := range []time.Duration{10 * time.Second, 10500 * time.Millisecond, 11 * time.Second, 11500 * time.Millisecond} {
		inFleet(t, 1, time.Minute, func(f *fleet) {
			var cause error
			a := f.start("a", func(ctx context.Context, _ int) error {
				<-ctx.Done()
				cause = context.Cause(ctx)
				return cause
			})
			synctest.Wait()
			f.start("b", nil)
			f.until(stopped)
			require.Equal(f, []string{"a"}, f.who(0))
			a.stop()
			require.Equal(f, errStopped, cause)
			require.Equal(f, stopped, time.Since(f.began), "it ended late")
			require.Equal(f, byte('R'), f.record(0)[3])
			require.Equal(f, make([]byte, 4), []byte(f.record(0)[4:8]), "the turn was not given back")
			f.until(stopped + time.Second)
			require.Equal(f, []string{"a", "b"}, f.who(0))
			f.until(2*time.Minute - time.Millisecond)
			// The period is still counted from the first turn.
			require.Equal(f, []string{"a", "b", "b"}, f.who(0))
			require.Equal(f, time.Minute, f.refreshed(0)[2].Truncate(time.Millisecond))
		})
	}
}

func TestPeriodic_ProcessThatEndsBetweenTurnsIsReplacedOnTime(t *testing.T) {
	t.Parallel()
	inFleet(t, 10, time.Second, func(f *fleet) {
		a := f.start("a", nil)
		synctest.Wait()
		f.start("b", nil)
		f.until(2500 * time.Millisecond)
		a.stop()
		f.until(10*time.Second - time.Millisecond)
		for i := range f.keys {
			at := f.refreshed(i)
			require.Len(f, at, 10, "key %d", i)
			require.Equal(f, []string{"a", "a", "a", "b"}, f.who(i)[:4])
			require.Less(f, at[3]-3*time.Second, f.every/10+2*time.Millisecond, "key %d", i)
			for n := range 10 {
				require.Equal(f, time.Duration(n), at[n].Truncate(f.every)/f.every, "key %d has drifted: %v", i, at)
			}
		}
	})
}

// record returns the record of key i.
func (f *fleet) record(i int) string {
	f.Helper()
	s, err := f.rdb.Get(f.Context(), f.keys[i]).Result()
	require.NoError(f, err)
	return s
}

// frozen is a hook that, once closed, lets no command out until the end of the
// test.
func (f *fleet) frozen() (*redistest.Gate, func()) {
	var isFrozen atomic.Bool
	wait := func(context.Context, redis.Cmder) {
		if isFrozen.Load() {
			<-f.over
		}
	}
	return &redistest.Gate{Before: wait, After: wait}, func() { isFrozen.Store(true) }
}

func TestPeriodic_StoppedProcessIsReplacedWithinTheLease(t *testing.T) {
	t.Parallel()
	for after := range 4 { // at any moment between two heartbeats
		inFleet(t, 4, time.Minute, func(f *fleet) {
			gate, freeze := f.frozen()
			f.start("dies", func(ctx context.Context, _ int) error {
				<-ctx.Done()
				return context.Cause(ctx)
			}, gate)
			synctest.Wait()
			f.start("b", nil)
			f.start("c", nil)
			died := 5*time.Second + time.Duration(after)*300*time.Millisecond
			f.until(died)
			for i := range f.keys {
				require.Equal(f, []string{"dies"}, f.who(i))
			}
			freeze()
			f.until(died + 3*time.Second)
			for i := range f.keys {
				require.Len(f, f.who(i), 2, "key %d was not taken over within LeaseTTL", i)
			}
			f.until(2*time.Minute - time.Millisecond)
			for i := range f.keys {
				at := f.refreshed(i)
				require.Len(f, at, 3, "key %d: %v", i, f.who(i))
				require.Less(f, at[2]-time.Minute, 300*time.Millisecond, "key %d has drifted", i)
			}
		})
	}
}

func TestPeriodic_TurnOfALostReplyIsGivenBack(t *testing.T) {
	t.Parallel()
	for _, executed := range []bool{false, true} {
		inFleet(t, 3, 10*time.Second, func(f *fleet) {
			faults := new(redistest.Faults)
			faults.Add(redistest.Fault{Match: evalsha(script.TakeTurn), Executed: executed})
			p := f.start("a", nil, faults)
			synctest.Wait()
			for i := range f.keys {
				require.Empty(f, f.refreshed(i))
				if executed {
					require.Equal(f, make([]byte, 4), []byte(f.record(i)[4:8]), "key %d is still held", i)
				}
			}
			f.until(3 * time.Second)
			for i := range f.keys {
				require.Len(f, f.refreshed(i), 1, "key %d", i)
				require.GreaterOrEqual(f, f.refreshed(i)[0], time.Second)
			}
			require.Positive(f, p.loader.Stats().RedisFailures)
		})
	}
}

func TestPeriodic_UnheardEndIsSentAgain(t *testing.T) {
	t.Parallel()
	for _, executed := range []bool{false, true} {
		inFleet(t, 3, 10*time.Second, func(f *fleet) {
			faults := new(redistest.Faults)
			faults.Add(redistest.Fault{Match: evalsha(script.EndTurn), Executed: executed})
			f.start("a", nil, faults)
			synctest.Wait()
			f.start("b", nil)
			f.until(10*f.every - time.Millisecond)
			for i := range f.keys {
				require.Equal(f, f.periods(10), f.refreshed(i), "key %d, by %v", i, f.who(i))
			}
		})
	}
}

// evalsha matches the commands that run s.
func evalsha(s *script.Script) func(redis.Cmder) bool {
	return func(cmd redis.Cmder) bool {
		args := cmd.Args()
		return len(args) > 1 && turnScripts[args[1]] == s
	}
}

func TestPeriodic_AsksAnUnavailableRedisNowAndThen(t *testing.T) {
	t.Parallel()
	inFleet(t, 100, time.Second, func(f *fleet) {
		faults, count := new(redistest.Faults), new(redistest.Counter)
		p := f.start("a", nil, count, faults)
		f.until(5 * time.Second)
		faults.Add(redistest.Fault{Times: redistest.Always})
		before := len(f.refreshed(0))
		count.Reset()
		f.until(65 * time.Second)
		require.Equal(f, before, len(f.refreshed(0)), "refreshed without a turn")
		// Every second command that takes turns, and one that gives them back.
		require.Less(f, count.RoundTrips(), 200)
		require.GreaterOrEqual(f, p.loader.Stats().RedisFailures, int64(60))
		faults.Clear()
		f.until(68 * time.Second)
		for i := range f.keys {
			at := f.refreshed(i)
			require.Greater(f, at[len(at)-1], 65*time.Second, "key %d", i)
		}
		f.until(70 * time.Second)
		for i := range f.keys {
			at := f.refreshed(i)
			require.Equal(f, f.every, at[len(at)-1]-at[len(at)-2], "key %d", i)
		}
		p.stop()
	})
}

func TestPeriodic_LostTurnStaysLostAndItsRefreshGoesOn(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, time.Minute, func(f *fleet) {
		ended := make(chan error, 1)
		a := f.start("a", func(ctx context.Context, _ int) error {
			select {
			case <-time.After(20 * time.Second):
			case <-ctx.Done():
			}
			ended <- ctx.Err()
			return nil
		})
		f.until(5*time.Second + time.Millisecond)
		require.NoError(f, f.rdb.Del(f.Context(), f.keys[0]).Err())
		f.until(7 * time.Second) // the heartbeat has noticed
		f.start("b", nil)
		f.until(30 * time.Second)
		require.NoError(f, <-ended)
		require.Equal(f, []string{"a", "b"}, f.who(0))
		f.until(2*time.Minute + 30*time.Second)
		require.Len(f, f.who(0), 4, "the period is that of the new record: %v", f.refreshed(0))
		a.stop()
	})
}

func TestPeriodic_OverwritesAForeignRecord(t *testing.T) {
	t.Parallel()
	inFleet(t, 3, time.Minute, func(f *fleet) {
		require.NoError(f, f.rdb.RPush(f.Context(), f.keys[0], "a").Err())
		require.NoError(f, f.rdb.Set(f.Context(), f.keys[1], "garbage", 0).Err())
		f.start("a", nil)
		f.until(time.Second)
		for i := range f.keys {
			require.Equal(f, []time.Duration{0}, f.refreshed(i))
			require.Equal(f, byte('D'), f.record(i)[3])
		}
	})
}

func TestPeriodic_StopDoesNotWaitForAHangingRedis(t *testing.T) {
	t.Parallel()
	inFleet(t, 20, time.Minute, func(f *fleet) {
		gate, freeze := f.frozen()
		a := f.start("a", takes(time.Hour), gate)
		f.until(time.Second + time.Millisecond)
		freeze()
		f.until(3 * time.Second)
		a.stop()
		require.Equal(f, 4*time.Second, time.Since(f.began), "Redis has a second")
	})
}

func TestClose_WaitsForPeriodicRun(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, time.Minute, func(f *fleet) {
		a := f.start("a", takes(time.Hour))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(f.Context(), time.Minute)
		defer cancel()
		require.Equal(f, context.DeadlineExceeded, a.loader.Close(ctx))
		a.stop()
		require.NoError(f, a.loader.Close(f.Context()))
		require.Equal(f, ErrClosed, a.turns.Run(f.Context(), f.every, f.keys, nil))
	})
}

func TestCheckPeriod_WholeMillisecondsWithinBounds(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{0, -time.Second, time.Millisecond, 99 * time.Millisecond, time.Second + 1, MaxPeriod + time.Millisecond, Forever} {
		require.Error(t, CheckPeriod(d), d)
		require.Error(t, new(Periodic).Run(t.Context(), d, nil, nil), d)
	}
	for _, d := range []time.Duration{MinPeriod, time.Second, time.Hour, MaxPeriod} {
		require.NoError(t, CheckPeriod(d), d)
	}
}

// The longest period is counted in numbers that a script can hold.
func TestPeriodic_LongestPeriodHasOneTurn(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, MaxPeriod, func(f *fleet) {
		f.start("a", nil)
		f.start("b", nil)
		f.until(time.Hour)
		require.Equal(f, []time.Duration{0}, f.refreshed(0))
	})
}

var turnScripts = func() map[any]*script.Script {
	m := map[any]*script.Script{}
	for _, s := range []*script.Script{script.TakeTurn, script.ExtendTurn, script.EndTurn, script.ReturnTurn} {
		sum := sha1.Sum([]byte(s.Source()))
		m[hex.EncodeToString(sum[:])] = s
	}
	return m
}()
