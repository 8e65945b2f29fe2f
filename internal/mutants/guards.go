package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// A guard is a place in the code that one of the guarantees rests on, and a change that
// breaks it. The tests must notice the change.
type guard struct {
	name string // what the guard sees to
	file string // from the root of the module
	pkg  string // the package of the tests, as go test takes it
	run  string // the tests, as -run takes them
	old  string // the lines of the guard, which file has once
	new  string // the lines in their place
}

// parse returns the guards of a list. A guard is a block of lines, and a blank line ends
// it. A line begins with the word name, file or test; or with '-' or '+', before a line
// that is there and before a line that takes its place. A block of lines that begin with
// '#' is a comment.
func parse(list string) ([]guard, error) {
	var all []guard
	for block := range strings.SplitSeq(list, "\n\n") {
		block = strings.Trim(block, "\n")
		if block == "" || strings.HasPrefix(block, "#") {
			continue
		}
		g, err := parseOne(block)
		if err != nil {
			return nil, err
		}
		all = append(all, g)
	}
	return all, nil
}

func parseOne(block string) (guard, error) {
	var g guard
	var old, with []string
	for line := range strings.SplitSeq(block, "\n") {
		rest, isOld := strings.CutPrefix(line, "-")
		if isOld {
			old = append(old, rest)
			continue
		}
		if rest, isNew := strings.CutPrefix(line, "+"); isNew {
			with = append(with, rest)
			continue
		}
		word, rest, _ := strings.Cut(line, " ")
		switch word {
		case "name":
			g.name = rest
		case "file":
			g.file = rest
		case "test":
			g.pkg, g.run, _ = strings.Cut(rest, " ")
		default:
			return g, fmt.Errorf("line %q begins with none of name, file, test, - and +", line)
		}
	}
	g.old, g.new = strings.Join(old, "\n"), strings.Join(with, "\n")
	if g.name == "" || g.file == "" || g.pkg == "" || g.run == "" || g.old == "" {
		return g, fmt.Errorf("guard %q needs a name, a file, a package, tests and a line with -", g.name)
	}
	return g, nil
}

// broken returns the text of the guard's file with the guard broken.
func (g guard) broken(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, g.file))
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), g.old); n != 1 {
		return "", fmt.Errorf("guard %q: %s has its lines %d times, want once", g.name, g.file, n)
	}
	return strings.Replace(string(text), g.old, g.new, 1), nil
}
