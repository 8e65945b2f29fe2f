// Package loader loads each key once: once in a process, by Flights, and once in
// a fleet of processes that share a Redis, by Leases. A Loader does both, and is
// what a cache uses when it has no value.
//
// The result of a load is stored only if nothing has happened to the key since
// the load began, and is given only to callers of whom the same can be said:
//
//	After a deletion has returned, no call that starts later gets a value whose
//	load began before it.
//
// That holds across processes and however the key was deleted. It does not hold
// where Redis itself forgets the deletion, as an asynchronous failover can.
package loader

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
	"golang.org/x/sync/semaphore"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redact"
)

// Options describe a Loader.
type Options[V any] struct {
	// Codec turns values into the bytes that Redis keeps. Defaults to
	// codec.For[V]().
	Codec codec.Codec[V]

	// LeaseTTL is how long a lease holds that is not renewed, in whole
	// milliseconds: how long the fleet waits for a process that has died. A load
	// may take longer, its lease is renewed every third of this. Defaults to 3 s.
	LeaseTTL time.Duration

	// Timeout bounds one load, from the first caller's miss on. Its callers then
	// get an error that is context.DeadlineExceeded. Defaults to a minute.
	Timeout time.Duration

	// MaxLoads is how many loads run at once in this process. The others wait,
	// and hold no lease while they do. A load that another one asks for is not
	// counted, since that one waits for it. Defaults to 0: no limit.
	MaxLoads int
}

// A Loader loads each key once for the whole fleet. It is safe for concurrent
// use.
type Loader[V any] struct {
	rdb     redis.UniversalClient
	codec   codec.Keyed[V]
	leases  Leases
	flights Flights[V]
	reads   reads
	slots   *semaphore.Weighted // nil: no limit
	hear    *listener           // nil: poll only
	closing sync.Once
	deaf    chan struct{} // closed when hear is released

	cost  atomic.Int64 // nanoseconds: moving average of what loads cost, 0 before the first
	stats counters
}

// New returns a Loader, or an error that names the option that is wrong. It
// makes no call to Redis.
func New[V any](rdb redis.UniversalClient, o Options[V]) (*Loader[V], error) {
	if o.Codec == nil {
		o.Codec = codec.For[V]()
	}
	if o.LeaseTTL == 0 {
		o.LeaseTTL = 3 * time.Second
	}
	if o.Timeout == 0 {
		o.Timeout = time.Minute
	}
	if o.Timeout < 0 {
		return nil, fmt.Errorf("Timeout is %v, must not be negative", o.Timeout)
	}
	if o.MaxLoads < 0 {
		return nil, fmt.Errorf("MaxLoads is %d, must not be negative", o.MaxLoads)
	}
	leases, err := NewLeases(rdb, o.LeaseTTL)
	if err != nil {
		return nil, err
	}
	l := &Loader[V]{rdb: rdb, codec: codec.Bind(o.Codec), leases: *leases, deaf: make(chan struct{})}
	l.flights.Timeout = o.Timeout
	l.reads.init()
	if o.MaxLoads > 0 {
		l.slots = semaphore.NewWeighted(int64(o.MaxLoads))
	}
	l.hear = listenerFor(rdb)
	l.leases.hint = l.hear != nil
	return l, nil
}

// A Func loads the value of one key and says how long it lives. It returns
// ErrNotFound, perhaps wrapped, if there is none.
type Func[V any] func(ctx context.Context) (V, Life, error)

// Get returns the value of key: from Redis, or else what load returns, here or
// in another process, and then it is stored. One call of load at a time runs in
// the whole fleet, as long as Redis answers. Where it does not, load is called
// here, one call at a time, and nothing is stored.
//
// A hit is one plain GET, and not a script that would take the lease in the same
// round trip: a server that pauses writes or fails over still answers a GET, and
// a script costs it several times as much. Callers who ask for the same key at
// the same time share the GET, as far as they came before it was sent.
//
// The error is the one of load, or one of Flights.Do. An error is not stored: the
// next caller, in any process, loads again. That Redis failed, or that a value
// could not be stored, is no error: Stats count it.
func (l *Loader[V]) Get(ctx context.Context, key string, load Func[V]) (V, error) {
	return GetWith(ctx, l, key, load, func(ctx context.Context, load Func[V]) (V, Life, error) {
		return load(ctx)
	})
}

// GetWith is Get for a load that takes an argument. It saves a hit the closure.
func GetWith[A, V any](ctx context.Context, l *Loader[V], key string, arg A, load func(context.Context, A) (V, Life, error)) (V, error) {
	var zero V
	if ctx.Err() != nil {
		return zero, context.Cause(ctx)
	}
	r := reading[V]{l: l, key: key}
	defer r.end()
	if !r.join(ctx) && r.await(ctx, true) {
		v, miss, ok := l.open(ctx, &r, true)
		if ok {
			l.stats.hits.Add(1)
			return v, nil
		}
		r.m, r.err = board(ctx, l, key, miss, arg, load)
	}
	if r.err != nil {
		return zero, r.err
	}
	l.stats.misses.Add(1)
	r.end() // who waits to read finds the flight
	return l.flights.wait(ctx, r.m)
}

