//go:build !race

package middleware

// raceEnabled reports whether the race detector is on, which allocates too.
const raceEnabled = false
