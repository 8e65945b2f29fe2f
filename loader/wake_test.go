package loader

import (
	"context"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/wake"
)

func TestAWaiterLooksFirstWhenTheLoadShouldBeOver(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		now, lease := time.Now(), 3*time.Second
		for name, test := range map[string]struct {
			a      Acquisition
			expect time.Duration // what our own loads cost
			lease  time.Duration
			want   time.Duration
		}{
			"nobody knows":               {Acquisition{Grant: Held, Began: now}, 0, lease, 5 * time.Millisecond},
			"its holder knows":           {Acquisition{Grant: Held, Began: now, Cost: 500 * time.Millisecond}, 0, lease, 501 * time.Millisecond},
			"its holder knows better":    {Acquisition{Grant: Held, Began: now, Cost: 500 * time.Millisecond}, time.Second, lease, 501 * time.Millisecond},
			"we know":                    {Acquisition{Grant: Held, Began: now}, time.Second, lease, 1001 * time.Millisecond},
			"it began before":            {Acquisition{Grant: Held, Began: now.Add(-300 * time.Millisecond), Cost: 500 * time.Millisecond}, 0, lease, 201 * time.Millisecond},
			"it should be over":          {Acquisition{Grant: Held, Began: now.Add(-time.Hour), Cost: 500 * time.Millisecond}, 0, lease, 2 * time.Millisecond},
			"the server's clock is fast": {Acquisition{Grant: Held, Began: now.Add(time.Hour), Cost: 500 * time.Millisecond}, 0, lease, 501 * time.Millisecond},
			"the server's clock is 0":    {Acquisition{Grant: Held, Began: time.UnixMilli(0), Cost: time.Second}, 0, lease, 2 * time.Millisecond},
			"longer than a lease":        {Acquisition{Grant: Held, Began: now, Cost: time.Minute}, 0, lease, lease},
			"longer than a short lease":  {Acquisition{Grant: Held, Began: now}, time.Minute, MinLeaseTTL, MinLeaseTTL},
			"a stale value says nothing": {Acquisition{Grant: Stale}, time.Second, lease, 5 * time.Millisecond},
		} {
			l := newLoader(t, t.client(), Options[string]{LeaseTTL: test.lease})
			l.cost.Store(int64(test.expect))
			p := l.polling(test.a)
			first := p.Next(false) // with jitter, see the tests of Poll
			require.GreaterOrEqual(t, first, test.want, name)
			require.LessOrEqual(t, first, test.want+min(test.want/4, 50*time.Millisecond), name)

			live := l.polling(test.a)
			grace := min(max(100*time.Millisecond, test.want/4), 250*time.Millisecond)
			first = live.Next(true)
			require.GreaterOrEqual(t, first, test.want+grace, "%s, and a message may come", name)
			require.LessOrEqual(t, first, test.want+grace*3/2, "%s, and a message may come", name)
		}
	})
}

// listens waits until the listener of rdb is live.
func listens(t testing.TB, l *wake.Listener) {
	t.Helper()
	require.Eventually(t, func() bool {
		live, _, _ := l.State()
		return live
	}, patience, time.Millisecond)
}

// awaited waits until the lease of the lab's key says that somebody waits.
func (l *lab) awaited() {
	l.Helper()
	require.Eventually(l, func() bool {
		h, _ := l.entry()
		return h.Flags&entry.Awaited != 0
	}, patience, time.Millisecond)
}

func TestAWaiterIsWokenByAMessageAtOnce(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(*lab)
		load  Func[string] // of the holder, after a time that no poll hits
		want  string
	}{
		"when a value is stored":          {func(*lab) {}, gives("v"), "v"},
		"when the load failed":            {func(*lab) {}, func(context.Context) (string, Life, error) { return "", hour, errBroken }, "of B"},
		"when a stale value is refreshed": {func(t *lab) { t.stale("stale") }, gives("v"), "v"},
		"when a refresh failed":           {func(t *lab) { t.stale("stale") }, func(context.Context) (string, Life, error) { return "", hour, errBroken }, "of B"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				test.begin(t)
				p, q := newLoader(t, t.client(), Options[string]{}), newLoader(t, t.client(), Options[string]{})
				const takes = 1234567 * time.Microsecond
				begin := time.Now()
				a := get(t, p, func(ctx context.Context) (string, Life, error) {
					time.Sleep(takes)
					return test.load(ctx)
				})
				synctest.Wait()
				b := get(t, q, gives("of B"))
				v, err := b.wait(t)
				require.NoError(t, err)
				require.Equal(t, test.want, v)
				require.Equal(t, takes, time.Since(begin), "at that very moment")
				_, _ = a.wait(t)
			})
		})
	}
}

