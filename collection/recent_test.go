package collection

import (
	"context"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestRecent_ReturnsTheLatestFirst(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, int]{})
		has(t, &r.store, 1, nil)
		for i := range 10 {
			require.NoError(t, r.Push(t.Context(), 1, i))
		}
		has(t, &r.store, 1, []int{9, 8, 7})
		require.NoError(t, r.Push(t.Context(), 1, 8, 9), "an element may be there twice")
		has(t, &r.store, 1, []int{9, 8, 9})
		require.NoError(t, r.Push(t.Context(), 1))
		require.NoError(t, r.Push(t.Context(), 1, 1, 2, 3, 4, 5))
		has(t, &r.store, 1, []int{5, 4, 3})
		has(t, &r.store, 2, nil)
		require.NoError(t, r.Remove(t.Context(), 1, 4, 17))
		has(t, &r.store, 1, []int{5, 3})
		require.NoError(t, r.Delete(t.Context(), 1, 2))
		has(t, &r.store, 1, nil)
		require.NoError(t, r.Remove(t.Context(), 1, 4))
		require.Zero(t, rdb.Exists(t.Context(), name(t, &r.store, 1)).Val())
	})
}

func TestRecent_UniqueKeepsEachElementOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, string]{Unique: true, Len: 4})
		for _, step := range []struct {
			push []string
			want []string
		}{
			{[]string{"a"}, []string{"a"}},
			{[]string{"a"}, []string{"a"}},
			{[]string{"b", "c"}, []string{"c", "b", "a"}},
			{[]string{"a"}, []string{"a", "c", "b"}},
			{[]string{"d", "a", "d"}, []string{"d", "a", "c", "b"}},
			{[]string{"e", "f"}, []string{"f", "e", "d", "a"}},
			{[]string{"a", "d", "e", "f"}, []string{"f", "e", "d", "a"}},
		} {
			require.NoError(t, r.Push(t.Context(), 1, step.push...))
			has(t, &r.store, 1, step.want, step.push)
		}
	})
}

func TestRecent_WritesSetTheTTL(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, int]{Key: "r:{id}", TTL: time.Minute})
		up := recent(t, rdb, RecentSpec[int, int]{Key: "up:{id}", TTL: time.Minute, Up: func(context.Context, int) ([]int, error) { return []int{3, 2, 1}, nil }})
		forever := recent(t, rdb, RecentSpec[int, int]{Key: "forever:{id}", TTL: cachex.Forever})
		has(t, &up.store, 1, []int{3, 2, 1})
		for range 3 {
			for _, c := range []*Recent[int, int]{r, up, forever} {
				k, want := name(t, &c.store, 1), time.Minute
				if c == forever {
					want = -1
				}
				require.NoError(t, c.Push(t.Context(), 1, 4, 5))
				require.Equal(t, want, rdb.PTTL(t.Context(), k).Val(), k)
				time.Sleep(20 * time.Second)
				require.NoError(t, c.Remove(t.Context(), 1, 4))
				require.Equal(t, want, rdb.PTTL(t.Context(), k).Val(), k)
				has(t, &c.store, 1, append([]int{5}, map[bool][]int{true: {3}}[c == up]...))
				if c == up { // as before
					require.NoError(t, c.Delete(t.Context(), 1))
					has(t, &up.store, 1, []int{3, 2, 1})
					require.Equal(t, want, rdb.PTTL(t.Context(), k).Val(), k)
				} else {
					require.NoError(t, c.Remove(t.Context(), 1, 5))
				}
			}
		}
		time.Sleep(time.Minute)
		require.Zero(t, rdb.Exists(t.Context(), "r:1", "up:1").Val())
	})
}

