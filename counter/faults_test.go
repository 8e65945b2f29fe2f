package counter_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// The reply is lost. go-redis, which may resend commands, does not resend this
// one.
func TestInc_WithALostReplyCountsOnceAndIsUnknown(t *testing.T) {
	t.Parallel()
	proxy := redistest.NewProxy(t, redistest.Shared(t).Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), MaxRetries: 5, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	tb := newTable(map[int]int64{1: 100})
	for name, spec := range map[string]counter.Spec[int]{
		"plain": {}, "up": {Up: tb.up}, "down": {Up: tb.up, Down: tb.down, FlushEvery: patience * 100},
	} {
		spec.Key = redistest.Key(t) + ":" + name + ":{id}"
		c := newCounter(t, rdb, spec)
		_, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		proxy.LoseReplies(1)
		lost, err := c.Inc(t.Context(), 1)
		require.ErrorIs(t, err, counter.ErrOutcomeUnknown, name)
		require.Zero(t, lost)
		proxy.LoseReplies(1)
		again, err := c.AddOnce(t.Context(), 1, 1, "op") // go-redis resends it, and the copy finds it
		require.NoError(t, err)
		require.Equal(t, n+2, again, name)
		requireCount(t, c, 1, n+2, name)
	}
}

func TestAdd_WithAMalformedReplyIsUnknown(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tb := newTable(map[int]int64{1: 100})
		for name, spec := range map[string]counter.Spec[int]{"plain": {}, "up": {Up: tb.up}} {
			spec.Key = redistest.Key(t) + ":" + name + ":{id}"
			faults := new(redistest.Faults)
			client := again(t, rdb)
			client.AddHook(faults)
			c := newCounter(t, client, spec)
			n, err := c.Inc(t.Context(), 1)
			require.NoError(t, err)
			for _, reply := range []any{"QUEUED", int64(7), []any{}, []any{"x"}, []any{"A"}, []any{"A", "x"}, []any{int64(1), "1"}} {
				faults.Add(redistest.Fault{Match: redistest.Named("eval", "evalsha"), Reply: reply})
				_, err := c.Inc(t.Context(), 1)
				require.ErrorIs(t, err, counter.ErrOutcomeUnknown, "%s, answered %v", name, reply)
				n++
				requireCount(t, c, 1, n, name)
			}
		}
	})
}

func TestAddOnce_RetriedUntilAnsweredCountsOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tb := newTable(map[int]int64{1: 100})
		for name, spec := range map[string]counter.Spec[int]{
			"plain": {}, "up": {Up: tb.up}, "down": {Up: tb.up, Down: tb.down, FlushEvery: patience * 100},
		} {
			spec.Key = redistest.Key(t) + ":" + name + ":{id}"
			faults := new(redistest.Faults)
			client := again(t, rdb)
			client.AddHook(faults)
			c := newCounter(t, client, spec)
			requireCount(t, c, 1, map[bool]int64{true: 0, false: 100}[spec.Up == nil])
			begin, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			for i := range int64(5) {
				faults.Add(redistest.Fault{Match: redistest.Named("evalsha", "eval"), Skip: int(i % 2), Times: 2, Executed: i%2 == 0})
				failures := 0
				for {
					n, err := c.AddOnce(t.Context(), 1, 1, fmt.Sprint("op", i))
					if err == nil {
						require.Equal(t, begin+i+1, n, name)
						break
					}
					failures++
					require.Less(t, failures, 10)
				}
				faults.Clear()
			}
			requireCount(t, c, 1, begin+5, name)
		}
	})
}

// again returns another client of the server of rdb.
func again(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // NewClient has set it, and each client needs its own
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	return second
}

func TestCounter_SurvivesScriptFlush(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(nil)
	tb := newTable(map[int]int64{1: 100})
	c := newCounter(t, rdb, counter.Spec[int]{Up: tb.up, Down: tb.down})
	for i := range int64(3) {
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		n, err := c.Inc(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 101+2*i, n)
		require.NoError(t, rdb.ScriptFlush(t.Context()).Err())
		n, err = c.AddOnce(t.Context(), 1, 1, fmt.Sprint(i))
		require.NoError(t, err)
		require.Equal(t, 102+2*i, n)
	}
}

