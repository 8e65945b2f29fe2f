package engine

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// send runs calls, in one round trip for each 500 of them and each 4 MB. It leaves when ctx is done, or when
// Redis has not answered one of these round trips for too long. The calls that have no
// answer then have that as their error; see script.Call.Left.
func (l *Engine) send(ctx context.Context, calls []*script.Call) {
	silent := false
	for some := range script.CallLots(calls, convoy.Most) {
		if silent { // and so it is not asked again
			for _, c := range some {
				c.Reply, c.Err = nil, convoy.ErrSilent
			}
			continue
		}
		l.sendBy(ctx, some, func() {
			convoy.RunOrLeave(ctx, l.rdb, l.silence(), l.Spawn, some, func(ctx context.Context, sent []*script.Call) { convoy.Run(ctx, l.rdb, sent) })
		})
		silent = errors.Is(some[0].Err, convoy.ErrSilent)
	}
}

// Send runs scripts of other packages, as send does.
func (l *Engine) Send(ctx context.Context, calls ...*script.Call) { l.send(ctx, calls) }

// sendBy runs calls by run, which leaves, and notes how they ended.
func (l *Engine) sendBy(ctx context.Context, calls []*script.Call, run func()) {
	if len(calls) == 0 {
		return
	}
	began := time.Now()
	run()
	l.away.Done(ctx, began, len(calls), func(i int) (string, error) { return calls[i].Key, calls[i].Err })
}

// refusal returns nil if Redis is worth asking for key, else the error of that. If it
// is time to, it is asked in the background, to find out whether it is back.
func (l *Engine) refusal(key string) error {
	c := l.circuit(key)
	err := c.Allow()
	if err != nil {
		c.Probe(l.flights.Spawn, func(ctx context.Context) error {
			_, err := l.leases.read(ctx, key)
			return err
		})
	}
	return err
}

// get reads key, together with what others read if a few reads are under way. It heeds
// ctx as far as the client does, if it is sent by itself.
func (l *Engine) get(ctx context.Context, key string) (v gather.Value, err error) {
	began := time.Now()
	at, field := l.leases.place(key)
	if l.apart {
		v.B, err = l.leases.read(ctx, key)
	} else {
		v, err = l.gather.Get(ctx, at, field, l.size.About())
	}
	l.away.Of(at).Done(ctx, began, err)
	if err == nil {
		l.size.Learn(len(v.B))
	}
	return v, err
}

// poll is get for a caller that leaves when ctx is done or Redis is silent for too long.
func (l *Engine) poll(ctx context.Context, key string) ([]byte, error) {
	if err := l.refusal(key); err != nil {
		return nil, err
	}
	began := time.Now()
	b, err := ask(l, ctx, func(ctx context.Context) ([]byte, error) {
		if l.apart {
			return l.leases.read(ctx, key)
		}
		at, field := l.leases.place(key) // those who wait for the keys of one load look at the same time
		v, err := l.gather.Get(ctx, at, field, l.size.About())
		return v.Own(), err
	})
	l.circuit(key).Done(ctx, began, err)
	return b, err
}

// circuit returns the route of key.
func (l *Engine) circuit(key string) circuit.Route {
	at, _ := l.leases.place(key)
	return l.away.Of(at)
}

// Note reports to the breaker of the server of key how a call ended that another
// package made, and that began at began.
func (l *Engine) Note(ctx context.Context, key string, began time.Time, err error) {
	l.circuit(key).Done(ctx, began, err)
}

// ask runs fn, a call to Redis, and leaves when ctx is done or Redis has been
// silent for too long. Whoever leaves does not know what fn did, or will do.
func ask[T any](l *Engine, ctx context.Context, fn func(context.Context) (T, error)) (T, error) {
	return convoy.Leave(ctx, l.silence(), l.Spawn, fn)
}

// sendAll sends the commands that are queued on p, as convoy.Send does. It leaves as
// send does, and then they must not be looked at.
func (l *Engine) sendAll(ctx context.Context, p redis.Pipeliner) error {
	return convoy.SendOrLeave(ctx, l.rdb, l.silence(), l.Spawn, p)
}

// silence is for how long Redis may take to answer one round trip.
func (l *Engine) silence() time.Duration { return convoy.Silence(l.leases.ttl) }

// Spawn is guard.Go in a goroutine that Close waits for. If Close has ended, it is
// guard.Run in the goroutine of the caller.
func (l *Engine) Spawn(code guard.Code, fn func() error, done func(error)) {
	l.flights.Spawn(code, fn, done)
}