// On a real server, too.
func TestAWaiterWhoIsLiveHardlyPolls(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		var asked redistest.Counter
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(&asked), still[string]())
		p.cost.Store(int64(time.Hour)) // what P says that its load costs
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		begin := time.Now()
		b := get(t, q, never[string](t))
		t.awaited()
		source.value <- "v"
		gets(t, "v", a, b)
		polls := int(time.Since(begin) / (100 * time.Millisecond))
		require.LessOrEqual(t, asked.Count("get"), 3+polls, "before, when the subscription began, and after the message")
	})
}

func TestAWriteWakesTheWaiters(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		p.cost.Store(int64(time.Hour)) // so that Q's first poll is an hour away
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		synctest.Wait()
		begin := time.Now()
		t.proc().write("written")
		gets(t, "written", b)
		require.Zero(t, time.Since(begin))
		source.value <- "old"
		gets(t, "old", a)
	})
}

func TestNothingIsPublishedWhereNobodyWaits(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		sub := t.rdb.Subscribe(t.Context(), script.WakeChannel)
		t.closers = append(t.closers, func() { _ = sub.Close() })
		_, err := sub.Receive(t.Context())
		require.NoError(t, err)
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		alone, contended := t.key+":alone", t.key+":contended"
		_, err = p.Get(t.Context(), alone, gives("v"))
		require.NoError(t, err)

		source := newSource[string]()
		t.key = contended
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		source.value <- "v"
		gets(t, "v", a, b)
		for { // the shared server has other tests, too
			msg, err := sub.ReceiveMessage(t.Context())
			require.NoError(t, err)
			require.NotEqual(t, alone, msg.Payload)
			if msg.Payload == contended {
				return
			}
		}
	})
}

// The next test has a user that may run scripts and touch keys, but no channels.
func TestAWaiterPollsWhereSubscriptionsAreRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin := s.Client(nil)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "loader", "on", ">secret", "~*", "+@all", "resetchannels").Err())
	client := func() *redis.Client {
		return s.Client(func(o *redis.Options) { o.Username, o.Password = "loader", "secret" })
	}
	work(t, client(), func(t *lab) {
		p, q := newLoader(t, client(), Options[string]{}), newLoader(t, client(), Options[string]{})
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		require.Eventually(t, func() bool { // it was refused
			live, retryAt, _ := q.hear.State()
			return !live && retryAt.After(time.Now())
		}, patience, time.Millisecond)
		source.value <- "v" // the script may not publish, and stores all the same
		gets(t, "v", a, b)
		t.holds("v")
		require.Zero(t, p.Stats().StoreFailures)
	})
}

func TestAWaiterWhoseSubscriptionBreaksLooksAtOnceAndSubscribesAgain(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	work(t, s.Client(nil), func(t *lab) {
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		p.cost.Store(int64(time.Hour))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		for range 3 {
			listens(t, q.hear)
			_, _, before := q.hear.State()
			require.NoError(t, t.rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
			require.Eventually(t, func() bool {
				_, _, begun := q.hear.State()
				return begun > before
			}, patience, time.Millisecond)
		}
		listens(t, q.hear)
		source.value <- "v"
		gets(t, "v", a, b)
	})
}

// connections lets a test hold a client's dials back, and break what they made.
type connections struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	hold    atomic.Pointer[chan struct{}] // dials wait for it
	last    atomic.Pointer[net.Conn]
	dialled atomic.Int64
}

func (c *connections) Dial(ctx context.Context, network, addr string) (net.Conn, error) {
	if hold := c.hold.Load(); hold != nil {
		<-*hold
	}
	conn, err := c.dial(ctx, network, addr)
	c.last.Store(&conn)
	c.dialled.Add(1)
	return conn, err
}

// watched returns a client and its connections.
func (l *lab) watched(hooks ...redis.Hook) (*redis.Client, *connections) {
	o := *l.rdb.Options()
	c := &connections{dial: o.Dialer}
	o.Dialer = c.Dial
	rdb := redis.NewClient(&o)
	for _, h := range hooks {
		rdb.AddHook(h)
	}
	require.NoError(l, rdb.Ping(l.Context()).Err())
	l.closers = append(l.closers, func() { _ = rdb.Close() })
	return rdb, c
}

func TestAWaiterLooksWhenItsSubscriptionBeginsForItMayHaveMissedTheMessage(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb, conns := t.watched()
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, rdb, still[string]())
		p.cost.Store(int64(time.Hour))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		hold := make(chan struct{})
		conns.hold.Store(&hold)
		b := get(t, q, never[string](t))
		synctest.Wait()
		begin := time.Now()
		source.value <- "v"
		gets(t, "v", a)
		synctest.Wait()
		require.True(t, b.running(), "it has heard nothing, and polls in an hour")
		close(hold)
		gets(t, "v", b)
		require.Zero(t, time.Since(begin))
	})
}

