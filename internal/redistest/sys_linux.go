package redistest

import (
	"os/exec"
	"syscall"
)

// diesWithParent is whether dieWithParent does anything.
const diesWithParent = true

// dieWithParent has the kernel kill the process of cmd when the thread that
// starts it ends, so that a test binary that is killed, or that panics on its
// timeout, leaves no server behind.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{} // else it says which user runs the process
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
