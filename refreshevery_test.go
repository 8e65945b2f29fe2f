package cachex

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/redistest"
)

func init() { redistest.Register("refresher", refreshUntilKilled) }

// refreshUntilKilled is another process of the fleet, which is killed in Up.
func refreshUntilKilled() {
	rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: patience})
	c := Must(New(rdb, Spec[int, string]{
		Key: os.Getenv("PREFIX") + ":{id}", TTL: time.Hour, LeaseTTL: childLease, UpTimeout: time.Hour,
		Up: func(context.Context, int) (string, error) {
			fmt.Println("loading")
			select {}
		},
	}))
	fmt.Println(c.RefreshEvery(context.Background(), time.Hour, 1, 2, 3))
}

// refreshing calls RefreshEvery in a goroutine of its own.
func refreshing[K comparable, V any](ctx context.Context, c *Cache[K, V], every time.Duration, keys ...K) <-chan error {
	ch := make(chan error, 1)
	go func() { ch <- c.RefreshEvery(ctx, every, keys...) }() // ends with it
	return ch
}

// A logbook has the loads of keys by when they began.
type logbook struct {
	began time.Time
	mu    sync.Mutex
	loads map[int][]time.Duration // guarded by mu
}

func newLogbook() *logbook { return &logbook{began: time.Now(), loads: map[int][]time.Duration{}} }

func (l *logbook) note(id int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.loads[id] = append(l.loads[id], time.Since(l.began))
}

func (l *logbook) of(id int) []time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.loads[id])
}

// until lets time pass in a bubble.
func (l *logbook) until(d time.Duration) {
	time.Sleep(d - time.Since(l.began))
	synctest.Wait()
}

func multiples(every time.Duration, n int) []time.Duration {
	var ds []time.Duration
	for i := range n {
		ds = append(ds, time.Duration(i)*every)
	}
	return ds
}

func TestRefreshEvery_LoadsEachKeyOncePerPeriodAndReadersNeverLoad(t *testing.T) {
	t.Parallel()
	const every, periods = 10 * time.Second, 6
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		log := newLogbook()
		spec := Spec[int, string]{
			Key: "numbers:{id}", TTL: 2 * every, Jitter: NoJitter,
			Up: func(_ context.Context, id int) (string, error) {
				log.note(id)
				time.Sleep(time.Second)
				return fmt.Sprint("loaded after ", time.Since(log.began)), nil
			},
		}
		ids := []int{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
		var fleet []*Cache[int, string]
		for range 5 {
			c := newCache(t, again(t, rdb), spec)
			fleet = append(fleet, c)
			refreshing(t.Context(), c, every, append(ids, ids...)...)
		}
		for n := range periods {
			log.until(time.Duration(n)*every + 5*time.Second)
			for _, c := range fleet {
				for _, id := range ids {
					v, err := c.Get(t.Context(), id)
					require.NoError(t, err)
					require.Equal(t, fmt.Sprint("loaded after ", time.Duration(n)*every+time.Second), v)
				}
			}
		}
		total := int64(0)
		for _, id := range ids {
			require.Equal(t, multiples(every, periods), log.of(id), "key %d", id)
		}
		for _, c := range fleet {
			total += c.Stats().Loads
		}
		require.Equal(t, int64(periods*len(ids)), total)
		require.Equal(t, 2*len(ids), len(rdb.Keys(t.Context(), "*").Val()), "a value and a turn for each key, and nothing else")
	})
}

func TestRefreshEvery_UpThatHangsDelaysNoOtherKey(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		log := newLogbook()
		never := make(chan struct{})
		t.Cleanup(func() { close(never) }) // after the one of newCache, but loads are left behind by then
		c := Must(New(rdb, Spec[int, int]{
			Key: "numbers:{id}", TTL: time.Minute, UpTimeout: 2500 * time.Millisecond,
			Up: func(_ context.Context, id int) (int, error) {
				log.note(id)
				if id == 0 && len(log.of(0)) == 1 {
					<-never // and does not heed its ctx
				}
				return id, nil
			},
		}))
		ended := refreshing(t.Context(), c, time.Second, 0, 1, 2, 3)
		log.until(10*time.Second - time.Millisecond)
		for id := 1; id <= 3; id++ {
			require.Equal(t, multiples(time.Second, 10), log.of(id), "key %d", id)
		}
		// Its turn ended at 2.5 s, and the one of the third second was due.
		require.Equal(t, []time.Duration{0, 2500 * time.Millisecond, 3 * time.Second}, log.of(0)[:3])
		require.Len(t, log.of(0), 9)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, c.Close(ctx), context.DeadlineExceeded, "the Up is left behind")
		require.ErrorIs(t, <-ended, ErrClosed)
	})
}