func TestAWaiterLooksWhenItsSubscriptionBreaks(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		var asked redistest.Counter
		rdb, conns := t.watched(&asked)
		q := newLoader(t, rdb, still[string]())
		lease := t.proc().acquire(Granted)
		b := get(t, q, never[string](t))
		synctest.Wait()
		require.EqualValues(t, 1, subscribers(t))
		begin, looks, dialled := time.Now(), asked.Count("get"), conns.dialled.Load()
		require.NoError(t, (*conns.last.Load()).Close())
		synctest.Wait()
		require.Greater(t, asked.Count("get"), looks)
		require.Greater(t, conns.dialled.Load(), dialled, "it listens again")
		require.EqualValues(t, 1, subscribers(t))
		require.Zero(t, time.Since(begin))
		t.proc().store(lease.Token, "v", Stored)
		gets(t, "v", b)
	})
}

// The lease that a waiter waited for is gone, and the next one does not know that
// anybody waits.
func TestAWaiterMakesItselfKnownToTheNextHolder(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		q := newLoader(t, t.client(), still[string]())
		t.proc().acquire(Granted)
		b := get(t, q, never[string](t))
		synctest.Wait()
		t.awaited()
		t.delete()
		lease := t.proc().acquire(Granted)
		time.Sleep(time.Second) // a poll
		t.awaited()
		begin := time.Now()
		t.proc().store(lease.Token, "v", Stored)
		gets(t, "v", b)
		require.Zero(t, time.Since(begin))
	})
}

func TestAMessageThatSaysNothingNewIsHeardInVain(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p, q := newLoader(t, t.client(), Options[string]{}), newLoader(t, t.client(), Options[string]{})
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		synctest.Wait()
		for _, payload := range []string{t.key, t.key + ":2", "", t.key} {
			require.NoError(t, t.rdb.Publish(t.Context(), script.WakeChannel, payload).Err())
			synctest.Wait()
		}
		require.True(t, b.running())
		source.value <- "v"
		gets(t, "v", a, b)
	})
}

// subscribers returns how many listen on the server.
func subscribers(t *lab) int64 {
	n, err := t.rdb.PubSubNumSub(t.Context(), script.WakeChannel).Result()
	require.NoError(t, err)
	return n[script.WakeChannel]
}

func TestOneClientHasOneSubscriptionUntilNobodyHasWaitedForLong(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb := t.client()
		p := newLoader(t, t.client(), Options[string]{LeaseTTL: time.Minute})
		q, r := newLoader(t, rdb, Options[string]{}), newLoader(t, rdb, Options[int]{})
		require.Same(t, q.hear, r.hear)
		require.Zero(t, subscribers(t), "who does not wait does not listen")
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		c := start(func() (string, error) { return q.Get(t.Context(), t.key, never[string](t)) })
		synctest.Wait()
		require.EqualValues(t, 1, subscribers(t))
		source.value <- "v"
		gets(t, "v", a, b, c)
		time.Sleep(wake.Idle - 2*wake.Tick)
		require.EqualValues(t, 1, subscribers(t))
		time.Sleep(4 * wake.Tick)
		require.Zero(t, subscribers(t))
	})
}

func TestTheLastLoaderOfAClientEndsTheSubscription(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb := t.client()
		q, r := newLoader(t, rdb, Options[string]{}), newLoader(t, rdb, Options[string]{})
		lease := t.proc().acquire(Granted)
		b := get(t, q, gives("v"))
		synctest.Wait()
		require.EqualValues(t, 1, subscribers(t))
		require.NoError(t, r.Close(t.Context()))
		require.NoError(t, r.Close(t.Context()), "it is released once")
		require.EqualValues(t, 1, subscribers(t), "another Loader uses it")
		t.proc().release(lease.Token, true)
		gets(t, "v", b)
		require.NoError(t, q.Close(t.Context()))
		synctest.Wait()
		require.Zero(t, subscribers(t))
		next := wake.For(rdb)
		require.NotSame(t, q.hear, next, "it is kept no longer")
		require.Nil(t, next.Release())
	})
}

// wrapped is a client of a type that cannot be compared.
type wrapped struct {
	redis.UniversalClient
	_ []int
}

func TestClientsThatHaveNoUseForMessagesPoll(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	t.Cleanup(func() {
		_ = ring.Close()
		_ = cluster.Close()
	})
	for _, rdb := range []redis.UniversalClient{ring, cluster, wrapped{UniversalClient: ring}} {
		l, err := New(rdb, Options[string]{})
		require.NoError(t, err)
		require.Nil(t, l.hear)
		require.False(t, l.leases.hint, "it asks for no message")
		require.NoError(t, l.Close(t.Context()))
	}
}
