package collection

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// set returns a Set that is closed when the test ends. Key defaults to a key of
// this test alone, TTL to someTTL.
func set[M comparable](t testing.TB, rdb redis.UniversalClient, spec SetSpec[int, M]) *Set[int, M] {
	t.Helper()
	if spec.Key == "" {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = someTTL
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = someLease
	}
	s, err := NewSet(rdb, spec)
	require.NoError(t, err)
	closing(t, s)
	return s
}

// holds fails unless the set of id has these members. They must be sorted.
func holds(t testing.TB, s *Set[int, string], id int, want ...string) {
	t.Helper()
	got, err := s.Get(t.Context(), id)
	require.NoError(t, err)
	slices.Sort(got)
	require.Equal(t, append([]string{}, want...), append([]string{}, got...))
	n, err := s.Len(t.Context(), id)
	require.NoError(t, err)
	require.EqualValues(t, len(want), n)
}

// enters fails unless Add returns want.
func enters(t testing.TB, s *Set[int, string], id int, want int64, members ...string) {
	t.Helper()
	added, err := s.Add(t.Context(), id, members...)
	require.NoError(t, err)
	require.Equal(t, want, added)
}

func TestSet_AddCountsNewMembers(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, s := t.Context(), set(t, rdb, SetSpec[int, string]{})
		holds(t, s, 1)
		enters(t, s, 1, 2, "a", "b", "a")
		enters(t, s, 1, 1, "a", "c")
		enters(t, s, 1, 0)
		enters(t, s, 1, 3, "", "\xc1", "\xc1HV") // like parts of a head
		enters(t, s, 1, 0, "", "\xc1", "\xc1HV")
		holds(t, s, 1, "", "a", "b", "c", "\xc1", "\xc1HV")
		for member, want := range map[string]bool{"a": true, "\xc1": true, "": true, "x": false, "\xc1HN": false} {
			has, err := s.Has(ctx, 1, member)
			require.NoError(t, err)
			require.Equal(t, want, has, "%q", member)
		}
		enters(t, s, 2, 3, "b", "x", "\xc1")
		both, err := s.Intersect(ctx, 1, 2)
		require.NoError(t, err)
		slices.Sort(both)
		require.Equal(t, []string{"b", "\xc1"}, both)
		both, err = s.Intersect(ctx, 1, 3)
		require.NoError(t, err)
		require.Empty(t, both)

		require.NoError(t, s.Remove(ctx, 1, "a", "", "\xc1", "\xc1HV", "x"))
		holds(t, s, 1, "b", "c")
		require.NoError(t, s.Remove(ctx, 1, "b", "c"))
		holds(t, s, 1)
		require.NoError(t, s.Delete(ctx, 1))
		require.Zero(t, rdb.Exists(ctx, name(t, &s.store, 1)).Val())
	})
}

func TestSet_AddReportsNewToExactlyOneCaller(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, up := range []func(context.Context, int) ([]string, error){nil, func(context.Context, int) ([]string, error) { return []string{"old"}, nil }} {
			prefix := redistest.Key(t) + ":{id}"
			var first, other atomic.Int64
			var callers sync.WaitGroup
			for range 4 {
				s := set(t, again(t, rdb), SetSpec[int, string]{Key: prefix, Up: up})
				for range 25 {
					callers.Go(func() {
						added, err := s.Add(t.Context(), 1, "new")
						if err != nil {
							t.Error(err)
						}
						first.Add(added)
						other.Add(1 - added)
					})
				}
			}
			callers.Wait()
			require.Equal(t, []int64{1, 99}, []int64{first.Load(), other.Load()})
		}
	})
}

