//go:build !unix

package redistest

import "syscall"

// There is no stopping a process here. These numbers are not signals that can be
// sent, so that Stop and Cont fail their test. What matters is that the package
// builds: cachextest needs its embedded server everywhere.
const (
	sigStop = syscall.Signal(-1)
	sigCont = syscall.Signal(-2)
)
