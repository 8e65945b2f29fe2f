package engine

import (
	"context"
	"net"
	"strings"
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

func TestWaiter_LooksFirstWhenTheLoadShouldHaveEnded(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		now, lease := time.Now(), 3*time.Second
		for name, test := range map[string]struct {
			a      AcquireResult
			expect time.Duration // the cost of our own loads
			lease  time.Duration
			want   time.Duration
		}{
			"unknown cost":               {AcquireResult{Grant: Held, Began: now}, 0, lease, 5 * time.Millisecond},
			"its holder knows":           {AcquireResult{Grant: Held, Began: now, Cost: 500 * time.Millisecond}, 0, lease, 501 * time.Millisecond},
			"its holder knows better":    {AcquireResult{Grant: Held, Began: now, Cost: 500 * time.Millisecond}, time.Second, lease, 501 * time.Millisecond},
			"we know":                    {AcquireResult{Grant: Held, Began: now}, time.Second, lease, 1001 * time.Millisecond},
			"it began before":            {AcquireResult{Grant: Held, Began: now.Add(-300 * time.Millisecond), Cost: 500 * time.Millisecond}, 0, lease, 201 * time.Millisecond},
			"it should be over":          {AcquireResult{Grant: Held, Began: now.Add(-time.Hour), Cost: 500 * time.Millisecond}, 0, lease, 2 * time.Millisecond},
			"the server's clock is fast": {AcquireResult{Grant: Held, Began: now.Add(time.Hour), Cost: 500 * time.Millisecond}, 0, lease, 501 * time.Millisecond},
			"the server's clock is 0":    {AcquireResult{Grant: Held, Began: time.UnixMilli(0), Cost: time.Second}, 0, lease, 2 * time.Millisecond},
			"longer than a lease":        {AcquireResult{Grant: Held, Began: now, Cost: time.Minute}, 0, lease, lease},
			"longer than a short lease":  {AcquireResult{Grant: Held, Began: now}, time.Minute, MinLeaseTTL, MinLeaseTTL},
			"a stale value says nothing": {AcquireResult{Grant: HeldStale}, time.Second, lease, 5 * time.Millisecond},
		} {
			l := newLoader(t, t.client(), typedOptions[string]{LeaseTTL: test.lease})
			l.engine.loadCost.Store(int64(test.expect))
			p := l.engine.pollPlan(test.a)
			first := p.Next(false) // with jitter, see the tests of Poll
			require.GreaterOrEqual(t, first, test.want, name)
			require.LessOrEqual(t, first, test.want+min(test.want/4, 50*time.Millisecond), name)

			live := l.engine.pollPlan(test.a)
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

// awaited waits until the lease of the lab's key is marked as awaited.
func (l *lab) awaited() {
	l.Helper()
	require.Eventually(l, func() bool {
		h, _ := l.entry()
		return h.Flags&entry.Awaited != 0
	}, patience, time.Millisecond)
}

func TestWaiter_IsWokenByAMessage(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(*lab)
		load  typedFunc[string] // of the holder, after a time that no poll hits
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
				p, q := newLoader(t, t.client(), typedOptions[string]{}), newLoader(t, t.client(), typedOptions[string]{})
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
func TestWaiter_HardlyPollsWhileSubscribed(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		var asked redistest.Counter
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(&asked), still[string]())
		p.engine.loadCost.Store(int64(time.Hour)) // the cost that P announces for its load
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

func TestWrite_WakesTheWaiters(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		p.engine.loadCost.Store(int64(time.Hour)) // so that Q's first poll is an hour away
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

func TestWake_PublishesNothingWithoutWaiters(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		alone, contended := t.key+":alone", t.key+":contended"
		sub := redistest.Subscribe(t, t.rdb, t.channel(alone))
		defer func() { _ = sub.Close() }()
		heard := redistest.Subscribe(t, t.rdb, t.channel(contended))
		defer func() { _ = heard.Close() }()
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		_, err := p.Get(t.Context(), alone, gives("v"))
		require.NoError(t, err)

		source := newSource[string]()
		t.key = contended
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		source.value <- "v"
		gets(t, "v", a, b)
		msg, err := heard.ReceiveMessage(t.Context())
		require.NoError(t, err)
		require.Equal(t, contended, msg.Payload)
		redistest.Publish(t, t.rdb, t.channel(alone), "end")
		msg, err = sub.ReceiveMessage(t.Context())
		require.NoError(t, err)
		require.Equal(t, "end", msg.Payload)
	})
}

// The next test has a user that may run scripts and touch keys, but has no
// channels.
func TestWaiter_PollsIfSubscriptionsAreRefused(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	admin := s.Client(nil)
	require.NoError(t, admin.Do(t.Context(), "ACL", "SETUSER", "loader", "on", ">secret", "~*", "+@all", "resetchannels").Err())
	client := func() *redis.Client {
		return s.Client(func(o *redis.Options) { o.Username, o.Password = "loader", "secret" })
	}
	work(t, client(), func(t *lab) {
		p, q := newLoader(t, client(), still[string]()), newLoader(t, client(), still[string]())
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		require.Eventually(t, func() bool { // it was refused
			live, retryAt, _ := q.engine.listener.State()
			return !live && retryAt.After(time.Now())
		}, patience, time.Millisecond)
		source.value <- "v" // the script may not publish, and stores all the same
		gets(t, "v", a, b)
		t.holds("v")
		require.Zero(t, p.Stats().StoreFailures)
	})
}

func TestWaiter_LooksAndResubscribesAfterALostSubscription(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	work(t, s.Client(nil), func(t *lab) {
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(), still[string]())
		p.engine.loadCost.Store(int64(time.Hour))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		t.awaited()
		for range 3 {
			listens(t, q.engine.listener)
			_, _, before := q.engine.listener.State()
			require.NoError(t, t.rdb.ClientKillByFilter(t.Context(), "TYPE", "pubsub").Err())
			require.Eventually(t, func() bool {
				_, _, begun := q.engine.listener.State()
				return begun > before
			}, patience, time.Millisecond)
		}
		listens(t, q.engine.listener)
		source.value <- "v"
		gets(t, "v", a, b)
	})
}

// connections lets a test delay a client's dials, and break their connections.
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

func TestWaiter_LooksWhenItsSubscriptionBegins(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb, conns := t.watched()
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, rdb, still[string]())
		p.engine.loadCost.Store(int64(time.Hour))
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

// After a quick subscription the waiter need not look: a load that takes a
// hundred times as long ends later. Before, the waiter read the key once more.
func TestWaiter_DoesNotLookAfterASubscriptionThatWasQuick(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		var asked redistest.Counter
		p, q := newLoader(t, t.client(), still[string]()), newLoader(t, t.client(&asked), still[string]())
		for _, l := range []*Loader[string]{p, q} {
			l.engine.recordCost(100 * time.Millisecond)
		}
		for _, takes := range []time.Duration{100 * time.Millisecond, 104 * time.Millisecond, 98 * time.Millisecond} {
			t.delete()
			asked.Reset()
			begin := time.Now()
			a := get(t, p, func(context.Context) (string, Life, error) {
				time.Sleep(takes)
				return "v", hour, nil
			})
			synctest.Wait()
			gets(t, "v", get(t, q, never[string](t)), a)
			require.Equal(t, takes, time.Since(begin), "woken at once")
			require.Equal(t, 2, asked.Count("get"), "before it waited, and after the message")
			time.Sleep(3 * wake.Tick)
			synctest.Wait()
			require.Zero(t, subscribers(t), "so that the next round subscribes anew")
		}
	})
}

