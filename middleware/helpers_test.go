package middleware

import (
	"context"
	"errors"
	"testing"

	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

// Wrappers start no goroutine, and the caches of these tests are closed.
func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

var errBroken = errors.New("the source is broken")

// source is a Func that counts its calls. It returns the result of do, or the
// key doubled if do is nil. It is not safe for concurrent use.
type source struct {
	calls int
	do    func(ctx context.Context, call, key int) (int, error)
}

func (s *source) get(ctx context.Context, key int) (int, error) {
	s.calls++
	if s.do == nil {
		return 2 * key, nil
	}
	return s.do(ctx, s.calls, key)
}

// fails returns a source that returns errs, one a call, and then the key
// doubled.
func fails(errs ...error) *source {
	return &source{do: func(_ context.Context, call, key int) (int, error) {
		if call <= len(errs) {
			return 0, errs[call-1]
		}
		return 2 * key, nil
	}}
}

// hangs returns when its ctx ends, with the bare error, like most drivers.
func hangs(ctx context.Context, _ int) (int, error) {
	<-ctx.Done()
	return 0, ctx.Err()
}

// broken always fails.
func broken(context.Context, int) (int, error) { return 0, errBroken }

// double always works.
func double(_ context.Context, key int) (int, error) { return 2 * key, nil }

// of makes the Middlewares of most tests.
var of = For(double)