func TestSet_AddRestoresFirst(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		src := newSource[[]string]()
		s := set(t, rdb, SetSpec[int, string]{Up: src.up})
		added := make(chan answer[int64], 1)
		go func() { n, err := s.Add(t.Context(), 1, "a", "c"); added <- answer[int64]{n, err} }() // ends with Add
		load := receive(t, src.began)
		require.Equal(t, "set", rdb.Type(t.Context(), name(t, &s.store, 1)).Val(), "there is a lease")
		reply, err := script.Enter.Run(t.Context(), rdb, name(t, &s.store, 1), true, 60_000, "b")
		require.NoError(t, err)
		require.EqualValues(t, -2, reply, "of a set that is being restored nobody knows what is new")
		load.returns([]string{"a", "b", "a"}, nil)
		require.Equal(t, answer[int64]{1, nil}, receive(t, added))
		holds(t, s, 1, "a", "b", "c")
		src.idle(t)
		left := rdb.PTTL(t.Context(), name(t, &s.store, 1)).Val()
		require.True(t, left > someTTL-patience && left <= someTTL, "the TTL is %v", left)

		// A member that is removed during a load is not restored.
		require.NoError(t, s.Delete(t.Context(), 1))
		ch := asking(t.Context(), &s.store, 1)
		load = receive(t, src.began)
		require.NoError(t, s.Remove(t.Context(), 1, "a"))
		load.returns([]string{"a"}, nil)
		receive(t, src.began).returns(nil, nil)
		require.Empty(t, receive(t, ch).v)
		for range 3 {
			holds(t, s, 1) // the empty set is remembered
		}
		src.idle(t)
	})
}

func TestSet_RestoresALargeSetInParts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var want []string
		for i := range 2*maxArgs + 7 {
			want = append(want, fmt.Sprintf("%05d", i))
		}
		s := set(t, rdb, SetSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return slices.Clone(want), nil }})
		holds(t, s, 1, want...)
		enters(t, s, 1, 0, want...)
	})
}

func TestSet_WritesSetTheTTL(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		for _, ttl := range []time.Duration{time.Minute, cachex.Forever} {
			s := set(t, rdb, SetSpec[int, string]{TTL: ttl})
			for _, write := range []func() error{
				func() error { _, err := s.Add(t.Context(), 1, "a"); return err },
				func() error { _, err := s.Add(t.Context(), 1, "a"); return err },
				func() error { return s.Remove(t.Context(), 1, "a") },
			} {
				require.NoError(t, write())
				want := map[bool]time.Duration{true: time.Minute, false: -1}[ttl == time.Minute]
				require.Equal(t, want, rdb.PTTL(t.Context(), name(t, &s.store, 1)).Val())
				time.Sleep(20 * time.Second)
			}
		}
	})
}

func TestSet_ForeignKeyIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		s := set(t, rdb, SetSpec[int, string]{})
		up := set(t, rdb, SetSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return []string{"a"}, nil }})
		puts := foreign(rdb)
		puts["a set without a head"] = func(ctx context.Context, k string) error { return rdb.SAdd(ctx, k, "x").Err() }
		for what, put := range puts {
			k := name(t, &s.store, 1)
			require.NoError(t, rdb.Del(ctx, k).Err())
			require.NoError(t, put(ctx, k))
			before := dump(t, rdb, k)
			_, err := s.Get(ctx, 1)
			require.ErrorIs(t, err, ErrForeign, what)
			_, err = s.Add(ctx, 1, "b")
			require.ErrorIs(t, err, ErrForeign, what)
			_, err = s.Has(ctx, 1, "b")
			require.ErrorIs(t, err, ErrForeign, what)
			require.ErrorIs(t, s.Remove(ctx, 1, "b"), ErrForeign, what)
			require.Equal(t, before, dump(t, rdb, k), what)

			require.NoError(t, up.Delete(ctx, 1))
			require.NoError(t, put(ctx, name(t, &up.store, 1)))
			enters(t, up, 1, 1, "b")
			holds(t, up, 1, "a", "b")
		}
		words, numbers := set(t, rdb, SetSpec[int, string]{Key: "w:{id}"}), set(t, rdb, SetSpec[int, int]{Key: "w:{id}"})
		enters(t, words, 1, 1, "secret")
		_, err := numbers.Get(ctx, 1)
		require.ErrorIs(t, err, codec.ErrFormat)
		require.NotContains(t, err.Error(), "secret")
		require.NoError(t, words.Delete(ctx, 1))
	})
}

func TestSet_WithoutRedisReadsItsSourceAndRejectsAdds(t *testing.T) {
	t.Parallel()
	s := set(t, closedClient(t), SetSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return []string{"a", "b", "a"}, nil }})
	holds(t, s, 1, "a", "b")
	has, err := s.Has(t.Context(), 1, "b")
	require.NoError(t, err)
	require.True(t, has)
	_, err = s.Add(t.Context(), 1, "c")
	require.ErrorIs(t, err, redis.ErrClosed)
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	require.Error(t, s.Remove(t.Context(), 1, "c"))

	broken := set(t, closedClient(t), SetSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return nil, io.ErrNoProgress }})
	_, err = broken.Has(t.Context(), 1, "b")
	require.ErrorIs(t, err, io.ErrNoProgress)
	require.ErrorContains(t, err, "cachex: has "+name(t, &broken.store, 1)+": ")
}

