package engine

import (
	"context"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// typedOptions are Options with a codec.
type typedOptions[V any] struct {
	Codec                codec.Codec[V]
	LeaseTTL             time.Duration
	Timeout              time.Duration
	MaxLoads             int
	StaleWhileRevalidate time.Duration
	StaleIfError         time.Duration
	SoftTimeout          time.Duration
	Backoff              time.Duration
	EarlyRefresh         float64
	Packed               bool
	NoCombining          bool
}

func (o *typedOptions[V]) untyped() Options {
	return Options{
		LeaseTTL: o.LeaseTTL, Timeout: o.Timeout, MaxLoads: o.MaxLoads,
		StaleWhileRevalidate: o.StaleWhileRevalidate, StaleIfError: o.StaleIfError, SoftTimeout: o.SoftTimeout,
		Backoff: o.Backoff, EarlyRefresh: o.EarlyRefresh, Packed: o.Packed, NoCombining: o.NoCombining,
	}
}

// A Loader is an Engine whose values have a type: most tests are easier to read
// with one.
type Loader[V any] struct {
	engine *Engine // not embedded: each type would then compile a wrapper of each of its methods
}

func newTyped[V any](rdb redis.UniversalClient, o typedOptions[V]) (*Loader[V], error) {
	if o.Codec == nil {
		o.Codec = codec.For[V]()
	}
	e, err := New(rdb, boxed[V]{codec.Bind(o.Codec)}, o.untyped())
	if err != nil {
		return nil, err
	}
	return &Loader[V]{engine: e}, nil
}

type typedFunc[V any] func(ctx context.Context) (V, Life, error)

func (l *Loader[V]) Get(ctx context.Context, key string, load typedFunc[V]) (V, error) {
	v, _, err := l.engine.GetOrLoad(ctx, key, &getCall[V]{fn: load})
	return unbox[V](v), err
}

type getCall[V any] struct {
	value V // set by a hit
	fn    typedFunc[V]
}

func (c *getCall[V]) Box() any { return &c.value }

func (c *getCall[V]) Load(ctx context.Context) (any, Life, error) {
	v, life, err := c.fn(ctx)
	return &v, life, err
}

func (l *Loader[V]) Lookup(ctx context.Context, key string) (V, bool, error) {
	v, how, err := l.Find(ctx, key)
	return v, how == OutcomeHit || how == OutcomeStale, err
}

func (l *Loader[V]) Find(ctx context.Context, key string) (V, Outcome, error) {
	v, how, err := l.engine.Find(ctx, key, new(V))
	return unbox[V](v), how, err
}

func (l *Loader[V]) Refresh(ctx context.Context, key string, load typedFunc[V]) (V, Outcome, error) {
	v, how, err := l.engine.Refresh(ctx, key, boxOne(load))
	return unbox[V](v), how, err
}

func (l *Loader[V]) Reload(ctx context.Context, key string, every time.Duration, load typedFunc[V]) error {
	return l.engine.Reload(ctx, key, every, boxOne(load))
}

func (l *Loader[V]) ReloadMany(ctx context.Context, keys []string, every time.Duration, load typedManyFunc[V]) []error {
	return l.engine.ReloadMany(ctx, keys, every, boxMany(load))
}

func (l *Loader[V]) Writing(key string, v V, life Life) (Write, error) {
	return l.engine.NewWrite(key, life, &v)
}

func (l *Loader[V]) Decode(key string, payload []byte, v *V) error {
	return l.engine.Decode(key, payload, v)
}

func (l *Loader[V]) Write(ctx context.Context, w Write) error { return l.engine.Write(ctx, w) }

func (l *Loader[V]) Delete(ctx context.Context, keys []string) []error {
	return l.engine.Delete(ctx, keys)
}

func (l *Loader[V]) WriteThrough(ctx context.Context, ws []Write, down func(context.Context) []error) []error {
	return l.engine.WriteThrough(ctx, ws, down)
}

func (l *Loader[V]) Forget(keys ...string) { l.engine.Forget(keys...) }

func (l *Loader[V]) ForgetAll() { l.engine.ForgetAll() }

func (l *Loader[V]) Leases() *Leases { return l.engine.Leases() }

func (l *Loader[V]) Turns() *Periodic { return l.engine.Periodic() }

func (l *Loader[V]) Send(ctx context.Context, calls ...*script.Call) { l.engine.Exec(ctx, calls...) }

func (l *Loader[V]) Note(ctx context.Context, key string, began time.Time, err error) {
	l.engine.Observe(ctx, key, began, err)
}

func (l *Loader[V]) Spawn(code guard.Code, fn func() error, done func(error)) {
	l.engine.Spawn(code, fn, done)
}

func (l *Loader[V]) Stats() Stats { return l.engine.Stats() }

func (l *Loader[V]) Close(ctx context.Context) error { return l.engine.Close(ctx) }

type typedLoaded[V any] struct {
	Value V
	Life  Life
	Err   error
}

type typedManyFunc[V any] func(ctx context.Context, keys []int) []typedLoaded[V]

type typedAnswer[V any] struct {
	Value   V
	Outcome Outcome
	Err     error // as of Get
}

func (l *Loader[V]) GetMany(ctx context.Context, keys []string, limit int, load typedManyFunc[V]) []typedAnswer[V] {
	into := make(values[V], len(keys))
	return into.answers(l.engine.GetMany(ctx, keys, limit, boxMany(load), into))
}

func (l *Loader[V]) LookupMany(ctx context.Context, keys []string) []typedAnswer[V] {
	into := make(values[V], len(keys))
	return into.answers(l.engine.LookupMany(ctx, keys, into))
}

// values are Targets.
type values[V any] []V

func (vs values[V]) Box(i int) any { return &vs[i] }

func (values[V]) answers(boxes []KeyResult) []typedAnswer[V] {
	all := make([]typedAnswer[V], len(boxes))
	for i, a := range boxes {
		all[i] = typedAnswer[V]{Value: unbox[V](a.Value), Outcome: a.Outcome, Err: a.Err}
	}
	return all
}

type boxed[V any] struct{ codec codec.Keyed[V] }

func (boxed[V]) NewBox() any { return new(V) }

func (b boxed[V]) AppendBox(dst []byte, key string, box any) ([]byte, error) {
	return b.codec.AppendKeyed(dst, key, *box.(*V))
}

func (b boxed[V]) DecodeBox(src []byte, key string, box any) error {
	return b.codec.DecodeKeyed(src, key, box.(*V))
}

func (b boxed[V]) Codec() any { return b.codec }

func boxOne[V any](load typedFunc[V]) Func {
	return func(ctx context.Context) (any, Life, error) {
		v, life, err := load(ctx)
		return &v, life, err
	}
}

func boxMany[V any](load typedManyFunc[V]) ManyFunc {
	if load == nil {
		return nil
	}
	return func(ctx context.Context, keys []int) []LoadResult {
		typed := slices.Clone(load(ctx, keys)) // the values are pointed to from now on
		all := make([]LoadResult, len(typed))
		for i := range typed {
			one := &typed[i]
			all[i] = LoadResult{Value: &one.Value, Life: one.Life, Err: one.Err}
		}
		return all
	}
}

func typedPrevious[V any](ctx context.Context) (V, bool) {
	box, ok := Previous(ctx)
	return unbox[V](box), ok
}
