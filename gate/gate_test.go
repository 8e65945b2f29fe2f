package gate_test

import (
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
)

const every = 5 * time.Second

func TestTry_PassesOneCallerAnInterval(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, every)
		for range 3 {
			tries(t, g, 1, true)
			for left := every; left > 0; left -= 1250 * time.Millisecond {
				ok, retryAfter, err := g.Try(t.Context(), 1)
				require.NoError(t, err)
				require.False(t, ok)
				require.Equal(t, left, retryAfter)
				time.Sleep(1250 * time.Millisecond)
			}
		}
		time.Sleep(time.Hour)
		tries(t, g, 1, true)
	})
}

func TestTry_GateIsClosedUntilTheLastMillisecond(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, every)
		tries(t, g, 1, true)
		time.Sleep(every - time.Millisecond)
		ok, retryAfter, err := g.Try(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		require.Equal(t, time.Millisecond, retryAfter)
		time.Sleep(retryAfter)
		tries(t, g, 1, true)
	})
}

// A caller that waits for retryAfter finds the gate open. This holds on a real
// server too, where a key lives one millisecond longer than its TTL.
func TestTry_RetryAfterIsLongEnough(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, 20*time.Millisecond)
		passed := 0
		for end := time.Now().Add(patience); passed < 20; {
			require.True(t, time.Now().Before(end))
			ok, retryAfter, err := g.Try(t.Context(), 1)
			require.NoError(t, err)
			if ok {
				passed++
				continue
			}
			require.Greater(t, retryAfter, time.Duration(0))
			require.LessOrEqual(t, retryAfter, 20*time.Millisecond)
			time.Sleep(retryAfter)
			tries(t, g, 1, true)
			passed++
		}
	})
}

func TestTry_PassesOneOfConcurrentCallers(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		var gates []*gate.Gate[int]
		for range 4 {
			patient := again(t, rdb, func(o *redis.Options) { o.ReadTimeout = patience })
			gates = append(gates, gateOf(t, patient, prefix, time.Hour))
		}
		for round := range 10 {
			var passed, closed atomic.Int64
			var callers sync.WaitGroup
			start := make(chan struct{})
			for i := range 200 {
				callers.Go(func() {
					<-start
					ok, retryAfter, err := gates[i%4].Try(t.Context(), round)
					switch {
					case err != nil:
						t.Error(err)
					case ok:
						passed.Add(1)
					case retryAfter > time.Hour-time.Minute && retryAfter <= time.Hour:
						closed.Add(1)
					}
				})
			}
			close(start)
			callers.Wait()
			require.Equal(t, []int64{1, 199}, []int64{passed.Load(), closed.Load()})
		}
	})
}

func TestTry_KeysAreIndependent(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate(t, rdb, time.Hour)
		for id := range 10 {
			tries(t, g, id, true)
		}
		for id := range 10 {
			tries(t, g, id, false)
		}
		require.NoError(t, g.Reset(t.Context(), 3))
		tries(t, g, 4, false)
		tries(t, g, 3, true)
	})
}

func TestReset_OpensAGateOfAnotherCaller(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		g, other := gateOf(t, rdb, prefix, time.Hour), gateOf(t, again(t, rdb, nil), prefix, time.Hour)
		require.NoError(t, other.Reset(t.Context(), 1), "an open gate")
		for range 3 {
			tries(t, g, 1, true)
			tries(t, other, 1, false)
			require.NoError(t, other.Reset(t.Context(), 1))
		}
		require.Zero(t, rdb.Exists(t.Context(), prefix+":1").Val())
	})
}

func TestGate_CallIsOneRoundTripAndOneKeyWithATTL(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		client, counter := again(t, rdb, nil), new(redistest.Counter)
		client.AddHook(counter)
		g := gateOf(t, client, prefix, time.Hour)
		tries(t, g, 0, true) // and the server knows the script
		require.NoError(t, g.Reset(t.Context(), 0))

		counter.Reset()
		tries(t, g, 1, true)
		tries(t, g, 1, false)
		require.NoError(t, g.Reset(t.Context(), 1))
		require.Equal(t, []int{3, 3}, []int{counter.RoundTrips(), counter.Count("evalsha")})

		tries(t, g, 1, true)
		require.Equal(t, []string{prefix + ":1"}, rdb.Keys(t.Context(), prefix+"*").Val())
		left := rdb.PTTL(t.Context(), prefix+":1").Val()
		require.Greater(t, left, time.Hour-time.Minute)
		require.LessOrEqual(t, left, time.Hour)
	})
}

// A key without a TTL, or with one that is too long, must not keep a gate
// closed for ever.
func TestTry_ShortensATTLBeyondTheInterval(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		prefix := redistest.Key(t)
		g := gateOf(t, rdb, prefix, every)
		older := gateOf(t, rdb, prefix, time.Hour) // of a program with another interval
		for name, prolong := range map[string]func(){
			"the TTL was taken away":  func() { tries(t, g, 1, true); rdb.Persist(t.Context(), prefix+":1") },
			"the TTL was set by hand": func() { tries(t, g, 1, true); rdb.PExpire(t.Context(), prefix+":1", time.Hour) },
			"the interval was longer": func() { tries(t, older, 1, true) },
		} {
			prolong()
			time.Sleep(2 * every)
			ok, retryAfter, err := g.Try(t.Context(), 1)
			require.NoError(t, err, name)
			require.False(t, ok, name)
			require.Equal(t, every, retryAfter, name)
			time.Sleep(every - time.Millisecond)
			tries(t, g, 1, false)
			time.Sleep(time.Millisecond)
			tries(t, g, 1, true)
			require.NoError(t, g.Reset(t.Context(), 1))
		}
	})
}

