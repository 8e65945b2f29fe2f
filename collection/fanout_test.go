package collection

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"iter"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

var followers = flag.Int("followers", 5_000, "how many timelines a post goes to")

func init() { redistest.Register("poster", postUntilKilled) }

// below yields the numbers from one number up to n, exclusive.
func below(from, n int) iter.Seq[int] {
	return func(yield func(int) bool) {
		for i := from; i < n; i++ {
			if !yield(i) {
				return
			}
		}
	}
}

// postUntilKilled runs in another process, which is killed while it posts.
func postUntilKilled() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
	f, err := NewFeed(rdb, FeedSpec[int, string]{Key: os.Getenv("PREFIX") + ":{id}", TTL: time.Hour, Len: 5, Score: tens})
	if err != nil {
		fmt.Println(err)
		return
	}
	err = f.PostSeq(context.Background(), "20", below(0, 1_000_000), func(p FanOut[int]) {
		fmt.Printf("done %d, last %d\n", p.Done, p.Last)
		if p.Done == 2_000 {
			select {}
		}
	})
	fmt.Println(err)
}

func TestFanOut_ResumesFromTheLastProgress(t *testing.T) {
	t.Parallel()
	server, prefix := redistest.Shared(t), redistest.Key(t)
	child := redistest.Child(t, "poster", "REDIS="+server.Addr(), "PREFIX="+prefix)
	line := child.WaitLine("done 1500")
	child.Kill()
	_, last, _ := strings.Cut(line, "last ")
	from, err := strconv.Atoi(strings.TrimSpace(last))
	require.NoError(t, err)
	require.Equal(t, 1_499, from)
	rdb := server.Client(nil)
	f := feed(t, rdb, FeedSpec[int, string]{Key: prefix + ":{id}"})
	for id := range 1_500 {
		if id%100 == 0 {
			has(t, &f.store, id, []string{"20"}, id)
		}
	}
	require.NoError(t, f.PostSeq(t.Context(), "20", below(from+1, 2_600), nil))
	for id := range 2_600 {
		require.EqualValues(t, 2, rdb.ZCard(t.Context(), prefix+":"+strconv.Itoa(id)).Val(), id)
	}
}

// A sequence of any length needs the memory of one pipeline. Run it with
// -followers=100000.
func TestFanOut_HoldsOnePipelineInMemory(t *testing.T) {
	t.Parallel()
	rdb, prefix := redistest.Shared(t).Client(nil), redistest.Key(t)
	f := feed(t, rdb, FeedSpec[int, string]{Key: prefix + ":{id}"})
	var steps, pulled int64
	var most uint64
	keys := func(yield func(int) bool) {
		pulled = 0
		for i := range *followers {
			if pulled++; !yield(i) {
				return
			}
		}
	}
	progress := func(p FanOut[int]) {
		steps++
		require.Equal(t, pulled, p.Done, "none is asked for before it is sent")
		require.Equal(t, min(steps*fanOutBatch, int64(*followers)), p.Done)
		require.EqualValues(t, p.Done-1, p.Last)
		require.Empty(t, p.Failed)
		if steps%20 == 1 {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			most = max(most, m.HeapAlloc)
		}
	}
	for range 2 { // the second time nothing changes
		steps = 0
		began := time.Now()
		require.NoError(t, f.PostSeq(t.Context(), "20", keys, progress))
		t.Logf("to %d timelines in %v, at most %d KB of heap in use", *followers, time.Since(began), most>>10)
		require.EqualValues(t, (*followers+fanOutBatch-1)/fanOutBatch, steps)
	}
	for id := 0; id < *followers; id += 97 {
		has(t, &f.store, id, []string{"20"}, id)
	}
	began := time.Now()
	require.NoError(t, f.RemoveSeq(t.Context(), "20", below(0, *followers), nil))
	t.Logf("from %d timelines in %v", *followers, time.Since(began))
	for id := 0; id < *followers; id += 97 {
		has(t, &f.store, id, nil, id)
	}
}

func TestFanOut_ContinuesAfterAFailedKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		prefix := redistest.Key(t)
		f := feed(t, rdb, FeedSpec[int, string]{Key: prefix + ":{id}"})
		for _, id := range []int{3, 501} {
			require.NoError(t, rdb.Set(ctx, name(t, &f.store, id), "foreign", 0).Err())
		}
		err := f.PostSeq(ctx, "20", below(0, 1_100), nil)
		require.ErrorIs(t, err, ErrForeign)
		require.EqualError(t, err, "cachex: post "+prefix+":3: 2 of the first 1100 keys were not reached: "+ErrForeign.Error())
		fan, ok := errors.AsType[*FanOutError[int]](err)
		require.True(t, ok)
		require.Equal(t, FanOut[int]{Done: 1_100, Last: 1_099, Failed: []int{3, 501}}, fan.FanOut)
		for _, id := range []int{0, 4, 499, 500, 502, 1_099} {
			has(t, &f.store, id, []string{"20"})
		}

		require.NoError(t, f.Delete(ctx, fan.Failed...))
		require.NoError(t, f.Post(ctx, "20", fan.Failed...))
		has(t, &f.store, 3, []string{"20"})
	})
}

