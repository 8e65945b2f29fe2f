package writebehind

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// shelf keeps the state of a bucket, so that a test can make Redis go back in
// time.
type shelf map[string]map[string]string

func snapshot(t testing.TB, rdb *redis.Client, keys ...string) shelf {
	s := make(shelf)
	for _, key := range keys {
		m, err := rdb.HGetAll(context.Background(), key).Result()
		require.NoError(t, err)
		s[key] = m
	}
	return s
}

func (s shelf) restore(t testing.TB, rdb *redis.Client) {
	for key, m := range s {
		require.NoError(t, rdb.Del(context.Background(), key).Err())
		if len(m) > 0 {
			require.NoError(t, rdb.HSet(context.Background(), key, m).Err())
		}
	}
}

// history is a bucket whose Redis loses some of its state.
type history struct {
	t    *testing.T
	rdb  *redis.Client
	ctx  context.Context
	d    *database
	e    *Engine
	mu   sync.Mutex // Notify may be called by several goroutines
	told []error    // guarded by mu
}

func newHistory(t *testing.T, rdb *redis.Client, change func(*Options)) *history {
	h := &history{t: t, rdb: rdb, ctx: bounded(t), d: newDatabase()}
	o := options(t, h.d, Sum)
	o.Notify = func(err error) {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.told = append(h.told, err)
	}
	if change != nil {
		change(&o)
	}
	h.e = engine(t, rdb, o)
	return h
}

func (h *history) add(id string, delta int64) { require.NoError(h.t, h.e.Add(h.ctx, id, delta)) }
func (h *history) flush()                     { require.NoError(h.t, h.e.Flush(h.ctx)) }
func (h *history) keep() shelf {
	k := h.e.Keys(0)
	return snapshot(h.t, h.rdb, k.Pending, k.InFlight)
}

// lose deletes keys. It returns in a later millisecond of the server's clock.
// After a loss, the time of the first write becomes the incarnation. No Redis
// loses a bucket in the millisecond in which the bucket began.
func (h *history) lose(keys ...string) {
	require.NoError(h.t, h.rdb.Del(h.ctx, keys...).Err())
	now := func() int64 {
		at, err := h.rdb.Time(h.ctx).Result()
		require.NoError(h.t, err)
		return at.UnixMilli()
	}
	for began := now(); now() == began; {
	}
}

// heard returns the errors that Notify has received so far.
func (h *history) heard() []error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.told)
}

// forked fails unless exactly this fork was counted and reported.
func (h *history) forked(want Forks, kind Fork) {
	h.t.Helper()
	require.Equal(h.t, want, h.e.Stats().Forks)
	told := h.heard()
	require.NotEmpty(h.t, told)
	fork, ok := errors.AsType[*ForkError](told[len(told)-1])
	require.True(h.t, ok, "%v", told)
	require.Equal(h.t, kind, fork.Fork)
}

func TestWhatRedisHasAfterALossIsNewAndIsPersisted(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		for range 3 {
			h.add("x", 1)
			h.flush()
		}
		h.add("x", 100)
		k := h.e.Keys(0)
		h.lose(k.Pending, k.InFlight) // and the 100 with it
		h.add("x", 10)
		h.flush()
		require.EqualValues(t, 13, h.d.sum("x"))
		h.forked(Forks{Lost: 1}, ForkLost)

		// The numbers of the new incarnation continue, so this is no fork any
		// more.
		h.add("x", 1)
		h.flush()
		require.EqualValues(t, 14, h.d.sum("x"))
		require.EqualValues(t, 2, h.d.row(0).N)
		require.Equal(t, Forks{Lost: 1}, h.e.Stats().Forks)

		h.lose(k.InFlight) // pending ids survive: an eviction of one key
		h.add("x", 1)
		h.flush()
		require.EqualValues(t, 15, h.d.sum("x"))
		require.Equal(t, Forks{Lost: 2}, h.e.Stats().Forks)
	})
}

