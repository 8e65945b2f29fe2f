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
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
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
	// counted, since that one waits for it; nor is one that queues when a load
	// comes to wait for it that it would queue for. Defaults to 0: no limit.
	MaxLoads int

	// StaleWhileRevalidate is how long after its end a value is served all the
	// same, while one caller in the fleet sees to a new one and nobody waits.
	// Defaults to 0.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long a value is then kept, to be served if its load
	// fails. Life.Keep of a value must be its Fresh and both of these together.
	// Defaults to 0.
	StaleIfError time.Duration

	// SoftTimeout is how long a caller waits for a load if there is a value that
	// StaleIfError keeps. It is then served, and the load goes on. Defaults to 0:
	// as long as the load takes.
	SoftTimeout time.Duration

	// Backoff is how long nobody tries again after a load that failed while a
	// value stays. It doubles with each failure, up to MaxBackoff, and is a fifth
	// longer or shorter at random. Defaults to 1 s.
	Backoff time.Duration

	// EarlyRefresh is how eagerly values are loaded again before they are stale:
	// by each reader at random, so that on the average the load begins EarlyRefresh
	// times the time that it takes ahead. 1 is what XFetch proposes. Defaults to
	// 0: not before.
	EarlyRefresh float64

	// Packed says that every entry is in the field of a hash: a key is then that of the
	// hash, a space, and the field, in which there is no space. Redis does not know when
	// a field ends. So a value is fresh and of use by the clocks of its readers, and
	// EarlyRefresh goes by what loads take here, since what the load of a value took is
	// not kept. Defaults to false.
	Packed bool

	// NoCombining has every read, Write and Delete sent by itself. Defaults to false:
	// those that come while a few are under way leave together, whichever Loader they
	// are of, writes apart from reads.
	NoCombining bool
}

// untyped returns the options without the codec.
func (o *Options[V]) untyped() EngineOptions {
	return EngineOptions{
		LeaseTTL: o.LeaseTTL, Timeout: o.Timeout, MaxLoads: o.MaxLoads,
		StaleWhileRevalidate: o.StaleWhileRevalidate, StaleIfError: o.StaleIfError, SoftTimeout: o.SoftTimeout,
		Backoff: o.Backoff, EarlyRefresh: o.EarlyRefresh, Packed: o.Packed, NoCombining: o.NoCombining,
	}
}

// MaxBackoff is the longest time without a load after loads that failed, but for
// the random part, unless Options.Backoff is longer.
const MaxBackoff = time.Minute

// A Loader loads each key once for the whole fleet. It is safe for concurrent
// use.
type Loader[V any] struct {
	engine *Engine // not embedded: each type would then compile a wrapper of each of its methods
}

