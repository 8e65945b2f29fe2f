package main

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// scope stands in for a test, in a program that is not a test. Package
// redistest starts servers for a test, and stops them when it ends.
type scope struct {
	testing.TB // nil: redistest calls only the methods below
	cleanups   []func()
	failed     bool
}

// failure is the value that Fatal panics with. within returns it as an error.
type failure string

// Error returns the arguments of Fatal as text.
func (f failure) Error() string { return string(f) }

// within calls f with a scope that ends when f does. The error is the result of
// f, or the argument of Fatal or Skipf.
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

// Helper does nothing: it exists only for the interface.
func (s *scope) Helper() {}

// Failed reports whether Fatal was called.
func (s *scope) Failed() bool { return s.failed }

// Cleanup registers f to be called at the end. The last f is called first.
func (s *scope) Cleanup(f func()) { s.cleanups = append(s.cleanups, f) }

// Logf prints to the standard error.
func (s *scope) Logf(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }

// Fatal ends f, and becomes the error of within.
func (s *scope) Fatal(args ...any) { panic(failure(fmt.Sprint(args...))) }

// Fatalf is Fatal with a format.
func (s *scope) Fatalf(format string, args ...any) { panic(failure(fmt.Sprintf(format, args...))) }

// Skipf is Fatalf: a measurement must not be skipped silently.
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
