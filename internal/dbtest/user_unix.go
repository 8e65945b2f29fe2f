//go:build unix

package dbtest

import (
	"os"
	"os/exec"
	"syscall"
	"testing"
)

// unprivileged returns a function that makes a command run as the user nobody,
// if this process is root.
func unprivileged(t testing.TB) func(*exec.Cmd) {
	if os.Geteuid() != 0 {
		return func(*exec.Cmd) {}
	}
	uid, gid := nobody(t)
	return func(cmd *exec.Cmd) {
		cmd.Dir = "/"
		if cmd.SysProcAttr == nil {
			cmd.SysProcAttr = &syscall.SysProcAttr{}
		}
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
}

// hand gives a directory to the user that unprivileged selects.
func hand(t testing.TB, dir string) {
	if os.Geteuid() != 0 {
		return
	}
	uid, gid := nobody(t)
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
}
