// Command typecheck type-checks packages and their tests for another system. It finds what
// does not compile there. It reads the source of all dependencies and compiles none of
// them: go vet compiles each for the other system first, which takes minutes.
//
// Run it in the root of a module:
//
//	go run ./internal/typecheck -os windows -arch 386 ./...
package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

func main() {
	system := flag.String("os", "windows", "the `GOOS` to check for")
	arch := flag.String("arch", "386", "the `GOARCH` to check for")
	flag.Parse()
	n, err := check(os.Stderr, *system, *arch, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "typecheck:", err)
		os.Exit(1)
	}
	fmt.Printf("%d packages, with their tests, are well typed on %s/%s\n", n, *system, *arch)
}

// A pkg is a package as go list prints it. A package that is compiled anew for the tests
// of another has an ImportPath of its own, such as "a [b.test]".
type pkg struct {
	ImportPath, Dir string
	GoFiles         []string
	ImportMap       map[string]string // from a path in the source to an ImportPath
	DepOnly         bool              // it matches none of the patterns
}

// check type-checks the packages that match patterns, prints each error to w, and returns
// the number of packages and tests.
func check(w io.Writer, system, arch string, patterns []string) (n int, err error) {
	sizes := types.SizesFor("gc", arch)
	if sizes == nil {
		return 0, fmt.Errorf("GOARCH %q is unknown", arch)
	}
	cmd := exec.Command("go", append([]string{"list", "-deps", "-test", "-json=ImportPath,Dir,GoFiles,ImportMap,DepOnly"}, patterns...)...)
	cmd.Env = append(os.Environ(), "GOOS="+system, "GOARCH="+arch, "CGO_ENABLED=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	failed := 0
	report := func(err error) {
		failed++
		_, _ = fmt.Fprintln(w, err)
	}
	fset, checked := token.NewFileSet(), map[string]*types.Package{"unsafe": types.Unsafe}
	decoder := json.NewDecoder(out)
	for {
		// Each package comes after all that it imports.
		var p pkg
		if err := decoder.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return 0, errors.Join(err, cmd.Wait())
		}
		if p.ImportPath == "unsafe" || strings.HasSuffix(p.ImportPath, ".test") {
			continue // a program that go test generates
		}
		var files []*ast.File
		for _, name := range p.GoFiles {
			file, err := parser.ParseFile(fset, filepath.Join(p.Dir, name), nil, parser.SkipObjectResolution)
			if err != nil {
				report(err)
				continue
			}
			files = append(files, file)
		}
		config := types.Config{
			Importer:         importer{p.ImportMap, checked},
			Sizes:            sizes,
			IgnoreFuncBodies: p.DepOnly,
			Error:            report,
		}
		path, _, _ := strings.Cut(p.ImportPath, " ")
		// An error was reported, and what the package has is good enough for those that import it.
		checked[p.ImportPath], _ = config.Check(path, fset, files, nil)
		if !p.DepOnly {
			n++
		}
	}
	if err := cmd.Wait(); err != nil {
		return 0, fmt.Errorf("go list: %w", err)
	}
	if failed > 0 {
		return 0, fmt.Errorf("%d errors on %s/%s", failed, system, arch)
	}
	return n, nil
}

// An importer returns packages that were checked before.
type importer struct {
	names   map[string]string
	checked map[string]*types.Package
}

// Import implements [types.Importer].
func (i importer) Import(path string) (*types.Package, error) {
	if mapped, ok := i.names[path]; ok {
		path = mapped
	}
	if p := i.checked[path]; p != nil {
		return p, nil
	}
	return nil, fmt.Errorf("package %q was not listed", path)
}
