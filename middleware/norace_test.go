//go:build !race

package middleware

// raceEnabled says that the race detector is on, which allocates too.
const raceEnabled = false
