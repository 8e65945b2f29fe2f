package collection

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// timelineModel is the expected state of a timeline.
type timelineModel struct {
	most    int
	up      bool
	there   bool            // in Redis
	elems   map[string]bool // the expected elements
	records map[string]bool // the source
}

// sequence returns elements in the order of a timeline.
func sequence(elems map[string]bool) []string {
	return slices.SortedFunc(maps.Keys(elems), func(a, b string) int {
		if x, y := tens(a), tens(b); x != y {
			return int(y - x)
		}
		return strings.Compare(b, a)
	})
}

func (m *timelineModel) trim() {
	for i, e := range sequence(m.elems) {
		if i >= m.most {
			delete(m.elems, e)
		}
	}
}

func (m *timelineModel) post(e string) {
	m.records[e] = true
	if m.there || !m.up {
		if m.elems == nil {
			m.elems = map[string]bool{}
		}
		m.elems[e], m.there = true, true
		m.trim()
	}
}

func (m *timelineModel) remove(e string) {
	delete(m.records, e)
	delete(m.elems, e)
}

func (m *timelineModel) forget() { m.there, m.elems = false, nil }

func (m *timelineModel) get() []string {
	if !m.there && m.up {
		m.elems, m.there = maps.Clone(m.records), true
		m.trim()
	}
	return sequence(m.elems)
}

func TestFeed_MatchesItsModel(t *testing.T) {
	t.Parallel()
	models(t, func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int) {
		if steps < 10_000 {
			steps /= 5 // an embedded server is slow at this
		}
		const ids = 4
		for _, up := range []bool{false, true} {
			all := make([]*timelineModel, ids)
			for i := range all {
				all[i] = &timelineModel{most: 7, up: up, records: map[string]bool{}}
			}
			spec := FeedSpec[int, string]{Len: 7}
			if up {
				spec.Up = func(_ context.Context, id int) ([]string, error) {
					return slices.Collect(maps.Keys(all[id].records)), nil
				}
			}
			f, ctx := feed(t, rdb, spec), t.Context()
			for step := range steps / 2 {
				e := fmt.Sprint(rnd.IntN(60))
				to := rnd.Perm(ids)[:1+rnd.IntN(ids)]
				switch op := rnd.IntN(100); {
				case op < 40:
					for _, id := range to {
						all[id].post(e)
					}
					require.NoError(t, f.Post(ctx, e, to...))
				case op < 55:
					for _, id := range to {
						all[id].remove(e)
					}
					require.NoError(t, f.Remove(ctx, e, to...))
				case op < 58:
					all[to[0]].forget()
					require.NoError(t, f.Delete(ctx, to[0]))
				case op < 61:
					all[to[0]].forget()
					require.NoError(t, rdb.Del(ctx, name(t, &f.store, to[0])).Err())
				case op < 75:
					has(t, &f.store, to[0], all[to[0]].get(), step)
				default: // a page of some of them, from any position
					together := map[string]bool{}
					var others []Timeline[string]
					for i, id := range to {
						for _, e := range all[id].get() {
							together[e] = true
						}
						if i > 0 {
							others = append(others, f.Timeline(id))
						}
					}
					n, from := 1+rnd.IntN(5), rnd.IntN(60)
					want := slices.DeleteFunc(sequence(together), func(e string) bool {
						return position{tens(e), e}.compare(position{tens(fmt.Sprint(from)), fmt.Sprint(from)}) <= 0
					})
					page, next, err := f.GetPage(ctx, to[0], position{tens(fmt.Sprint(from)), fmt.Sprint(from)}.cursor(), n, others...)
					require.NoError(t, err)
					require.Equal(t, append([]string{}, want[:min(n, len(want))]...), page, step)
					require.Equal(t, len(want) > n, next != "", step)
				}
				if step%10 == 0 {
					bounded(t, rdb, name(t, &f.store, to[0]), 7+1)
				}
			}
		}
	})
}

// bounded fails if a collection has more than most elements, including the
// head, or no TTL.
func bounded(t testing.TB, rdb *redis.Client, k string, most int64) {
	t.Helper()
	var length *redis.IntCmd
	var ttl *redis.DurationCmd
	_, err := rdb.Pipelined(t.Context(), func(p redis.Pipeliner) error {
		length, ttl = p.ZCard(t.Context(), k), p.PTTL(t.Context(), k)
		return nil
	})
	require.NoError(t, err)
	require.LessOrEqual(t, length.Val(), most)
	require.NotEqual(t, time.Duration(-1), ttl.Val(), "no TTL")
}

// Two processes write elements to the source and post them to a hundred
// timelines, ten thousand times each. Meanwhile readers restore the timelines,
// and a third process deletes them.
func TestFeed_LosesNothingWhileRestored(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	const most, readers = 20, 100
	posts := 10_000 / readers
	var mu sync.Mutex
	records := map[string]bool{} // guarded by mu: the expected elements of every timeline
	var loads atomic.Int64
	spec := FeedSpec[int, string]{
		Key: redistest.Key(t) + ":{id}", Len: most,
		Up: func(context.Context, int) ([]string, error) {
			loads.Add(1)
			mu.Lock()
			defer mu.Unlock()
			return slices.Collect(maps.Keys(records)), nil
		},
	}
	to := make([]int, readers)
	for id := range to {
		to[id] = id
	}
	var writers, others sync.WaitGroup
	done := make(chan struct{})
	for w := range 2 {
		f := feed(t, again(t, rdb), spec)
		writers.Go(func() {
			for i := range posts {
				e := fmt.Sprint(2*i + w)
				mu.Lock()
				records[e] = true
				mu.Unlock()
				if err := f.Post(t.Context(), e, to...); err != nil {
					t.Error(err)
				}
			}
		})
	}
	f := feed(t, again(t, rdb), spec)
	others.Go(func() {
		for n := 0; ; n++ {
			select {
			case <-done:
				return
			default:
			}
			id := n * 7 % readers
			l, err := f.Get(t.Context(), id)
			if err != nil || len(l) > most {
				t.Error(len(l), err)
			}
			bounded(t, rdb, name(t, &f.store, id), most+1)
			if n%3 == 0 {
				rdb.Del(t.Context(), name(t, &f.store, (id+1)%readers))
			}
		}
	})
	writers.Wait()
	close(done)
	others.Wait()
	want := sequence(records)[:most]
	for id := range to {
		has(t, &f.store, id, want, id)
	}
	require.Greater(t, loads.Load(), int64(10))
	t.Logf("%d posts to %d timelines, %d loads", 2*posts, readers, loads.Load())
}