func TestABatchThatRedisTakesAgainIsSubtracted(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 1)
		h.flush()
		largest := map[string]int64{"x": 10, "minus": -5, "far": math.MaxInt64, "farther": math.MinInt64, "only then": 7}
		for id, delta := range largest {
			h.add(id, delta)
		}
		before := h.keep()
		h.flush()
		before.restore(t, rdb)
		h.add("x", 100)
		h.add("minus", -50)
		h.add("new", 3)
		h.flush()
		require.Equal(t, map[string]int64{
			"x": 111, "minus": -55, "far": math.MaxInt64, "farther": math.MinInt64, "only then": 7, "new": 3,
		}, h.d.sums)
		h.forked(Forks{Replayed: 1}, ForkReplayed)
	})
}

func TestABatchThatRedisTakesAgainInPartsIsSubtractedFromWhatIsPendingToo(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, func(o *Options) { o.MaxBatch = 10 })
		for i := range 25 {
			h.add(fmt.Sprint("id", i), 1)
		}
		before := h.keep()
		_, _, err := h.e.step(h.ctx, 0, true) // a batch of ten
		require.NoError(t, err)
		require.Len(t, h.d.sums, 10)
		before.restore(t, rdb)
		h.add("id3", 5)
		h.flush()
		for i := range 25 {
			want := int64(1)
			if i == 3 {
				want = 6
			}
			require.Equal(t, want, h.d.sum(fmt.Sprint("id", i)), i)
		}
		require.EqualValues(t, 1, h.e.Stats().Forks.Replayed)
	})
}

// Deltas that Redis has kept of the last batch, and later ones, are counted
// once. If Redis has lost a part of the delta of an id, and has another part,
// the lost part is taken back.
func TestForkReplayed_CountsWhatRedisHasKeptOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 3)
		h.add("mixed", 1)
		h.add("mixed", 5)
		before := h.keep()
		h.add("x", 2)
		h.add("y", 2)
		h.add("lost", 7)
		h.flush()
		before.restore(t, rdb)
		h.add("mixed", -3)
		h.add("x", 1)
		h.add("y", -1)
		h.flush()
		require.Equal(t, map[string]int64{"mixed": 3, "x": 4, "y": -1, "lost": 7}, h.d.sums)
		h.forked(Forks{Replayed: 1}, ForkReplayed)
		h.add("mixed", 10)
		h.flush()
		require.EqualValues(t, 13, h.d.sum("mixed"))
	})
}

// Ids of the last batch that the database has refused are not subtracted.
func TestForkReplayed_SubtractsNothingThatWasRefused(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.d.poison["x"] = true
		h.add("x", 5)
		h.add("y", 5)
		before := h.keep()
		_ = h.e.Flush(h.ctx)
		k := h.e.Keys(0)
		require.NoError(t, rdb.Del(h.ctx, k.Refused).Err())
		before.restore(t, rdb)
		h.d.lock(func() { delete(h.d.poison, "x") })
		h.add("x", 1)
		h.flush()
		require.Equal(t, map[string]int64{"x": 6, "y": 5}, h.d.sums)
	})
}

// A batch of many ids is subtracted in parts, by the process that finds it.
func TestForkReplayed_IsResolvedByParts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const ids = 2*maxAtOnce + 7
		h := newHistory(t, rdb, func(o *Options) { o.MaxBatch = ids })
		for i := range ids {
			h.add(fmt.Sprint("id", i), 10)
		}
		before := h.keep()
		h.flush()
		before.restore(t, rdb)
		for i := range ids {
			h.add(fmt.Sprint("id", i), -1)
		}
		dead := new(redistest.Faults) // after the first part
		second := engine(t, again(t, rdb), h.e.o)
		rdb.AddHook(dead)
		seen := 0
		dead.Add(redistest.Fault{Match: func(cmd redis.Cmder) bool {
			if cmd.Name() == "evalsha" && stepNames[cmd.Args()[1].(string)] == "subtract" {
				seen++
			}
			return seen > 1
		}})
		require.Error(t, h.e.Flush(h.ctx))
		require.NoError(t, rdb.HSet(h.ctx, h.e.Keys(0).InFlight, "#till", 0).Err())
		require.NoError(t, second.Flush(h.ctx))
		for i := range ids {
			require.EqualValues(t, 9, h.d.sum(fmt.Sprint("id", i)))
		}
	})
}

func again(t *testing.T, rdb *redis.Client) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: rdb.Options().Addr, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func TestABatchThatWasAcknowledgedAndComesBackIsNotAppliedAgain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 5)
		_, err := h.e.take(h.ctx, 0, true)
		require.NoError(t, err)
		before := h.keep()
		h.flush()
		before.restore(t, rdb)
		h.flush()
		require.EqualValues(t, 5, h.d.sum("x"))
		require.Zero(t, h.e.Stats().Forks)
	})
}

