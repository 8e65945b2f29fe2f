package layers

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The table of docs/architecture.md names the packages of each row.
func TestArchitecture_HasTheRows(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "..", "docs", "architecture.md"))
	require.NoError(t, err)
	var documented [][]string
	for _, line := range strings.Split(string(page), "\n") {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		if n, err := strconv.Atoi(strings.TrimSpace(cells[1])); err != nil || n != len(documented) {
			continue
		}
		var row []string
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(cells[2], -1) {
			if name[1] == "cachex" {
				name[1] = "."
			}
			row = append(row, name[1])
		}
		documented = append(documented, row)
	}
	require.Len(t, documented, len(rows), "docs/architecture.md needs a line for each row")
	for i, row := range rows {
		require.ElementsMatch(t, row, documented[i], "row %d of docs/architecture.md", i)
	}
}
