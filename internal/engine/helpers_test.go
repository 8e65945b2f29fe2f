package engine

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// hour is the life of values that a test does not expect to end.
var hour = Life{Fresh: time.Hour, Keep: time.Hour}

// kept is the life of values that end by the server's clock, which may differ
// from the clock of a bubble. A value that ends with its TTL is written by a
// SET, and states its end by the writer's clock.
var kept = Life{Fresh: time.Hour, Keep: 2 * time.Hour}

var errBroken = errors.New("the source is broken")

// A lab has clients of one server. It closes everything that a test makes with
// it when the test's function returns.
type lab struct {
	*testing.T
	rdb     *redis.Client
	key     string // of this test alone
	packed  bool
	over    chan struct{}
	closers []func()
}

// each runs f against an embedded server and against a real one, in real time.
func each(t *testing.T, f func(*lab)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) { work(t, rdb, f) })
}

// bubbles runs f against an embedded server and against a real one, each time
// in a bubble of package synctest. There synctest.Wait returns when nothing
// moves any more. The clock of a real server is outside of the bubble: no test
// may depend on its expiries. No client may subscribe there: a goroutine that
// reads from a real connection counts as moving.
func bubbles(t *testing.T, f func(*lab)) {
	t.Helper()
	t.Run("embedded", func(t *testing.T) {
		t.Parallel()
		embedded(t, f)
	})
	t.Run("redis", func(t *testing.T) {
		t.Parallel()
		addr := redistest.Shared(t).Addr()
		synctest.Test(t, func(t *testing.T) {
			rdb := redis.NewClient(bubbleOptions(addr))
			defer func() { _ = rdb.Close() }()
			work(t, rdb, f)
		})
	})
}

// embedded is bubbles on the embedded server alone, whose clock is the
// bubble's.
func embedded(t *testing.T, f func(*lab)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) { work(t, rdb, f) })
}

// bubbleOptions are the options of a client in a bubble whose server is outside
// of it.
func bubbleOptions(addr string) *redis.Options {
	return &redis.Options{
		Addr: addr,
		// No deadlines: they would use another clock.
		ReadTimeout: -2, WriteTimeout: -2,
		// It looks names up, in state that all bubbles share.
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

func work(t *testing.T, rdb *redis.Client, f func(*lab)) {
	l := &lab{T: t, rdb: rdb, key: redistest.Key(t), over: make(chan struct{})}
	defer func() {
		close(l.over)
		for i := len(l.closers) - 1; i >= 0; i-- {
			l.closers[i]()
		}
	}()
	// A test does not expect a command that is refused by NOSCRIPT.
	for _, s := range leaseScripts {
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err())
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Packed().Source()).Err())
	}
	f(l)
}

// client returns another client of the server, with these hooks.
func (l *lab) client(hooks ...redis.Hook) *redis.Client {
	rdb := redis.NewClient(l.rdb.Options())
	for _, h := range hooks {
		rdb.AddHook(h)
	}
	l.closers = append(l.closers, func() { _ = rdb.Close() })
	return rdb
}

// leases returns leases on a client of their own, with these hooks.
func (l *lab) leases(hooks ...redis.Hook) *Leases {
	return l.leasesOf(l.client(hooks...))
}

// leasesOf returns the leases of a client.
func (l *lab) leasesOf(rdb *redis.Client) *Leases {
	leases, err := NewLeases(rdb, time.Hour)
	require.NoError(l, err)
	leases.packed = l.packed
	return leases
}

// pack makes the key of the lab the key of a packed entry.
func (l *lab) pack() {
	l.packed = true
	l.key += " 7"
}

// get returns the bytes of an entry in Redis.
func (l *lab) get(key string) ([]byte, error) {
	return l.leasesOf(l.rdb).get(l.Context(), l.rdb, key).Bytes()
}

// delete deletes the key as any program may.
func (l *lab) delete() {
	require.NoError(l, l.rdb.Del(l.Context(), l.key).Err())
}

