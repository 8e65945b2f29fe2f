package cachex

import (
	"cmp"
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/internal/redistest"
)

// What a call sends is part of what it costs, and of what it needs: a server that
// pauses writes, or is failing over, still answers a plain GET.

func TestGet_HitIsOneGET(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		counting, commands := counted(t, rdb)
		c := newCache(t, counting, Spec[int64, User]{Up: func(context.Context, int64) (User, error) { return ann, nil }})
		require.NoError(t, c.Set(t.Context(), 1, ann))
		commands.Reset()
		for range 10 {
			_, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			_, _, err = c.Lookup(t.Context(), 1)
			require.NoError(t, err)
		}
		require.NoError(t, c.Close(t.Context())) // so that nothing comes later
		require.Equal(t, 20, commands.Count("get"))
		require.Equal(t, 20, commands.Count())
		require.Equal(t, 20, commands.RoundTrips())
	})
}

func TestGet_MissIsOneGETAndTwoScripts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		// Once before counting: a server that does not know the scripts is sent them.
		warm := newCache(t, rdb, Spec[int64, User]{Up: func(context.Context, int64) (User, error) { return ann, nil }})
		_, err := warm.Get(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, warm.Set(t.Context(), 1, ann))
		_, err = newCache(t, rdb, Spec[int64, User]{Up: func(context.Context, int64) (User, error) { return ann, ErrNotFound }}).Get(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)

		counting, commands := counted(t, rdb)
		c := newCache(t, counting, Spec[int64, User]{Up: func(_ context.Context, id int64) (User, error) {
			// What a load costs before it begins is the read and the lease.
			if commands.Count("get") != 1 || commands.Count("evalsha") != 1 {
				return User{}, fmt.Errorf("%d GETs and %d scripts before the load", commands.Count("get"), commands.Count("evalsha"))
			}
			if id == 2 {
				return User{}, ErrNotFound
			}
			return ann, nil
		}})
		for _, row := range []struct {
			what                string
			gets, scripts, sets int
			call                func(context.Context) error
		}{
			{"a load that is stored", 1, 2, 0, func(ctx context.Context) error { _, err := c.Get(ctx, 1); return err }},
			{"a load that gives its lease back", 1, 2, 0, func(ctx context.Context) error {
				_, err := c.Get(ctx, 2)
				require.ErrorIs(t, err, ErrNotFound)
				return nil
			}},
			{"a Set", 0, 0, 1, func(ctx context.Context) error { return c.Set(ctx, 3, ann) }},
		} {
			commands.Reset()
			require.NoError(t, row.call(t.Context()), row.what)
			require.Equal(t, row.gets, commands.Count("get"), row.what)
			require.Equal(t, row.scripts, commands.Count("evalsha"), row.what)
			require.Equal(t, row.sets, commands.Count("set"), row.what)
			require.Equal(t, row.gets+row.scripts+row.sets, commands.Count(), row.what)
		}
		commands.Reset()
		require.NoError(t, c.Delete(t.Context(), 1))
		require.Equal(t, 1, commands.Count("unlink"))
		require.Equal(t, 1, commands.Count())
	})
}

