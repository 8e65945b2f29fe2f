package periodic

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
}

var turnScripts = map[string]*script.Script{
	"take": script.TakeTurn, "extend": script.ExtendTurn, "end": script.EndTurn, "return": script.ReturnTurn,
}

// A fleet is some processes in a bubble that have the turns of the same keys.
type fleet struct {
	*testing.T
	rdb   *redis.Client
	keys  []string
	every time.Duration
	first time.Duration
	ttl   time.Duration
	began time.Time
	sent  *redistest.Counter
	over  chan struct{} // closed before anything ends

	mu   sync.Mutex
	done map[int][]time.Duration // guarded by mu: when there was work on a key
	by   map[int][]*process      // guarded by mu: in which process
}

// A process is one process of a fleet.
type process struct {
	*fleet
	s      Scheduler
	frozen atomic.Bool // it sends nothing and hears nothing, as a dead one
	stop   func()
}

func inFleet(t *testing.T, keys int, every time.Duration, run func(*fleet)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		f := &fleet{
			T: t, rdb: rdb, every: every, ttl: 3 * time.Second, began: time.Now(), over: make(chan struct{}),
			sent: new(redistest.Counter), done: map[int][]time.Duration{}, by: map[int][]*process{},
		}
		for i := range keys {
			f.keys = append(f.keys, fmt.Sprint("turn:", i))
		}
		for _, s := range turnScripts {
			require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
		}
		run(f)
	})
}

// start starts a process. Its work takes no time, unless it has one of its own.
func (f *fleet) start(work func(ctx context.Context, p *process) error, hooks ...redis.Hook) *process {
	p := &process{fleet: f}
	rdb := redis.NewClient(f.rdb.Options())
	rdb.AddHook(f.sent)
	for _, h := range hooks {
		rdb.AddHook(h)
	}
	wait := func(context.Context, redis.Cmder) {
		if p.frozen.Load() {
			<-f.over
		}
	}
	rdb.AddHook(&redistest.Gate{Before: wait, After: wait})
	var running sync.WaitGroup
	p.s = Scheduler{
		RDB: rdb, TTL: f.ttl, Every: f.every, Keys: f.keys, Places: 16, Chunk: 1, First: f.first,
		Nudge: NewNudge(), Code: guard.Load, Failed: func(error) {},
		Work: func(ctx context.Context, due []int) error {
			f.mu.Lock()
			for _, i := range due {
				f.done[i] = append(f.done[i], time.Since(f.began))
				f.by[i] = append(f.by[i], p)
			}
			f.mu.Unlock()
			if work != nil {
				return work(ctx, p)
			}
			return nil
		},
		Spawn: func(code guard.Code, fn func() error, done func(error)) {
			running.Add(1)
			guard.Go(code, fn, func(err error) { defer running.Done(); done(err) })
		},
	}
	ctx, cancel := context.WithCancel(f.Context())
	ended := make(chan struct{})
	go func() { defer close(ended); p.s.Run(ctx) }()
	p.stop = sync.OnceFunc(func() {
		cancel()
		<-ended
	})
	f.Cleanup(func() {
		p.stop()
		running.Wait()
		require.NoError(f, rdb.Close())
	})
	return p
}

// fill starts n processes, one a moment after the other.
func (f *fleet) fill(n int, hooks ...redis.Hook) (all []*process) {
	for range n {
		all = append(all, f.start(nil, hooks...))
		time.Sleep(7 * time.Millisecond)
	}
	f.Cleanup(func() { close(f.over) }) // before the processes end
	return all
}

// last returns when there was work on key i the last time, and by which process.
func (f *fleet) last(i int) (time.Duration, *process) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := len(f.done[i]) - 1
	return f.done[i][n], f.by[i][n]
}

// works returns how often there was work.
func (f *fleet) works() (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, at := range f.done {
		n += len(at)
	}
	return n
}

// between sets the time to the middle of a period, counted from the last work on key 0.
func (f *fleet) between(periods int) {
	synctest.Wait()
	at, _ := f.last(0)
	time.Sleep(at + f.every/2 + time.Duration(periods)*f.every - time.Since(f.began))
	synctest.Wait()
}

