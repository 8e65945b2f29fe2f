package wake

import (
	"context"
	"errors"
	"maps"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
)

// ear is one connection of a Listener, to one server. The goroutine of listen
// reads from it, and a second goroutine subscribes meanwhile.
type ear struct {
	l     *Listener
	node  string
	of    redis.UniversalClient // of that server
	plain bool                  // SUBSCRIBE, not SSUBSCRIBE; used by the goroutine of listen alone

	cancel  context.CancelFunc // ends the dialling of sub
	changed chan struct{}      // has an element while add or drop has one

	// Guarded by Listener.mu:
	sub       *redis.PubSub // nil until there is one
	channels  map[string]*channel
	add, drop []string  // channels to subscribe to, and to unsubscribe from before that
	used      time.Time // when a flight last waited
	pruned    time.Time // when idle channels were last given up
	confirmed bool      // the server has confirmed a subscription
}

// channel is one subscription. Its fields are guarded by Listener.mu.
type channel struct {
	name string    // of the entry
	live bool      // the server has confirmed it
	used time.Time // when a flight last began to wait
}

// most is how many channels one command names, so that it occupies the server
// for only a fraction of a millisecond.
const most = 500

var (
	errNoSub  = errors.New("Subscribe returned nil")
	errSilent = errors.New("PING is not answered")
)

// listen subscribes, and passes messages on until the connection breaks, no
// flight has waited for a while, or Release is called.
func (e *ear) listen(ctx context.Context) error {
	err := e.attend(ctx)
	if e.older(err) {
		err = e.attend(ctx)
	}
	return err
}

// older reports whether err says that the server does not know sharded
// channels, or does not allow them. If so, older queues all channels for a
// plain subscription. The next connection tries sharded channels again, because
// the server may have been replaced by then.
func (e *ear) older(err error) bool {
	if e.plain || e.l.cluster || !redis.HasErrorPrefix(err, "unknown command") && !redis.HasErrorPrefix(err, "NOPERM") {
		return false
	}
	e.plain = true
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.drop, e.add = nil, slices.Collect(maps.Keys(e.channels))
	return true
}

// attend is listen on one connection.
func (e *ear) attend(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sub := e.of.Subscribe(ctx) // connects when it gets a channel
	if sub == nil {
		return errNoSub
	}
	if !e.has(sub) {
		return nil
	}
	err := e.subscribe(ctx, sub)
	if err != nil {
		return err
	}
	ended := make(chan struct{})
	defer func() {
		cancel()
		_ = sub.Close()
		<-ended
	}()
	// Ends with ctx, and attend waits for it. If a command cannot be sent, the
	// connection has broken, and ReceiveTimeout finds that too.
	guard.Go(guard.Client, func() error { return e.follow(ctx, sub) }, func(error) { close(ended) })
	for pinged := false; err == nil; {
		var msg any
		// Do not use sub.Channel, which hides errors. After an error, messages
		// may be missing, and waiters must poll again.
		msg, err = sub.ReceiveTimeout(ctx, Tick)
		timeout, quiet := errors.AsType[net.Error](err)
		quiet = quiet && timeout.Timeout()
		switch {
		case quiet && pinged:
			return errSilent
		case err != nil && !quiet:
			return err
		}
		again, subscribed := e.hear(msg)
		if !again {
			return nil
		}
		// A connection that breaks silently looks like one without messages.
		err, pinged = nil, quiet && subscribed
		if pinged {
			err = sub.Ping(ctx)
		}
	}
	return err
}

// has records that e listens by sub, and reports whether e is still wanted.
func (e *ear) has(sub *redis.PubSub) bool {
	e.l.mu.Lock()
	defer e.l.mu.Unlock()
	e.sub = sub
	return e.l.ears[e.node] == e
}

// follow subscribes to added channels until ctx ends.
func (e *ear) follow(ctx context.Context, sub *redis.PubSub) error {
	for {
		select {
		case <-e.changed:
		case <-ctx.Done():
			return nil
		}
		if err := e.subscribe(ctx, sub); err != nil {
			return sub.Close()
		}
	}
}

// subscribe sends the changes.
func (e *ear) subscribe(ctx context.Context, sub *redis.PubSub) error {
	e.l.mu.Lock()
	add, drop := e.add, e.drop
	e.add, e.drop = nil, nil
	e.l.mu.Unlock()
	enter, leave := sub.SSubscribe, sub.SUnsubscribe
	if e.plain {
		enter, leave = sub.Subscribe, sub.Unsubscribe
	}
	for some := range slices.Chunk(drop, most) {
		if err := leave(ctx, some...); err != nil {
			return err
		}
	}
	for some := range slices.Chunk(add, most) {
		if err := enter(ctx, some...); err != nil {
			return err
		}
	}
	return nil
}

// hear handles one message, or nil if none came for a while. It reports whether
// to go on, and whether e has channels.
func (e *ear) hear(msg any) (again, subscribed bool) {
	l := e.l
	l.mu.Lock()
	defer l.mu.Unlock()
	switch msg := msg.(type) {
	case *redis.Subscription:
		c := e.channels[msg.Channel]
		switch {
		case c == nil: // given up meanwhile
		case strings.HasSuffix(msg.Kind, "unsubscribe"):
			if c.live { // the slot has left this node
				delete(e.channels, msg.Channel)
				l.wake(c.name)
			}
		case c.live: // again, after go-redis has reconnected
			l.wake(c.name)
		default:
			e.confirmed, c.live = true, true
			delete(l.retryAt, e.node)
			for _, w := range l.waits[c.name] {
				w.confirmed()
			}
		}
	case *redis.Message:
		c := e.channels[msg.Channel]
		if c != nil && !l.wake(c.name) && c.live {
			e.leave(msg.Channel)
		}
	}
	if now := time.Now(); now.Sub(e.pruned) >= Tick {
		e.pruned = now
		for name, c := range e.channels {
			if c.live && len(l.waits[c.name]) == 0 && now.Sub(c.used) >= Tick {
				e.leave(name)
			}
		}
		if len(e.channels) == 0 && now.Sub(e.used) > Idle {
			l.hangUp(e)
		}
	}
	return l.ears[e.node] == e, len(e.channels) > 0
}

// leave gives up a subscription. The caller holds Listener.mu.
func (e *ear) leave(name string) {
	delete(e.channels, name)
	e.drop = append(e.drop, name)
	signal(e.changed)
}

// end ends e, whose goroutine has ended with err. Its waiters read their keys,
// and then poll or subscribe again.
func (e *ear) end(err error) {
	l := e.l
	defer l.wg.Done()
	l.mu.Lock()
	if l.ears[e.node] == e {
		switch {
		case e.confirmed: // it broke
		case redis.HasErrorPrefix(err, "MOVED"): // the client learns of it soon
			l.retryAt[e.node] = time.Now().Add(time.Second)
		default: // refused: by a proxy, by an ACL
			l.retryAt[e.node] = time.Now().Add(retry)
		}
		l.hangUp(e)
		for _, c := range e.channels {
			l.wake(c.name)
		}
	}
	sub := e.sub
	l.mu.Unlock()
	e.cancel()
	if sub != nil {
		_ = sub.Close() // not under mu: it waits while Release closes it
	}
}