// A hit must not cost more than what one would write by hand.
//
// Not parallel: what is counted is the allocations of the whole process.
func TestGet_HitAllocatesNoMoreThanGETAndUnmarshal(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rdb := redistest.Shared(t).Client(nil)
	ctx, prefix := t.Context(), redistest.Key(t)
	users := newCache(t, rdb, Spec[int64, User]{Key: prefix + ":users:{id}", Up: func(context.Context, int64) (User, error) { return ann, nil }})
	words := newCache(t, rdb, Spec[int64, string]{Key: prefix + ":words:{id}", Up: func(context.Context, int64) (string, error) { return "w", nil }})
	const id = 1 << 40 // a small number would make Sprintf cheaper than it is
	require.NoError(t, users.Set(ctx, id, ann))
	require.NoError(t, words.Set(ctx, id, "a word or two"))
	b, err := msgpack.Marshal(ann)
	require.NoError(t, err)
	require.NoError(t, rdb.Set(ctx, prefix+":raw:"+strconv.FormatInt(id, 10), b, 0).Err())
	require.NoError(t, rdb.Set(ctx, prefix+":word:"+strconv.FormatInt(id, 10), "a word or two", 0).Err())

	count := func(f func() error) float64 {
		return testing.AllocsPerRun(500, func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	read := func(key string) error {
		b, err := rdb.Get(ctx, key).Bytes()
		if err != nil {
			return err
		}
		var u User
		return msgpack.Unmarshal(b, &u)
	}
	var (
		get      = count(func() error { _, err := users.Get(ctx, id); return err })
		lookup   = count(func() error { _, _, err := users.Lookup(ctx, id); return err })
		getWord  = count(func() error { _, err := words.Get(ctx, id); return err })
		byItoa   = count(func() error { return read(prefix + ":raw:" + strconv.FormatInt(id, 10)) })
		bySprint = count(func() error { return read(fmt.Sprintf("%s:raw:%d", prefix, int64(id))) })
		word     = count(func() error { return rdb.Get(ctx, prefix+":word:"+strconv.FormatInt(id, 10)).Err() })
	)
	t.Logf("allocations: Get %v, Lookup %v, by hand %v (strconv) and %v (Sprintf); of a string %v, by hand %v",
		get, lookup, byItoa, bySprint, getWord, word)
	require.LessOrEqual(t, get, byItoa)
	require.LessOrEqual(t, get, bySprint)
	require.LessOrEqual(t, lookup, get)
	require.LessOrEqual(t, getWord, word+1, "its bytes are copied, since they stand behind a header")
}

// A Set must not cost more than what one would write by hand.
//
// Not parallel: what is counted is the allocations of the whole process.
func TestSet_AllocatesNoMoreThanMarshalAndSET(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	rdb := redistest.Shared(t).Client(nil)
	ctx, prefix := t.Context(), redistest.Key(t)
	users := newCache(t, rdb, Spec[int64, User]{Key: prefix + ":users:{id}"})
	const id = 1 << 40
	count := func(f func() error) float64 {
		return testing.AllocsPerRun(500, func() {
			if err := f(); err != nil {
				t.Error(err)
			}
		})
	}
	set := count(func() error { return users.Set(ctx, id, ann) })
	byHand := count(func() error {
		b, err := msgpack.Marshal(ann)
		if err != nil {
			return err
		}
		return rdb.Set(ctx, prefix+":raw:"+strconv.FormatInt(id, 10), b, time.Minute).Err()
	})
	t.Logf("allocations: Set %v, by hand %v", set, byHand)
	require.LessOrEqual(t, set, byHand)
}

// A hundred hits by GetMany allocate less than a pipeline that is written by hand.
//
// Not parallel: what is counted is the allocations of the whole process.
func TestGetMany_HitsAllocateLessThanAManualPipeline(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	const n = 100
	rdb := redistest.Shared(t).Client(nil)
	ctx, prefix := t.Context(), redistest.Key(t)
	users := newCache(t, rdb, Spec[int64, User]{Key: prefix + ":users:{id}"})
	all, ids, keys := map[int64]User{}, make([]int64, n), make([]string, n)
	b, err := msgpack.Marshal(ann)
	require.NoError(t, err)
	for i := range ids {
		ids[i], keys[i] = 1<<40+int64(i), prefix+":raw:"+strconv.Itoa(i)
		all[ids[i]] = ann
		require.NoError(t, rdb.Set(ctx, keys[i], b, time.Minute).Err())
	}
	require.NoError(t, users.SetMany(ctx, all))
	many := testing.AllocsPerRun(50, func() {
		if got, err := users.GetMany(ctx, ids); err != nil || len(got) != n {
			t.Errorf("%d values, %v", len(got), err)
		}
	})
	byHand := testing.AllocsPerRun(50, func() {
		p := rdb.Pipeline()
		cmds := make([]*redis.StringCmd, n)
		for i, key := range keys {
			cmds[i] = p.Get(ctx, key)
		}
		if _, err := p.Exec(ctx); err != nil {
			t.Error(err)
		}
		got := make(map[int64]User, n)
		for i, cmd := range cmds {
			b, err := cmd.Bytes()
			var u User
			if err = cmp.Or(err, msgpack.Unmarshal(b, &u)); err != nil {
				t.Error(err)
			}
			got[ids[i]] = u
		}
	})
	t.Logf("allocations of %d hits: GetMany %v, by hand %v", n, many, byHand)
	require.Less(t, many, byHand)
}
