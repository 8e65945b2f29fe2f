// Package near describes a near cache: decoded values in the memory of this
// process, in front of Redis, invalidated by it.
package near

// Options describe the near cache of a cachex.Cache. There are none to choose
// yet, and cachex.New refuses them.
type Options struct{}
