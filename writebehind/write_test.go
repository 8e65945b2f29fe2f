package writebehind

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestAnAddWhoseReplyIsLostIsNotSentAgain(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	d := newDatabase()
	direct := engine(t, server.Client(nil), options(t, d, Sum))
	proxy := redistest.NewProxy(t, server.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: proxy.Addr(), PoolSize: 1, ReadTimeout: redistest.Patience})
	t.Cleanup(func() { _ = rdb.Close() })
	o := direct.o
	e := engine(t, rdb, o)
	ctx := bounded(t)
	require.NoError(t, e.Add(ctx, "x", 1))
	proxy.LoseReplies(1) // the command arrives, and its reply is lost
	err := e.Add(ctx, "x", 10)
	require.ErrorIs(t, err, ErrOutcomeUnknown)
	require.ErrorContains(t, err, "cachex: add "+o.Name+":x: outcome unknown")
	require.NoError(t, direct.Flush(ctx))
	require.EqualValues(t, 11, d.sum("x"), "once")
}

func TestWhatWasNotSentIsKnownNotToHaveHappened(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", DialerRetries: 1})
	t.Cleanup(func() { _ = rdb.Close() })
	e, err := New(rdb, options(t, newDatabase(), Sum))
	require.NoError(t, err)
	err = e.Add(bounded(t), "x", 1)
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrOutcomeUnknown)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, e.Add(ctx, "x", 1), context.Canceled)
	require.ErrorContains(t, e.Put(t.Context(), "x\n", nil), `:x\n": Options.Merge is not for that`)
	var none context.Context
	require.ErrorContains(t, e.Add(none, "x", 1), "ctx is nil")
	ctx, cancel = context.WithTimeout(t.Context(), 0)
	defer cancel()
	require.Error(t, e.Close(ctx))
	require.True(t, e.wait(bounded(t), true))
}

func TestOutcome_SaysThatACountOverflows(t *testing.T) {
	t.Parallel()
	require.NoError(t, Outcome(nil))
	require.ErrorIs(t, Outcome(fmt.Errorf("script: %w", answer("ERR increment or decrement would overflow"))), ErrOverflow)
	require.Equal(t, context.Canceled, Outcome(context.Canceled))
}

type answer string

func (a answer) Error() string { return string(a) }
func (answer) RedisError()     {}

func TestEveryIDHasAFieldOfItsOwnThatDoesNotBeginWithAHash(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, id := range []string{"", "a", "#a", "=a", "=#a", "==a", "#", "=", "##", "a#", "%23"} {
		f := Field(id)
		require.NotEqual(t, byte('#'), (f + " ")[0])
		require.Empty(t, seen[f], id)
		seen[f] = "taken by " + id
		require.Equal(t, id, unfield(f))
	}
}

func TestKeysOfABucketShareItsTag(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	e, err := New(rdb, Options{Name: "views", Merge: Sum, Persist: newDatabase().persist})
	require.NoError(t, err)
	// This is the layout in Redis: it must not change.
	require.Equal(t, 3, e.Bucket("jobs:42"))
	require.Equal(t, "{views:3}", e.Tag("jobs:42"))
	require.Equal(t, Keys{"{views:3}%pending", "{views:3}%inflight", "{views:3}%refused", "{views:3}%unread", "{views:3}%parked"}, e.Keys(3))
	used := map[int]int{}
	for i := range 6400 {
		used[e.Bucket(fmt.Sprint("jobs:", i))]++
	}
	require.Len(t, used, 64)
	for b, n := range used {
		require.Greater(t, n, 50, b)
		require.Less(t, n, 150, b)
	}
}

