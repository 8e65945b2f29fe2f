package conformance

import (
	"context"
	"errors"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/writebehind"
)

// A misdeed is code of a user that does not return, if it is armed.
type misdeed struct {
	armed atomic.Bool
	exit  bool // it calls runtime.Goexit, and else panics
}

var errBoom = errors.New("boom")

func (m *misdeed) do() {
	if !m.armed.Load() {
		return
	}
	if m.exit {
		runtime.Goexit()
	}
	panic(errBoom)
}

// badHook does not return, before or after each command that is sent.
type badHook struct {
	m     *misdeed
	after bool
}

func (h badHook) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h badHook) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if !h.after {
			h.m.do()
		}
		err := next(ctx, cmd)
		h.m.do()
		return err
	}
}

func (h badHook) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !h.after {
			h.m.do()
		}
		err := next(ctx, cmds)
		h.m.do()
		return err
	}
}

// outcome makes a call in a goroutine of its own. exited says that the call has not
// returned, and the goroutine has ended.
func outcome(t *testing.T, name string, do func(context.Context) error) (err error, exited bool) { //nolint:revive // exited qualifies the error
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ended := make(chan struct{})
	exited = true
	go func() {
		defer close(ended)
		err = do(ctx)
		exited = false
	}()
	select {
	case <-ended:
	case <-ctx.Done():
		t.Fatalf("%s hangs", name)
	}
	require.NoError(t, ctx.Err(), name)
	return err, exited
}

// TestMisbehaviour_OfAHookIsAFailureOfRedis has each call meet a client that panics, or
// that exits its goroutine. Where a caller sends by itself, an exit is the end of the
// caller's goroutine.
func TestMisbehaviour_OfAHookIsAFailureOfRedis(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	for name, hook := range map[string]badHook{
		"panic before": {m: &misdeed{}}, "panic after": {m: &misdeed{}, after: true},
		"exit before": {m: &misdeed{exit: true}}, "exit after": {m: &misdeed{exit: true}, after: true},
	} {
		t.Run(name, func(t *testing.T) {
			rdb := server.Client(nil)
			rdb.AddHook(hook)
			for _, call := range publicCalls {
				require.NoError(t, server.Client(nil).FlushAll(t.Context()).Err())
				do, end := call.make(t, rdb)
				hook.m.armed.Store(true)
				err, exited := outcome(t, call.name, do)
				switch {
				case exited:
					require.True(t, hook.m.exit, call.name)
				case call.loads:
					require.NoError(t, err, call.name)
				default:
					require.NotErrorIs(t, err, errWrong, call.name)
					if call.right != nil && (err != nil || !hook.after) { // else it was carried out
						require.Error(t, err, call.name)
						require.True(t, errors.Is(err, errBoom) || errors.Is(err, loader.ErrGoexit), "%s: %v", call.name, err)
					}
				}
				hook.m.armed.Store(false)
				_, exited = outcome(t, call.name+", again", do)
				require.False(t, exited, call.name)
				err, _ = outcome(t, "Close after "+call.name, end)
				require.NoError(t, err, "Close after %s", call.name)
			}
		})
	}
}

// badCodec is that of strings, but for a method that may not return.
type badCodec struct {
	codec.Codec[string]
	appending, decoding *misdeed
}

func (c badCodec) Append(dst []byte, v string) ([]byte, error) {
	c.appending.do()
	return c.Codec.Append(dst, v)
}

func (c badCodec) Decode(src []byte, v *string) error {
	c.decoding.do()
	return c.Codec.Decode(src, v)
}

// badObserver does not return from one of its methods.
type badObserver struct {
	begin, end *misdeed
	op         string
}

func (o badObserver) Begin(ctx context.Context, e cachex.Event) context.Context {
	if e.Op == o.op {
		o.begin.do()
	}
	return ctx
}

func (o badObserver) End(_ context.Context, e cachex.Event, _ cachex.Result) {
	if e.Op == o.op {
		o.end.do()
	}
}

// A culprit is code of a user, and a call that runs it.
type culprit struct {
	name   string
	caller bool // it may run in the goroutine of the caller, which then ends on an exit
	passes bool // its panic is the caller's, as documented
	spared bool // the call succeeds all the same
	make   func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (do, end func(context.Context) error)
}

func ofCache(spec func(s *cachex.Spec[int, string], m *misdeed), do func(context.Context, *cachex.Cache[int, string]) error) func(*testing.T, redis.UniversalClient, *misdeed) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		return onCache(func(s *cachex.Spec[int, string]) { spec(s, m) }, do)(t, rdb)
	}
}

func get(ctx context.Context, c *cachex.Cache[int, string]) error { return isUp(c.Get(ctx, 1)) }

func getMany(ctx context.Context, c *cachex.Cache[int, string]) error {
	return areUp(c.GetMany(ctx, []int{1, 2, 3}))
}

func inBatch(ctx context.Context, c *cachex.Cache[int, string]) error {
	var b batch.Batch
	v := batch.Get(&b, c, 1)
	if err := b.Run(ctx); err != nil {
		return err
	}
	return isUp(v.Get())
}

