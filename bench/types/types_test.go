package main

import (
	"os"
	"runtime"
	"testing"

	// Another process builds the measured program. The import makes go test run
	// the test again when the library has changed.
	_ "github.com/cachex-go/cachex"
)

func TestMain(m *testing.M) {
	if status, ok := wrapped(os.Args[1:]); ok { // go build runs this binary as a tool
		os.Exit(status)
	}
	os.Exit(m.Run())
}

// mostFurther is the number of bytes that a further cache type may add to a
// program: about a percent more than it now adds.
const mostFurther = 36_500

// TestFurtherType_KeepsTheBinarySmall bounds the cost of a further cache type:
// a value type must not compile the engine once more.
func TestFurtherType_KeepsTheBinarySmall(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" || runtime.GOARCH != "amd64" {
		t.Skip("the bound is that of linux/amd64")
	}
	if testing.Short() {
		t.Skip("it builds two programs")
	}
	const few, many = 1, 6
	var costs [2]cost
	for i, types := range []int{few, many} {
		c, err := build("..", t.TempDir(), libraries[0].program(types))
		if err != nil {
			t.Fatal(err)
		}
		costs[i] = c
	}
	further := costs[1].further(costs[0], many-few).binary
	t.Logf("a further type adds %.1f KB", kilo(further))
	if further > mostFurther {
		t.Errorf("a further type adds %d bytes, more than %d", further, mostFurther)
	}
}
