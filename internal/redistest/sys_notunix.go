//go:build !unix

package redistest

import "syscall"

// Processes cannot be stopped here. These numbers are not valid signals, so
// Stop and Cont fail their test. They only let the package build: cachextest
// needs its embedded server everywhere.
const (
	sigStop = syscall.Signal(-1)
	sigCont = syscall.Signal(-2)
)