func TestWhatIsRefusedIsPutAsideAndCanBeRetried(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.d.poison["bad"], h.d.poison["#worse"] = true, true
		h.add("good", 1)
		h.add("bad", 5)
		h.add("#worse", 7)
		requireAside(t, h.e.Flush(h.ctx), 2, 0)
		h.add("bad", 10)
		requireAside(t, h.e.Flush(h.ctx), 1, 0)
		h.flush() // nothing was refused meanwhile
		require.Equal(t, map[string]int64{"good": 1}, h.d.sums)
		refused, err := h.e.Refused(h.ctx)
		require.NoError(t, err)
		values := map[string]string{}
		for _, r := range refused {
			values[r.ID] = r.Value
		}
		require.Equal(t, map[string]string{"bad": "15", "#worse": "7"}, values)
		require.EqualValues(t, 3, h.e.Stats().Refused)
		require.EqualValues(t, 1, h.e.Stats().Persisted)
		backlog, err := h.e.Backlog(h.ctx)
		require.NoError(t, err)
		require.EqualValues(t, 2, backlog.Refused)
		require.Zero(t, backlog.IDs+backlog.InFlight)
		require.Len(t, h.heard(), 2)

		delete(h.d.poison, "bad")
		n, err := h.e.Retry(h.ctx, "bad", "unknown")
		require.NoError(t, err)
		require.Equal(t, 1, n)
		h.flush()
		require.EqualValues(t, 15, h.d.sum("bad"))
		delete(h.d.poison, "#worse")
		n, err = h.e.Retry(h.ctx)
		require.NoError(t, err)
		require.Equal(t, 1, n)
		h.flush()
		require.EqualValues(t, 7, h.d.sum("#worse"))
	})
}

// Refused ids are read in pages, and all are found.
func TestRefused_ReturnsThousands(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const n = 3000
		e := engine(t, rdb, options(t, newDatabase(), Sum))
		fields, want := make([]any, 0, 2*n), map[string]string{}
		for i := range n {
			id := fmt.Sprint("id", i)
			fields, want[id] = append(fields, Field(id), i), strconv.Itoa(i)
		}
		require.NoError(t, rdb.HSet(t.Context(), e.Keys(0).Refused, fields...).Err())
		refused, err := e.Refused(t.Context())
		require.NoError(t, err)
		require.Len(t, refused, n)
		for _, r := range refused {
			require.Equal(t, want[r.ID], r.Value)
		}
	})
}

// A count that is set replaces everything that was refused before, including
// deltas whose sum leaves int64.
func TestRefused_ATotalTakesThePlaceOfAllThatIsOlder(t *testing.T) {
	t.Parallel()
	h := newHistory(t, redistest.Shared(t).Client(nil), nil) // the embedded one adds beyond int64
	refuse := func(delta int64) {
		h.d.poison["x"] = true
		h.add("x", delta)
		requireAside(t, h.e.Flush(h.ctx), 1, 0)
		delete(h.d.poison, "x")
	}
	refused := func() (values []string) {
		all, err := h.e.Refused(h.ctx)
		require.NoError(t, err)
		for _, r := range all {
			require.Equal(t, "x", r.ID)
			values = append(values, r.Value)
		}
		slices.Sort(values)
		return values
	}
	most := strconv.FormatInt(math.MaxInt64, 10)
	for range 3 {
		refuse(math.MaxInt64)
	}
	require.Equal(t, []string{most, most, most}, refused())
	require.NoError(t, h.e.write(h.ctx, "set", Sum, pendSet, "x", 5))
	h.flush()
	require.Empty(t, refused())
	n, err := h.e.Retry(h.ctx)
	require.NoError(t, err)
	require.Zero(t, n)
	h.flush()
	require.EqualValues(t, 5, h.d.sum("x"))

	// If no count is set, each delta is tried again.
	for _, delta := range []int64{math.MaxInt64, math.MaxInt64, -math.MaxInt64, 1 - math.MaxInt64} {
		refuse(delta)
	}
	require.Equal(t, []string{"-" + strconv.FormatInt(math.MaxInt64-1, 10), most}, refused())
	n, err = h.e.Retry(h.ctx)
	require.NoError(t, err)
	require.Equal(t, 2, n)
	require.Empty(t, refused())
	h.flush()
	require.EqualValues(t, 6, h.d.sum("x"))
}

