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

// exec runs calls, in one round trip for each 500 of them and each 4 MB. It
// leaves when ctx is done, or when Redis takes too long to answer one of these
// round trips. The error of the calls without a reply is then the reason; see
// script.Call.Left.
func (l *Engine) exec(ctx context.Context, calls []*script.Call) {
	silent := false
	for some := range script.CallLots(calls, convoy.Most) {
		if silent { // so Redis is not asked again
			for _, c := range some {
				c.Reply, c.Err = nil, convoy.ErrSilent
			}
			continue
		}
		l.execBy(ctx, some, func() {
			convoy.RunOrLeave(ctx, l.rdb, l.replyTimeout(), l.Spawn, some, func(ctx context.Context, sent []*script.Call) { convoy.Run(ctx, l.rdb, sent) })
		})
		silent = errors.Is(some[0].Err, convoy.ErrSilent)
	}
}

// Exec is exec, for scripts of other packages.
func (l *Engine) Exec(ctx context.Context, calls ...*script.Call) { l.exec(ctx, calls) }

// execBy runs calls by run, which may leave, and reports their ends to the
// breakers.
func (l *Engine) execBy(ctx context.Context, calls []*script.Call, run func()) {
	if len(calls) == 0 {
		return
	}
	began := time.Now()
	run()
	l.breakers.Done(ctx, began, len(calls), func(i int) (string, error) { return calls[i].Key, calls[i].Err })
}

// breakerErr returns nil if Redis is worth asking for key, and otherwise the
// error of the breaker. When a probe is due, it also starts one in the
// background.
func (l *Engine) breakerErr(key string) error {
	b := l.breaker(key)
	err := b.Allow()
	if err != nil {
		b.Probe(l.flights.Spawn, func(ctx context.Context) error {
			_, err := l.leases.readAlone(ctx, key)
			return err
		})
	}
	return err
}

// get reads key. If a few reads are in flight, it is batched with others. A
// read that is sent alone obeys ctx as far as the client does.
func (l *Engine) get(ctx context.Context, key string) (v gather.Value, err error) {
	began := time.Now()
	at, field := l.leases.locate(key)
	if l.unbatched {
		v.B, err = l.leases.readAlone(ctx, key)
	} else {
		v, err = l.gather.Get(ctx, at, field, l.entrySize.About())
	}
	l.breakers.Of(at).Done(ctx, began, err)
	if err == nil {
		l.entrySize.Learn(len(v.B))
	}
	return v, err
}

// pollKey is like get, but leaves when ctx is done or Redis is silent for too
// long.
func (l *Engine) pollKey(ctx context.Context, key string) ([]byte, error) {
	if err := l.breakerErr(key); err != nil {
		return nil, err
	}
	began := time.Now()
	b, err := callDetached(l, ctx, func(ctx context.Context) ([]byte, error) {
		if l.unbatched {
			return l.leases.readAlone(ctx, key)
		}
		at, field := l.leases.locate(key) // waiters for the keys of one load poll at the same time
		v, err := l.gather.Get(ctx, at, field, l.entrySize.About())
		return v.Own(), err
	})
	l.breaker(key).Done(ctx, began, err)
	return b, err
}

// breaker returns the breaker of key.
func (l *Engine) breaker(key string) circuit.Route {
	at, _ := l.leases.locate(key)
	return l.breakers.Of(at)
}

// Observe reports to the breaker of key how a call of another package ended
// that began at began.
func (l *Engine) Observe(ctx context.Context, key string, began time.Time, err error) {
	l.breaker(key).Done(ctx, began, err)
}

// callDetached runs fn, a call to Redis, and leaves when ctx is done or Redis
// is silent for too long. A caller that leaves cannot know whether fn took or
// will take effect.
func callDetached[T any](l *Engine, ctx context.Context, fn func(context.Context) (T, error)) (T, error) {
	return convoy.Leave(ctx, l.replyTimeout(), l.Spawn, fn)
}

// execPipeline sends the commands queued on p, as convoy.Send does. It leaves
// like exec. If it has left, the commands must not be looked at.
func (l *Engine) execPipeline(ctx context.Context, p redis.Pipeliner) error {
	return convoy.SendOrLeave(ctx, l.rdb, l.replyTimeout(), l.Spawn, p)
}

// replyTimeout returns how long Redis may take to answer one round trip.
func (l *Engine) replyTimeout() time.Duration { return convoy.Silence(l.leases.ttl) }

// Spawn is guard.Go in a goroutine that Close waits for. If Close has ended, it
// is guard.Run in the caller's goroutine.
func (l *Engine) Spawn(code guard.Code, fn func() error, done func(error)) {
	l.flights.Spawn(code, fn, done)
}