func set(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Set(ctx, 1, "up") }

var culprits = []culprit{
	{name: "Up", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Up = func(context.Context, int) (string, error) { m.do(); return "up", nil }
	}, get)},
	{name: "Up of GetMany", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Up = func(context.Context, int) (string, error) { m.do(); return "up", nil }
	}, getMany)},
	{name: "UpMany", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		many(s)
		next := s.UpMany
		s.UpMany = func(ctx context.Context, ids []int) (map[int]string, error) { m.do(); return next(ctx, ids) }
	}, getMany)},
	{name: "Up of a batch", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Up = func(context.Context, int) (string, error) { m.do(); return "up", nil }
	}, inBatch)},
	{name: "UpContext", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.UpContext = func(ctx context.Context) context.Context { m.do(); return ctx }
	}, get)},
	{name: "TTLFor of a load", spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.TTLFor = func(int, string) time.Duration { m.do(); return 0 }
	}, get)},
	{name: "TTLFor of Set", caller: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.TTLFor = func(int, string) time.Duration { m.do(); return 0 }
	}, set)},
	{name: "KeyFunc", caller: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Key, s.KeyFunc = "", func(int) string { m.do(); return "nonsense" }
	}, get)},
	{name: "Append of a load", spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Codec = badCodec{codec.String[string](), m, new(misdeed)}
	}, get)},
	{name: "Append of GetMany", spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		many(s)
		s.Codec = badCodec{codec.String[string](), m, new(misdeed)}
	}, getMany)},
	{name: "Append of Set", caller: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Codec = badCodec{codec.String[string](), m, new(misdeed)}
	}, set)},
	{name: "Decode", caller: true, spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Codec = badCodec{codec.String[string](), new(misdeed), m}
	}, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		if err := c.Set(ctx, 1, "up"); err != nil {
			return err
		}
		return get(ctx, c)
	})},
	{name: "Observer.Begin of get", caller: true, spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Observer = badObserver{m, new(misdeed), "get"}
	}, get)},
	{name: "Observer.End of get", caller: true, spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Observer = badObserver{new(misdeed), m, "get"}
	}, get)},
	{name: "Down", caller: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.Down = func(context.Context, int, string) error { m.do(); return nil }
	}, set)},
	{name: "DownMany", caller: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		down(s)
		s.DownMany = func(context.Context, map[int]string) error { m.do(); return nil }
	}, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return c.SetMany(ctx, map[int]string{1: "up", 2: "up"})
	})},
	{name: "Down behind", make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		s.WriteBehind = time.Hour
		s.Down = func(context.Context, int, string) error { m.do(); return nil }
	}, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return errors.Join(c.Set(ctx, 1, "up"), c.Flush(ctx))
	})},
	{name: "Observer of persist", spared: true, make: ofCache(func(s *cachex.Spec[int, string], m *misdeed) {
		behind(s)
		s.Observer = badObserver{m, m, "persist"}
	}, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return errors.Join(c.Set(ctx, 1, "up"), c.Flush(ctx))
	})},
	{name: "WithProgress", caller: true, make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		return onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error {
			_, err := c.Clear(cachex.WithProgress(ctx, func(cachex.Progress) { m.do() }))
			return err
		})(t, rdb)
	}},
	{name: "Up of a counter", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		c := cachex.Must(counter.New(rdb, counter.Spec[int]{
			Key: "nonsense:{id}", TTL: cachex.Forever,
			Up: func(context.Context, int) (int64, error) { m.do(); return 7, nil },
		}))
		return func(ctx context.Context) error { _, err := c.Inc(ctx, 1); return err }, c.Close
	}},
	{name: "Down of a counter", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		c := cachex.Must(counter.New(rdb, counter.Spec[int]{
			Key: "nonsense:{id}", TTL: cachex.Forever, FlushEvery: time.Hour,
			Up:   func(context.Context, int) (int64, error) { return 7, nil },
			Down: func(context.Context, counter.Flush[int]) error { m.do(); return nil },
		}))
		return func(ctx context.Context) error {
			_, err := c.Inc(ctx, 1)
			return errors.Join(err, c.Flush(ctx))
		}, c.Close
	}},
	{name: "Up of a Recent", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		r := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Len: 10, MaxLoads: 1,
			Up: func(context.Context, int) ([]string, error) { m.do(); return []string{"up"}, nil },
		}))
		return func(ctx context.Context) error { return oneUp(r.Get(ctx, 1)) }, r.Close
	}},
	{name: "Up of a Recent in a batch", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		r := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Len: 10,
			Up: func(context.Context, int) ([]string, error) { m.do(); return []string{"up"}, nil },
		}))
		return func(ctx context.Context) error {
			var b batch.Batch
			v := batch.Get(&b, r, 1)
			return errors.Join(b.Run(ctx), oneUp(v.Get()))
		}, r.Close
	}},
	{name: "Decode of a Set in a batch", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		s := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Codec: badCodec{codec.String[string](), new(misdeed), m},
		}))
		return func(ctx context.Context) error {
			if _, err := s.Add(ctx, 1, "up"); err != nil {
				return err
			}
			var b batch.Batch
			v := batch.Get(&b, s, 1)
			return errors.Join(b.Run(ctx), oneUp(v.Get()))
		}, s.Close
	}, caller: true},
	{name: "Score of GetPage", make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		f := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Len: 10, Up: up,
			Score: func(string) float64 { m.do(); return 1 },
		}))
		return func(ctx context.Context) error {
			page, _, err := f.GetPage(ctx, 1, "", 10, f.Timeline(2))
			return oneUp(page, err)
		}, f.Close
	}},
	{name: "Score of Post", caller: true, make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		f := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Len: 10,
			Score: func(string) float64 { m.do(); return 1 },
		}))
		return func(ctx context.Context) error { return f.Post(ctx, "e", 1) }, f.Close
	}},
	{name: "f of a gate", caller: true, passes: true, make: func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		return onGate(func(ctx context.Context, g *gate.Gate[int]) error {
			return g.Do(ctx, 1, func(context.Context) error { m.do(); return nil })
		})(t, rdb)
	}},
	{name: "Persist", make: ofEngine(func(o *writebehind.Options, m *misdeed) {
		o.Persist = func(context.Context, ledger.Batch) error { m.do(); return nil }
	})},
	{name: "Notify", make: ofEngine(func(o *writebehind.Options, m *misdeed) {
		o.Persist = func(context.Context, ledger.Batch) error {
			if m.armed.Load() {
				return errBoom
			}
			return nil
		}
		o.Notify = func(error) { m.do() }
	})},
}