// A killed Retry leaves deltas without a sum, and without the first of them.
func TestRefused_ATotalTakesThePlaceOfDeltasAlone(t *testing.T) {
	t.Parallel()
	h := newHistory(t, redistest.Shared(t).Client(nil), nil)
	h.d.poison["x"] = true
	for range 3 {
		h.add("x", math.MaxInt64)
		requireAside(t, h.e.Flush(h.ctx), 1, 0)
	}
	delete(h.d.poison, "x")
	for b := range h.e.buckets {
		require.NoError(t, h.e.rdb.HDel(h.ctx, h.e.Keys(b).Refused, "x").Err())
	}
	all, err := h.e.Refused(h.ctx)
	require.NoError(t, err)
	require.Len(t, all, 2)
	require.NoError(t, h.e.write(h.ctx, "set", Sum, pendSet, "x", 5))
	h.flush()
	all, err = h.e.Refused(h.ctx)
	require.NoError(t, err)
	require.Empty(t, all)
}

// Text that is not a number was not written by an engine. It is put aside, and
// does not delay the other ids.
func TestGarbageAmongCountsIsPutAside(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("good", 1)
		require.NoError(t, rdb.HSet(h.ctx, h.e.Keys(0).Pending, "bad", "many").Err())
		requireAside(t, h.e.Flush(h.ctx), 1, 0)
		require.EqualValues(t, 1, h.d.sum("good"))
		refused, err := h.e.Refused(h.ctx)
		require.NoError(t, err)
		require.Len(t, refused, 1)
		require.Equal(t, "bad", refused[0].ID)
		require.Equal(t, "many", refused[0].Value)
	})
}

func TestAnOlderValueThatWasRefusedDoesNotReplaceANewerOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		d := newDatabase()
		e := engine(t, rdb, options(t, d, Last))
		ctx := bounded(t)
		refuse := func(id, value string) {
			d.poison[id] = true
			require.NoError(t, e.Put(ctx, id, []byte(value)))
			requireAside(t, e.Flush(ctx), 1, 0)
			delete(d.poison, id)
		}
		refuse("a", "old")
		refuse("b", "old")
		refuse("c", "old")
		require.NoError(t, e.Put(ctx, "a", []byte("new")))
		require.NoError(t, e.Flush(ctx)) // persisted: the refused value is obsolete
		require.NoError(t, e.Put(ctx, "b", []byte("new")))
		n, err := e.Retry(ctx)
		require.NoError(t, err)
		require.Equal(t, 1, n, "c")
		require.NoError(t, e.Flush(ctx))
		require.Equal(t, map[string]string{"a": "new", "b": "new", "c": "old"}, d.values)
		refused, err := e.Refused(ctx)
		require.NoError(t, err)
		require.Empty(t, refused)
	})
}

func TestALookTellsWhetherTheDatabaseMayHaveChanged(t *testing.T) {
	t.Parallel()
	unchanged := script.New("unchanged", script.PendLook+`
if behind_unchanged(KEYS[2], KEYS[5], ARGV[1], ARGV[2], ARGV[3]) then return behind_pending(KEYS[1], ARGV[3]) or '0' end
return 'changed'
`)
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		look := func() Look {
			l, err := h.e.Look(h.ctx, 0, "x", "y")
			require.NoError(t, err)
			return l
		}
		still := func(l Look) string {
			v, err := h.e.call(h.ctx, unchanged, 0, l.Incarnation, l.Moment, "x")
			require.NoError(t, err)
			return v.(string)
		}
		first := look()
		require.Equal(t, Look{"", "0:", []*string{nil, nil}, []*string{nil, nil}}, first)
		require.Equal(t, "0", still(first))
		h.add("x", 5)
		require.Equal(t, "5", still(first))
		require.Equal(t, "5", *look().Pending[0])
		h.flush()
		require.Equal(t, "changed", still(first))
		l := look()
		h.add("y", 1)
		require.Equal(t, "0", still(l))

		_, err := h.e.take(h.ctx, 0, true) // only y is in flight
		require.NoError(t, err)
		require.Equal(t, "changed", still(l))
		l = look()
		require.Equal(t, "1", *l.InFlight[1])
		require.Equal(t, "0", still(l), "nothing of x is in flight")
		h.flush()
		require.Equal(t, "0", still(l), "nor was it")

		h.add("x", 1)
		_, err = h.e.take(h.ctx, 0, true)
		require.NoError(t, err)
		require.Equal(t, "changed", still(look()), "x is in flight")
		require.NoError(t, h.e.Settle(h.ctx, 0, "x"))
		require.EqualValues(t, 6, h.d.sum("x"))
		require.Equal(t, "0", still(look()))
		require.NoError(t, h.e.Settle(h.ctx, 0))
		l = look()
		h.lose(h.e.Keys(0).InFlight)
		h.add("x", 1)
		require.Equal(t, "changed", still(l))
		_, err = h.e.Look(h.ctx, 1, "x")
		require.ErrorContains(t, err, "bucket is 1, must be from 0 to 0")
	})
}

