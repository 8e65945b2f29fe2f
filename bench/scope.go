package main

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// A scope stands in for a test, in a program that is none: package redistest starts
// servers for a test, and ends them with it.
type scope struct {
	testing.TB // nil: redistest calls nothing that is not below
	cleanups   []func()
	failed     bool
}

// A failure is what Fatal panics with, and within returns.
type failure string

// Error returns what Fatal was given.
func (f failure) Error() string { return string(f) }

// within calls f with a scope that ends when f does. An error is f's, or what it gave to
// Fatal or Skip.
func within(f func(t testing.TB) error) (err error) {
	s := new(scope)
	defer func() {
		for _, cleanup := range slices.Backward(s.cleanups) {
			cleanup()
		}
	}()
	defer func() {
		switch r := recover().(type) {
		case nil:
		case failure:
			s.failed, err = true, r
		default:
			panic(r)
		}
	}()
	return f(s)
}

// Helper does nothing: there are no lines of a test to blame.
func (s *scope) Helper() {}

// Failed reports whether Fatal was called.
func (s *scope) Failed() bool { return s.failed }

// Cleanup has f called at the end, the last one first.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Logf prints to the standard error.
func (s *scope) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatal ends f, and is the error of within.
func (s *scope) Fatal(args ...any) { panic(failure(fmt.Sprint(args...))) }

// Fatalf is Fatal with a format.
func (s *scope) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

// Skipf is Fatalf: what is to be measured must not be left out in silence.
func (s *scope) Skipf(format string, args ...any) { s.Fatalf(format, args...) }

// TempDir returns a directory that is removed at the end.
func (s *scope) TempDir() string {
	dir, err := os.MkdirTemp("", "bench")
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}
