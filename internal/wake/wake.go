// Package wake tells flights that wait for the lease of another process when to
// read their key. They read it when the load should be over, then again and
// again, and at once when a message says that the lease has ended. Loaders and
// collections use it to wait.
package wake

import (
	"context"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
)

// Listener receives, for one client, a message when a lease ends for which a
// flight waits. All caches of a client share it. A nil Listener is never live.
// It is safe for concurrent use.
//
// A message is a hint. It can be lost or late, and a proxy may not support
// subscriptions. So a waiter also polls, but less often while its channel is
// live.
//
// A message only says that a lease ended. It does not carry the value, although
// that would save a GET. The value may have been deleted by the time the
// message is read, and a caller that came after that deletion must not get it.
//
// Each key has a channel of its own, and a process subscribes to it only while
// it waits for that key. With one channel for all keys, every process that has
// waited recently gets every message. With 5,000 such processes, a message
// blocked the server for 5 ms.
//
// A subscription outlives its last wait until the next tick, or until a message
// arrives for which no flight waits. So a key that is awaited every few seconds
// does not cost a SUBSCRIBE each time. A wait costs its process at most one
// unnecessary message.
type Listener struct {
	rdb     redis.UniversalClient
	cluster bool

	mu      sync.Mutex
	waits   map[string][]*Wait   // guarded by mu; by name
	ears    map[string]*ear      // guarded by mu; by node, "" if there is one server
	retryAt map[string]time.Time // guarded by mu; by node: after a refusal, not before that time
	closed  bool                 // guarded by mu
	begun   int64                // guarded by mu: the number of connections begun
	wg      sync.WaitGroup       // the goroutines of ears

	users int // changed only in calls of listeners
}

// The lifetimes of a subscription.
const (
	Idle  = time.Minute // without a wait, then the connection is closed
	retry = time.Minute // after a subscription that was refused
	Tick  = 5 * time.Second
)

// listeners has the Listener of every client in use.
var listeners client.Shared[Listener]

// For returns the Listener of rdb, which the caller must release. It returns
// nil for a client that cannot use one. The shards of a Ring do not know of
// each other. A Cluster behind a wrapper does not tell which node has a key.
// With such a client, waiters poll.
func For(rdb redis.UniversalClient) *Listener {
	if !client.Comparable(rdb) {
		return nil
	}
	_, cluster := rdb.(*redis.ClusterClient)
	if !cluster && client.TopologyOf(rdb) != client.OneServer {
		return nil
	}
	return listeners.For(rdb, func() *Listener {
		return &Listener{
			rdb: rdb, cluster: cluster, waits: make(map[string][]*Wait),
			ears: make(map[string]*ear), retryAt: make(map[string]time.Time),
		}
	}, func(l *Listener) { l.users++ })
}

// Release undoes one For. The last Release ends all subscriptions. It then
// returns a function that waits for their goroutines if there are any,
// otherwise nil.
func (l *Listener) Release() (wait func()) {
	if l == nil {
		return nil
	}
	last := listeners.Release(l.rdb, l, func() bool {
		l.users--
		return l.users == 0
	})
	if !last {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	if len(l.ears) == 0 {
		return nil
	}
	var subs []*redis.PubSub
	for _, e := range l.ears {
		if e.sub != nil { // else listen finds that it is not wanted
			subs = append(subs, e.sub)
		}
		l.hangUp(e)
	}
	return func() {
		for _, sub := range subs {
			_ = sub.Close() // not under mu: it waits while sub dials
		}
		l.wg.Wait()
	}
}

// Hears reports whether to ask for a message when a lease ends. It returns
// false if the server has recently refused all subscriptions.
func (l *Listener) Hears() bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.ears) > 0 || len(l.retryAt) == 0 {
		return true
	}
	for _, at := range l.retryAt {
		if time.Now().After(at) {
			return true
		}
	}
	return false
}

// State returns whether l has a live subscription, when it may subscribe again
// after a refusal, and how many connections it has begun.
func (l *Listener) State() (live bool, retryAt time.Time, begun int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, e := range l.ears {
		for _, c := range e.channels {
			live = live || c.live
		}
	}
	for _, at := range l.retryAt {
		if at.After(retryAt) {
			retryAt = at
		}
	}
	return live, retryAt, l.begun
}

// open begins to listen to a node. The caller holds mu.
func (l *Listener) open(node string, of redis.UniversalClient) *ear {
	ctx, cancel := context.WithCancel(context.Background())
	e := &ear{
		l: l, node: node, of: of, cancel: cancel,
		channels: make(map[string]*channel), pruned: time.Now(), changed: make(chan struct{}, 1),
	}
	l.ears[node] = e
	l.begun++
	l.wg.Add(1)
	// Ends when no flight waits for long, or by Release. A client that panics
	// counts as one that refuses.
	guard.Go(guard.Client, func() error { return e.listen(ctx) }, e.end)
	return e
}

// hangUp gives up an ear. The caller holds mu.
func (l *Listener) hangUp(e *ear) {
	if l.ears[e.node] == e {
		e.cancel()
		delete(l.ears, e.node)
	}
}

// wake makes the flights that wait for the entry of a name read it, and reports
// whether there are any. The caller holds mu.
func (l *Listener) wake(name string) bool {
	for _, w := range l.waits[name] {
		signal(w.look)
	}
	return len(l.waits[name]) > 0
}

// signal puts an element into a channel of one, unless it has one.
func signal(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