func TestRecent_StoresAnyBytes(t *testing.T) {
	t.Parallel()
	elems := []string{"", "\xc1", "\xc1\xc1", "\xc1H\x01V12345678", "\xc1H\x01L12345678", "\x00", "a\r\nb", strings.Repeat("x", 100_000)}
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, string]{Len: 20})
		up := recent(t, rdb, RecentSpec[int, string]{Len: 20, Up: func(context.Context, int) ([]string, error) { return elems, nil }})
		for i := len(elems) - 1; i >= 0; i-- {
			require.NoError(t, r.Push(t.Context(), 1, elems[i]))
		}
		for range 2 {
			has(t, &r.store, 1, elems)
			has(t, &up.store, 1, elems)
		}
	})
}

func TestRecent_ReadsWithOneCommandAndWritesWithOneScript(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		client, counter := again(t, rdb), new(redistest.Counter)
		client.AddHook(counter)
		r := recent(t, client, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { return []int{1}, nil }})
		has(t, &r.store, 1, []int{1})
		require.NoError(t, r.Push(t.Context(), 1, 2)) // and the server knows the script
		counter.Reset()
		has(t, &r.store, 1, []int{2, 1})
		require.Equal(t, []int{1, 1}, []int{counter.Count("lrange"), counter.RoundTrips()})
		require.NoError(t, r.Push(t.Context(), 1, 3, 4))
		require.Equal(t, []int{1, 2}, []int{counter.Count("evalsha"), counter.RoundTrips()})
	})
}

// foreign returns ways to store a value that is not a list of ours.
func foreign(rdb *redis.Client) map[string]func(ctx context.Context, key string) error {
	return map[string]func(context.Context, string) error{
		"a string":                     func(ctx context.Context, k string) error { return rdb.Set(ctx, k, "v", 0).Err() },
		"an entry of a cache":          func(ctx context.Context, k string) error { return rdb.Set(ctx, k, "\xc1X\x01V and so on", 0).Err() },
		"a list without a head":        func(ctx context.Context, k string) error { return rdb.RPush(ctx, k, "1", "2").Err() },
		"a list with a head like ours": func(ctx context.Context, k string) error { return rdb.RPush(ctx, k, "\xc1H\x01V", "2").Err() },
		"a hash":                       func(ctx context.Context, k string) error { return rdb.HSet(ctx, k, "a", "b").Err() },
		"a sorted set":                 func(ctx context.Context, k string) error { return rdb.ZAdd(ctx, k, redis.Z{Member: "a"}).Err() },
		"a sorted set that tops all": func(ctx context.Context, k string) error {
			return rdb.ZAdd(ctx, k, redis.Z{Member: "a", Score: math.Inf(1)}).Err()
		},
	}
}

func TestRecent_ForeignKeyIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		r := recent(t, rdb, RecentSpec[int, int]{})
		up := recent(t, rdb, RecentSpec[int, int]{Up: func(context.Context, int) ([]int, error) { return []int{2, 1}, nil }})
		for what, put := range foreign(rdb) {
			k := name(t, &r.store, 1)
			require.NoError(t, rdb.Del(ctx, k).Err())
			require.NoError(t, put(ctx, k))
			before := dump(t, rdb, k)
			_, err := r.Get(ctx, 1)
			require.ErrorIs(t, err, ErrForeign, what)
			require.EqualError(t, err, "cachex: get "+k+": the key holds a foreign value: give the collection its own template")
			require.ErrorIs(t, r.Push(ctx, 1, 5), ErrForeign, what)
			require.ErrorIs(t, r.Remove(ctx, 1, 5), ErrForeign, what)
			require.Equal(t, before, dump(t, rdb, k), what)
			require.NoError(t, r.Delete(ctx, 1), what)
			require.NoError(t, r.Push(ctx, 1, 5), what)
			has(t, &r.store, 1, []int{5}, what)

			k = name(t, &up.store, 1)
			require.NoError(t, up.Delete(ctx, 1))
			require.NoError(t, put(ctx, k))
			before = dump(t, rdb, k)
			require.NoError(t, up.Push(ctx, 1, 5), "the source has it")
			require.NoError(t, up.Remove(ctx, 1, 5))
			require.Equal(t, before, dump(t, rdb, k), what)
			has(t, &up.store, 1, []int{2, 1}, what)
			require.NoError(t, up.Push(ctx, 1, 5))
			has(t, &up.store, 1, []int{5, 2, 1}, what)
		}
	})
}

