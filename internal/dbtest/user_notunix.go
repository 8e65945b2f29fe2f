//go:build !unix

package dbtest

import (
	"os/exec"
	"testing"
)

func unprivileged(testing.TB) func(*exec.Cmd) { return func(*exec.Cmd) {} }

func hand(testing.TB, string) {}