// entry returns the entry of the key. Its State is 0 if there is none.
func (l *lab) entry() (entry.Header, string) {
	b, err := l.rdb.Get(l.Context(), l.key).Bytes()
	if errors.Is(err, redis.Nil) {
		return entry.Header{}, ""
	}
	require.NoError(l, err)
	h, payload, ok := entry.Parse(l.key, b)
	require.True(l, ok, "%q is not an entry", b)
	return h, string(payload)
}

// absent asserts that the key holds nothing, not even a lease.
func (l *lab) absent() {
	l.Helper()
	n, err := l.rdb.Exists(l.Context(), l.key).Result()
	require.NoError(l, err)
	require.Zero(l, n, "the key exists")
}

// leased asserts that the key holds a lease of token and nothing else.
func (l *lab) leased(token Token) {
	l.Helper()
	h, _ := l.entry()
	require.Equal(l, entry.Lease, h.State)
	require.Equal(l, token, h.Token)
}

// holds asserts that the key holds a value that is not leased.
func (l *lab) holds(value string) entry.Header {
	l.Helper()
	h, payload := l.entry()
	require.Equal(l, entry.Value, h.State)
	require.Equal(l, value, payload)
	require.Zero(l, h.Till, "the value is leased")
	return h
}

// stale stores an expired value.
func (l *lab) stale(value string) {
	l.Helper()
	leases := l.leases()
	require.NoError(l, leases.Write(l.Context(), l.key, []byte(value), kept))
	found, err := leases.Expire(l.Context(), l.key)
	require.NoError(l, err)
	require.True(l, found)
}

// lapse ends a lease that no process extends, as time does.
func (l *lab) lapse() {
	l.Helper()
	h, payload := l.entry()
	switch h.State {
	case entry.Lease:
		l.delete()
	case entry.Value:
		require.NotZero(l, h.Till, "the value is not leased")
		h.Till = 1
		b := append(h.Append(nil), payload...)
		require.NoError(l, l.rdb.Set(l.Context(), l.key, b, redis.KeepTTL).Err())
	default:
		l.Fatal("the key is absent")
	}
}

// newLoader returns a Loader that is closed with the lab. If the lab is a
// bubble of a real server, the Loader must not subscribe: see quiet.
func newLoader[V any](l *lab, rdb redis.UniversalClient, o typedOptions[V]) *Loader[V] {
	l.Helper()
	loader, err := newTyped(rdb, o)
	require.NoError(l, err)
	l.closers = append(l.closers, func() {
		ctx, cancel := context.WithCancel(context.Background())
		cancel() // after a failure, cancel loads that still run
		_ = loader.Close(ctx)
		_ = loader.Close(context.Background())
	})
	return loader
}

// quiet makes a Loader poll, without a subscription.
func quiet[V any](loader *Loader[V]) *Loader[V] {
	loader.engine.listener.Release()
	loader.engine.listener, loader.engine.leases.listener = nil, nil
	return loader
}

// gives is a load that returns v.
func gives[V any](v V) typedFunc[V] {
	return func(context.Context) (V, Life, error) { return v, hour, nil }
}

// never is a load that must not run.
func never[V any](t testing.TB) typedFunc[V] {
	return func(context.Context) (v V, _ Life, _ error) {
		t.Error("a value is loaded that is there")
		return v, hour, nil
	}
}

// A source is a load that ends when the test sends its value.
type source[V any] struct {
	began chan struct{} // receives once for each load
	value chan V        // the result of the active load
}

func newSource[V any]() *source[V] {
	return &source[V]{began: make(chan struct{}, 64), value: make(chan V)}
}

func (s *source[V]) load(ctx context.Context) (v V, _ Life, err error) {
	s.began <- struct{}{}
	select {
	case v = <-s.value:
		return v, hour, nil
	case <-ctx.Done():
		return v, hour, ctx.Err()
	}
}

