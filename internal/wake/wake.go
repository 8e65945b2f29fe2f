// Package wake tells flights that wait for the lease of another process when to look at
// their key: when the load should be over, then again and again, and at once when a
// message says that the lease has ended. Loaders and collections wait by it.
package wake

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// A Listener receives, for one client, a message when a lease ends for which a flight
// waits. All caches of a client share it. It is subscribed only while it is of use: from
// the first wait until no flight has waited for a while. A nil Listener is never live.
// It is safe for concurrent use.
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
type Listener struct {
	rdb redis.UniversalClient

	mu      sync.Mutex
	waits   map[string][]*Wait // guarded by mu
	ear     *ear               // guarded by mu: nil if not listening
	live    bool               // guarded by mu: the server has confirmed the subscription
	used    time.Time          // guarded by mu: when somebody last waited
	retryAt time.Time          // guarded by mu: not before that, after a refusal
	closed  bool               // guarded by mu
	begun   int64              // guarded by mu: subscriptions
	wg      sync.WaitGroup     // the goroutine of listen

	users int // changed within calls of listeners alone
}

// An ear is one subscription.
type ear struct {
	cancel context.CancelFunc // ends the dialling of sub
	sub    *redis.PubSub      // guarded by Listener.mu: nil until there is one
}

// How long a subscription lasts.
const (
	Idle  = time.Minute // without a wait, then the subscription ends
	retry = time.Minute // after a subscription that was refused
	Tick  = 5 * time.Second
)

// listeners has the listener of every client in use.
var listeners client.Shared[Listener]

// For returns the Listener of rdb, which the caller releases later; or nil
// for clients that have no use for it. The shards of a Ring do not know of each
// other, and in a Cluster every PUBLISH goes to every node: there, waiters poll.
func For(rdb redis.UniversalClient) *Listener {
	if client.TopologyOf(rdb) != client.OneServer || !client.Comparable(rdb) {
		return nil
	}
	return listeners.For(rdb, func() *Listener {
		return &Listener{rdb: rdb, waits: make(map[string][]*Wait)}
	}, func(l *Listener) { l.users++ })
}

// Release undoes one For. The last one stops the subscription; then it
// returns what has to be called to wait for its goroutine, else nil.
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
	e := l.hangUp()
	if e == nil {
		return nil
	}
	sub := e.sub // if there is none yet, listen finds that it is not wanted
	return func() {
		if sub != nil {
			_ = sub.Close() // not under mu: it waits while sub dials
		}
		l.wg.Wait()
	}
}

// A Wait is one flight's interest in a key. It is for one goroutine.
type Wait struct {
	// Look has an element when it is worth looking at the key.
	Look <-chan struct{}

	l    *Listener
	key  string
	look chan struct{}
}

// Expect registers an interest in key, before the command is sent whose answer
// may make it a wait, so that no message falls in between.
func (l *Listener) Expect(key string) *Wait {
	look := make(chan struct{}, 1)
	w := &Wait{Look: look, l: l, key: key, look: look}
	if l != nil {
		l.mu.Lock()
		l.waits[key] = append(l.waits[key], w)
		l.mu.Unlock()
	}
	return w
}

// End takes the interest back.
func (w *Wait) End() {
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

// Begin says that w waits from now on. It starts the Listener if need be, and
// reports whether a message can be counted on, more or less.
func (w *Wait) Begin() (live bool) {
	l := w.l
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.used = time.Now()
	if l.ear == nil && !l.closed && l.used.After(l.retryAt) {
		ctx, cancel := context.WithCancel(context.Background())
		e := &ear{cancel: cancel}
		l.ear = e
		l.begun++
		l.wg.Add(1)
		// Ends when nobody waits for long, or by Release. A client that panics is as good
		// as one that refuses.
		guard.Go(guard.Client, func() error { return l.listen(ctx, e) }, func(error) { l.deafen(e) })
	}
	return l.live
}

var errNoSub = errors.New("Subscribe returned nil")

// listen subscribes, and passes messages on until the connection breaks, nobody
// has waited for a while, or Release.
func (l *Listener) listen(ctx context.Context, e *ear) error {
	sub := l.rdb.Subscribe(ctx) // connects when told a channel
	if sub == nil {
		return errNoSub
	}
	if !l.has(e, sub) {
		return nil
	}
	err := sub.Subscribe(ctx, script.WakeChannel)
	for err == nil {
		var msg any
		// Not sub.Channel, which hides errors: after one of them messages may be
		// missing, and those who wait must go back to polling.
		msg, err = sub.ReceiveTimeout(ctx, Tick)
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			err = nil
		}
		if err == nil && !l.hear(e, msg) {
			return nil
		}
	}
	return err
}

// has notes that e listens by sub, and reports whether it is still wanted.
func (l *Listener) has(e *ear, sub *redis.PubSub) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.sub = sub
	return l.ear == e
}

// deafen ends e, whose goroutine has ended.
func (l *Listener) deafen(e *ear) {
	defer l.wg.Done()
	l.mu.Lock()
	if l.ear == e {
		if !l.live { // refused: by a proxy, by an ACL
			l.retryAt = time.Now().Add(retry)
		}
		l.hangUp()
		l.all()
	}
	sub := e.sub
	l.mu.Unlock()
	if sub != nil {
		_ = sub.Close() // not under mu: it waits while Release closes it
	}
}

// hear acts on one message, nil if none came for a while, and reports whether to
// go on.
func (l *Listener) hear(e *ear, msg any) bool {
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
	if l.ear == e && len(l.waits) == 0 && time.Since(l.used) > Idle {
		l.hangUp()
	}
	return l.ear == e
}

// State returns whether l is live, when it may subscribe again after a refusal, and how
// many subscriptions it has begun.
func (l *Listener) State() (live bool, retryAt time.Time, begun int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.live, l.retryAt, l.begun
}

// hangUp gives up the subscription, and returns it, for Release to close. The caller
// holds mu.
func (l *Listener) hangUp() *ear {
	e := l.ear
	if e != nil {
		e.cancel()
		l.ear, l.live = nil, false
	}
	return e
}

// all wakes everybody. The caller holds mu.
func (l *Listener) all() {
	for _, ws := range l.waits {
		for _, w := range ws {
			w.wake()
		}
	}
}

func (w *Wait) wake() {
	select {
	case w.look <- struct{}{}:
	default: // it is going to look anyhow
	}
}
