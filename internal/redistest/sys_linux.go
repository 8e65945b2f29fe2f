package redistest

import (
	"os/exec"
	"syscall"
)

// diesWithParent reports whether dieWithParent has an effect.
const diesWithParent = true

// dieWithParent makes the kernel kill the process of cmd when the thread that
// starts it ends. So a test binary that is killed, or that panics on its
// timeout, leaves no server behind.
func dieWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{} // otherwise it may hold the user that runs the process
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}
