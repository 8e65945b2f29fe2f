//go:build !race

package cachex

// raceEnabled says that the race detector is on, which allocates too.
const raceEnabled = false
