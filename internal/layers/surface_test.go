package layers

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// maxNames and maxMethods limit the public surface: exported names at top level,
// and exported methods of exported types and interfaces. Lower them when names
// go. The aim is 170 names and 110 methods.
const (
	maxNames   = 235
	maxMethods = 190
)

// surface counts the exported names and methods of one package.
type surface struct{ names, methods int }

// TestSurface_DoesNotGrow prints the count of each public package with -v.
func TestSurface_DoesNotGrow(t *testing.T) {
	t.Parallel()
	packages := map[string]*surface{}
	walkSources(t, func(file string) {
		dir := path.Dir(file)
		if strings.Contains("/"+dir+"/", "/internal/") {
			return
		}
		parsed, err := parser.ParseFile(token.NewFileSet(), filepath.Join(root, file), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		if packages[dir] == nil {
			packages[dir] = &surface{}
		}
		for _, d := range parsed.Decls {
			packages[dir].add(d)
		}
	})
	var all surface
	var report strings.Builder
	for _, dir := range slices.Sorted(maps.Keys(packages)) {
		s := packages[dir]
		all.names, all.methods = all.names+s.names, all.methods+s.methods
		fmt.Fprintf(&report, "\n%-16s %4d %4d", dir, s.names, s.methods)
	}
	t.Logf("names and methods%s\n%-16s %4d %4d", &report, "all", all.names, all.methods)
	require.LessOrEqual(t, all.names, maxNames, "a new exported name raises maxNames, with its reason in the commit")
	require.LessOrEqual(t, all.methods, maxMethods, "a new exported method raises maxMethods, with its reason in the commit")
}

func (s *surface) add(d ast.Decl) {
	switch d := d.(type) {
	case *ast.FuncDecl:
		switch {
		case !d.Name.IsExported():
		case d.Recv == nil:
			s.names++
		case ast.IsExported(receiver(d.Recv.List[0].Type)):
			s.methods++
		}
	case *ast.GenDecl:
		for _, spec := range d.Specs {
			switch spec := spec.(type) {
			case *ast.TypeSpec:
				if spec.Name.IsExported() {
					s.names++
					s.methods += methodsOf(spec.Type)
				}
			case *ast.ValueSpec:
				for _, name := range spec.Names {
					if name.IsExported() {
						s.names++
					}
				}
			}
		}
	}
}

// receiver returns the name of a receiver's type.
func receiver(x ast.Expr) string {
	for {
		switch t := x.(type) {
		case *ast.StarExpr:
			x = t.X
		case *ast.IndexExpr:
			x = t.X
		case *ast.IndexListExpr:
			x = t.X
		case *ast.Ident:
			return t.Name
		default:
			return ""
		}
	}
}

// methodsOf returns the number of exported methods that an interface declares.
func methodsOf(x ast.Expr) (n int) {
	i, ok := x.(*ast.InterfaceType)
	if !ok {
		return 0
	}
	for _, field := range i.Methods.List {
		for _, name := range field.Names {
			if name.IsExported() {
				n++
			}
		}
	}
	return n
}