func TestSet_AddWithALostReplyIsAnUnknownOutcome(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		_, err := script.Enter.Run(t.Context(), rdb, redistest.Key(t), "", 1000, "a") // so that the server knows the script
		require.NoError(t, err)
		proxy := redistest.NewProxy(t, rdb.Options().Addr)
		client := redis.NewClient(&redis.Options{Addr: proxy.Addr(), PoolSize: 1, ReadTimeout: redistest.Patience})
		t.Cleanup(func() { _ = client.Close() })
		s := set(t, client, SetSpec[int, string]{})
		require.NoError(t, client.Ping(t.Context()).Err()) // to connect
		proxy.LoseReplies(1)
		_, err = s.Add(t.Context(), 1, "a")
		require.ErrorIs(t, err, ErrOutcomeUnknown, "to repeat it would say that it is not new")
		holds(t, s, 1, "a")
	})
}

func TestNewSet_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	_, err := NewSet(closedClient(t), SetSpec[int, int]{TTL: time.Minute})
	require.ErrorContains(t, err, "cachex: set: Spec.Key is required")
	_, err = NewSet(closedClient(t), SetSpec[int, int]{Key: "a:{id}"})
	require.EqualError(t, err, "cachex: set: Spec.TTL is required: choose one, or cachex.Forever")
	_, err = NewSet(closedClient(t), SetSpec[int, int]{Key: "a:{id}", TTL: time.Minute, LeaseTTL: 1})
	require.EqualError(t, err, "cachex: set: Spec.LeaseTTL is 1ns, must be at least 100ms")
}

func TestSet_MatchesItsModel(t *testing.T) {
	t.Parallel()
	models(t, func(t *testing.T, rdb *redis.Client, rnd *rand.Rand, steps int) {
		for _, up := range []bool{false, true} {
			// The source is kept in step with the set, as callers of Add and
			// Remove do.
			all := []map[string]bool{{}, {}, {}}
			spec := SetSpec[int, string]{}
			if up {
				spec.Up = func(_ context.Context, id int) ([]string, error) { return sorted(all[id]), nil }
			}
			s, ctx := set(t, rdb, spec), t.Context()
			for step := range steps / 2 {
				id, member := rnd.IntN(len(all)), fmt.Sprint(rnd.IntN(12))
				m, k := all[id], name(t, &s.store, id)
				switch op := rnd.IntN(100); {
				case op < 35:
					added, err := s.Add(ctx, id, member)
					require.NoError(t, err)
					require.Equal(t, !m[member], added == 1, step)
					m[member] = true
				case op < 60:
					delete(m, member)
					require.NoError(t, s.Remove(ctx, id, member))
				case op < 65:
					require.NoError(t, rdb.Del(ctx, k).Err())
					if !up {
						clear(m)
					}
				case op < 85:
					has, err := s.Has(ctx, id, member)
					require.NoError(t, err)
					require.Equal(t, m[member], has, step)
				default:
					holds(t, s, id, sorted(m)...)
				}
				if rdb.Exists(ctx, k).Val() == 1 {
					require.Greater(t, rdb.PTTL(ctx, k).Val(), time.Duration(0))
				}
			}
		}
	})
}

func sorted(m map[string]bool) []string {
	var members []string
	for member := range m {
		members = append(members, member)
	}
	slices.Sort(members)
	return members
}

func setAnywhere(t *testing.T, rdb redis.UniversalClient) {
	s := set(t, rdb, SetSpec[int, string]{Up: func(context.Context, int) ([]string, error) { return []string{"a", "b"}, nil }})
	for id := range 30 { // on all nodes
		enters(t, s, id, 1, "b", "c")
		require.NoError(t, s.Remove(t.Context(), id, "a"))
		holds(t, s, id, "b", "c")
		both, err := s.Intersect(t.Context(), id, id+100)
		require.NoError(t, err)
		require.Equal(t, []string{"b"}, both)
	}
}