func TestNew_NamesTheWrongField(t *testing.T) {
	t.Parallel()
	up := func(context.Context, int) (int64, error) { return 0, nil }
	upMany := func(context.Context, []int) (map[int]int64, error) { return nil, nil }
	down := func(context.Context, counter.Flush[int]) error { return nil }
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	for want, change := range map[string]func(s *counter.Spec[int]){
		"Spec.UpMany needs Spec.Up":                func(s *counter.Spec[int]) { s.UpMany = upMany },
		"Spec.Down needs Spec.Up":                  func(s *counter.Spec[int]) { s.Down = down },
		"Spec.UpCounts needs Spec.Up":              func(s *counter.Spec[int]) { s.UpCounts = true },
		"Spec.UpCounts and Spec.Down are both set": func(s *counter.Spec[int]) { s.Up, s.Down, s.UpCounts = up, down, true },
		"Spec.FlushEvery is 1ms":                   func(s *counter.Spec[int]) { s.Up, s.Down, s.FlushEvery = up, down, time.Millisecond },
		"Spec.FlushEvery is 10.5ms":                func(s *counter.Spec[int]) { s.Up, s.Down, s.FlushEvery = up, down, 10500*time.Microsecond },
		"Spec.OnceTTL is -1s":                      func(s *counter.Spec[int]) { s.OnceTTL = -time.Second },
		"Spec.OnceTTL is 1.5ms":                    func(s *counter.Spec[int]) { s.OnceTTL = 1500 * time.Microsecond },
		"Spec.TTL":                                 func(s *counter.Spec[int]) { s.TTL = 0 },
		"Spec.Key":                                 func(s *counter.Spec[int]) { s.Key = "" },
		"Spec.Down needs Spec.Key in place of Spec.KeyFunc": func(s *counter.Spec[int]) {
			s.Up, s.Down, s.Key, s.KeyFunc = up, down, "", func(int) string { return "k" }
		},
		"Spec.Down gives keys a hash tag of its own": func(s *counter.Spec[int]) { s.Up, s.Down, s.Key = up, down, "a:{{id}}" },
	} {
		spec := counter.Spec[int]{Key: "a:{id}", TTL: time.Minute}
		change(&spec)
		c, err := counter.New(rdb, spec)
		require.Nil(t, c)
		require.ErrorContains(t, err, "cachex: ")
		require.ErrorContains(t, err, want)
		require.NotContains(t, err.Error(), "WriteBehind", "it has no such field")
	}
	_, err := counter.New(nil, counter.Spec[int]{Key: "a:{id}", TTL: time.Minute})
	require.Error(t, err)
	_, err = counter.NewBuffer[int](nil, counter.BufferOptions{})
	require.ErrorContains(t, err, "Counter is nil")
	c, err := counter.New(rdb, counter.Spec[int]{Key: "a:{id}", TTL: time.Minute})
	require.NoError(t, err)
	_, err = counter.NewBuffer(c, counter.BufferOptions{Every: time.Microsecond})
	require.ErrorContains(t, err, "Options.Every is 1µs")
	_, err = counter.NewBuffer(c, counter.BufferOptions{MaxKeys: -1})
	require.ErrorContains(t, err, "Options.MaxKeys is -1")
	require.NoError(t, c.Close(t.Context()))
	_, err = counter.NewBuffer(c, counter.BufferOptions{})
	require.ErrorIs(t, err, cachex.ErrClosed)
}

func TestAdd_WrongCallAddsNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		why := errors.New("the caller has gone")
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(why)
		for _, add := range []func(ctx context.Context) (int64, error){
			func(ctx context.Context) (int64, error) { return c.Inc(ctx, 1) },
			func(ctx context.Context) (int64, error) { return c.AddOnce(ctx, 1, 1, "op") },
		} {
			_, err := add(nil)
			require.ErrorContains(t, err, "ctx is nil")
			_, err = add(ended)
			require.ErrorIs(t, err, why)
			require.NotErrorIs(t, err, counter.ErrOutcomeUnknown)
		}
		requireCount(t, c, 1, 0)
		require.NoError(t, c.Close(t.Context()))
		_, err := c.Inc(t.Context(), 1)
		require.ErrorIs(t, err, cachex.ErrClosed)
		_, err = c.AddOnce(t.Context(), 1, 1, "op")
		require.ErrorIs(t, err, cachex.ErrClosed)
	})
}

func TestBatch_ReadsCountsAndValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCounter(t, rdb, counter.Spec[int]{})
		for range 3 {
			_, err := c.Inc(t.Context(), 1)
			require.NoError(t, err)
		}
		titles := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
			Key: redistest.Key(t) + ":title:{id}", TTL: time.Minute,
			Up: func(_ context.Context, id int) (string, error) { return fmt.Sprint("job ", id), nil },
		}))
		t.Cleanup(func() { _ = titles.Close(context.Background()) })
		b := new(batch.Batch)
		title, views := batch.Get(b, titles, 1), batch.GetMany(b, c, []int{1, 2})
		require.NoError(t, b.Run(t.Context()))
		text, err := title.Get()
		require.NoError(t, err)
		require.Equal(t, "job 1", text)
		counts, err := views.Get()
		require.NoError(t, err)
		require.Equal(t, map[int]int64{1: 3, 2: 0}, counts)
	})
}

func TestGetMany_RestoresInFewRoundTrips(t *testing.T) {
	t.Parallel()
	rdb := again(t, redistest.Shared(t).Client(nil))
	commands := new(redistest.Counter)
	rdb.AddHook(commands)
	ids := make([]int, 100)
	rows := make(map[int]int64)
	for i := range ids {
		ids[i], rows[i] = i, int64(i)
	}
	tb := newTable(rows)
	spec := counter.Spec[int]{
		Key: redistest.Key(t) + ":{id}", Up: tb.up, Down: tb.down, FlushEvery: patience * 100,
		UpMany: func(_ context.Context, ids []int) (map[int]int64, error) {
			some := make(map[int]int64)
			for _, id := range ids {
				some[id] = tb.get(id)
			}
			return some, nil
		},
	}
	c := newCounter(t, rdb, spec)
	want := make(map[int]int64)
	for _, id := range ids {
		want[id] = int64(id) + 1
		_, err := c.Inc(t.Context(), id)
		require.NoError(t, err)
	}
	require.NoError(t, c.Delete(t.Context(), ids...))
	commands.Reset()
	counts, err := c.GetMany(t.Context(), ids)
	require.NoError(t, err)
	require.Equal(t, want, counts)
	// GET, acquire, look and store, each of which may be two with a new script,
	// and the reads that find the counts stored. Some belong to concurrent
	// callers.
	require.LessOrEqual(t, commands.RoundTrips(), 12)
}