// A test that sets a long period relies on it: within First, only the test
// itself causes work.
func TestScheduler_DoesNotLookBeforeFirst(t *testing.T) {
	t.Parallel()
	for range 20 {
		inFleet(t, 1, time.Hour, func(f *fleet) {
			f.first = time.Minute
			f.start(nil)
			time.Sleep(time.Minute - time.Nanosecond)
			synctest.Wait()
			require.Zero(f, f.works())
			time.Sleep(time.Minute + time.Nanosecond)
			synctest.Wait()
			require.Equal(f, 1, f.works())
		})
	}
}

func TestScheduler_AsksNoMoreOfRedisInALargeFleet(t *testing.T) {
	t.Parallel()
	const keys, periods = 10, 45
	for _, processes := range []int{1, 2, 10, 40} {
		inFleet(t, keys, time.Second, func(f *fleet) {
			f.fill(processes)
			f.between(periods) // until each has a place of its own
			f.sent.Reset()
			before := f.works()
			f.between(periods)
			require.Equal(f, keys*periods, f.works()-before, "not one turn a key and period")
			// Two scripts of the process that has the turn, and a look of another one.
			sent := float64(f.sent.Count()) / (keys * periods)
			require.LessOrEqual(f, sent, 3.1, "%d processes", processes)
			if processes > 1 {
				require.Greater(f, sent, 2.9, "%d processes: there is a period in which no other process looks", processes)
			}
		})
	}
}

func TestScheduler_LooksOnceAPeriodWhereTheLastWorkTakesLong(t *testing.T) {
	t.Parallel()
	const processes, periods = 20, 40
	inFleet(t, 1, 10*time.Second, func(f *fleet) {
		for range processes {
			f.start(func(ctx context.Context, _ *process) error {
				select {
				case <-time.After(8 * time.Second):
				case <-ctx.Done():
				}
				return nil
			})
		}
		f.between(periods)
		f.sent.Reset()
		f.between(periods)
		// In 8 s: eight heartbeats, and a look of one process every 0.75 s.
		require.LessOrEqual(f, f.sent.Count(), periods*(2+8+15))
	})
}

func TestScheduler_TakesOverInTheNextPeriod(t *testing.T) {
	t.Parallel()
	for name, every := range map[string]time.Duration{"seconds": time.Second, "an hour": time.Hour} {
		for _, processes := range []int{2, 3, 10, 40} {
			t.Run(fmt.Sprint(name, processes), func(t *testing.T) {
				t.Parallel()
				inFleet(t, 10, every, func(f *fleet) {
					f.fill(processes)
					f.between(5)
					_, dead := f.last(0)
					dead.frozen.Store(true)
					died := time.Since(f.began)
					f.between(1)
					for i := range f.keys {
						at, by := f.last(i)
						require.NotSame(f, dead, by, "key %d", i)
						require.Greater(f, at, died, "key %d was not worked on in the next period", i)
						require.Less(f, at-died, every, "key %d", i)
					}
				})
			})
		}
	}
}

func TestScheduler_TakesOverWithinTheLeaseWhatAProcessDiedAt(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, time.Hour, func(f *fleet) {
		var dies atomic.Pointer[process]
		for range 10 {
			f.start(func(_ context.Context, p *process) error {
				time.Sleep(500 * time.Millisecond)
				if dies.Load() == p {
					p.frozen.Store(true)
					<-f.over
				}
				return nil
			})
			time.Sleep(time.Millisecond)
		}
		f.Cleanup(func() { close(f.over) })
		f.between(12)
		_, owner := f.last(0)
		dies.Store(owner)
		f.between(1)
		f.mu.Lock()
		defer f.mu.Unlock()
		n := len(f.by[0]) - 1
		require.Same(f, owner, f.by[0][n-1])
		require.NotSame(f, owner, f.by[0][n])
		require.LessOrEqual(f, f.done[0][n]-f.done[0][n-1], 500*time.Millisecond+3*time.Second)
	})
}

// Whatever dies at once, each process that is left looks within a minute, or two
// periods if that is longer.
func TestScheduler_OfTheLastProcessLooksWithinAMinute(t *testing.T) {
	t.Parallel()
	for _, every := range []time.Duration{100 * time.Millisecond, time.Second, time.Hour} {
		t.Run(every.String(), func(t *testing.T) {
			t.Parallel()
			inFleet(t, 3, every, func(f *fleet) {
				all := f.fill(20)
				f.between(5)
				for _, p := range all[1:] {
					p.frozen.Store(true)
				}
				died := time.Since(f.began)
				bound := max(time.Minute, 2*every) + 2*every
				time.Sleep(bound)
				synctest.Wait()
				for i := range f.keys {
					at, by := f.last(i)
					require.Same(f, all[0], by, "key %d", i)
					require.Greater(f, at, died, "key %d", i)
				}
			})
		})
	}
}

