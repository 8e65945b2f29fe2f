package main

import (
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"time"
)

// cost is the cost of one program.
type cost struct {
	binary int64         // bytes
	cpu    time.Duration // of the compiler, for the package with the types
	memory int64         // peak memory of the compiler, in bytes
}

// measure builds the program of a library, and returns its cost. dir is a
// directory of the module that requires the library. CPU and memory are the
// least of so many rounds.
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
		case round == 1: // the round before compiled the imports
			least = c
		case round > 1:
			least.cpu, least.memory = min(least.cpu, c.cpu), min(least.memory, c.memory)
		}
	}
	return least, nil
}

// build builds one program, and returns its cost.
func build(dir, tmp, source string) (cost, error) {
	main, out, report := filepath.Join(tmp, "main.go"), filepath.Join(tmp, "program"), filepath.Join(tmp, "report")
	if err := os.WriteFile(main, []byte(source), 0o600); err != nil {
		return cost{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return cost{}, err
	}
	// Without -trimpath, the size depends on the length of the directory's path.
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-toolexec", self, "-o", out, main)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", reportTo+"="+report)
	if b, err := cmd.CombinedOutput(); err != nil {
		return cost{}, fmt.Errorf("%w: %s", err, b)
	}
	binary, err := size(out)
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
	return cost{binary: binary, cpu: u.CPU, memory: u.Memory}, nil
}

// size returns the number of bytes in a program. In ELF it counts the sections,
// because the linker pads the file to whole pages.
func size(program string) (bytes int64, err error) {
	f, err := elf.Open(program)
	if _, other := errors.AsType[*elf.FormatError](err); other {
		info, err := os.Stat(program)
		if err != nil {
			return 0, err
		}
		return info.Size(), nil
	}
	if err != nil {
		return 0, err
	}
	for _, s := range f.Sections {
		if s.Type != elf.SHT_NOBITS {
			bytes += int64(s.FileSize) //nolint:gosec // a file is shorter than 2^63 bytes
		}
	}
	return bytes, f.Close()
}

// reportTo is the environment variable that names the file for the usage of the
// compiler.
const reportTo = "TYPES_REPORT"

// usage is the CPU time and memory of one run of the compiler.
type usage struct {
	CPU    time.Duration
	Memory int64
}

// wrapped runs a tool for go build -toolexec, and reports the usage if the tool
// compiled the package main. If this process is not such a wrapper, ok is
// false.
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
