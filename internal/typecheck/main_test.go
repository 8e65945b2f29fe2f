package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The source compiles with ints of 64 bits, and on systems that have SIGUSR1.
func TestCheck_FindsWhatDoesNotCompileElsewhere(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{
		"go.mod": "module example.com/x\n\ngo 1.26\n",
		"x.go":   "package x\n\nconst N int = 1 << 40\n",
		"y.go":   "package x\n\nimport \"syscall\"\n\nvar _ = syscall.SIGUSR1\n",
		// A test of another package, which sees the package as its tests make it.
		"x_test.go":   "package x\n\nconst Seen = N\n",
		"ext_test.go": "package x_test\n\nimport \"example.com/x\"\n\nvar _ int = x.Seen\n\nvar _ string = x.Seen\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	t.Chdir(dir)
	t.Setenv("GOWORK", "off")
	t.Setenv("GOFLAGS", "")

	var all strings.Builder
	_, err := check(&all, "windows", "386", []string{"./..."})
	require.ErrorContains(t, err, "errors on windows/386")
	require.Contains(t, all.String(), "x.go:3:15: cannot use 1 << 40")
	require.Contains(t, all.String(), "y.go:5:17: undefined: syscall.SIGUSR1")
	require.Contains(t, all.String(), "ext_test.go:7:16: cannot use x.Seen")

	require.NoError(t, os.Remove(filepath.Join(dir, "ext_test.go")))
	all.Reset()
	n, err := check(&all, "linux", "amd64", []string{"./..."})
	require.NoError(t, err, all.String())
	require.Equal(t, 2, n, "the package, and the package with its tests")

	_, err = check(&all, "linux", "pdp11", nil)
	require.ErrorContains(t, err, `GOARCH "pdp11" is unknown`)
	_, err = check(&all, "linux", "amd64", []string{"example.com/none"})
	require.ErrorContains(t, err, "go list")
}
