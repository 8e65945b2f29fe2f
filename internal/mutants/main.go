// Command mutants breaks each guard of guards.txt, one at a time, and runs the tests that
// are to notice. It prints a line for each guard, and fails if the tests pass with a
// guard broken. It changes no file: go test takes the broken file from an overlay.
//
// Run it in the root of the module:
//
//	go run ./internal/mutants            # all of them, for half an hour or so
//	go run ./internal/mutants -one-in 10 # a tenth, at random
//	go run ./internal/mutants -only lease
package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

//go:embed guards.txt
var list string

func main() {
	oneIn := flag.Int("one-in", 1, "break one guard in `n`, at random")
	seed := flag.Uint64("seed", rand.Uint64(), "the seed of that choice")
	only := flag.String("only", "", "break only the guards with this `text` in their name or file")
	verbose := flag.Bool("v", false, "print what the tests print")
	flag.Parse()
	if err := run(*oneIn, *seed, *only, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(oneIn int, seed uint64, only string, verbose bool) error {
	guards, err := parse(list)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	random := rand.New(rand.NewPCG(seed, 0))
	if oneIn > 1 {
		fmt.Printf("a guard in %d, by -seed %d\n", oneIn, seed)
	}
	broken, survived := 0, 0
	for _, g := range guards {
		skip := oneIn > 1 && random.IntN(oneIn) > 0
		if skip || !strings.Contains(g.name, only) && !strings.Contains(g.file, only) {
			continue
		}
		broken++
		began := time.Now()
		output, noticed, err := g.test(root)
		verdict := "red  "
		switch {
		case err != nil:
			verdict, output = "ERROR", []byte(err.Error())
			survived++
		case !noticed:
			verdict = "PASS "
			survived++
		}
		fmt.Printf("%s %4.0fs  %s (%s)\n", verdict, time.Since(began).Seconds(), g.name, g.file)
		if verbose || err != nil || !noticed {
			fmt.Printf("%s\n", output)
		}
	}
	fmt.Printf("%d guards broken, %d not noticed\n", broken, survived)
	if survived > 0 {
		return errors.New("a broken guard is not noticed: add a test")
	}
	return nil
}

// test runs the tests of a guard on the broken code, and reports whether one failed. A
// build that fails is an error, since it proves nothing.
func (g guard) test(root string) (output []byte, noticed bool, err error) {
	text, err := g.broken(root)
	if err != nil {
		return nil, false, err
	}
	dir, err := os.MkdirTemp("", "mutants")
	if err != nil {
		return nil, false, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	mutant, overlay := filepath.Join(dir, "mutant.go"), filepath.Join(dir, "overlay.json")
	if err := os.WriteFile(mutant, []byte(text), 0o600); err != nil {
		return nil, false, err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, g.file): mutant}})
	if err != nil {
		return nil, false, err
	}
	if err := os.WriteFile(overlay, replace, 0o600); err != nil {
		return nil, false, err
	}
	cmd := exec.Command("go", "test", "-vet=off", "-count=1", "-failfast", "-timeout=5m", "-overlay="+overlay, "-run="+g.run, g.pkg)
	output, err = cmd.CombinedOutput()
	_, failed := errors.AsType[*exec.ExitError](err)
	switch {
	case err != nil && !failed:
		return nil, false, err
	case bytes.Contains(output, []byte("build failed]")) || bytes.Contains(output, []byte("setup failed]")):
		return nil, false, fmt.Errorf("the broken code does not compile:\n%s", output)
	case !failed && bytes.Contains(output, []byte("no tests to run")):
		return nil, false, fmt.Errorf("%s has no test %s", g.pkg, g.run)
	}
	return output, failed, nil
}