// New returns a Loader, or an error that names the option that is wrong. It
// makes no call to Redis.
func New[V any](rdb redis.UniversalClient, o Options[V]) (*Loader[V], error) {
	if o.Codec == nil {
		o.Codec = codec.For[V]()
	}
	e, err := NewEngine(rdb, boxed[V]{codec.Bind(o.Codec)}, o.untyped())
	if err != nil {
		return nil, err
	}
	return &Loader[V]{engine: e}, nil
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
// next caller, in any process, loads again; but if a stale value may be served,
// it is, and the next load waits for Options.Backoff. ErrNotFound is stored if
// load says for how long. That Redis failed, or that a value could not be stored,
// is no error: Stats count it.
func (l *Loader[V]) Get(ctx context.Context, key string, load Func[V]) (V, error) {
	v, _, err := l.engine.GetOrLoad(ctx, key, &getCall[V]{fn: load})
	return unbox[V](v), err
}

// A getCall is one Get. It has the value and the load in one allocation.
type getCall[V any] struct {
	value V // set by a hit
	fn    Func[V]
}

// Box returns a pointer to the value.
func (c *getCall[V]) Box() any { return &c.value }

// Load calls the load.
func (c *getCall[V]) Load(ctx context.Context) (any, Life, error) {
	v, life, err := c.fn(ctx)
	return &v, life, err
}

// Lookup returns the value of key in Redis, and whether there is one. It never
// loads, and does not wait for a load. A value that is stale is one as long as
// StaleWhileRevalidate says. The error is that of Redis, or the cause of the end
// of ctx. Bytes that cannot be used are no value, and are counted.
func (l *Loader[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	v, how, err := l.Find(ctx, key)
	return v, how == OutcomeHit || how == OutcomeStale, err
}

// Find is Lookup, and says how the value was come by: OutcomeHit, OutcomeStale,
// OutcomeNotFound, or 0 if Redis does not know.
func (l *Loader[V]) Find(ctx context.Context, key string) (V, Outcome, error) {
	v, how, err := l.engine.Find(ctx, key, new(V))
	return unbox[V](v), how, err
}

// Refresh loads the value of key now, whatever there is, and returns it, and that
// it was loaded, or Redis bypassed. Meanwhile
// the value that was there is served. The load begins after the call of Refresh: if
// one is under way, here or in another process, what that one loads is not stored.
// Callers in this process who come during such a load share the next one.
//
// The error is the one of load, and the value that was there stays. Where Redis
// does not answer, load is called all the same, and nothing is stored.
func (l *Loader[V]) Refresh(ctx context.Context, key string, load Func[V]) (V, Outcome, error) {
	v, how, err := l.engine.Refresh(ctx, key, boxOne(load))
	return unbox[V](v), how, err
}

// Reload is Refresh for a refresher that comes round every so often: a load that
// is under way, here or elsewhere, is as good as its own, and is waited for. After
// a load that failed, nobody tries again before the next round, or before that for
// Options.Backoff, if that is shorter; the value that was there stays, and the
// error is returned.
func (l *Loader[V]) Reload(ctx context.Context, key string, every time.Duration, load Func[V]) error {
	return l.engine.Reload(ctx, key, every, boxOne(load))
}

// ReloadMany is Reload for several keys, which must differ, by one call of load. It
// returns an error for each, nil where all is well.
func (l *Loader[V]) ReloadMany(ctx context.Context, keys []string, every time.Duration, load ManyFunc[V]) []error {
	return l.engine.ReloadMany(ctx, keys, every, boxMany(load))
}

// Writing returns v as a value to be written. The error is that of the codec.
func (l *Loader[V]) Writing(key string, v V, life Life) (Writing, error) {
	return l.engine.Writing(key, life, &v)
}

// Decode sets *v to the value of payload, which is of an entry of key, whenever
// that ends. The error is that of the codec; a panic of the codec is one too.
func (l *Loader[V]) Decode(key string, payload []byte, v *V) error {
	return l.engine.Decode(key, payload, v)
}

// Write stores the value of a key whatever is there, and takes the lease away from a load
// under way. Of two writes at the same time one stays. It leaves together with what others
// write, if a few are under way, and then returns when ctx ends.
//
// The value is sent once. If Redis does not answer, or ctx ends after it was sent, the
// error wraps ErrOutcomeUnknown: the value may be stored, or may be yet, even after a
// later write. After any other error nothing was stored.
func (l *Loader[V]) Write(ctx context.Context, w Writing) error { return l.engine.Write(ctx, w) }

// Delete is Leases.Delete. If it is of one key, it leaves together with what others write,
// if a few are under way, and then returns when ctx ends.
func (l *Loader[V]) Delete(ctx context.Context, keys []string) []error {
	return l.engine.Delete(ctx, keys)
}

// WriteThrough persists values by down, which returns an error for each or nil,
// and then stores those that went well. It returns an error for each: of down, or
// of Redis, and then the value is persisted all the same.
//
// If down fails, nobody knows whether it has persisted anything. What was there is
// expired, for the next reader to load.
func (l *Loader[V]) WriteThrough(ctx context.Context, ws []Writing, down func(context.Context) []error) []error {
	return l.engine.WriteThrough(ctx, ws, down)
}

// Forget makes callers who come after it begin anew, in place of joining a load
// that is under way here. Whoever deletes or writes a key calls it when Redis
// has answered.
func (l *Loader[V]) Forget(keys ...string) { l.engine.Forget(keys...) }

// ForgetAll is Forget for every key that is being loaded here.
func (l *Loader[V]) ForgetAll() { l.engine.ForgetAll() }

// Leases returns the leases that the Loader takes, for code that writes or
// expires keys.
func (l *Loader[V]) Leases() *Leases { return l.engine.Leases() }

// Turns returns turns that are held for the LeaseTTL of l, and whose failures l
// counts. It makes no call to Redis.
func (l *Loader[V]) Turns() *Turns { return l.engine.Turns() }

// Send is for scripts beside those of the Loader: it runs them in one round trip for each
// 500 of them, and leaves when ctx is done, or when Redis has not answered for too long.
func (l *Loader[V]) Send(ctx context.Context, calls ...*script.Call) { l.engine.Send(ctx, calls...) }

// Note says how a call to Redis for key ended that began at began and was not made
// by the Loader: it is evidence of whether Redis is worth asking.
func (l *Loader[V]) Note(ctx context.Context, key string, began time.Time, err error) {
	l.engine.Note(ctx, key, began, err)
}

// Spawn is Flights.Spawn.
func (l *Loader[V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	l.engine.Spawn(code, fn, done)
}

// Stats returns what the Loader has counted since New.
func (l *Loader[V]) Stats() Stats { return l.engine.Stats() }

// Close is Flights.Close, and ends the subscription for waits. What is in Redis
// can still be read; a miss is ErrClosed. The client stays open.
func (l *Loader[V]) Close(ctx context.Context) error { return l.engine.Close(ctx) }