// number is a key that can be rendered up to 600.
type number int

func (n number) MarshalText() ([]byte, error) {
	if n > 600 {
		return nil, errors.New("it has no name")
	}
	return strconv.AppendInt(nil, int64(n), 10), nil
}

func TestFanOut_StopsAfterTooManyFailedKeys(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	f, err := NewFeed(rdb, FeedSpec[number, string]{Key: "timelines:{id}", TTL: someTTL, Len: 1, Score: tens})
	require.NoError(t, err)
	pulled := 0
	err = f.PostSeq(t.Context(), "20", func(yield func(number) bool) {
		for pulled = 1; yield(number(pulled)); pulled++ {
		}
	}, nil)
	fan, ok := errors.AsType[*FanOutError[number]](err)
	require.True(t, ok, err)
	require.ErrorContains(t, err, "it has no name")
	require.Equal(t, 1_500, pulled, "the rest is not asked for")
	require.EqualValues(t, 1_500, fan.Done)
	require.Len(t, fan.Failed, 900)
	require.EqualValues(t, 601, fan.Failed[0])
	require.EqualValues(t, 600, rdb.DBSize(t.Context()).Val())
}

func TestFanOut_ReportsTheReachedKeysWhenRedisFails(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, prefix := t.Context(), redistest.Key(t)
		require.NoError(t, rdb.ScriptLoad(ctx, script.Score.Source()).Err())
		faults := new(redistest.Faults)
		client := again(t, rdb)
		client.AddHook(faults)
		f := feed(t, client, FeedSpec[int, string]{Key: prefix + ":{id}"})
		faults.Add(redistest.Fault{Match: redistest.Named("evalsha"), Skip: 1_203, Times: redistest.Always})
		var told []FanOut[int]
		err := f.PostSeq(ctx, "20", below(0, 10_000), func(p FanOut[int]) { told = append(told, p) })
		require.ErrorIs(t, err, io.EOF)
		fan, ok := errors.AsType[*FanOutError[int]](err)
		require.True(t, ok)
		require.Equal(t, FanOut[int]{Done: 1_500, Last: 1_499, Failed: slices.Collect(below(1_203, 1_500))}, fan.FanOut)
		require.Equal(t, []FanOut[int]{{Done: 500, Last: 499}, {Done: 1_000, Last: 999}, fan.FanOut}, told)
		for _, id := range []int{0, 499, 500, 1_202} {
			require.EqualValues(t, 1, rdb.Exists(ctx, name(t, &f.store, id)).Val(), id)
		}
		require.Zero(t, rdb.Exists(ctx, name(t, &f.store, 1_203)).Val())
		faults.Clear()
		require.NoError(t, f.Post(ctx, "20", fan.Failed...))
		require.NoError(t, f.PostSeq(ctx, "20", below(int(fan.Done), 1_700), nil))
		for id := range 1_700 {
			require.EqualValues(t, 1, rdb.Exists(ctx, name(t, &f.store, id)).Val(), id)
		}
	})
}

func TestFanOut_EndsWithItsContext(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		why := errors.New("enough")
		ctx, cancel := context.WithCancelCause(t.Context())
		f := feed(t, rdb, FeedSpec[int, string]{})
		err := f.PostSeq(ctx, "20", below(0, 10_000), func(p FanOut[int]) {
			if p.Done == 1_000 {
				cancel(why)
			}
		})
		require.ErrorIs(t, err, why)
		fan, ok := errors.AsType[*FanOutError[int]](err)
		require.True(t, ok)
		require.Equal(t, FanOut[int]{Done: 1_000, Last: 999}, fan.FanOut)
		require.ErrorContains(t, err, "0 of the first 1000 keys were not reached: enough")
		require.ErrorIs(t, f.Post(ctx, "20", 1), why)
		require.NoError(t, f.PostSeq(t.Context(), "20", below(0, 0), nil))
	})
}

func TestFanOut_ChecksTheElementBeforeTheKeys(t *testing.T) {
	t.Parallel()
	f := feed(t, closedClient(t), FeedSpec[int, string]{})
	never := func(func(int) bool) { t.Error("a key was asked for") }
	err := f.PostSeq(t.Context(), "secret", never, nil)
	require.EqualError(t, err, "cachex: post "+f.name+": Spec.Score: a score must be from -1e+300 to 1e+300")
	require.Error(t, f.RemoveSeq(t.Context(), "secret", never, nil))
	var none context.Context
	require.ErrorIs(t, f.PostSeq(none, "20", never, nil), errNilContext)
	_, ok := errors.AsType[*FanOutError[int]](err)
	require.False(t, ok)
}