func TestWhatIsOlderThanTheLastBatchIsPersistedAgainOrPutAside(t *testing.T) {
	t.Parallel()
	for _, choice := range []Choice{Apply, PutAside} {
		drop := choice == PutAside
		t.Run(fmt.Sprint("drop ", drop), func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				h := newHistory(t, rdb, func(o *Options) { o.RolledBack, o.MaxBatch = choice, 1 })
				h.add("z", 1)
				h.flush()
				h.add("x", 1)
				h.add("y", 1)
				before := h.keep()
				h.flush() // two batches
				h.add("x", 10)
				h.flush()
				before.restore(t, rdb)
				flushed := h.e.Flush(h.ctx)
				refused, err := h.e.Refused(h.ctx)
				require.NoError(t, err)
				if drop {
					requireAside(t, flushed, 2, 0)
					require.EqualValues(t, 11, h.d.sum("x"))
					require.EqualValues(t, 1, h.d.sum("y"))
					require.Len(t, refused, 2)
				} else {
					require.NoError(t, flushed)
					require.EqualValues(t, 12, h.d.sum("x"))
					require.EqualValues(t, 2, h.d.sum("y"))
					require.Empty(t, refused)
				}
				h.forked(Forks{RolledBack: 1}, ForkRolledBack)
				h.add("x", 100)
				h.flush()
				require.Zero(t, (h.d.sum("x")-100)/100)
				require.Equal(t, Forks{RolledBack: 1}, h.e.Stats().Forks)
			})
		})
	}
}

func TestADatabaseThatHasForgottenBatchesIsRefused(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		for range 3 {
			h.add("x", 1)
			h.flush()
		}
		old := h.d.row(0)
		old.N = 1 // as in a backup
		h.d.setRow(0, old)
		h.add("x", 1)
		err := h.e.Flush(h.ctx)
		fork, ok := errors.AsType[*ForkError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, ForkBehind, fork.Fork)
		require.EqualValues(t, 3, h.d.sum("x"))
		require.Error(t, h.e.Flush(h.ctx))
		require.Equal(t, Forks{Behind: 1}, h.e.Stats().Forks, "once for a batch")

		old.N = 3 // as the documentation says
		h.d.setRow(0, old)
		h.flush()
		require.EqualValues(t, 4, h.d.sum("x"))
	})
}

// A process may come with a batch from before a loss at any later time. Nothing
// is counted twice, and deltas written after the loss are persisted.
func TestNothingIsCountedTwiceWhenRedisLosesABucketAtWhateverStep(t *testing.T) {
	t.Parallel()
	l := newLab(t, redistest.Shared(t).Client(nil))
	sc := scenario{sample: 600, flusher: 2, mishaps: 1, kinds: mishapsOfAll}
	l.explore(sc, func(w *world) {
		w.forks = true
		sc.play(w)
		late := make(map[string]bool)
		lost := false
		w.start("the loss", func(p *proc) {
			_ = p.do("lose", func() {
				l.rdb.Del(context.Background(), w.keys()...)
				lost = true
			}, nil)
		})
		for i := range 2 {
			id := fmt.Sprint("w", i)
			w.startEngine("writer "+id, Options{}, func(_ *proc, e *Engine) {
				if e.Add(context.Background(), id, 1) == nil && lost {
					late[id] = true
				}
			})
		}
		w.end = func(w *world) {
			for id, n := range w.written {
				if got := w.d.sum(id); got > n || late[id] && got != n {
					w.complain("%d of %d are persisted of %s, written after the loss: %v", got, n, id, late[id])
				}
			}
		}
	})
}

// The same holds if Redis goes back in time at any step. A delta may count twice
// only if Redis goes back by more than one batch, and then a fork is reported.
func TestNothingIsCountedTwiceUnlessRedisGoesBackByMoreThanABatch(t *testing.T) {
	t.Parallel()
	for _, atOnce := range []int{0, 1} {
		t.Run(fmt.Sprint("at once ", atOnce), func(t *testing.T) {
			t.Parallel()
			newLab(t, redistest.Shared(t).Client(nil)).failOver(scenario{sample: 600, flusher: 2, atOnce: atOnce})
			newLab(t, redistest.Shared(t).Client(nil)).failOver(scenario{
				sample: 300, flusher: 2, atOnce: atOnce, mishaps: 1, kinds: []mishap{copied, killBefore, killAfter},
			})
		})
	}
}