func TestRefreshEvery_FailedUpIsRetriedInTheNextPeriod(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		log, n := newLogbook(), 0
		ends := []func() (string, error){
			func() (string, error) { return "", errSource },
			func() (string, error) { panic("boom") },
			func() (string, error) { return "", ErrNotFound },
			func() (string, error) { return "loaded", nil },
		}
		c := newCache(t, rdb, Spec[int, string]{Key: "numbers:{id}", Up: func(context.Context, int) (string, error) {
			log.note(1)
			n++
			return ends[n-1]()
		}})
		refreshing(t.Context(), c, time.Second, 1)
		log.until(4*time.Second - time.Millisecond)
		require.Equal(t, multiples(time.Second, 4), log.of(1))
		v, ok, err := c.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, "loaded", v)
		require.Equal(t, int64(2), c.Stats().LoadFailures)
		require.NoError(t, c.Close(t.Context()))
	})
}

func TestRefreshEvery_EndReturnsItsTurn(t *testing.T) {
	t.Parallel()
	errEnough := errors.New("enough")
	for name, end := range map[string]func(context.CancelCauseFunc, *Cache[int, string]) error{
		"ctx": func(cancel context.CancelCauseFunc, _ *Cache[int, string]) error { cancel(errEnough); return errEnough },
		"Close": func(_ context.CancelCauseFunc, c *Cache[int, string]) error {
			go c.Close(context.Background())
			return ErrClosed
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// In a bubble: a machine that stands still for a second in real time, which is what
			// Redis has to take the turn back, makes the others wait for the end of the turn.
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				up := make(chan error)
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease, Up: func(ctx context.Context, _ int) (string, error) {
					up <- nil
					<-ctx.Done()
					up <- context.Cause(ctx)
					return "", context.Cause(ctx)
				}}
				c := newCache(t, rdb, spec)
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				ended := refreshing(ctx, c, time.Hour, 1)
				require.NoError(t, receive(t, up))
				cause := end(cancel, c)
				require.Error(t, receive(t, up), "its ctx has ended")
				err := receive(t, ended)
				require.Equal(t, &Error{Op: "refresh every", Cache: c.Name(), Err: cause}, err)
				record := rdb.Get(t.Context(), turnKey(c.Key(1))).Val()
				require.GreaterOrEqual(t, len(record), 8)
				require.Equal(t, strings.Repeat("\x00", 4), record[4:8], "the turn should be given back")

				s := newSource(t)
				spec.Up = s.up
				other := newCache(t, again(t, rdb), spec)
				ctx, stop := context.WithCancel(t.Context())
				defer stop()
				ended = refreshing(ctx, other, time.Hour, 1)
				s.next(t).returns("new", nil)
				for other.Stats().Loads == 0 {
					_, _, err := other.Lookup(t.Context(), 1)
					require.NoError(t, err)
				}
				stop()
				require.ErrorIs(t, receive(t, ended), context.Canceled)
			})
		})
	}
}

