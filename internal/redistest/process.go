package redistest

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Process is another process, which a test started and ends. Its methods are
// safe for concurrent use. Methods that may fail the test must run in the
// test's own goroutine, as t.Fatal must.
type Process struct {
	t      testing.TB
	cmd    *exec.Cmd
	output output
	exited chan struct{} // closed when the process is reaped and its output is complete
	err    error         // exit error; written before exited is closed
}

// Binary returns the path of a program. If it is missing, the test is skipped,
// or fails with CACHEX_REQUIRE_SERVERS=1 in the environment.
func Binary(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("CACHEX_REQUIRE_SERVERS") == "1" {
		t.Fatalf("%s is not on PATH, and CACHEX_REQUIRE_SERVERS=1 says that it must be", name)
	}
	t.Skipf("%s is not on PATH: install it to run this test", name)
	return ""
}

// Spawn starts cmd and kills it when the test ends. Its output is kept, and is
// logged if the test has failed. Use it to run a server other than
// redis-server; [Process.WaitLine] tells when the server is ready.
func Spawn(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p, err := spawn(cmd)
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	p.attend(t)
	return p
}

// Pid returns the process id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Kill ends the process as kill -9 does and returns when it has ended. If the
// process has already ended, Kill does nothing.
func (p *Process) Kill() {
	// An error means that the process has already been reaped.
	_ = p.cmd.Process.Kill()
	<-p.exited
}

// Stop freezes the process with SIGSTOP: its connections stay open, and it does
// not answer. Cont resumes it. Kill works without Cont.
func (p *Process) Stop() {
	p.t.Helper()
	p.signal(sigStop)
}

// Cont resumes a stopped process with SIGCONT.
func (p *Process) Cont() {
	p.t.Helper()
	p.signal(sigCont)
}

// Wait waits until the process ends. It returns nil for exit status 0, and
// otherwise an *exec.ExitError. If the process does not end, the test fails.
func (p *Process) Wait() error {
	p.t.Helper()
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	select {
	case <-p.exited:
		return p.err
	case <-timeout.C:
		p.t.Fatalf("redistest: %s has not ended after %v", p.cmd.Path, Patience)
		return nil
	}
}

// WaitLine waits until the process writes a line that contains text, to
// standard output or to standard error, and returns the line. The next WaitLine
// looks only at later lines. If the process ends first, the test fails.
func (p *Process) WaitLine(text string) string {
	p.t.Helper()
	line, err := p.awaitLine(text)
	if err != nil {
		p.t.Fatalf("redistest: %v", err)
	}
	return line
}

// Output returns the output of the process so far.
func (p *Process) Output() string { return p.output.String() }

// spawn starts cmd. The caller must kill the process.
func spawn(cmd *exec.Cmd) (*Process, error) {
	p := &Process{cmd: cmd, exited: make(chan struct{})}
	p.output.grew = make(chan struct{})
	cmd.Stdout, cmd.Stderr = &p.output, &p.output
	// A descendant that outlives the process must not keep its output open. A
	// shorter delay would cut off output that a busy machine has not yet read.
	cmd.WaitDelay = Patience
	dieWithParent(cmd)

	started := make(chan error, 1)
	go func() {
		// The kernel sends the signal of dieWithParent when the thread that
		// forked ends, and the Go runtime may end threads at any time. So this
		// goroutine keeps its thread until the child has ended. One goroutine
		// that forks for all would need fewer threads, and an owner to stop it.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.exited)
		}
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// attend binds the process to a test.
func (p *Process) attend(t testing.TB) {
	p.t = t
	t.Cleanup(func() {
		p.Kill()
		if t.Failed() {
			t.Logf("output of process %d, %s:\n%s", p.Pid(), p.cmd.Path, p.Output())
		}
	})
}

func (p *Process) signal(sig syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		p.t.Fatalf("redistest: %v to process %d: %v", sig, p.Pid(), err)
	}
}

func (p *Process) awaitLine(text string) (string, error) {
	timeout := time.NewTimer(Patience)
	defer timeout.Stop()
	for ended := false; ; {
		line, ok, grew := p.output.find(text)
		switch {
		case ok:
			return line, nil
		case ended:
			return "", fmt.Errorf("%s ended (%v) before it wrote %q:\n%s", p.cmd.Path, p.cmd.ProcessState, text, p.Output())
		}
		select {
		case <-grew:
		case <-p.exited:
			ended = true // but its last output must still be searched
		case <-timeout.C:
			return "", fmt.Errorf("%s did not write %q within %v:\n%s", p.cmd.Path, text, Patience, p.Output())
		}
	}
}

// output keeps the output of a process and signals when it grows.
type output struct {
	mu   sync.Mutex
	text strings.Builder
	seen int           // length of the part of text that find has passed
	grew chan struct{} // closed, and replaced, by every Write
}

// Write implements io.Writer.
func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(b)
	close(o.grew)
	o.grew = make(chan struct{})
	return len(b), nil
}

// String returns the whole output.
func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// find returns the first complete line that contains text, among the lines that
// it has not passed. Otherwise it returns a channel that is closed when there
// is more output.
func (o *output) find(text string) (string, bool, <-chan struct{}) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for {
		line, _, whole := strings.Cut(o.text.String()[o.seen:], "\n")
		if !whole {
			return "", false, o.grew
		}
		o.seen += len(line) + 1
		if strings.Contains(line, text) {
			return strings.TrimRight(line, "\r"), true, nil
		}
	}
}
