package twemproxy_test

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
}
