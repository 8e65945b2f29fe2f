package middleware

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// It is not parallel: it counts the allocations of the whole process.
func TestWrappers_Allocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	soon, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	timer := testing.AllocsPerRun(100, func() {
		_, cancel := context.WithTimeout(t.Context(), time.Hour)
		cancel()
	})
	all := wrappers()
	for _, row := range []struct {
		name string
		ctx  context.Context
		f    Func[int, int]
		want float64
	}{
		{"Chain of nothing", t.Context(), Chain(double), 0},
		{"Cached", t.Context(), Chain(double, all["Cached"]), 0},
		{"Retry", t.Context(), Chain(double, all["Retry"]), 0},
		{"Retry of what is not to be repeated", t.Context(), Chain(broken, of.Retry(RetryOptions{Attempts: 1})), 0},
		{"Limit", t.Context(), Chain(double, all["Limit"]), 0},
		{"Breaker", t.Context(), Chain(double, all["Breaker"]), 0},
		{"Breaker, open", t.Context(), tripped(t), 2}, // the error, and the time to wait
		{"Log that nobody reads", t.Context(), Chain(double, all["Log"]), 0},
		{"Timeout", t.Context(), Chain(double, all["Timeout"]), timer},
		{"Timeout later than the caller's", soon, Chain(double, all["Timeout"]), 0},
		{"Once", t.Context(), Chain(double, all["Once"]), 2},                                          // the closure for the gate
		{"Log", t.Context(), Chain(double, of.Log(slog.New(slog.NewTextHandler(nowhere{}, nil)))), 1}, // the key
	} {
		got := testing.AllocsPerRun(100, func() { _, _ = row.f(row.ctx, 1<<30) })
		require.Equal(t, row.want, got, row.name)
	}
}

// tripped returns a function whose breaker is open.
func tripped(t *testing.T) Func[int, int] {
	f := Chain(broken, of.Breaker(BreakerOptions{Trip: 1, Every: time.Hour}))
	_, err := f(t.Context(), 1)
	require.Equal(t, errBroken, err)
	return f
}

// nowhere is a Writer that discards.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

func BenchmarkWrappers(b *testing.B) {
	all := wrappers()
	all["none"] = func(f Func[int, int]) Func[int, int] { return f }
	for name, mw := range all {
		f := Chain(double, mw)
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				_, _ = f(b.Context(), 1)
			}
		})
	}
}
