package main

import (
	"testing"
	"testing/synctest"
)

// The program ends with an error if any of its statements is false. In a bubble
// no machine is slow, so that it takes exactly as long as its sleeps.
func TestRun_EveryStatementIsTrue(t *testing.T) {
	t.Setenv("REDIS_ADDR", "")
	t.Setenv("DATABASE_URL", "")
	synctest.Test(t, func(t *testing.T) {
		if err := run(); err != nil {
			t.Fatal(err)
		}
	})
}
