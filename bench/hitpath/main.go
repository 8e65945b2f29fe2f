// Command hitpath lists the functions of this module that a hit runs through. A
// call of Cache.Get finds its value fresh in an embedded Redis; the counters of
// Go's coverage tell which functions it entered.
//
// Run it in the root of the repository:
//
//	go run ./bench/hitpath
//
// It prints a function on each line, and then their number. It leaves out
// functions that the compiler or this module generated. It counts what a caller
// alone in its process runs through: nothing else reads at the same time.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime/coverage"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/cachextest"
)

const module = "github.com/cachex-go/cachex/"

// counters is the environment variable with the directory for the counters of
// the hit. In a process that has it, the code is built for coverage.
const counters = "HITPATH_COUNTERS"

func main() {
	err := error(nil)
	if dir := os.Getenv(counters); dir != "" {
		err = hit(dir)
	} else {
		err = list(os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "hitpath:", err)
		os.Exit(1)
	}
}

// list runs hit in a process built for coverage, and prints its functions.
func list(w io.Writer) (err error) {
	dir, err := os.MkdirTemp("", "hitpath")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	atExit, atHit := filepath.Join(dir, "exit"), filepath.Join(dir, "hit")
	if err := errors.Join(os.Mkdir(atExit, 0o700), os.Mkdir(atHit, 0o700)); err != nil {
		return err
	}
	build := exec.Command("go", "run", "-cover", "-covermode=atomic", "-coverpkg="+module+"...", module+"bench/hitpath")
	build.Env = append(os.Environ(), counters+"="+atHit, "GOCOVERDIR="+atExit)
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("run a hit: %w", err)
	}
	out, err := exec.Command("go", "tool", "covdata", "func", "-i", atHit).Output()
	if err != nil {
		return fmt.Errorf("read the counters: %w", err)
	}
	var lines strings.Builder
	functions, files, packages := 0, map[string]bool{}, map[string]bool{}
	for line := range strings.Lines(string(out)) { // path/file.go:12:  name  57.1%
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[2] == "0.0%" || !strings.HasPrefix(fields[0], module) {
			continue
		}
		file, _, _ := strings.Cut(strings.TrimPrefix(fields[0], module), ":")
		if dir := path.Dir(file); dir == "bench/hitpath" || dir == "internal/redistest" || dir == "cachextest" {
			continue // the caller and the server
		}
		functions++
		files[file], packages[path.Dir(file)] = true, true
		fmt.Fprintf(&lines, "%-32s %s\n", file, fields[1])
	}
	if functions == 0 {
		return errors.New("no function was entered")
	}
	_, err = fmt.Fprintf(w, "%s%d functions in %d files of %d packages\n", &lines, functions, len(files), len(packages))
	return err
}

// hit writes the counters of one hit to dir.
func hit(dir string) error {
	server, err := cachextest.Open()
	if err != nil {
		return err
	}
	defer server.Close()
	rdb := server.Client()
	// The first cache stores the value. Its Close waits for the goroutines of
	// the load, so that only the hit is counted.
	if err := read(rdb, func() error { return nil }); err != nil {
		return err
	}
	return read(rdb, func() error {
		return errors.Join(coverage.WriteMetaDir(dir), coverage.WriteCountersDir(dir))
	})
}

// read reads twice through a new cache, and calls done between the second call
// and Close. The first call makes what only a first call makes.
func read(rdb redis.UniversalClient, done func() error) error {
	ctx := context.Background()
	users, err := cachex.New(rdb, cachex.Spec[int, string]{
		Key: "users:{id}", TTL: time.Hour,
		Up: func(_ context.Context, id int) (string, error) { return fmt.Sprint("user ", id), nil },
	})
	if err != nil {
		return err
	}
	for range 2 {
		if err := coverage.ClearCounters(); err != nil {
			return err
		}
		if _, err := users.Get(ctx, 1); err != nil {
			return err
		}
	}
	return errors.Join(done(), users.Close(ctx))
}
