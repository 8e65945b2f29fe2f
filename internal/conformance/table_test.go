package conformance

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const (
	reliabilityFile = "../../docs/reliability.md"
	tableBegins     = "<!-- The table is written by: go test ./internal/conformance -run Table -update -->\n"
	tableEnds       = "<!-- The end of the table. -->\n"
)

func TestTheTableInTheDocsIsOfTheseFaults(t *testing.T) {
	t.Parallel()
	var b strings.Builder
	b.WriteString("\n| fault | the caller gets | stored during the fault |\n|---|---|---|\n")
	for _, f := range faults {
		fmt.Fprintf(&b, "| %s | %s | %s |\n", f.name, f.sees, f.stored)
	}
	b.WriteString("\n")
	got, err := os.ReadFile(reliabilityFile)
	require.NoError(t, err)
	doc := strings.ReplaceAll(string(got), "\r\n", "\n")
	head, rest, ok := strings.Cut(doc, tableBegins)
	require.True(t, ok)
	old, tail, ok := strings.Cut(rest, tableEnds)
	require.True(t, ok)
	if *update {
		require.NoError(t, os.WriteFile(reliabilityFile, []byte(head+tableBegins+b.String()+tableEnds+tail), 0o600))
		return
	}
	require.Equal(t, b.String(), old, "run: go test ./internal/conformance -run Table -update")
}