// idle asserts that no load has begun that the test does not know of.
func (s *source[V]) idle(t testing.TB) {
	t.Helper()
	require.Empty(t, s.began, "a load has begun")
}

// get starts a Get of the lab's key.
func get[V any](l *lab, loader *Loader[V], load typedFunc[V]) *call[V] {
	return start(func() (V, error) { return loader.Get(l.Context(), l.key, load) })
}

// gets asserts that calls return v.
func gets[V any](l *lab, v V, calls ...*call[V]) {
	l.Helper()
	for _, c := range calls {
		got, err := c.wait(l)
		require.NoError(l, err)
		require.Equal(l, v, got)
	}
}

// A call runs in another goroutine.
type call[V any] struct {
	done chan struct{}
	v    V
	err  error
}

// start calls fn in a goroutine.
func start[V any](fn func() (V, error)) *call[V] {
	c := &call[V]{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.v, c.err = fn()
	}()
	return c
}

// wait returns the result of the call.
func (c *call[V]) wait(t testing.TB) (V, error) {
	t.Helper()
	within(t, c.done)
	return c.v, c.err
}

// running reports whether the call has not returned.
func (c *call[V]) running() bool {
	select {
	case <-c.done:
		return false
	default:
		return true
	}
}

// A peak is a number that keeps its highest value.
type peak struct {
	mu        sync.Mutex
	now, most int // guarded by mu
}

func (p *peak) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.now += n
	p.most = max(p.most, p.now)
}

func (p *peak) highest() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.most
}

// within waits for ch, up to patience.
func within[T any](t testing.TB, ch <-chan T) (v T) {
	t.Helper()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case v = <-ch:
		return v
	case <-timer.C:
		t.Fatal("waited for too long")
		return v
	}
}

// A fence is a hook that stops some commands of a client until the test lets
// them pass. Their sender cannot make it let go, as with a client that ignores
// its ctx.
type fence struct {
	match   func(redis.Cmder) bool
	arrived chan struct{} // receives once for each stopped command
	pass    chan struct{} // lets one command go on, or all when it is closed
	over    chan struct{} // closed at the end of the test
}

func (l *lab) fence(match func(redis.Cmder) bool) *fence {
	return &fence{match: match, arrived: make(chan struct{}, 16), pass: make(chan struct{}), over: l.over}
}

func (f *fence) stop(_ context.Context, cmd redis.Cmder) {
	if f.match(cmd) {
		f.arrived <- struct{}{}
		select {
		case <-f.pass:
		case <-f.over:
		}
	}
}

// before returns a hook that stops commands before they are sent, after a hook
// that stops their replies.
func (f *fence) before() *redistest.Gate { return &redistest.Gate{Before: f.stop} }
func (f *fence) after() *redistest.Gate  { return &redistest.Gate{After: f.stop} }

// leaseScripts has the scripts of the lease protocol by name.
var leaseScripts = map[string]*script.Script{
	"acquire": script.Acquire, "store": script.Store, "write": script.Write,
	"extend": script.Extend, "release": script.Release, "expire": script.Expire, "renew": script.Renew,
}

// digests has the names of the scripts by digest.
var digests = func() map[string]string {
	names := make(map[string]string)
	for name, s := range leaseScripts {
		for _, src := range []string{s.Source(), s.Packed().Source()} {
			sum := sha1.Sum([]byte(src))
			names[hex.EncodeToString(sum[:])] = name
		}
	}
	return names
}()

// scriptName returns the name of the script that cmd runs, or the name of cmd
// if it runs none of the lease scripts.
func scriptName(cmd redis.Cmder) string {
	if args := cmd.Args(); len(args) > 1 && cmd.Name() == "evalsha" {
		if digest, ok := args[1].(string); ok && digests[digest] != "" {
			return digests[digest]
		}
	}
	return cmd.Name()
}
