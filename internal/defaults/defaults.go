// Package defaults has the defaults of time limits that several packages share.
package defaults

import "time"

// They are variables for the sake of tests: a test binary sets them before its first
// test. A machine that stands still for three seconds must not fail a test that is about
// something else than leases.
var (
	// LeaseTTL is the default of every Spec.LeaseTTL and of loader.Options.LeaseTTL. It
	// also bounds how long a call waits for a Redis that does not answer a round trip.
	LeaseTTL = 3 * time.Second

	// BatchLeaseTTL is the default of writebehind.Options.LeaseTTL.
	BatchLeaseTTL = 5 * time.Second
)