// A message sent before the subscription is lost. The waiter finds out when the
// subscription begins, or soon after the expected end of a long load.
func TestWaiter_FindsALoadThatEndedBeforeItsSubscriptionBegan(t *testing.T) {
	t.Parallel()
	const dials = 5 * time.Millisecond
	for name, test := range map[string]struct {
		costs []time.Duration // of the loads before
		most  time.Duration   // the longest wait
	}{
		"of which nothing is known":        {nil, dials},
		"that often takes long":            {[]time.Duration{200 * time.Millisecond, time.Millisecond, 200 * time.Millisecond}, dials},
		"that takes no longer":             {[]time.Duration{20 * time.Millisecond}, dials},
		"that was quicker than ever":       {[]time.Duration{100 * time.Millisecond}, 131250 * time.Microsecond},
		"that was far quicker than ever":   {[]time.Duration{time.Second}, 250 * time.Millisecond},
		"whose holder expects it to be so": {[]time.Duration{time.Minute}, 250 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				rdb, conns := t.watched()
				p, q := newLoader(t, t.client(), still[string]()), newLoader(t, rdb, still[string]())
				for _, cost := range test.costs {
					p.engine.recordCost(cost)
					q.engine.recordCost(cost)
				}
				if test.costs == nil {
					p.engine.recordCost(time.Hour)
				}
				source := newSource[string]()
				a := get(t, p, source.load)
				within(t, source.began)
				hold := make(chan struct{})
				conns.hold.Store(&hold)
				begin := time.Now()
				b := get(t, q, never[string](t))
				time.Sleep(dials)
				source.value <- "v"
				gets(t, "v", a)
				close(hold)
				gets(t, "v", b)
				require.LessOrEqual(t, time.Since(begin), test.most)
			})
		})
	}
}

// A load that failed soon counts as a quick one.
func TestEngine_KnowsTheFastestRecentLoad(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		l := newLoader(t, t.client(), typedOptions[string]{})
		load := func(takes time.Duration, err error) time.Duration {
			t.delete()
			_, got := l.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
				time.Sleep(takes)
				return "v", hour, err
			})
			require.Equal(t, err, got)
			return time.Duration(l.engine.fastestLoad.Load())
		}
		require.Equal(t, time.Second, load(time.Second, nil))
		require.Equal(t, time.Millisecond, load(time.Millisecond, errBroken))
		require.Equal(t, time.Second, l.engine.expectedCost())
		require.Less(t, load(time.Second, nil), 200*time.Millisecond)
		for range 40 {
			load(time.Second, nil)
		}
		require.Greater(t, load(time.Second, nil), 900*time.Millisecond)
	})
}