func TestRefreshEvery_RefusesInvalidCalls(t *testing.T) {
	t.Parallel()
	rdb := closedClient(t)
	up := func(context.Context, string) (string, error) { return "", nil }
	c := newCache(t, rdb, Spec[string, string]{Key: "a:{id}", Up: up})
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errSource)
	closed := Must(New(rdb, Spec[string, string]{Key: "a:{id}", TTL: time.Minute, Up: up}))
	require.NoError(t, closed.Close(t.Context()))
	long := strings.Repeat("x", key.MaxLen-len("a:")-len(turnSuffix))
	for _, test := range []struct {
		c     *Cache[string, string]
		ctx   context.Context
		every time.Duration
		keys  []string
		err   error
		text  string
	}{
		{c, nil, time.Second, []string{"1"}, errNilContext, "cachex: refresh every a: ctx is nil"},
		{c, ended, time.Second, []string{"1"}, errSource, "cachex: refresh every a: the source is away"},
		{closed, t.Context(), time.Second, []string{"1"}, ErrClosed, "cachex: refresh every a: closed"},
		{c, t.Context(), time.Second, nil, errNoKeys, "cachex: refresh every a: no keys"},
		{c, t.Context(), time.Second, []string{"1", long + "x"}, key.ErrTooLong, `cachex: refresh every a: key too long: 1025 bytes with ":%every", the limit is 1024`},
		{c, t.Context(), time.Second, []string{"1", long + "xxxxxxxxx"}, key.ErrTooLong, ""},
		{c, t.Context(), time.Millisecond, []string{"1"}, nil, "cachex: refresh every a: period of 1ms is too short, must be at least 100ms"},
		{c, t.Context(), time.Second + 1, []string{"1"}, nil, "cachex: refresh every a: period of 1.000000001s is not whole milliseconds"},
		{c, t.Context(), Forever, []string{"1"}, nil, ""},
		{newCache(t, rdb, Spec[string, string]{Key: "a:{id}"}), t.Context(), time.Second, []string{"1"}, errNoUp, "cachex: refresh every a: Spec.Up is not set"},
	} {
		err := test.c.RefreshEvery(test.ctx, test.every, test.keys...)
		require.Error(t, err)
		if test.err != nil {
			require.ErrorIs(t, err, test.err)
		}
		if test.text != "" {
			require.EqualError(t, err, test.text)
		}
	}
}

func TestRefreshEvery_TurnKeyIsUnique(t *testing.T) {
	t.Parallel()
	rdb := closedClient(t)
	c := newCache(t, rdb, Spec[string, int]{Key: "a:{id}"})
	tail := newCache(t, rdb, Spec[string, int]{Key: "a:{id}:b"})
	tagged := newCache(t, rdb, Spec[string, int]{Key: "a:{{id}}"})
	seen := map[string]bool{}
	for _, id := range []string{"", "1", ":%every", "%every", "every", "1:%every", "1%3A%25every", "{1}", "%ev"} {
		for _, c := range []*Cache[string, int]{c, tail, tagged} {
			for _, k := range []string{c.Key(id), turnKey(c.Key(id)), turnKey(turnKey(c.Key(id)))} {
				require.False(t, seen[k], "%q is there twice", k)
				seen[k] = true
			}
		}
	}
}

func TestRefreshEvery_KilledProcessIsReplacedInTheSamePeriod(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	rdb := server.Client(nil)
	// begin returns a child that has the turns of three keys, and a cache that has loaded
	// the fourth; or false if the child has lost a turn.
	begin := func() (child *redistest.Process, s *source, c *Cache[int, string], ended <-chan error, ok bool) {
		began, prefix := time.Now(), redistest.Key(t)
		child = redistest.Child(t, "refresher", "REDIS="+server.Addr(), "PREFIX="+prefix)
		for range 3 {
			child.WaitLine("loading")
		}
		s = newSource(t)
		// A twentieth of its lease may pass before a process looks at the turn of another.
		c = newCache(t, rdb, Spec[int, string]{Key: prefix + ":{id}", Up: s.up, LeaseTTL: time.Minute})
		ended = refreshing(t.Context(), c, time.Hour, 1, 2, 3, 4)
		load := s.next(t)
		if load.returns("new", nil); load.id != 4 { // the others are being loaded
			lapsed(t, child, began)
			return nil, nil, nil, nil, false
		}
		return child, s, c, ended, true
	}
	child, s, c, ended, ok := begin()
	for !ok {
		child, s, c, ended, ok = begin()
	}
	child.Kill()
	killed := time.Now()
	var taken []time.Duration
	for range 3 {
		load := s.next(t)
		taken = append(taken, time.Since(killed).Round(time.Millisecond))
		load.returns("new", nil)
	}
	t.Logf("taken over %v after kill -9, with leases of %v", taken, childLease)
	for id := range 4 {
		gets(t, "new", asking(t.Context(), c, id+1))
	}
	require.NoError(t, c.Close(t.Context()))
	require.ErrorIs(t, receive(t, ended), ErrClosed)
	require.Equal(t, int64(4), c.Stats().Loads)
	require.Empty(t, s.calls)
}
