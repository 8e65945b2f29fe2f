package loader

import (
	"context"
	"errors"
	"net"
	"reflect"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// A listener hears, for one client, of leases that ended. There is one a client,
// shared by all its loaders, and it listens only while it is of use: from the
// first wait until nobody has waited for a while.
//
// What it hears is a hint. A message can be lost or late, a proxy may know no
// subscriptions: whoever waits polls as well, only less often while the listener
// is live. And a message says merely that a lease ended. It does not carry the
// value, although that would save a GET: the value may have been deleted by the
// time the message is read, and a caller who came after that deletion must not
// get it.
//
// There is one channel, and not one a key, since to subscribe and unsubscribe
// for every wait would cost more commands than the waits. The messages are few:
// a script publishes only where the entry says that somebody waits.
type listener struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	waits   map[string][]*wait // guarded by mu
	sub     *redis.PubSub      // guarded by mu: nil if not listening
	cancel  context.CancelFunc // guarded by mu: ends the dialling of sub
	live    bool               // guarded by mu: the server has confirmed the subscription
	used    time.Time          // guarded by mu: when somebody last waited
	retryAt time.Time          // guarded by mu: not before that, after a refusal
	closed  bool               // guarded by mu
	wg      sync.WaitGroup     // the goroutine of listen

	users int // guarded by listeners.mu
}

const (
	listenIdle  = time.Minute // without a wait, then the subscription ends
	listenRetry = time.Minute // after a subscription that was refused
	listenTick  = 5 * time.Second
)

// listeners has the listener of every client in use.
var listeners = struct {
	mu sync.Mutex
	m  map[redis.UniversalClient]*listener // guarded by mu
}{m: make(map[redis.UniversalClient]*listener)}

// listenerFor returns the listener of rdb, for whoever calls release later; or
// nil for clients that have no use for it. The shards of a Ring do not know of
// each other, and in a Cluster every PUBLISH goes to every node: there, waiters
// poll.
func listenerFor(rdb redis.UniversalClient) *listener {
	switch rdb.(type) {
	case *redis.Ring, *redis.ClusterClient:
		return nil
	}
	if !reflect.TypeOf(rdb).Comparable() {
		return nil
	}
	listeners.mu.Lock()
	defer listeners.mu.Unlock()
	l := listeners.m[rdb]
	if l == nil {
		l = &listener{rdb: rdb, waits: make(map[string][]*wait)}
		listeners.m[rdb] = l
	}
	l.users++
	return l
}

// release undoes one listenerFor. The last one stops the subscription; then it
// returns what has to be called to wait for its goroutine, else nil.
func (l *listener) release() (wait func()) {
	if l == nil {
		return nil
	}
	listeners.mu.Lock()
	l.users--
	last := l.users == 0
	if last {
		delete(listeners.m, l.rdb)
	}
	listeners.mu.Unlock()
	if !last {
		return nil
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	sub := l.hangUp()
	if sub == nil {
		return nil
	}
	return func() {
		_ = sub.Close() // not under mu: it waits while sub dials
		l.wg.Wait()
	}
}

// A wait is one flight's interest in a key. Its channel gets a message when it
// is worth looking at the key.
type wait struct {
	l    *listener
	key  string
	look chan struct{}
}

// expect registers an interest in key, before the command is sent whose answer
// may make it a wait, so that no message falls in between.
func (l *listener) expect(key string) *wait {
	w := &wait{l: l, key: key, look: make(chan struct{}, 1)}
	if l != nil {
		l.mu.Lock()
		l.waits[key] = append(l.waits[key], w)
		l.mu.Unlock()
	}
	return w
}

// end takes the interest back.
func (w *wait) end() {
	if w.l == nil {
		return
	}
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	ws := w.l.waits[w.key]
	for i := range ws {
		if ws[i] == w {
			ws = append(ws[:i:i], ws[i+1:]...)
			break
		}
	}
	if w.l.waits[w.key] = ws; len(ws) == 0 {
		delete(w.l.waits, w.key)
	}
}

// begin says that w waits from now on. It starts the listener if need be, and
// reports whether a message can be counted on, more or less.
func (w *wait) begin() (live bool) {
	l := w.l
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = time.Now()
	if l.sub == nil && !l.closed && l.used.After(l.retryAt) {
		ctx, cancel := context.WithCancel(context.Background())
		l.sub, l.cancel = l.rdb.Subscribe(ctx), cancel // connects when told a channel
		sub := l.sub
		l.wg.Go(func() { l.listen(ctx, sub) }) // ends when nobody waits for long, or by release
	}
	return l.live
}

// listen subscribes, and passes messages on until the connection breaks, nobody
// has waited for a while, or release.
func (l *listener) listen(ctx context.Context, sub *redis.PubSub) {
	defer func() { _ = sub.Close() }()
	err := sub.Subscribe(ctx, script.WakeChannel)
	for err == nil {
		var msg any
		// Not sub.Channel, which hides errors: after one of them messages may be
		// missing, and those who wait must go back to polling.
		msg, err = sub.ReceiveTimeout(ctx, listenTick)
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			err = nil
		}
		if err == nil && !l.hear(sub, msg) {
			return
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.sub == sub {
		if !l.live { // refused: by a proxy, by an ACL
			l.retryAt = time.Now().Add(listenRetry)
		}
		l.hangUp()
		l.all()
	}
}

// hear acts on one message, nil if none came for a while, and reports whether to
// go on.
func (l *listener) hear(sub *redis.PubSub, msg any) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch msg := msg.(type) {
	case *redis.Subscription:
		// What ended before this was not heard.
		l.live = true
		l.all()
	case *redis.Message:
		for _, w := range l.waits[msg.Payload] {
			w.wake()
		}
	}
	if l.sub == sub && len(l.waits) == 0 && time.Since(l.used) > listenIdle {
		l.hangUp()
	}
	return l.sub == sub
}

// hangUp gives up the subscription, and returns it for whoever has to close it.
// The caller holds mu.
func (l *listener) hangUp() *redis.PubSub {
	sub := l.sub
	if sub != nil {
		l.cancel()
		l.sub, l.live = nil, false
	}
	return sub
}

// all wakes everybody. The caller holds mu.
func (l *listener) all() {
	for _, ws := range l.waits {
		for _, w := range ws {
			w.wake()
		}
	}
}

func (w *wait) wake() {
	select {
	case w.look <- struct{}{}:
	default: // it is going to look anyhow
	}
}