func TestSettleWaitsForAsLongAsItsCtxLasts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 5)
		other := engine(t, rdb, h.e.o) // of another process
		_, err := other.take(h.ctx, 0, true)
		require.NoError(t, err)
		ctx, cancel := context.WithCancelCause(h.ctx)
		ended := make(chan error)
		go func() { ended <- h.e.Settle(ctx, 0, "x") }()
		cause := errors.New("enough")
		cancel(cause)
		require.ErrorIs(t, <-ended, cause)
		require.NoError(t, h.e.Settle(h.ctx, 0, "y"), "y is not in flight")
		require.NoError(t, other.Flush(h.ctx))
	})
}

// slowConn is a connection that reports a long write, and keeps it until the
// test releases it.
type slowConn struct {
	net.Conn
	given   func()
	release chan struct{}
}

func (c *slowConn) Write(b []byte) (int, error) {
	if len(b) > 1<<19 {
		c.given()
		<-c.release
	}
	return c.Conn.Write(b)
}

// A client sends a large value from the memory that it was given. It may still
// do so when ctx ends and Put returns.
func TestPut_SendsTheValueAsItWasWhenTheCallerHasLeft(t *testing.T) {
	t.Parallel()
	server := redistest.Shared(t)
	given, release := make(chan struct{}), make(chan struct{})
	once := sync.OnceFunc(func() { close(given) })
	rdb := server.Client(func(o *redis.Options) {
		o.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := new(net.Dialer).DialContext(ctx, network, addr)
			return &slowConn{c, once, release}, err
		}
	})
	e := engine(t, rdb, options(t, newDatabase(), Last))
	require.NoError(t, e.Put(t.Context(), "x", []byte("short")), "Redis knows the script")
	value := bytes.Repeat([]byte("a"), 1<<20)
	ctx, cancel := context.WithCancel(t.Context())
	put := make(chan error)
	go func() { put <- e.Put(ctx, "x", value) }()
	<-given
	cancel()
	require.ErrorIs(t, <-put, ErrOutcomeUnknown)
	for i := range value {
		value[i] = 'b'
	}
	close(release)
	var pending string
	require.Eventually(t, func() bool {
		pending = server.Client(nil).HGet(t.Context(), e.Keys(0).Pending, Field("x")).Val()
		return len(pending) == len(value)
	}, patience, 10*time.Millisecond)
	require.Empty(t, strings.Trim(pending, "a"))
}

// Close may come between the beginning of Settle and the start of the engine.
func TestSettle_OfAnEngineThatIsClosedBeforeItStarts(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := newHistory(t, rdb, nil)
		h.add("x", 5)
		_, err := h.e.take(h.ctx, 0, true)
		require.NoError(t, err)
		late := engine(t, rdb, h.e.o)
		late.me = h.e.me // it has to persist the batch
		late.mu.Lock()
		late.closed = true // as Close does first
		late.mu.Unlock()
		late.Start()
		require.ErrorIs(t, late.settle(h.ctx, 0, []string{"x"}), ErrClosed)
		h.flush()
	})
}