// dump returns the complete value of a key.
func dump(t testing.TB, rdb redis.Cmdable, key string) any {
	t.Helper()
	switch kind := rdb.Type(t.Context(), key).Val(); kind {
	case "string":
		return rdb.Get(t.Context(), key).Val()
	case "list":
		return rdb.LRange(t.Context(), key, 0, -1).Val()
	case "hash":
		return rdb.HGetAll(t.Context(), key).Val()
	case "zset":
		return rdb.ZRangeWithScores(t.Context(), key, 0, -1).Val()
	case "set":
		return rdb.SMembers(t.Context(), key).Val()
	default:
		return kind
	}
}

func TestRecent_UndecodableElementIsAnErrorWithoutASourceAndAMissWithOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t) + ":{id}"
		words := recent(t, rdb, RecentSpec[int, string]{Key: prefix})
		numbers := recent(t, rdb, RecentSpec[int, int]{Key: prefix})
		require.NoError(t, words.Push(t.Context(), 1, "secret"))
		_, err := numbers.Get(t.Context(), 1)
		require.ErrorIs(t, err, codec.ErrFormat)
		require.NotContains(t, err.Error(), "secret")
		require.NoError(t, words.Delete(t.Context(), 1))

		calls := 0
		older := recent(t, rdb, RecentSpec[int, string]{Key: prefix, Up: func(context.Context, int) ([]string, error) { return []string{"x"}, nil }})
		newer := recent(t, rdb, RecentSpec[int, int]{Key: prefix, Up: func(context.Context, int) ([]int, error) { calls++; return []int{7}, nil }})
		has(t, &older.store, 1, []string{"x"})
		has(t, &newer.store, 1, []int{7})
		has(t, &newer.store, 1, []int{7})
		require.Equal(t, 1, calls)
		require.NoError(t, older.Push(t.Context(), 1, "y"))
		has(t, &newer.store, 1, []int{7})
		require.Equal(t, 2, calls)
	})
}

// unusable is a codec of ints that cannot decode its own bytes.
type unusable struct{ codec.Codec[int] }

func (unusable) Decode([]byte, *int) error { return codec.ErrFormat }

func TestRecent_CodecThatCannotReadItsOwnBytesCostsALoadEachTime(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		calls := 0
		r := recent(t, rdb, RecentSpec[int, int]{
			Codec: unusable{codec.For[int]()}, Up: func(context.Context, int) ([]int, error) { calls++; return []int{7}, nil },
		})
		for want := 1; want <= 3; want++ {
			has(t, &r.store, 1, []int{7})
			require.Equal(t, want, calls)
		}
	})
}

// failing is a codec that fails or panics.
type failing struct{ codec.Codec[int] }

func (failing) Append(dst []byte, v int) ([]byte, error) {
	if v == 1 {
		panic(v)
	}
	return dst, io.ErrShortWrite
}

func TestRecent_FailingCodecChangesNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		r := recent(t, rdb, RecentSpec[int, int]{
			Codec: failing{codec.For[int]()}, Up: func(context.Context, int) ([]int, error) { return []int{7}, nil },
		})
		require.ErrorIs(t, r.Push(t.Context(), 1, 7), io.ErrShortWrite)
		require.ErrorContains(t, r.Push(t.Context(), 1, 1), ": codec panicked with a int")
		require.ErrorIs(t, r.Remove(t.Context(), 1, 7), io.ErrShortWrite)
		_, err := r.Get(t.Context(), 1)
		require.ErrorIs(t, err, io.ErrShortWrite)
		require.Zero(t, rdb.Exists(t.Context(), name(t, &r.store, 1)).Val(), "no lease is left")
	})
}

