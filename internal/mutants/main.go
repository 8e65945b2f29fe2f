// Command mutants breaks each guard of guards.txt, one at a time, and runs the tests that
// are to notice. It prints a line for each guard, and fails if the tests pass with a
// guard broken. It changes no file: go test takes the broken file from an overlay.
//
// Run it in the root of the module:
//
//	go run ./internal/mutants            # all of them, for half an hour or so
//	go run ./internal/mutants -one-in 10 # a tenth, at random
//	go run ./internal/mutants -only lease
//
// It obeys CGO_ENABLED and GOFLAGS. Where other tests ran before, give it what they had, so
// that it finds their packages compiled.
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
	"slices"
	"strings"
	"time"
)

//go:embed guards.txt
var list string

func main() {
	oneIn := flag.Int("one-in", 1, "break a random choice of guards, one for `n` in the list")
	seed := flag.Uint64("seed", rand.Uint64(), "the seed of that choice")
	only := flag.String("only", "", "break only the guards with this `text` in their name or file")
	tries := flag.Int("tries", 1, "run the tests of a guard up to `n` times, until one is red")
	verbose := flag.Bool("v", false, "print what the tests print")
	flag.Parse()
	if err := run(*oneIn, *seed, *only, *tries, *verbose); err != nil {
		fmt.Fprintln(os.Stderr, "mutants:", err)
		os.Exit(1)
	}
}

func run(oneIn int, seed uint64, only string, tries int, verbose bool) error {
	guards, err := parse(list)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if oneIn > 1 {
		fmt.Printf("one guard in %d, by -seed %d\n", oneIn, seed)
	}
	broken, survived := 0, 0
	for _, g := range choose(guards, oneIn, seed) {
		if !strings.Contains(g.name, only) && !strings.Contains(g.file, only) {
			continue
		}
		broken++
		began := time.Now()
		var output []byte
		var noticed bool
		var err error
		try := 0
		for ; try < max(tries, 1) && err == nil && !noticed; try++ {
			output, noticed, err = g.test(root)
		}
		verdict := "red  "
		switch {
		case err != nil:
			verdict, output = "ERROR", []byte(err.Error())
			survived++
		case !noticed:
			verdict = "PASS "
			survived++
		}
		fmt.Printf("%s %4.0fs  %s (%s)", verdict, time.Since(began).Seconds(), g.name, g.file)
		if try > 1 {
			fmt.Printf(", run %d times", try)
		}
		fmt.Println()
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

// choose returns one guard for n in all, at least one, in the order of the list.
func choose(all []guard, n int, seed uint64) []guard {
	if n <= 1 {
		return all
	}
	chosen := rand.New(rand.NewPCG(seed, 0)).Perm(len(all))[:(len(all)+n-1)/n]
	slices.Sort(chosen)
	some := make([]guard, len(chosen))
	for i, at := range chosen {
		some[i] = all[at]
	}
	return some
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