func ofEngine(change func(*writebehind.Options, *misdeed)) func(*testing.T, redis.UniversalClient, *misdeed) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient, m *misdeed) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		o := writebehind.Options{Name: "nonsense", Merge: writebehind.Sum, Every: 10 * time.Millisecond, Buckets: 1}
		change(&o, m)
		e := cachex.Must(writebehind.New(rdb, o))
		return func(ctx context.Context) error { return errors.Join(e.Add(ctx, "x", 1), e.Flush(ctx)) }, e.Close
	}
}

// TestMisbehaviour_OfAUserIsAnErrorOfTheCallersAndNothingHangs walks the code that a
// program gives to cachex.
func TestMisbehaviour_OfAUserIsAnErrorOfTheCallersAndNothingHangs(t *testing.T) {
	t.Parallel()
	for _, exit := range []bool{false, true} {
		for _, c := range culprits {
			name := c.name + " panics"
			if exit {
				name = c.name + " exits"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				rdb := redistest.StartEmbedded(t).Client(nil)
				m := &misdeed{exit: exit}
				do, end := c.make(t, rdb, m)
				m.armed.Store(true)
				if c.passes && !exit {
					require.PanicsWithError(t, "boom", func() { _ = do(t.Context()) })
				} else {
					err, exited := outcome(t, name, do)
					switch {
					case exited:
						require.True(t, exit && c.caller)
					case c.spared && err == nil:
					default:
						require.True(t, errors.Is(err, errBoom) || errors.Is(err, loader.ErrGoexit), "%v", err)
						require.False(t, c.spared && !exit, "the call was to succeed: %v", err)
					}
				}
				m.armed.Store(false)
				err, _ := outcome(t, "the next call", do)
				require.NoError(t, err, "the next call")
				err, _ = outcome(t, "Close", end)
				require.NoError(t, err, "Close")
			})
		}
	}
}

// TestMisbehaviour_OfAnObserverChangesNoResultOfALoad holds that the value that Up
// returned is not thrown away.
func TestMisbehaviour_OfAnObserverChangesNoResultOfALoad(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]badObserver{
		"panic in Begin": {begin: &misdeed{}, end: new(misdeed), op: "load"}, "exit in Begin": {begin: &misdeed{exit: true}, end: new(misdeed), op: "load"},
		"panic in End": {begin: new(misdeed), end: &misdeed{}, op: "load"}, "exit in End": {begin: new(misdeed), end: &misdeed{exit: true}, op: "load"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rdb := redistest.StartEmbedded(t).Client(nil)
			bad := map[bool]*misdeed{true: o.begin, false: o.end}[name == "panic in Begin" || name == "exit in Begin"]
			bad.armed.Store(true)
			for name, change := range map[string]func(*cachex.Spec[int, string]){"one": func(*cachex.Spec[int, string]) {}, "many": many} {
				var c *cachex.Cache[int, string]
				do, end := onCache(func(s *cachex.Spec[int, string]) { s.Observer = o; change(s) }, func(ctx context.Context, got *cachex.Cache[int, string]) error {
					c = got
					return errors.Join(get(ctx, c), areUp(c.GetMany(ctx, []int{1, 2, 3})))
				})(t, rdb)
				require.NoError(t, rdb.FlushAll(t.Context()).Err())
				require.NoError(t, do(t.Context()), name)
				require.Positive(t, c.Stats().ObserverFailures)
				v, ok, err := c.Lookup(t.Context(), 1)
				require.NoError(t, err)
				require.True(t, ok, "it is stored")
				require.Equal(t, "up", v)
				require.NoError(t, end(t.Context()))
			}
		})
	}
}
