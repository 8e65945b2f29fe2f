// Package cachex is a typed cache on Redis.
package cachex