func TestNewRecent_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	rdb := closedClient(t)
	good := RecentSpec[int, int]{Key: "a:{id}", TTL: time.Minute, Len: 3}
	for want, spoil := range map[string]func(s *RecentSpec[int, int]){
		`Spec.Key is required, for instance "users:{id}"`:                      func(s *RecentSpec[int, int]) { s.Key = "" },
		"Spec.Key and Spec.KeyFunc are both set, and one is enough":            func(s *RecentSpec[int, int]) { s.KeyFunc = func(int) string { return "" } },
		`Spec.Key "a": int is not in the template`:                             func(s *RecentSpec[int, int]) { s.Key = "a" },
		"Spec.TTL is required: choose one, or cachex.Forever":                  func(s *RecentSpec[int, int]) { s.TTL = 0 },
		"Spec.TTL: 1.5ms is not whole milliseconds":                            func(s *RecentSpec[int, int]) { s.TTL = 1500 * time.Microsecond },
		"Spec.Len is 0, must be from 1 to 10000: the maximum length of a list": func(s *RecentSpec[int, int]) { s.Len = 0 },
		"Spec.Len is 10001, must be from 1 to 10000: the maximum length of":    func(s *RecentSpec[int, int]) { s.Len = 10_001 },
		"Spec.UpTimeout is -1ns, must be at least 1ms":                         func(s *RecentSpec[int, int]) { s.UpTimeout = -1 },
		"Spec.LeaseTTL is 99ms, must be at least 100ms":                        func(s *RecentSpec[int, int]) { s.LeaseTTL = 99 * time.Millisecond },
		"Spec.LeaseTTL is 100.5ms, must be whole milliseconds":                 func(s *RecentSpec[int, int]) { s.LeaseTTL = 100500 * time.Microsecond },
		"Spec.Codec: ": func(s *RecentSpec[int, int]) {
			s.Codec = codec.Map(codec.JSON[chan int](), func(int) (chan int, error) { return nil, nil }, func(chan int) (int, error) { return 0, nil })
		},
	} {
		spec := good
		spoil(&spec)
		_, err := NewRecent(rdb, spec)
		require.ErrorContains(t, err, "cachex: recent: "+want)
	}
	_, err := NewRecent(redis.UniversalClient(nil), good)
	require.EqualError(t, err, "cachex: recent: client is nil")
	_, err = NewRecent(redis.UniversalClient((*redis.Client)(nil)), good)
	require.EqualError(t, err, "cachex: recent: client is nil")
}

func TestRecent_WrongCallNamesTheKey(t *testing.T) {
	t.Parallel()
	r, err := NewRecent(closedClient(t), RecentSpec[string, int]{Key: "views:{job}", TTL: time.Minute, Len: 3})
	require.NoError(t, err)
	ended, cancel := context.WithCancelCause(context.Background())
	cancel(io.ErrClosedPipe)
	for want, call := range map[string]struct {
		ctx context.Context
		key string
	}{
		" views: ctx is nil":                       {nil, "go"},
		" views:go: io: read/write on closed pipe": {ended, "go"},
		" views: key too long: at least 2000":      {context.Background(), strings.Repeat("x", 2000)},
		" views:go: script ":                       {context.Background(), "go"},
		" views:go%3A: script ":                    {context.Background(), "go:"},
	} {
		for op, err := range map[string]error{"push": r.Push(call.ctx, call.key, 1), "remove": r.Remove(call.ctx, call.key, 1)} {
			require.ErrorContains(t, err, "cachex: "+op+want)
			e, ok := errors.AsType[*cachex.Error](err)
			require.True(t, ok)
			require.Equal(t, "views", e.Cache)
			require.NotErrorIs(t, err, ErrOutcomeUnknown)
		}
		want = strings.TrimSuffix(want, "script ")
		_, err := r.Get(call.ctx, call.key)
		require.ErrorContains(t, err, "cachex: get"+want)
		require.ErrorContains(t, r.Delete(call.ctx, call.key), "cachex: delete"+want)
	}
	require.EqualError(t, r.Close(nil), "cachex: close views: ctx is nil") //nolint:staticcheck // on purpose
	require.NoError(t, r.Close(context.Background()))
	require.NoError(t, r.Close(context.Background()))
}
