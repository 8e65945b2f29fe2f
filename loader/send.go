package loader

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// most is how many commands go out in one pipeline. A server answers nobody else
// while it works one off.
const most = 500

// send runs calls, in one round trip for each 500, and leaves when ctx is done or
// Redis has been silent for too long: the client heeds neither while it reads.
// The calls then have that as their error, and nobody knows what became of them.
func (l *Loader[V]) send(ctx context.Context, calls []*script.Call) {
	if len(calls) == 0 {
		return
	}
	began := time.Now()
	sent := make([]*script.Call, len(calls)) // copies, which the client may write to after we have left
	for i, c := range calls {
		one := *c
		sent[i] = &one
	}
	_, err := ask(l, ctx, func(ctx context.Context) (struct{}, error) {
		if len(sent) == 1 {
			_ = sent[0].Run(ctx, l.rdb) // the error is in the call
			return struct{}{}, nil
		}
		for some := range slices.Chunk(sent, most) {
			_ = script.Pipeline(ctx, l.rdb, some) // likewise
		}
		return struct{}{}, nil
	})
	for i, c := range calls {
		if c.Err = err; err == nil {
			c.Reply, c.Err = sent[i].Reply, sent[i].Err
		}
	}
	l.tell(ctx, began, len(calls), func(i int) (string, error) { return calls[i].Key, calls[i].Err })
}

// refusal returns nil if Redis is worth asking for key, else the error of that. If it
// is time to, it is asked in the background, to find out whether it is back.
func (l *Loader[V]) refusal(key string) error {
	c := l.away.of(key)
	err := c.allow()
	if err != nil {
		c.probe(l.flights.trySpawn, func(ctx context.Context) error { return l.rdb.Get(ctx, key).Err() })
	}
	return err
}

// get reads key.
func (l *Loader[V]) get(ctx context.Context, key string) ([]byte, error) {
	began := time.Now()
	b, err := l.rdb.Get(ctx, key).Bytes()
	l.away.of(key).done(ctx, began, err)
	return b, err
}

// poll is get for whoever leaves when ctx is done or Redis is silent for too long.
func (l *Loader[V]) poll(ctx context.Context, key string) ([]byte, error) {
	if err := l.refusal(key); err != nil {
		return nil, err
	}
	began := time.Now()
	b, err := ask(l, ctx, func(ctx context.Context) ([]byte, error) { return l.rdb.Get(ctx, key).Bytes() })
	l.away.of(key).done(ctx, began, err)
	return b, err
}

// tell says how n commands of one round trip have ended: once for each circuit,
// since they have failed together if they have.
func (l *Loader[V]) tell(ctx context.Context, began time.Time, n int, ended func(i int) (key string, err error)) {
	var told [clusterCircuits]bool
	for i := range n {
		key, err := ended(i)
		at := l.away.index(key)
		if !told[at] {
			told[at] = true
			l.away.all[at].done(ctx, began, err)
		}
		if i == 0 && len(l.away.all) == 1 && err == nil {
			return
		}
	}
}

// Note says how a call to Redis for key ended that began at began and was not made
// by the Loader: it is evidence of whether Redis is worth asking.
func (l *Loader[V]) Note(ctx context.Context, key string, began time.Time, err error) {
	l.away.of(key).done(ctx, began, err)
}

// nothing reports whether rdb is nil, or an interface around a nil pointer.
func nothing(rdb redis.UniversalClient) bool {
	if rdb == nil {
		return true
	}
	v := reflect.ValueOf(rdb)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// ask runs fn, a call to Redis, and leaves when ctx is done or Redis has been
// silent for too long: the client heeds neither while it reads. Whoever leaves
// does not know what fn did, or will do.
func ask[V, T any](l *Loader[V], ctx context.Context, fn func(context.Context) (T, error)) (T, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, max(l.leases.ttl, time.Second), errSilent)
	defer cancel()
	ch := make(chan answer[T], 1)
	call := func() {
		a := answer[T]{err: errSilent} // should a hook of the client panic
		defer func() { ch <- a }()
		a.v, a.err = fn(ctx)
	}
	if !l.flights.trySpawn(call) {
		call() // closed: nobody would wait for a goroutine
	}
	select {
	case a := <-ch:
		return a.v, a.err
	case <-ctx.Done():
		var zero T
		return zero, context.Cause(ctx)
	}
}

// An answer is what a call to Redis returned.
type answer[T any] struct {
	v   T
	err error
}

var errSilent = errors.New("Redis did not answer in time")
