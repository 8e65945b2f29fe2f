package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// unguarded lists, by file, how often it runs something on another goroutine, or
// recovers, without package guard, and why no code of a user can panic there.
var unguarded = map[string]struct {
	n   int
	why string
}{
	"internal/guard/guard.go": {2, "it is the one"},

	"counter/buffer.go":              {1, "a timer that calls guard.Go"},
	"refreshevery.go":                {1, "it cancels a ctx"},
	"internal/client/shared.go":      {1, "a cleanup that deletes from a map"},
	"internal/client/client.go":      {2, "go-redis calls the function, which calls guard.Run"},
	"internal/engine/heartbeat.go":   {1, "a timer that calls Engine.Spawn"},
	"internal/engine/manyread.go":    {1, "a timer that closes a channel"},
	"internal/engine/softtimeout.go": {1, "a timer that closes a channel"},
	"httpcache/exchange.go":          {1, "it cancels a ctx"},

	"codec/errors.go":          {3, "the errors of a codec are ErrEncode or ErrFormat, and tell no stack"},
	"codec/msgpackany.go":      {1, "it asks a map whether it takes a key"},
	"codec/msgpackproof.go":    {3, "it recovers what it throws, and asks reflect and what is registered whether they panic"},
	"codec/methods.go":         {1, "it asks msgpack whether it panics"},
	"internal/key/hashable.go": {1, "it asks a map whether it takes a key"},
}

// TestGoroutines_AreStartedByGuard holds the rule of package guard: whatever runs on a
// goroutine that is not a caller's, and whatever recovers, goes through it. Kits,
// examples and modules of their own are tools: their goroutines run their own code.
func TestGoroutines_AreStartedByGuard(t *testing.T) {
	t.Parallel()
	found := map[string][]string{}
	walkSources(t, func(file string) {
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, filepath.Join(root, file), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		ast.Inspect(parsed, func(n ast.Node) bool {
			if what := startsGoroutine(n); what != "" {
				found[file] = append(found[file], fset.Position(n.Pos()).String()+": "+what)
			}
			return true
		})
	})
	for file, places := range found {
		if row := unguarded[file]; row.n != len(places) {
			t.Errorf("%s: %d places without package guard, want %d:\n%s", file, len(places), row.n, strings.Join(places, "\n"))
		}
	}
	for file := range unguarded {
		require.Contains(t, found, file, "its row is not needed any more")
	}
}

// startsGoroutine says what n is, if it runs something on another goroutine without
// package guard, or recovers.
func startsGoroutine(n ast.Node) string {
	switch n := n.(type) {
	case *ast.GoStmt:
		return "a go statement"
	case *ast.CallExpr:
		switch fun := n.Fun.(type) {
		case *ast.Ident:
			if fun.Name == "recover" {
				return "recover"
			}
		case *ast.SelectorExpr:
			from, _ := fun.X.(*ast.Ident)
			switch fun.Sel.Name {
			case "Go", "TryGo": // of a WaitGroup, of errgroup
				if from == nil || from.Name != "guard" {
					return "a call of Go"
				}
			case "AfterFunc", "AddCleanup", "SetFinalizer":
				return "a call of " + fun.Sel.Name
			}
		}
	case *ast.SelectorExpr:
		// Called, or taken as a function: go-redis runs what it is given on goroutines of
		// its own.
		switch n.Sel.Name {
		case "ForEachMaster", "ForEachSlave", "ForEachShard":
			return n.Sel.Name
		}
	}
	return ""
}

const root = "../.."

// walkSources calls f with each file of the module that is compiled into programs of
// users.
func walkSources(t *testing.T, f func(file string)) {
	t.Helper()
	files := 0
	require.NoError(t, filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			_, err := os.Stat(filepath.Join(file, "go.mod"))
			nested := err == nil && name != "."
			tool := name == "examples" || name == "codec/codectest" || name == "internal/redistest"
			if nested || tool || d.Name() == "testdata" || name != "." && strings.HasPrefix(d.Name(), ".") {
				return filepath.SkipDir
			}
			return nil
		}
		if strings.HasSuffix(name, ".go") && !strings.HasSuffix(name, "_test.go") {
			files++
			f(name)
		}
		return nil
	}))
	require.Greater(t, files, 100)
}
