//go:build race

package sizes

// raceEnabled says that the race detector is on, which needs memory too.
const raceEnabled = true
