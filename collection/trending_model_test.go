package collection

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// windowModel is the expected state of a window.
type windowModel struct {
	buckets int64
	scores  map[inBucket]float64
}

type inBucket struct {
	bucket int64
	member string
}

// sums returns the expected ranking of Get in bucket now.
func (m *windowModel) sums(now int64) map[string]float64 {
	sums := map[string]float64{}
	for a, score := range m.scores {
		if a.bucket > now-m.buckets {
			sums[a.member] += score
		}
	}
	return sums
}

// step applies a random operation to tr and to the model.
func (m *windowModel) step(t *testing.T, rnd *rand.Rand, tr *Trending[int, string], now int64) {
	member, by := fmt.Sprint(rnd.IntN(9)), float64(rnd.IntN(9)-3)
	switch op := rnd.IntN(100); {
	case op < 60:
		m.scores[inBucket{now, member}] += by
		got, err := tr.Add(t.Context(), 1, member, by)
		require.NoError(t, err)
		require.Equal(t, m.sums(now)[member], got)
	case op < 65:
		maps.DeleteFunc(m.scores, func(a inBucket, _ float64) bool { return a.member == member })
		require.NoError(t, tr.Remove(t.Context(), 1, member))
	case op < 66:
		clear(m.scores)
		require.NoError(t, tr.Delete(t.Context(), 1))
	default:
		want := append(board{}, order(m.sums(now))...)
		has(t, &tr.store, 1, want[:min(len(want), tr.top)])
	}
}

func TestTrending_MatchesItsModelOverTime(t *testing.T) {
	t.Parallel()
	for seed := range uint64(3) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				rnd := rand.New(rand.NewPCG(seed, 5))
				tr := trending(t, rdb, TrendingSpec[int, string]{Key: "top:{id}", Bucket: time.Minute, Buckets: 4, Top: 5})
				m := &windowModel{buckets: 4, scores: map[inBucket]float64{}}
				for range 1_000 {
					time.Sleep(time.Duration(rnd.Int64N(int64(10 * time.Second))))
					m.step(t, rnd, tr, time.Now().Unix()/60)
				}
			})
		})
	}
}

// Where the test does not control time, it writes to the buckets of the past.
func TestTrending_MatchesItsModel(t *testing.T) {
	t.Parallel()
	models(t, func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int) {
		if steps < 10_000 {
			steps /= 5 // an embedded server is slow at this
		}
		const bucket = 50_000 * time.Hour
		tr := trending(t, rdb, TrendingSpec[int, string]{Bucket: bucket, Buckets: 4, Top: 5})
		now := time.Now().Unix() / int64(bucket/time.Second)
		k := name(t, &tr.store, 1)
		m := &windowModel{buckets: 4, scores: map[inBucket]float64{}}
		for range steps {
			if rnd.IntN(5) > 0 {
				m.step(t, rnd, tr, now)
				continue
			}
			a, by := inBucket{now - rnd.Int64N(6), fmt.Sprint(rnd.IntN(9))}, float64(rnd.IntN(9)-3)
			m.scores[a] += by
			require.NoError(t, rdb.ZIncrBy(t.Context(), fmt.Sprint(k, ":", a.bucket), by, a.member).Err())
			if a.bucket <= now-m.buckets { // Delete and Remove leave them to their TTL
				delete(m.scores, a)
			}
		}
		trends(t, tr, 1, "a", m.sums(now)["a"]+1)
		ttl := rdb.PTTL(t.Context(), fmt.Sprint(k, ":", now)).Val()
		require.True(t, ttl > 3*bucket && ttl <= 4*bucket, ttl)
	})
}
