package middleware

import (
	"context"
	"errors"
	"log/slog"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// noting is a Middleware that notes each call, on the way in and out.
func noting(name string, notes *[]string) Middleware[int, int] {
	return func(f Func[int, int]) Func[int, int] {
		return func(ctx context.Context, key int) (int, error) {
			*notes = append(*notes, name+" in")
			defer func() { *notes = append(*notes, name+" out") }()
			return f(ctx, key)
		}
	}
}

func TestChain_FirstListedIsOutermost(t *testing.T) {
	t.Parallel()
	var notes []string
	f := Chain(double, noting("a", &notes), noting("b", &notes), noting("c", &notes))
	v, err := f(t.Context(), 21)
	require.NoError(t, err)
	require.Equal(t, 42, v)
	require.Equal(t, []string{"a in", "b in", "c in", "c out", "b out", "a out"}, notes)
}

func TestChain_WithoutMiddlewareIsTheFunction(t *testing.T) {
	t.Parallel()
	v, err := Chain(double)(t.Context(), 4)
	require.NoError(t, err)
	require.Equal(t, 8, v)
}

// wrappers has one Middleware of each type; the gate is open.
func wrappers() map[string]Middleware[int, int] {
	return map[string]Middleware[int, int]{
		"Timeout": of.Timeout(time.Hour),
		"Retry":   of.Retry(RetryOptions{}),
		"Limit":   of.Limit(1),
		"Breaker": of.Breaker(BreakerOptions{Trip: 1, Every: time.Hour}), // on a slow machine, a probe would pass
		"Log":     of.Log(slog.New(slog.DiscardHandler)),
		"Once":    of.Once(open{}),
		"Cached":  Cached(passing{}),
	}
}

// open is a Gate that lets every call pass.
type open struct{}

func (open) Do(ctx context.Context, _ int, f func(context.Context) error) error { return f(ctx) }

// passing is a Cache that stores nothing.
type passing struct{}

func (passing) Wrap(up func(context.Context, int) (int, error)) func(context.Context, int) (int, error) {
	return up
}

func TestChain_PassesOnAValueWithAnError(t *testing.T) {
	t.Parallel()
	for name, mw := range wrappers() {
		f := mw(func(context.Context, int) (int, error) { return 7, errBroken })
		ctx, cancel := context.WithCancel(t.Context())
		cancel() // so that Retry does not wait
		if name == "Limit" {
			ctx = t.Context()
		}
		v, err := f(ctx, 1)
		require.Equal(t, errBroken, err, "%s: it is passed on as it is", name)
		require.Equal(t, 7, v, name)
	}
}

func TestChain_PanicPassesThroughAndReleases(t *testing.T) {
	t.Parallel()
	for name, mw := range wrappers() {
		first := true
		f := mw(func(_ context.Context, key int) (int, error) {
			if first {
				first = false
				panic("of " + name)
			}
			return 2 * key, nil
		})
		require.PanicsWithValue(t, "of "+name, func() { _, _ = f(t.Context(), 1) }, name)
		v, err := f(t.Context(), 1)
		if name == "Breaker" {
			require.ErrorIs(t, err, ErrOpen, "a panic is a failure")
			continue
		}
		require.NoError(t, err, name)
		require.Equal(t, 2, v, name)
	}
}

func TestChain_GoexitPassesThroughAndReleases(t *testing.T) {
	t.Parallel()
	for name, mw := range wrappers() {
		first := true
		f := mw(func(_ context.Context, key int) (int, error) {
			if first {
				first = false
				runtime.Goexit()
			}
			return 2 * key, nil
		})
		returned := false
		var wg sync.WaitGroup
		wg.Go(func() {
			_, _ = f(t.Context(), 1)
			returned = true
		})
		wg.Wait()
		require.False(t, returned, name)
		_, err := f(t.Context(), 1)
		if name == "Breaker" {
			require.ErrorIs(t, err, ErrOpen)
			continue
		}
		require.NoError(t, err, name)
	}
}

func TestErrors_NameTheKeyInOneLine(t *testing.T) {
	t.Parallel()
	cause := errors.New("cause")
	type key struct {
		ID   int
		Lang string
	}
	for want, err := range map[string]error{
		"cachex: limit 42: cause":              failed("limit", 42, cause),
		"cachex: limit {7 en}: cause":          failed("limit", key{7, "en"}, cause),
		`cachex: limit "a\nb": cause`:          failed("limit", "a\nb", cause),
		`cachex: limit "\xff": cause`:          failed("limit", "\xff", cause),
		"cachex: limit: cause":                 failed("limit", struct{}{}, cause),
		"cachex: limit {1 2}: cause":           failed("limit", Args2[int, string]{1, "2"}, cause),
		"cachex: limit [1 2]: cause":           failed("limit", [2]int{1, 2}, cause),
		"cachex: limit any of a user's: cause": failed("limit", any("any of a user's"), cause),
		"cachex: limit 1s: breaker is open":    failed("limit", time.Second, ErrOpen),
		"cachex: limit <nil>: breaker is open": failed("limit", any(nil), ErrOpen),
		"cachex: limit true: a b: cause":       failed("limit", true, errors.New("cachex: a b: cause")),
	} {
		require.EqualError(t, err, want)
	}
	require.ErrorIs(t, failed("limit", 42, cause), cause)
}

func TestWrappers_PanicOnAWrongArgument(t *testing.T) {
	t.Parallel()
	var noCache Cache[int, int]
	var notMade *unmade
	for want, do := range map[string]func(){
		"Chain: f is nil":                       func() { Chain[int, int](nil) },
		"Chain: middleware 2 of 3 is nil":       func() { Chain(double, of.Limit(1), nil, of.Limit(1)) },
		"Chain: middleware 1 of 1 returned nil": func() { Chain(double, func(Func[int, int]) Func[int, int] { return nil }) },
		"Cached: cache is nil":                  func() { Cached(noCache) },
		"Cached: cache is nil ":                 func() { Cached(notMade) },
		"Once: gate is nil":                     func() { of.Once(nil) },
		"Once: gate is nil ":                    func() { of.Once(notMade) },
		"Timeout: d is 0s, must be positive":    func() { of.Timeout(0) },
		"Timeout: d is -1s, must be positive":   func() { of.Timeout(-time.Second) },
		"Limit: n is 0, must be positive":       func() { of.Limit(0) },
		"Limit: n is -1, must be positive":      func() { of.Limit(-1) },
		"Log: got 2 LogOptions, want at most one": func() {
			of.Log(nil, LogOptions{}, LogOptions{})
		},
		"Retry: RetryOptions.Attempts is -1, must not be negative": func() { of.Retry(RetryOptions{Attempts: -1}) },
		"Retry: RetryOptions.Base is -1ns, must not be negative":   func() { of.Retry(RetryOptions{Base: -1}) },
		"Retry: RetryOptions.Max is 99ms, must be at least Base, which is 100ms": func() {
			of.Retry(RetryOptions{Max: 99 * time.Millisecond})
		},
		"Breaker: BreakerOptions.Trip is -1, must not be negative":    func() { of.Breaker(BreakerOptions{Trip: -1}) },
		"Breaker: BreakerOptions.Every is -1ns, must not be negative": func() { of.Breaker(BreakerOptions{Every: -1}) },
		"Func0: f is nil":  func() { Func0[int](nil) },
		"Func2: f is nil":  func() { Func2[int, int, int](nil) },
		"Chain0: f is nil": func() { Chain0[int](nil) },
		"Chain2: f is nil": func() { Chain2[int, int, int](nil) },
	} {
		for want[len(want)-1] == ' ' {
			want = want[:len(want)-1]
		}
		require.PanicsWithValue(t, "cachex: middleware."+want, do)
	}
	for name, mw := range wrappers() {
		require.PanicsWithValue(t, "cachex: middleware."+name+": f is nil", func() { mw(nil) })
	}
}

// unmade is a cache and a gate; the test uses a nil pointer of it.
type unmade struct{ passing }

func (*unmade) Do(context.Context, int, func(context.Context) error) error { return nil }
func (*unmade) Wrap(up func(context.Context, int) (int, error)) func(context.Context, int) (int, error) {
	return up
}
