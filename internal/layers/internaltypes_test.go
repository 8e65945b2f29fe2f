package layers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// internalAliases lists the exported names that stand for an internal type, and
// why. Their comments describe the type, since documentation of an internal
// package is not shown to users.
var internalAliases = map[string]string{
	"loader.PanicError":      "internal/guard makes the errors, below every public package",
	"writebehind.PanicError": "the same type, for users of the package alone",
}

// TestSurface_HasNoInternalTypes holds that a user can name every type of an
// exported signature, field or method.
func TestSurface_HasNoInternalTypes(t *testing.T) {
	t.Parallel()
	used := map[string]bool{}
	walkSources(t, func(file string) {
		if strings.HasPrefix(file, "internal/") {
			return
		}
		fset := token.NewFileSet()
		parsed, err := parser.ParseFile(fset, filepath.Join(root, file), nil, parser.SkipObjectResolution)
		require.NoError(t, err)
		if parsed.Name.Name == "main" {
			return
		}
		for _, use := range internalUses(parsed) {
			if name := path.Dir(file) + "." + use.of; internalAliases[name] != "" {
				used[name] = true
				continue
			}
			t.Errorf("%s: %s has the internal type %s", fset.Position(use.at), use.of, use.name)
		}
	})
	for name := range internalAliases {
		require.Contains(t, used, name, "its row is not needed any more")
	}
}

func TestSurface_FindsInternalTypes(t *testing.T) {
	t.Parallel()
	const imports = "package p\nimport \"" + module + "/internal/key\"\nimport other \"" + module + "/internal/entry\"\nimport \"context\"\n"
	for source, want := range map[string]int{
		"func F(key.Template) {}":                            1,
		"func F() (*other.Header, error) { return nil }":     1,
		"type T struct { F []key.Template }":                 1,
		"type T struct { f key.Template }":                   0,
		"type T struct { key.Template }":                     1,
		"type t struct { F key.Template }":                   0,
		"type T interface { M(other.Header) }":               1,
		"type T interface { m(other.Header) }":               0,
		"func (T) M(map[string]key.Template) {}":             1,
		"func (t) M(key.Template) {}":                        0,
		"func (*T[K]) M(key.Template) {}":                    1,
		"func f(key.Template) {}":                            0,
		"type T = key.Template":                              1,
		"var V key.Template":                                 1,
		"func F(ctx context.Context) { var _ other.Header }": 0,
		"func F[T key.Constraint](T) {}":                     1,
	} {
		parsed, err := parser.ParseFile(token.NewFileSet(), "p.go", imports+source, parser.SkipObjectResolution)
		require.NoError(t, err, source)
		require.Len(t, internalUses(parsed), want, source)
	}
}

// An internalUse is an internal type in the declaration of an exported name.
type internalUse struct {
	at       token.Pos
	of, name string
}

// internalUses returns the internal types in the exported declarations of file.
func internalUses(file *ast.File) (uses []internalUse) {
	internals := map[string]bool{}
	for _, spec := range file.Imports {
		imported, _ := strconv.Unquote(spec.Path.Value)
		if strings.HasPrefix(imported, module+"/internal/") {
			name := path.Base(imported)
			if spec.Name != nil {
				name = spec.Name.Name
			}
			internals[name] = true
		}
	}
	var look func(of string, n ast.Node)
	look = func(of string, n ast.Node) {
		ast.Inspect(n, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.StructType:
				for _, f := range n.Fields.List {
					if len(f.Names) == 0 || exported(f.Names) {
						look(of, f.Type)
					}
				}
				return false
			case *ast.InterfaceType:
				for _, f := range n.Methods.List {
					if len(f.Names) == 0 || exported(f.Names) {
						look(of, f.Type)
					}
				}
				return false
			case *ast.SelectorExpr:
				if from, ok := n.X.(*ast.Ident); ok && internals[from.Name] {
					uses = append(uses, internalUse{at: n.Pos(), of: of, name: from.Name + "." + n.Sel.Name})
				}
			}
			return true
		})
	}
	for _, decl := range file.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Name.IsExported() && (decl.Recv == nil || ast.IsExported(receiver(decl.Recv.List[0].Type))) {
				look(decl.Name.Name, decl.Type)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					if spec.Name.IsExported() {
						look(spec.Name.Name, spec.Type)
						if spec.TypeParams != nil {
							look(spec.Name.Name, spec.TypeParams)
						}
					}
				case *ast.ValueSpec:
					if spec.Type != nil && exported(spec.Names) {
						look(spec.Names[0].Name, spec.Type)
					}
				}
			}
		}
	}
	return uses
}

func exported(names []*ast.Ident) bool {
	for _, name := range names {
		if name.IsExported() {
			return true
		}
	}
	return false
}
