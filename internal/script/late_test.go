package script_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
)

// made matches a call that makes a script, with its name.
var made = regexp.MustCompile(`(?:[= ]|script\.)(New|leasing|newRemoval|newHome)\("([^"]+)"`)

// Each script has a row in the table, which tells the effect of a late copy.
// Each row has a script.
func TestLate_HasARowForEachScript(t *testing.T) {
	t.Parallel()
	names := map[string]bool{"add count": true, "add count once": true} // made in a loop
	eachFile(t, func(file string, src string, _ *ast.File) {
		if !strings.Contains(file, "internal/script/") && !strings.Contains(src, "script.New(") {
			return
		}
		for _, m := range made.FindAllStringSubmatch(src, -1) {
			switch {
			case m[1] == "newHome":
				for _, step := range []string{"acquire ", "extend ", "release ", "store "} {
					names[step+m[2]] = true
				}
			case !strings.HasSuffix(m[2], " "): // this is the call in newHome
				names[m[2]] = true
			}
		}
	})
	for _, name := range script.Rows() {
		require.True(t, names[name], "the row %q is of no script", name)
		delete(names, name)
	}
	require.Empty(t, names, "these scripts have no row in lates")
	for name, s := range allScripts() {
		require.NotEmpty(t, s.Late().Why, name)
		require.NotEqual(t, "has no row", s.Late().Why, name)
		if p := s.Packed(); p != nil {
			require.Equal(t, s.Late(), p.Late(), name)
		}
	}
}

// If a late copy of a command would change state established since, the command
// is sent as a Once. So no method of the client sends it, since that would
// retry it.
func TestPlain_HasARowForEachCommandAndTheClientSendsNoneThatIsSentOnce(t *testing.T) {
	t.Parallel()
	cmdable := reflect.TypeFor[redis.Cmdable]()
	used := map[string]bool{}
	note := func(file, name string, once bool) {
		row, ok := script.Plain[name]
		require.True(t, ok, "%s sends %s, which has no row in Plain", file, name)
		require.Equal(t, row.Once, once, "%s sends %s", file, name)
		used[name] = true
	}
	made := regexp.MustCompile(`^New(\w*Cmd)$`)
	eachFile(t, func(file, _ string, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok || len(call.Args) == 0 {
				return true
			}
			of, ok := call.Fun.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			name := of.Sel.Name
			if x, ok := of.X.(*ast.Ident); ok && x.Name == "redis" && made.MatchString(name) && len(call.Args) > 1 {
				if lit, ok := call.Args[1].(*ast.BasicLit); ok {
					note(file, strings.Trim(lit.Value, `"`), false)
				}
				return true
			}
			if _, ok := cmdable.MethodByName(name); !ok || !sends(of.X) {
				return true
			}
			if slices.Contains([]string{"Pipeline", "Pipelined", "Command", "EvalSha"}, name) {
				return true // not a command, or a command of a script
			}
			note(file, plainName(name), false)
			return true
		})
	})
	note("internal/engine/write.go", "set", true)
	note("gather/mget.go", "mget", false)
	for _, name := range []string{"ping", "subscribe", "unsubscribe", "ssubscribe", "sunsubscribe"} {
		note("internal/wake/ear.go", name, false)
	}
	for name := range script.Plain {
		require.True(t, used[name], "the row %q is of no command", name)
	}
}

// plainName returns the command that a method of the client sends.
func plainName(method string) string {
	return strings.ToLower(strings.TrimSuffix(method, "WithScores"))
}

// sends reports whether x is a client or a pipeline, by the names that our code
// uses.
func sends(x ast.Expr) bool {
	switch x := x.(type) {
	case *ast.Ident:
		return slices.Contains([]string{"rdb", "p", "c", "node", "client", "pipe"}, x.Name)
	case *ast.SelectorExpr:
		return slices.Contains([]string{"rdb", "client"}, x.Sel.Name)
	}
	return false
}

// eachFile calls f for each file of the module, except tests and packages that
// only tests and programs use.
func eachFile(t *testing.T, f func(file, src string, parsed *ast.File)) {
	t.Helper()
	root := filepath.Join("..", "..")
	skip := []string{"bench", "examples", "internal/redistest", "cachextest", "contrib", ".git", "middleware"}
	require.NoError(t, filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, file)
		rel = filepath.ToSlash(rel)
		switch {
		case err != nil:
			return err
		case d.IsDir() && slices.Contains(skip, rel):
			return filepath.SkipDir
		case d.IsDir() || !strings.HasSuffix(rel, ".go") || strings.HasSuffix(rel, "_test.go"):
			return nil
		}
		set := token.NewFileSet()
		parsed, err := parser.ParseFile(set, file, nil, 0)
		require.NoError(t, err)
		f(rel, read(t, file), parsed)
		return nil
	}))
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	require.NoError(t, err)
	return string(b)
}
