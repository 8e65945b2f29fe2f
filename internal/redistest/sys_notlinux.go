//go:build !linux

package redistest

import "os/exec"

// diesWithParent reports whether dieWithParent has an effect.
const diesWithParent = false

// dieWithParent does nothing here: only Linux binds a child to its parent.
// Tests still end the processes that they started, unless their own process is
// killed.
func dieWithParent(*exec.Cmd) {}
