package httpcache

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A Handler that leaves a goroutine behind fails the run, in any test.
func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}