func TestNudge_LooksInTheNextPeriodAndKeepsThePlace(t *testing.T) {
	t.Parallel()
	const processes = 30
	inFleet(t, 1, time.Second, func(f *fleet) {
		all := f.fill(processes)
		f.between(40)
		f.sent.Reset()
		for range 20 { // all of them write all the time
			for range 5 {
				for _, p := range all {
					p.s.Nudge.Now()
				}
				time.Sleep(f.every / 5)
			}
		}
		require.LessOrEqual(f, f.sent.Count(), 22*(processes+2))
		require.GreaterOrEqual(f, f.sent.Count(), 18*(processes+1))
		f.between(1)
		f.sent.Reset()
		f.between(20)
		require.InDelta(f, 20*3, f.sent.Count(), 4, "nudges have left places in the queue, or taken some")

		_, dead := f.last(0)
		for _, p := range all {
			if p != dead {
				p.frozen.Store(p != all[0] && p != all[1])
			}
		}
		dead.frozen.Store(true)
		died := time.Since(f.began)
		for _, p := range all {
			p.s.Nudge.Now()
		}
		f.between(1)
		at, _ := f.last(0)
		require.Greater(f, at, died, "the process that was nudged has not looked")
	})
}

// A nudge may come while the question of before it is on its way.
func TestNudge_IsNotLostDuringALook(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, time.Minute, func(f *fleet) {
		owner := f.start(nil)
		synctest.Wait()
		var p *process
		first := true
		p = f.start(nil, &redistest.Gate{After: func(context.Context, redis.Cmder) {
			if first {
				first = false
				p.s.Nudge.Now()
			}
		}})
		for range 3 {
			f.start(nil)
		}
		f.between(0)
		require.False(f, first)
		owner.frozen.Store(true)
		f.Cleanup(func() { close(f.over) })
		f.between(1)
		at, by := f.last(0)
		require.Greater(f, at, f.every)
		require.NotSame(f, owner, by)
	})
}

func TestScheduler_GoesOnAfterAFlush(t *testing.T) {
	t.Parallel()
	const keys, processes = 5, 20
	inFleet(t, keys, time.Second, func(f *fleet) {
		f.fill(processes)
		f.between(30)
		require.NoError(f, f.rdb.FlushAll(f.Context()).Err())
		for _, s := range turnScripts {
			require.NoError(f, f.rdb.ScriptLoad(f.Context(), s.Source()).Err())
		}
		before := f.works()
		f.between(40)
		require.InDelta(f, 41*keys, f.works()-before, keys, "not one turn a key and period")
		f.sent.Reset()
		f.between(20)
		require.InDelta(f, 20*keys*3, f.sent.Count(), 4*keys)
	})
}

func TestScheduler_GoesOnAfterAGivenBackTurn(t *testing.T) {
	t.Parallel()
	inFleet(t, 1, time.Second, func(f *fleet) {
		why := errors.New("cannot read it")
		unable := f.start(func(context.Context, *process) error { return &GiveBack{For: 2 * f.every, Err: why} })
		f.fill(5)
		f.between(1)
		_, by := f.last(0)
		require.NotSame(f, unable, by, "no other process has taken the turn")
		before := f.works()
		f.between(20)
		require.Equal(f, 20, f.works()-before)
		_, by = f.last(0)
		require.NotSame(f, unable, by)
	})
}

// A question that has no answer may have taken the turn, and so may the first attempt to
// give it back have failed.
func TestScheduler_GoesOnAfterSilenceHoweverLongTheLease(t *testing.T) {
	t.Parallel()
	for _, executed := range []bool{false, true} {
		inFleet(t, 3, time.Hour, func(f *fleet) {
			f.ttl = time.Hour
			faults := new(redistest.Faults)
			for _, s := range []*script.Script{script.TakeTurn, script.ReturnTurn} {
				faults.Add(redistest.Fault{Executed: executed, Times: 3, Match: func(cmd redis.Cmder) bool {
					return cmd.Name() == "evalsha" && cmd.Args()[1] == s.SHA()
				}})
			}
			f.start(nil, faults)
			time.Sleep(10 * time.Second)
			require.Equal(f, 3, f.works())
		})
	}
}

