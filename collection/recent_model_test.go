package collection

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// models runs random operations against both servers, from several seeds.
func models(t *testing.T, f func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		steps := 10_000
		if t.Name()[len(t.Name())-len("redis"):] != "redis" {
			steps = 1_000 // the embedded one proves little, but runs anywhere
		}
		for seed := range uint64(3) {
			t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
				t.Parallel()
				f(t, rdb, rand.New(rand.NewPCG(seed, 1)), steps)
			})
		}
	})
}

// listModel is the expected state of a list.
type listModel struct {
	most    int
	unique  bool
	up      bool
	there   bool  // in Redis
	list    []int // the expected elements
	records []int // the source
}

func (m *listModel) push(list []int, elems ...int) []int {
	for _, e := range elems {
		if m.unique {
			list = slices.DeleteFunc(list, func(x int) bool { return x == e })
		}
		list = slices.Insert(list, 0, e)
	}
	return list
}

func (m *listModel) write(change func([]int) []int) {
	m.records = change(m.records)
	if m.there || !m.up {
		m.list, m.there = change(m.list), true
		m.list = m.list[:min(len(m.list), m.most)]
	}
}

func (m *listModel) get() []int {
	if !m.there && m.up {
		m.list, m.there = slices.Clone(m.records[:min(len(m.records), m.most)]), true
	}
	return m.list
}

func TestRecent_MatchesItsModel(t *testing.T) {
	t.Parallel()
	models(t, func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int) {
		for variant := range 4 {
			const ids = 3
			all := make([]*listModel, ids)
			for i := range all {
				all[i] = &listModel{most: 7, unique: variant&1 == 1, up: variant&2 == 2}
			}
			spec := RecentSpec[int, int]{Len: 7, Unique: all[0].unique}
			if all[0].up {
				spec.Up = func(_ context.Context, id int) ([]int, error) { return slices.Clone(all[id].records), nil }
			}
			r := recent(t, rdb, spec)
			ctx := t.Context()
			for step := range steps / 4 {
				id := rnd.IntN(ids)
				m, k := all[id], name(t, &r.store, id)
				switch op := rnd.IntN(100); {
				case op < 45:
					elems := make([]int, 1+rnd.IntN(3))
					if rnd.IntN(20) == 0 {
						elems = make([]int, 12)
					}
					for i := range elems {
						elems[i] = rnd.IntN(12)
					}
					m.write(func(l []int) []int { return m.push(l, elems...) })
					require.NoError(t, r.Push(ctx, id, elems...))
				case op < 60:
					e := rnd.IntN(12)
					without := func(l []int) []int { return slices.DeleteFunc(l, func(x int) bool { return x == e }) }
					was := m.there
					m.write(without)
					m.there = was
					require.NoError(t, r.Remove(ctx, id, e))
				case op < 63:
					m.there, m.list = false, nil
					require.NoError(t, r.Delete(ctx, id))
				case op < 66:
					m.there, m.list = false, nil
					require.NoError(t, rdb.Del(ctx, k).Err())
				default:
					has(t, &r.store, id, m.get(), step)
				}
				if length := rdb.LLen(ctx, k).Val(); length > 0 {
					require.LessOrEqual(t, length, int64(m.most+1))
					require.Greater(t, rdb.PTTL(ctx, k).Val(), time.Duration(0))
				}
			}
		}
	})
}

// Two processes write elements to the source and push them, while readers
// restore the list, and a third process keeps deleting it. No element is lost
// or doubled, and the list never exceeds its length or lacks a TTL.
func TestRecent_LosesNothingWhileRestored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const most, each = 50, 10_000
		writes := each
		if _, err := rdb.Info(t.Context(), "commandstats").Result(); err != nil {
			writes = each / 10 // an embedded server
		}
		var mu sync.Mutex
		var records []int // guarded by mu; latest last
		prefix := redistest.Key(t)
		var loads atomic.Int64
		spec := RecentSpec[int, int]{
			Key: prefix + ":{id}", Len: most, Unique: true,
			Up: func(context.Context, int) ([]int, error) {
				loads.Add(1)
				mu.Lock()
				defer mu.Unlock()
				latest := slices.Clone(records[max(0, len(records)-most):])
				slices.Reverse(latest)
				return latest, nil
			},
		}
		var writers, others sync.WaitGroup
		done := make(chan struct{})
		for w := range 2 {
			r := recent(t, again(t, rdb), spec)
			writers.Go(func() {
				for i := range writes {
					e := 2*i + w
					mu.Lock()
					records = append(records, e)
					mu.Unlock()
					if err := r.Push(t.Context(), 1, e); err != nil {
						t.Error(err)
					}
				}
			})
		}
		reader := recent(t, again(t, rdb), spec)
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n > 200 { // it has deleted often enough
						return
					}
				default:
				}
				l, err := reader.Get(t.Context(), 1)
				if err != nil || len(l) > most {
					t.Error(len(l), err)
				}
				if ttl := rdb.PTTL(t.Context(), prefix+":1").Val(); ttl == -1 {
					t.Error("no TTL")
				}
				if n%5 == 0 {
					rdb.Del(t.Context(), prefix+":1")
				}
			}
		})
		writers.Wait()
		close(done)
		others.Wait()
		l, err := reader.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Len(t, l, most)
		unique := slices.Clone(l)
		slices.Sort(unique)
		require.Len(t, slices.Compact(unique), most)
		// The writers may overtake each other between the source and the list,
		// so two elements at the end may have changed places with two others.
		require.Subset(t, l, records[len(records)-most+4:])
		require.Greater(t, loads.Load(), int64(10))
		t.Logf("%d pushes, %d loads", len(records), loads.Load())
	})
}