// board joins the flight of key, or starts one. It is a function of its own
// since it allocates what a hit has no use for.
func board[A, V any](ctx context.Context, l *Loader[V], key string, m miss, arg A, load func(context.Context, A) (V, Life, error)) (*member[V], error) {
	return l.flights.board(ctx, key, func(f *flight[V]) {
		r := &run[V]{l: l, f: f, key: key, load: func(ctx context.Context) (V, Life, error) {
			return load(ctx, arg)
		}}
		known := m
		m = miss{} // a flight that comes after this one looks again
		r.fly(known)
	})
}

// Lookup returns the value of key in Redis, and whether there is one. It never
// loads, and does not wait for a load. The error is that of Redis, or the cause
// of the end of ctx. Bytes that cannot be used are no value, and are counted.
func (l *Loader[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	var zero V
	if ctx.Err() != nil {
		return zero, false, context.Cause(ctx)
	}
	r := reading[V]{l: l, key: key}
	defer r.end()
	if !r.await(ctx, false) {
		return zero, false, context.Cause(ctx)
	}
	v, miss, ok := l.open(ctx, &r, false)
	switch {
	case ok:
		l.stats.hits.Add(1)
		return v, true, nil
	case miss.away != nil && ctx.Err() != nil:
		return zero, false, context.Cause(ctx)
	case miss.away != nil:
		return zero, false, miss.away
	}
	l.stats.misses.Add(1)
	return zero, false, nil
}

// A miss is what is known of a key that was read in vain.
type miss struct {
	unfit *Token // of an entry that cannot be used; it may be overwritten
	away  error  // of Redis, which does not answer: load without it
}

// open reads and returns the value of a key, or what is known of it.
func (l *Loader[V]) open(ctx context.Context, r *reading[V], doubt bool) (v V, m miss, ok bool) {
	b, err := r.read(ctx)
	switch {
	case err == nil:
		return l.parse(r.key, b, doubt)
	case errors.Is(err, redis.Nil):
		return v, miss{}, false
	case wrongType(err):
		l.stats.decodeFailures.Add(1)
		return v, miss{}, false
	}
	l.stats.redisFailures.Add(1)
	return v, miss{away: err}, false
}

// parse returns the value of the entry b. It counts what cannot be used. If doubt
// is set, it returns no value that should not be there any more. Our clock may be
// wrong, so that is only for a caller who then asks a script.
func (l *Loader[V]) parse(key string, b []byte, doubt bool) (v V, m miss, ok bool) {
	h, payload, ok := entry.Parse(key, b)
	switch {
	case ok && (h.State == entry.Lease || h.Soft == 0 || doubt && overdue(h.Soft)):
		return v, miss{}, false
	case ok && l.decode(key, payload, &v):
		return v, miss{}, true
	}
	l.stats.decodeFailures.Add(1)
	if h.State != 0 {
		token := h.Token // a copy, or every hit would allocate h
		m.unfit = &token
	}
	var zero V
	return zero, m, false
}

// overdue reports whether a value should have been gone for a while, and is
// there only because somebody took its TTL away. Then the script decides, by the
// server's clock; ours being wrong costs no more than the question.
func overdue(soft int64) bool {
	const slack = 10 * time.Second
	return soft < time.Now().Add(-slack).UnixMilli()
}

// decode reports whether payload is a V. Decode may be the user's.
func (l *Loader[V]) decode(key string, payload []byte, v *V) (ok bool) {
	defer func() {
		if recover() != nil {
			ok = false
		}
	}()
	return l.codec.DecodeKeyed(payload, key, v) == nil
}

// Encode returns the bytes of v under key. A panic of the codec is an error,
// which names its type and not its value: that may be part of v.
func (l *Loader[V]) Encode(key string, v V) (b []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			b, err = nil, redact.Panic("codec", p)
		}
	}()
	return l.codec.AppendKeyed(nil, key, v)
}

// Forget makes callers who come after it begin anew, in place of joining a load
// that is under way here. Whoever deletes or writes a key calls it when Redis
// has answered.
func (l *Loader[V]) Forget(keys ...string) { l.flights.Forget(keys...) }

// Leases returns the leases that the Loader takes, for code that writes or
// expires keys.
func (l *Loader[V]) Leases() *Leases { return &l.leases }

// Stats returns what the Loader has counted since New.
func (l *Loader[V]) Stats() Stats { return l.stats.snapshot() }

// Close is Flights.Close, and ends the subscription for waits. What is in Redis
// can still be read; a miss is ErrClosed. The client stays open.
func (l *Loader[V]) Close(ctx context.Context) error {
	err := l.flights.Close(ctx)
	l.closing.Do(func() {
		wait := l.hear.release()
		if wait == nil {
			close(l.deaf)
			return
		}
		go func() { // ends with the listener's goroutine, which the client may hold up while it dials
			wait()
			close(l.deaf)
		}()
	})
	if err != nil {
		return err
	}
	select {
	case <-l.deaf:
		return nil
	default:
	}
	select {
	case <-l.deaf:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// expect returns what a load is going to cost, 0 before the first.
func (l *Loader[V]) expect() time.Duration { return time.Duration(l.cost.Load()) }

// learn takes a load's cost into the average. Two at the same time may lose one.
func (l *Loader[V]) learn(took time.Duration) {
	old := l.cost.Load()
	if old == 0 {
		old = int64(took)
	}
	l.cost.Store(max(1, old+(int64(took)-old)/4))
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
	l.flights.spawn(func() {
		v, err := fn(ctx)
		ch <- answer[T]{v, err}
	})
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
