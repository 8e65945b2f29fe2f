//go:build !linux

package redistest

import "os/exec"

// diesWithParent is whether dieWithParent does anything.
const diesWithParent = false

// dieWithParent does nothing here: only Linux ties a child to its parent. Tests
// still end what they started, unless their own process is killed.
func dieWithParent(*exec.Cmd) {}
