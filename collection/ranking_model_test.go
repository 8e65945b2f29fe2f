package collection

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// boardModel is the expected state of a ranking.
type boardModel struct {
	keep    int
	up      bool
	there   bool               // in Redis
	scores  map[string]float64 // the expected members
	records map[string]float64 // the source
}

// order returns members and scores in their order.
func order(scores map[string]float64) board {
	var b board
	for m, s := range scores {
		b = append(b, Scored[string]{m, s})
	}
	slices.SortFunc(b, func(x, y Scored[string]) int {
		if x.Score != y.Score {
			return int(y.Score - x.Score)
		}
		return strings.Compare(y.Member, x.Member)
	})
	return b
}

// keeps returns the members with the highest scores.
func (m *boardModel) keeps(scores map[string]float64) map[string]float64 {
	kept := map[string]float64{}
	for i, s := range order(scores) {
		if i < m.keep {
			kept[s.Member] = s.Score
		}
	}
	return kept
}

func (m *boardModel) restored() map[string]float64 {
	if !m.there && m.up {
		m.scores, m.there = m.keeps(m.records), true
	}
	return m.scores
}

// write applies change to the source and to the expected ranking.
func (m *boardModel) write(change func(map[string]float64)) {
	change(m.records)
	if m.there || !m.up {
		if !m.there {
			m.scores, m.there = map[string]float64{}, true
		}
		change(m.scores)
		m.scores = m.keeps(m.scores)
	}
}

func (m *boardModel) forget() { m.there, m.scores = false, nil }

func TestRanking_MatchesItsModel(t *testing.T) {
	t.Parallel()
	models(t, func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int) {
		for _, up := range []bool{false, true} {
			all := make([]*boardModel, 3)
			for i := range all {
				all[i] = &boardModel{keep: 8, up: up, records: map[string]float64{}}
			}
			spec := RankingSpec[int, string]{Top: 4, Keep: 8}
			if up {
				spec.Up = func(_ context.Context, id int) (board, error) {
					var b board
					for member, score := range maps.All(all[id].records) {
						b = append(b, Scored[string]{member, score})
					}
					return b, nil
				}
			}
			r, ctx := ranking(t, rdb, spec), t.Context()
			for step := range steps / 2 {
				id, member := rnd.IntN(len(all)), fmt.Sprint(rnd.IntN(14))
				m, k, by := all[id], name(t, &r.store, id), float64(rnd.IntN(20)-8)
				switch op := rnd.IntN(100); {
				case op < 25:
					was := m.there || !m.up
					m.records[member] += 0 // so that the source has it
					var want float64
					if was {
						m.write(func(s map[string]float64) { s[member] += by; want = s[member] })
					} else {
						m.records[member] += by
						want = m.restored()[member]
					}
					got, err := r.Add(ctx, id, member, by)
					require.NoError(t, err)
					require.Equal(t, want, got, step)
				case op < 45:
					m.write(func(s map[string]float64) { s[member] = by })
					require.NoError(t, r.Set(ctx, id, member, by))
				case op < 55:
					was := m.there
					m.write(func(s map[string]float64) { delete(s, member) })
					m.there = was
					require.NoError(t, r.Remove(ctx, id, member))
				case op < 58:
					m.forget()
					require.NoError(t, r.Delete(ctx, id))
				case op < 61:
					m.forget()
					require.NoError(t, rdb.Del(ctx, k).Err())
				case op < 75:
					b := order(m.restored())
					at := slices.IndexFunc(b, func(s Scored[string]) bool { return s.Member == member })
					n := rnd.IntN(4)
					near, first, err := r.Around(ctx, id, member, n)
					if at < 0 {
						require.ErrorIs(t, err, cachex.ErrNotFound, step)
						break
					}
					require.NoError(t, err)
					require.EqualValues(t, max(at-n, 0)+1, first, step)
					require.Equal(t, b[max(at-n, 0):min(at+n+1, len(b))], near, step)
				default:
					b := order(m.restored())
					tops(t, r, id, b[:min(len(b), 4)], step)
				}
				if n := rdb.ZCard(ctx, k).Val(); n > 0 {
					require.LessOrEqual(t, n, int64(m.keep+1))
					require.Greater(t, rdb.PTTL(ctx, k).Val(), time.Duration(0))
				}
			}
		}
	})
}

// Two processes set scores, after writing them to the source, and add to
// others. Meanwhile readers restore the ranking, and a third process deletes
// it.
func TestRanking_LosesNothingWhileRestored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		writes := 10_000
		if _, err := rdb.Info(t.Context(), "commandstats").Result(); err != nil {
			writes /= 10 // an embedded server
		}
		var mu sync.Mutex
		records := map[string]float64{} // guarded by mu
		loads := 0                      // guarded by mu
		spec := RankingSpec[int, string]{
			Key: redistest.Key(t) + ":{id}", Top: 60, Keep: 100,
			Up: func(context.Context, int) (board, error) {
				mu.Lock()
				defer mu.Unlock()
				loads++
				return order(records), nil
			},
		}
		var writers, others sync.WaitGroup
		done := make(chan struct{})
		for w := range 2 {
			r := ranking(t, again(t, rdb), spec)
			writers.Go(func() {
				for i := range writes {
					// Each member that is set belongs to one writer: two
					// writers might overtake each other between the source and
					// the ranking.
					set, added := fmt.Sprint("set ", w, i%20), fmt.Sprint("added ", i%20)
					mu.Lock()
					records[set] = float64(i)
					records[added]++
					mu.Unlock()
					if err := r.Set(t.Context(), 1, set, float64(i)); err != nil {
						t.Error(err)
					}
					if _, err := r.Add(t.Context(), 1, added, 1); err != nil {
						t.Error(err)
					}
				}
			})
		}
		reader := ranking(t, again(t, rdb), spec)
		others.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-done:
					if n > 200 { // it has deleted often enough
						return
					}
				default:
				}
				if _, err := reader.Get(t.Context(), 1); err != nil {
					t.Error(err)
				}
				if ttl := rdb.PTTL(t.Context(), name(t, &reader.store, 1)).Val(); ttl == -1 {
					t.Error("no TTL")
				}
				if n%10 == 0 {
					rdb.Del(t.Context(), name(t, &reader.store, 1))
				}
			}
		})
		writers.Wait()
		close(done)
		others.Wait()
		b, err := reader.Get(t.Context(), 1)
		require.NoError(t, err)
		got := map[string]float64{}
		for _, s := range b {
			got[s.Member] = s.Score
		}
		require.Len(t, got, len(records))
		over := 0.0
		for m, want := range records {
			if strings.HasPrefix(m, "set") {
				require.Equal(t, want, got[m], m)
				continue
			}
			require.GreaterOrEqual(t, got[m], want, "%s: an addition is lost", m)
			over += got[m] - want
		}
		// One addition of each writer may be in flight during the last load.
		require.LessOrEqual(t, over, 2.0)
		require.Greater(t, loads, 10)
	})
}
