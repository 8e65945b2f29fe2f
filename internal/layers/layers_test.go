// Package layers holds no code. Its test holds the house's one rule of structure:
// imports go down.
package layers

import (
	"fmt"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/cachex-go/cachex"

// rows is the house, from the ground up. A package imports packages of lower rows
// only, so parts never import the front door, and two parts of one row know
// nothing of each other. A new package gets its place here first.
var rows = [][]string{
	0: {"internal/breaker", "internal/defaults", "internal/errs", "internal/guard", "internal/ledgernote", "internal/mutants", "internal/nonzero", "internal/redact", "internal/saturate", "internal/typecheck", "twemproxy"},
	1: {"codec", "internal/client", "internal/combine", "internal/entry", "internal/key", "internal/redistest", "ledger", "sentinel"},
	2: {"internal/script"},
	3: {"internal/circuit", "internal/convoy", "internal/waitfor", "internal/wake"},
	4: {"internal/gather", "internal/periodic"},
	5: {"batch", "internal/engine", "middleware", "near", "writebehind", "codec/codectest"},
	6: {"internal/kind", "loader"},
	7: {"."}, // the front door
	8: {"collection", "counter", "gate", "httpcache"},
	9: {"cachextest"},
}

// kits are for tests. Only another kit may import one.
var kits = []string{"cachextest", "codec/codectest", "internal/redistest"}

// fenced lists what is not for every package: who may import what, tests aside.
// testify and goleak would otherwise be linked into our users' programs.
var fenced = map[string][]string{
	"testing":                       kits,
	"github.com/alicebob/miniredis": {"internal/redistest"},
	"github.com/stretchr/testify":   nil,
	"go.uber.org/goleak":            nil,
}

func TestImportsGoDown(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	files := 0
	err := filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			nested := err == nil && file != root // a module of its own, above all rows
			if name := d.Name(); nested || name == "testdata" || file != root && strings.HasPrefix(name, ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return nil
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		dir, err := filepath.Rel(root, filepath.Dir(file))
		if err != nil {
			return err
		}
		files++
		for _, spec := range parsed.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			if fault := fault(filepath.ToSlash(dir), imported); fault != "" {
				t.Errorf("%s: %s", file, fault)
			}
		}
		return nil
	})
	require.NoError(t, err)
	require.NotZero(t, files)
}

// fault returns what is wrong with package pkg, a path within the module, when a
// file that is not a test imports the package imported; "" if nothing is.
func fault(pkg, imported string) string {
	for fence, allowed := range fenced {
		if (imported == fence || strings.HasPrefix(imported, fence+"/")) && !slices.Contains(allowed, pkg) {
			return fmt.Sprintf("%s is not for %s", imported, pkg)
		}
	}
	from := row(pkg)
	if from < 0 {
		return fmt.Sprintf("package %s has no row: give it one", pkg)
	}
	rest, ours := strings.CutPrefix(imported+"/", module+"/")
	if !ours {
		return ""
	}
	target := path.Clean(rest)
	switch to := row(target); {
	case to < 0:
		return fmt.Sprintf("package %s has no row: give it one", target)
	case to >= from:
		return fmt.Sprintf("%s is of row %d and %s of row %d: imports go down", pkg, from, target, to)
	case slices.Contains(kits, target) && !slices.Contains(kits, pkg):
		return fmt.Sprintf("%s is for tests, and %s is not", target, pkg)
	}
	return ""
}

func row(pkg string) int {
	return slices.IndexFunc(rows, func(row []string) bool { return slices.Contains(row, pkg) })
}

func TestImportsThatGoElsewhereAreRefused(t *testing.T) {
	t.Parallel()
	for _, edge := range [][2]string{
		{"loader", module},                                 // up
		{"internal/engine", module + "/batch"},             // sideways
		{"codec", module + "/codec/codectest"},             // up, into a kit
		{".", module + "/internal/redistest"},              // down, into a kit
		{".", module + "/counter"},                         // up
		{".", module + "/utils"},                           // to nowhere
		{"utils", "fmt"},                                   // from nowhere
		{".", "testing"},                                   // fenced
		{".", "github.com/stretchr/testify/require"},       // fenced
		{"internal/redistest", "go.uber.org/goleak"},       // fenced
		{"cachextest", "github.com/alicebob/miniredis/v2"}, // fenced
	} {
		require.NotEmpty(t, fault(edge[0], edge[1]), edge)
	}
	for _, edge := range [][2]string{
		{".", module + "/internal/engine"}, {"loader", module + "/internal/engine"}, {"counter", module}, {"counter", module + "/codec"},
		{"codec/codectest", module + "/codec"}, {"cachextest", module + "/internal/redistest"},
		{"codec/codectest", "testing"}, {"codec", "github.com/klauspost/compress/zstd"}, {".", "fmt"},
	} {
		require.Empty(t, fault(edge[0], edge[1]), edge)
	}
}