// If a batch gets its token before it is complete, the token names two batches
// after a failover.
func TestExplorer_FindsATokenThatIsGivenTooEarly(t *testing.T) {
	t.Parallel()
	l := newLab(t, redistest.Shared(t).Client(nil))
	l.mutate("take", "redis.call('HSET', I, '#tok', token)", "token = 'of ' .. n\nredis.call('HSET', I, '#tok', token)")
	l.failOver(scenario{sample: 600, flusher: 2, atOnce: 1})
	require.Positive(t, l.bad)
	t.Logf("%d bad orders", l.bad)
}

// The explorer finds the error if a batch is not subtracted, or is subtracted
// twice.
func TestExplorer_FindsMutantsOfSubtracting(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]string{
		"nothing is subtracted":      {"redis.pcall('HINCRBY', key, id, by)", "redis.pcall('HINCRBY', key, id, 0)"},
		"no further than 0":          {"redis.pcall('HINCRBY', key, id, by)", "redis.call('HSET', key, id, math.max(0, v + by))"},
		"a copy subtracts once more": {"if (m[4] or '0') ~= ARGV[3] then return 1 end", "", "redis.call('HINCRBY', I, '#cut', math.floor((#ARGV - 5) / 2))", "redis.call('HSET', I, '#cut', ARGV[3] + math.floor((#ARGV - 5) / 2))"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, redistest.Shared(t).Client(nil))
			l.mutate("subtract", changes...)
			l.failOver(scenario{sample: 600, flusher: 2, mishaps: 1, kinds: []mishap{copied}})
			require.Positive(t, l.bad)
			t.Logf("%d bad orders", l.bad)
		})
	}
}

// failOver explores a scenario in which Redis goes back in time. If it goes
// back by at most one batch, each count ends as the sum of the added deltas, or
// of the kept ones.
func (l *lab) failOver(sc scenario) {
	doubles := 0
	l.explore(sc, func(w *world) {
		w.forks = true
		sc.play(w)
		late, back := make(map[string]bool), false
		var kept, forgotten map[string]int64
		w.start("the failover", func(p *proc) {
			var before shelf
			_ = p.do("replicate", func() {
				before = snapshot(l.t, l.rdb, w.keys()...)
				kept = maps.Clone(w.written)
			}, nil)
			_ = p.do("fail over", func() {
				before.restore(l.t, l.rdb)
				back, forgotten = true, make(map[string]int64)
				for id, n := range w.written {
					forgotten[id] = n - kept[id]
				}
			}, nil)
		})
		for i := range 3 {
			id, delta := fmt.Sprint("w", i), int64(1)
			w.startEngine("writer "+id, Options{}, func(_ *proc, e *Engine) {
				if e.Add(context.Background(), id, delta) == nil && back {
					late[id] = true
				}
			})
		}
		w.startEngine("writer of the negative", Options{}, func(_ *proc, e *Engine) {
			_ = e.Add(context.Background(), "x", -5)
		})
		w.end = func(w *world) {
			told := int64(0)
			for _, e := range w.engines {
				told += e.Stats().Forks.RolledBack
			}
			for id, n := range w.written {
				got := w.d.sum(id)
				if got > n {
					doubles++
				}
				if late[id] && got < n {
					w.complain("%d of %d are persisted of %s, written after the failover", got, n, id)
				}
				if told == 0 && got != n && got != n-forgotten[id] {
					w.complain("%d are persisted of %s, of %d of which Redis has forgotten %d", got, id, n, forgotten[id])
				}
			}
		}
	})
	l.t.Logf("%d were counted twice, and told", doubles)
}

func TestForksHaveNames(t *testing.T) {
	t.Parallel()
	require.Equal(t, "lost replayed rolled back behind Fork(9)",
		strings.Join([]string{ForkLost.String(), ForkReplayed.String(), ForkRolledBack.String(), ForkBehind.String(), Fork(9).String()}, " "))
}