func TestGate_ForeignKeyIsAnErrorAndUnchanged(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		prefix := redistest.Key(t)
		g := gateOf(t, rdb, prefix, time.Hour)
		cache := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{Key: prefix + ":{id}", TTL: time.Hour}))
		key := prefix + ":1"
		for name, put := range map[string]func() error{
			"an entry of a cache with this template": func() error { return cache.Set(ctx, 1, "value") },
			"a string":                               func() error { return rdb.Set(ctx, key, "1", time.Hour).Err() },
			"an empty string":                        func() error { return rdb.Set(ctx, key, "", time.Hour).Err() },
			"a gate cut short":                       func() error { return rdb.Set(ctx, key, "\xc1G\x011234567", time.Hour).Err() },
			"a gate and more":                        func() error { return rdb.Set(ctx, key, "\xc1G\x01123456789", time.Hour).Err() },
			"another format":                         func() error { return rdb.Set(ctx, key, "\xc1G\x0212345678", time.Hour).Err() },
			"a list":                                 func() error { return rdb.RPush(ctx, key, "a").Err() },
			"a hash without TTL":                     func() error { return rdb.HSet(ctx, key, "a", "b").Err() },
			"a set with a short":                     func() error { return rdb.SAdd(ctx, key, "a").Err() },
			"a sorted set of one":                    func() error { return rdb.ZAdd(ctx, key, redis.Z{Member: "a"}).Err() },
		} {
			require.NoError(t, rdb.Del(ctx, key).Err())
			require.NoError(t, put(), name)
			before := dump(t, rdb, key)
			ok, retryAfter, err := g.Try(ctx, 1)
			require.False(t, ok, name)
			require.Zero(t, retryAfter, name)
			require.ErrorIs(t, err, gate.ErrForeign, name)
			require.EqualError(t, err, "cachex: try "+key+": the key holds a value that is not a gate: give the gate its own template")
			require.ErrorIs(t, g.Reset(ctx, 1), gate.ErrForeign, name)
			require.ErrorIs(t, g.Do(ctx, 1, unreachable(t)), gate.ErrForeign, name)
			require.Equal(t, before, dump(t, rdb, key), name)
		}
	})
}

// dump returns the complete value of a key, and whether it has a TTL.
func dump(t testing.TB, rdb *redis.Client, key string) []any {
	t.Helper()
	kind := rdb.Type(t.Context(), key).Val()
	all := []any{kind, rdb.PTTL(t.Context(), key).Val() > 0}
	switch kind {
	case "string":
		all = append(all, rdb.Get(t.Context(), key).Val())
	case "list":
		all = append(all, rdb.LRange(t.Context(), key, 0, -1).Val())
	case "hash":
		all = append(all, rdb.HGetAll(t.Context(), key).Val())
	case "set":
		all = append(all, rdb.SMembers(t.Context(), key).Val())
	case "zset":
		all = append(all, rdb.ZRangeWithScores(t.Context(), key, 0, -1).Val())
	}
	return all
}

func TestNew_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	require.NoError(t, rdb.Close())
	keyFunc := func(int) string { return "" }
	for want, spec := range map[string]gate.Spec[int]{
		`Spec.Key is required, for instance "users:{id}"`:                                   {Every: every},
		"Spec.Key and Spec.KeyFunc are both set, and one is enough":                         {Key: "a:{id}", KeyFunc: keyFunc, Every: every},
		`Spec.Key "a": int is not in the template, so all keys would collide`:               {Key: "a", Every: every},
		"Spec.Every is required: the time that a gate stays closed":                         {Key: "a:{id}"},
		"Spec.Every: -1s is too short, must be at least 1ms":                                {Key: "a:{id}", Every: -time.Second},
		"Spec.Every: 1.5ms is not whole milliseconds":                                       {Key: "a:{id}", Every: 1500 * time.Microsecond},
		"Spec.Every is 2562047h47m16.854775807s, must be at most ten years: keep permanent": {Key: "a:{id}", Every: cachex.Forever},
	} {
		_, err := gate.New(rdb, spec)
		require.Error(t, err, want)
		require.True(t, strings.HasPrefix(err.Error(), "cachex: gate: "+want), "%v", err)
	}
	_, err := gate.New[int](nil, gate.Spec[int]{Key: "a:{id}", Every: every})
	require.EqualError(t, err, "cachex: gate: client is nil")
	_, err = gate.New[int]((*redis.Client)(nil), gate.Spec[int]{Key: "a:{id}", Every: every})
	require.EqualError(t, err, "cachex: gate: client is nil")
	for _, ok := range []time.Duration{time.Millisecond, 10 * 365 * 24 * time.Hour} {
		_, err = gate.New(rdb, gate.Spec[int]{Key: "a:{id}", Every: ok})
		require.NoError(t, err)
	}
}
