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
		if err != nil {
			c.Err = err
			continue
		}
		c.Reply, c.Err = sent[i].Reply, sent[i].Err
	}
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
