package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// A cost is what one program costs.
type cost struct {
	binary int64         // bytes
	cpu    time.Duration // of the compiler, for the package with the types
	memory int64         // bytes that the compiler had at its peak
}

// measure builds the program of a library, and returns what it costs. dir is a
// folder of the module that requires the library. CPU and memory are the least
// of so many rounds.
func measure(dir string, l library, types, rounds int) (least cost, err error) {
	tmp, err := os.MkdirTemp("", "types")
	if err != nil {
		return cost{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(tmp)) }()
	for round := range rounds + 1 {
		c, err := build(dir, tmp, l.program(types))
		switch {
		case err != nil:
			return cost{}, err
		case round == 1: // the one before compiled what the program imports
			least = c
		case round > 1:
			least.cpu, least.memory = min(least.cpu, c.cpu), min(least.memory, c.memory)
		}
	}
	return least, nil
}

// build builds one program, and returns what it costs.
func build(dir, tmp, source string) (cost, error) {
	main, out, report := filepath.Join(tmp, "main.go"), filepath.Join(tmp, "program"), filepath.Join(tmp, "report")
	if err := os.WriteFile(main, []byte(source), 0o600); err != nil {
		return cost{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	cmd := exec.Command("go", "build", "-buildvcs=false", "-ldflags=-s -w", "-toolexec", self, "-o", out, main)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", reportTo+"="+report)
	if b, err := cmd.CombinedOutput(); err != nil {
		return cost{}, fmt.Errorf("%w: %s", err, b)
	}
	binary, err := os.Stat(out)
	if err != nil {
		return cost{}, err
	}
	b, err := os.ReadFile(report)
	if err != nil {
		return cost{}, err
	}
	var u usage
	if err := json.Unmarshal(b, &u); err != nil {
		return cost{}, err
	}
	return cost{binary: binary.Size(), cpu: u.CPU, memory: u.Memory}, nil
}

// reportTo is the variable that names the file for what the compiler has used.
const reportTo = "TYPES_REPORT"

// A usage is what a run of the compiler has used.
type usage struct {
	CPU    time.Duration
	Memory int64
}

// wrapped runs a tool as go build asks for with -toolexec, and reports what it
// used if it compiled the package main. ok is false if this process is not such
// a wrapper.
func wrapped(args []string) (status int, ok bool) {
	report := os.Getenv(reportTo)
	if report == "" || len(args) == 0 {
		return 0, false
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	err := cmd.Run()
	if cmd.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "types:", err)
		return 1, true
	}
	if i := slices.Index(args, "-p"); err == nil && i >= 0 && args[i+1] == "main" {
		u := usage{CPU: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), Memory: peak(cmd.ProcessState)}
		b, err := json.Marshal(u)
		if err == nil {
			err = os.WriteFile(report, b, 0o600)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "types:", err)
			return 1, true
		}
	}
	return cmd.ProcessState.ExitCode(), true
}
