// Package defaults has the defaults of time limits that several packages share.
package defaults

import "time"

// LeaseTTL returns the default of every Spec.LeaseTTL and of loader.Options.LeaseTTL. It
// also bounds how long a call waits for a Redis that does not answer a round trip.
func LeaseTTL() time.Duration { return atLeast(3 * time.Second) }

// BatchLeaseTTL returns the default of writebehind.Options.LeaseTTL.
func BatchLeaseTTL() time.Duration { return atLeast(5 * time.Second) }

// InTests returns how long a lease holds at least where a test sets no LeaseTTL. A test
// binary sets it before its first test; else it is nil. A machine that stands still for
// three seconds must not fail a test that is about something else than leases.
var InTests func() time.Duration

func atLeast(d time.Duration) time.Duration {
	if InTests != nil {
		return max(d, InTests())
	}
	return d
}