// Processes of the previous release publish on one channel for all keys. While
// they run, the waiters of either release find the loads of the other by
// polling.
func TestWaiter_PollsBesideAReleaseThatPublishesElsewhere(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		const channel = "cachex:wake"
		old := strings.Replace(script.Store.Source(), "local function edit(",
			"local function publish(name) redis.pcall('PUBLISH','"+channel+"',name) end\nlocal function edit(", 1)
		heard := t.rdb.Subscribe(t.Context(), channel)
		defer func() { _ = heard.Close() }()
		_, err := heard.Receive(t.Context())
		require.NoError(t, err)

		leases := t.leases()
		a, err := leases.Acquire(t.Context(), t.key, nil, time.Second)
		require.NoError(t, err)
		require.Equal(t, Granted, a.Grant)
		q := newLoader(t, t.client(), still[string]())
		b := get(t, q, never[string](t))
		t.awaited()
		listens(t, q.engine.listener)
		args := leases.storeCall(t.key, entry.Value, a.Token, []byte("v"), hour, time.Now(), time.Second).Args
		require.NoError(t, t.rdb.Eval(t.Context(), old, []string{t.key}, args...).Err())
		msg, err := heard.ReceiveMessage(t.Context())
		require.NoError(t, err)
		for msg.Payload != t.key { // of another test
			msg, err = heard.ReceiveMessage(t.Context())
			require.NoError(t, err)
		}
		gets(t, "v", b)
	})
}

func TestWaiter_LooksWhenItsSubscriptionBreaks(t *testing.T) {
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

// The lease that a waiter waited for is gone, and the next holder does not know
// of the waiter.
func TestWaiter_MakesItselfKnownToTheNextHolder(t *testing.T) {
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

func TestWaiter_IgnoresAMessageWithoutNews(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p, q := newLoader(t, t.client(), typedOptions[string]{}), newLoader(t, t.client(), typedOptions[string]{})
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		synctest.Wait()
		for _, payload := range []string{t.key, t.key + ":2", "", t.key} {
			redistest.Publish(t, t.rdb, t.channel(t.key), payload)
			synctest.Wait()
		}
		require.True(t, b.running())
		source.value <- "v"
		gets(t, "v", a, b)
	})
}

// channel returns the channel on which waiters for key are woken.
func (l *lab) channel(key string) string {
	at, _ := l.leasesOf(l.rdb).locate(key)
	return script.WakeChannel(key, at)
}

// subscribers returns how many clients wait for a message about the lab's key.
func subscribers(t *lab) int64 { return redistest.Subscribers(t, t.rdb, t.channel(t.key)) }

func TestListener_OfAClientSubscribesToAKeyOnceAndNotForLong(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb := t.client()
		p := newLoader(t, t.client(), typedOptions[string]{LeaseTTL: time.Minute})
		q, r := newLoader(t, rdb, typedOptions[string]{}), newLoader(t, rdb, typedOptions[int]{})
		require.Same(t, q.engine.listener, r.engine.listener)
		require.Zero(t, subscribers(t), "an engine without waiters does not subscribe")
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, q, never[string](t))
		c := start(func() (string, error) { return q.Get(t.Context(), t.key, never[string](t)) })
		synctest.Wait()
		require.EqualValues(t, 1, subscribers(t))
		source.value <- "v"
		gets(t, "v", a, b, c)
		require.EqualValues(t, 1, subscribers(t))
		time.Sleep(2 * wake.Tick)
		require.Zero(t, subscribers(t), "nor one without recent waiters")
	})
}

func TestListener_EndsWithTheLastEngineOfAClient(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb := t.client()
		q, r := newLoader(t, rdb, typedOptions[string]{}), newLoader(t, rdb, typedOptions[string]{})
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
		require.NotSame(t, q.engine.listener, next, "it is kept no longer")
		require.Nil(t, next.Release())
	})
}

// hidden is a Cluster that does not tell which node has a key.
type hidden struct{ redis.UniversalClient }

// wrapped is a client of a type that cannot be compared.
type wrapped struct {
	redis.UniversalClient
	_ []int
}

func TestWaiter_PollsOnClientsWithoutMessages(t *testing.T) {
	t.Parallel()
	ring := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"a": "127.0.0.1:1"}})
	cluster := redis.NewClusterClient(&redis.ClusterOptions{Addrs: []string{"127.0.0.1:1"}})
	t.Cleanup(func() {
		_ = ring.Close()
		_ = cluster.Close()
	})
	for _, rdb := range []redis.UniversalClient{ring, hidden{cluster}, wrapped{UniversalClient: ring}} {
		l, err := newTyped(rdb, typedOptions[string]{})
		require.NoError(t, err)
		require.Nil(t, l.engine.listener)
		require.False(t, l.engine.listener.Hears(), "it asks for no message")
		require.NoError(t, l.Close(t.Context()))
	}
}
