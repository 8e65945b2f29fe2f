package conformance

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
)

var freshness = []row{{
	feature: "`TTL`", proves: "a value is gone when its time is over",
	run: func(t *testing.T, w *world) {
		a, b := w.caches(t, cachex.Spec[int, string]{TTL: 100 * time.Millisecond, Jitter: cachex.NoJitter})
		require.NoError(t, a.Set(t.Context(), 1, "x"))
		eventually(t, "the value is still there", func() bool {
			_, ok, err := b.Lookup(t.Context(), 1)
			return err == nil && !ok
		})
	},
}, {
	feature: "`Expire`", proves: "the next reader reloads, in another process too",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up, StaleIfError: time.Hour})
		_, err := a.GetMany(t.Context(), upTo(2))
		require.NoError(t, err)
		s.put(1, "new")
		require.NoError(t, a.Expire(t.Context(), 1))
		v, err := b.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
		require.Equal(t, 3, s.asked())
	},
}, {
	feature: "`StaleWhileRevalidate`", proves: "the stale value at once, and one reload",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		release := make(chan struct{})
		a, b := w.caches(t, cachex.Spec[int, string]{StaleWhileRevalidate: time.Hour, Up: func(ctx context.Context, id int) (string, error) {
			if s.asked() > 0 {
				<-release
			}
			return s.up(ctx, id)
		}})
		old, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		s.put(1, "new")
		require.NoError(t, a.Expire(t.Context(), 1))
		for _, c := range []*cachex.Cache[int, string]{a, b, a, b} {
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, old, v)
		}
		close(release)
		eventually(t, "nobody reloads", func() bool {
			v, err := b.Get(t.Context(), 1)
			return err == nil && v == "new"
		})
		require.Equal(t, 2, s.asked())
	},
}, {
	feature: "`StaleIfError`", proves: "the stale value where `Up` fails, to all for `Backoff`",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up, StaleIfError: time.Hour, Backoff: time.Hour})
		old, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		s.fail(errSource)
		require.NoError(t, a.Expire(t.Context(), 1))
		for _, c := range []*cachex.Cache[int, string]{a, b, a} {
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, old, v)
		}
		require.Equal(t, 2, s.asked())
		_, err = b.Get(t.Context(), 0)
		require.ErrorIs(t, err, errSource)
	},
}, {
	feature: "`NotFoundTTL`", proves: "an absence is remembered, until the key is set",
	run: func(t *testing.T, w *world) {
		s := newSource(0)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up, NotFoundTTL: time.Hour})
		for _, c := range []*cachex.Cache[int, string]{a, b, a} {
			_, err := c.Get(t.Context(), 1)
			require.ErrorIs(t, err, missing)
		}
		require.Equal(t, 1, s.asked())
		require.NoError(t, b.Set(t.Context(), 1, "x"))
		v, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "x", v)
	},
}, {
	feature: "`Previous`, `ErrNotModified`", proves: "an unchanged value is renewed",
	run: func(t *testing.T, w *world) {
		loads := 0 // not guarded: the loads follow each other
		a, b := w.caches(t, cachex.Spec[int, string]{StaleIfError: time.Hour, Up: func(ctx context.Context, _ int) (string, error) {
			if loads++; loads > 1 {
				if v, ok := cachex.Previous[string](ctx); !ok || v != "first" {
					return "", fmt.Errorf("previous is %q", v)
				}
				return "", cachex.ErrNotModified
			}
			return "first", nil
		}})
		_, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		require.NoError(t, a.Expire(t.Context(), 1))
		for range 2 {
			v, err := b.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, "first", v)
		}
		require.Equal(t, 2, loads)
	},
}, {
	feature: "`Refresh`", proves: "a load now, for all",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		_, err := a.Get(t.Context(), 1)
		require.NoError(t, err)
		s.put(1, "new")
		v, err := a.Refresh(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
		v, err = b.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "new", v)
	},
}}

var fleet = []row{{
	feature: "stampede", proves: "fifty callers of two processes, one load",
	run: func(t *testing.T, w *world) {
		s := newSource(2)
		began, finish := make(chan struct{}, 1), make(chan struct{})
		a, b := w.caches(t, cachex.Spec[int, string]{Up: func(ctx context.Context, id int) (string, error) {
			began <- struct{}{}
			<-finish
			return s.up(ctx, id)
		}})
		var wg sync.WaitGroup
		errs := make([]error, 50)
		ask := func(c *cachex.Cache[int, string], i int) {
			wg.Go(func() {
				v, err := c.Get(t.Context(), 1)
				if err == nil && v != s.value(1) {
					err = errors.New(v)
				}
				errs[i] = err
			})
		}
		ask(a, 0)
		<-began
		for i := 1; i < len(errs); i++ {
			ask([]*cachex.Cache[int, string]{a, b}[i%2], i)
		}
		eventually(t, "the other process does not wait", func() bool { return b.Stats().Waits > 0 })
		close(finish)
		wg.Wait()
		require.NoError(t, errors.Join(errs...))
		require.Equal(t, 1, s.asked())
		require.Zero(t, b.Stats().Loads)
	},
}, {
	feature: "a load longer than its lease", proves: "it is stored once, and the others wait for it",
	run: func(t *testing.T, w *world) {
		s := newSource(0)
		began := make(chan struct{}, 100)
		a, b := w.caches(t, cachex.Spec[int, string]{LeaseTTL: 2 * time.Second, Up: func(ctx context.Context, id int) (string, error) {
			began <- struct{}{}
			<-time.After(2500 * time.Millisecond) // longer than a lease, by the server's clock
			return s.up(ctx, id)
		}})
		// A process that the machine keeps from renewing its lease loses it, and its load is
		// not stored, though its caller has the value. If all have lost theirs, none is; then
		// it is tried again. None is at the same time as one whose lease holds. What a process
		// loads while Redis does not answer in time is tried again too.
		silent := func() int64 {
			a, b := a.Stats(), b.Stats()
			return a.RedisFailures + b.RedisFailures + a.Bypasses + b.Bypasses
		}
		for id, until := 0, time.Now().Add(patience); ; id++ {
			s.put(id, fmt.Sprint("value ", id))
			loads, fenced, failures := s.asked(), a.Stats().Fenced+b.Stats().Fenced, silent()
			first := make(chan error, 1)
			go func() { _, err := a.Get(t.Context(), id); first <- err }()
			<-began
			v, err := b.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, s.value(id), v)
			require.NoError(t, <-first)
			for len(began) > 0 {
				<-began
			}
			fenced = a.Stats().Fenced + b.Stats().Fenced - fenced
			stored := int64(s.asked()-loads) - fenced
			if (stored == 0 && fenced > 0 || silent() > failures) && time.Now().Before(until) {
				continue
			}
			require.EqualValues(t, 1, stored, "%d loads were not", fenced)
			return
		}
	},
}, {
	feature: "`RefreshEvery`", proves: "one load a key and period for two processes",
	run: func(t *testing.T, w *world) {
		s := newSource(4)
		a, b := w.caches(t, cachex.Spec[int, string]{Up: s.up})
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		began := time.Now()
		for _, c := range []*cachex.Cache[int, string]{a, b} {
			wg.Go(func() { _ = c.RefreshEvery(ctx, cachex.MinEvery, upTo(4)...) })
		}
		eventually(t, "nothing is refreshed", func() bool { return s.asked() >= 3*4 })
		cancel()
		wg.Wait()
		periods := int(time.Since(began)/cachex.MinEvery) + 2
		require.LessOrEqual(t, s.asked(), periods*4)
	},
}}
