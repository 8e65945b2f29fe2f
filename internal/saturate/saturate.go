// Package saturate does arithmetic with durations. Instead of overflowing, a
// result is the longest or the shortest duration. Options have no bound that
// keeps products in range, and numbers that Redis returns may have any value.
package saturate

import (
	"math"
	"math/bits"
	"time"
)

// Mul returns d times n.
func Mul(d time.Duration, n int64) time.Duration {
	hi, lo := bits.Mul64(magnitude(int64(d)), magnitude(n))
	negative := (d < 0) != (n < 0)
	switch {
	case hi == 0 && lo <= math.MaxInt64 && negative:
		return -time.Duration(lo)
	case hi == 0 && lo <= math.MaxInt64:
		return time.Duration(lo)
	case negative:
		return math.MinInt64
	}
	return math.MaxInt64
}

// Millis returns n milliseconds.
func Millis(n int64) time.Duration { return Mul(time.Millisecond, n) }

// Double returns d doubled n times. If n is negative, it returns d.
func Double(d time.Duration, n int64) time.Duration {
	switch {
	case n <= 0:
		return d
	case n >= 63:
		return Mul(Mul(d, 1<<62), 2)
	}
	return Mul(Mul(d, 1<<(n-1)), 2)
}

// magnitude returns n without its sign.
func magnitude(n int64) uint64 {
	if n < 0 {
		return -uint64(n)
	}
	return uint64(n)
}
