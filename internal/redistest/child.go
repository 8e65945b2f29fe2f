package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"testing"
)

// childEnv names the registered function that a child process runs.
const childEnv = "CACHEX_TEST_CHILD"

var children = map[string]func(){} // written only by Register, before Main

// Register names a function that [Child] can run in another process. It must be
// called from an init function or from TestMain, before Main. The process ends
// with status 0 when run returns, or when it is killed.
func Register(name string, run func()) {
	if _, dup := children[name]; dup {
		panic("redistest: two children are registered as " + name)
	}
	children[name] = run
}

// Child runs the function registered as name in a separate process: this test
// binary, started again. The process is killed when the test ends. env adds to
// its environment, as in "REDIS=127.0.0.1:6379". To learn how far the child has
// come, the test waits for its output with [Process.WaitLine]. The TestMain of
// the package must call [Main].
func Child(t testing.TB, name string, env ...string) *Process {
	t.Helper()
	if children[name] == nil {
		t.Fatalf("redistest: no child is registered as %q", name)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(append(os.Environ(), env...), childEnv+"="+name)
	return Spawn(t, cmd)
}

// runChild runs in the child's process in place of the tests. It returns the
// exit status.
func runChild(name string) int {
	run := children[name]
	if run == nil {
		fmt.Fprintf(os.Stderr, "redistest: no child is registered as %q\n", name)
		return 2
	}
	run()
	return 0
}
