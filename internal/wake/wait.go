package wake

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/script"
)

// Wait is the interest of one flight in a key. It is for one goroutine.
type Wait struct {
	l        *Listener
	name, at string
	channel  string
	since    time.Time

	look  chan struct{} // has an element when the key should be read
	begun chan struct{} // has an element when the channel became live and no read is due
	gap   time.Duration // guarded by Listener.mu: see Poll.gap
}

// Expect registers an interest in the entry of a name. The caller calls it
// before it sends the command whose answer may make it wait. at is the key in
// Redis, and name begins with it.
func (l *Listener) Expect(name, at string) *Wait {
	w := &Wait{l: l, name: name, at: at}
	if l != nil {
		w.since, w.look, w.begun = time.Now(), make(chan struct{}, 1), make(chan struct{}, 1)
		l.mu.Lock()
		l.waits[name] = append(l.waits[name], w)
		l.mu.Unlock()
	}
	return w
}

// End removes the interest.
func (w *Wait) End() {
	if w.l == nil {
		return
	}
	w.l.mu.Lock()
	defer w.l.mu.Unlock()
	ws := w.l.waits[w.name]
	for i := range ws {
		if ws[i] == w {
			ws = append(ws[:i:i], ws[i+1:]...)
			break
		}
	}
	if w.l.waits[w.name] = ws; len(ws) == 0 {
		delete(w.l.waits, w.name)
	}
}

// Until waits until the key should be read, because of poll or of a message, or
// until ctx ends. If necessary, it subscribes to the channel of the key.
func (w *Wait) Until(ctx context.Context, poll *Poll) {
	timer := time.NewTimer(poll.Next(w.begin(poll.gap())))
	defer timer.Stop()
	for {
		select {
		case <-w.begun:
			timer.Reset(poll.cover())
		case <-w.look:
			return
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

// begin subscribes if necessary, and reports whether a message can be expected.
// That is not certain. No read is due if the subscription is confirmed within
// gap of Expect.
func (w *Wait) begin(gap time.Duration) (live bool) {
	l := w.l
	if l == nil {
		return false
	}
	node, of := "", l.rdb
	if l.cluster {
		// Master answers from memory, because the command whose answer made w
		// wait has gone to that node.
		master := client.Master(context.Background(), l.rdb, w.at)
		if master == nil {
			return false
		}
		node, of = master.Options().Addr, redis.UniversalClient(master)
	}
	if w.channel == "" {
		w.channel = script.WakeChannel(w.name, w.at)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	w.gap = gap
	select {
	case <-w.begun: // of an earlier call
	default:
	}
	now := time.Now()
	e := l.ears[node]
	if e == nil {
		if l.closed || !now.After(l.retryAt[node]) {
			return false
		}
		e = l.open(node, of)
	}
	e.used = now
	c := e.channels[w.channel]
	if c == nil {
		c = &channel{name: w.name}
		e.channels[w.channel] = c
		e.add = append(e.add, w.channel)
		signal(e.changed)
	}
	c.used = now
	return c.live
}

// confirmed is called when the server has confirmed the subscription for the
// first time since w began to wait. A message that was sent before is lost. The
// caller holds Listener.mu.
//
// A read after every confirmation would cost every waiter one more command. So
// confirmed causes a read only if the load may well be over. That is so if the
// subscription took more than an eighth of the time of the load. If it took
// less, Poll.cover sets the time of the read. The wait is then too long only if
// the load was far quicker than all recent ones. The excess is at most a
// quarter of a second.
func (w *Wait) confirmed() {
	if time.Since(w.since) < w.gap {
		signal(w.begun)
	} else {
		signal(w.look)
	}
}