func TestScheduler_WorksAnywayWhileItIsToldTo(t *testing.T) {
	t.Parallel()
	for _, anyway := range []bool{false, true} {
		for _, failing := range []string{"take", "end"} {
			inFleet(t, 1, time.Second, func(f *fleet) {
				faults := new(redistest.Faults)
				sum := sha1.Sum([]byte(turnScripts[failing].Source()))
				sha := hex.EncodeToString(sum[:])
				rdb := redis.NewClient(f.rdb.Options())
				defer rdb.Close()
				rdb.AddHook(f.sent)
				rdb.AddHook(faults)
				faults.Add(redistest.Fault{Times: redistest.Always, Match: func(cmd redis.Cmder) bool {
					args := cmd.Args()
					return len(args) > 1 && args[1] == sha
				}})
				n := 0
				var running sync.WaitGroup
				s := Scheduler{
					RDB: rdb, TTL: 3 * time.Second, Every: f.every, Keys: f.keys, Places: 1, Chunk: 1, Anyway: anyway,
					Work: func(context.Context, []int) error { n++; return nil },
					Code: guard.Load, Failed: func(error) {},
					Spawn: func(code guard.Code, fn func() error, done func(error)) {
						running.Add(1)
						guard.Go(code, fn, func(err error) { defer running.Done(); done(err) })
					},
				}
				ctx, cancel := context.WithTimeout(f.Context(), 20*f.every)
				defer cancel()
				s.Run(ctx)
				running.Wait()
				switch {
				case anyway && failing == "take":
					require.InDelta(f, 19, n, 3)
				case anyway: // a turn that is not ended runs out
					require.GreaterOrEqual(f, n, 5)
				case failing == "take":
					require.Zero(f, n)
				default:
					require.Equal(f, 1, n, "the turn is not over before Redis has said so")
				}
				require.Less(f, f.sent.RoundTrips(), 100)
			})
		}
	}
}

// older makes a process one of a release before the queue: its client sends the
// scripts of that release.
type older map[string]string // digest by digest

func newOlder(f *fleet) older {
	o := older{}
	for name, s := range turnScripts {
		src, err := os.ReadFile("../script/testdata/turn/" + name + ".lua")
		require.NoError(f, err)
		sha, err := f.rdb.ScriptLoad(f.Context(), string(src)).Result()
		require.NoError(f, err)
		sum := sha1.Sum([]byte(s.Source()))
		o[hex.EncodeToString(sum[:])] = sha
	}
	return o
}

func (o older) replace(cmds ...redis.Cmder) {
	for _, cmd := range cmds {
		if args := cmd.Args(); len(args) > 1 && strings.EqualFold(cmd.Name(), "evalsha") {
			if sha, ok := o[fmt.Sprint(args[1])]; ok {
				args[1] = sha
			}
		}
	}
}

func (o older) DialHook(next redis.DialHook) redis.DialHook { return next }

func (o older) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		o.replace(cmd)
		return next(ctx, cmd)
	}
}

func (o older) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		o.replace(cmds...)
		return next(ctx, cmds)
	}
}

// Each process of a fleet is replaced by one of the new release, one after the other,
// and back again.
func TestScheduler_SharesTurnsWithReleasesBeforeTheQueue(t *testing.T) {
	t.Parallel()
	const keys, processes = 5, 8
	inFleet(t, keys, time.Second, func(f *fleet) {
		old := newOlder(f)
		defer close(f.over)
		var fleet []*process
		for range processes {
			fleet = append(fleet, f.start(nil, old))
		}
		f.between(2)
		before, periods := f.works(), 0
		pass := func(n int) {
			f.between(n)
			periods += n
		}
		replace := func(hooks ...redis.Hook) {
			for i := range fleet {
				added := f.start(nil, hooks...)
				pass(2)
				fleet[i].stop()
				fleet[i] = added
				pass(3)
			}
		}
		replace()
		f.sent.Reset()
		pass(40)
		require.LessOrEqual(f, float64(f.sent.Count())/(40*keys), 3.2, "the queue does not come up")
		replace(old)
		pass(5)
		require.InDelta(f, periods*keys, f.works()-before, keys, "not one turn a key and period")
	})
}
