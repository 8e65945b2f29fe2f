package measure

import (
	"math"
	"math/bits"
	"time"
)

// histogram counts durations, to three percent, in constant space: the memory
// for latencies must not distort the measurement.
type histogram struct {
	counts [octaves * steps]uint32
	n      int64
}

const (
	steps   = 32 // per octave; the first octave has the durations below so many ns
	octaves = 36 // up to 18 minutes
)

func (h *histogram) add(d time.Duration) {
	h.counts[bucket(d)]++
	h.n++
}

func (h *histogram) merge(other *histogram) {
	for i, n := range other.counts {
		h.counts[i] += n
	}
	h.n += other.n
}

// quantile returns the duration that a share of the counted durations does not
// exceed. It returns 0 if the histogram is empty.
func (h *histogram) quantile(share float64) time.Duration {
	if h.n == 0 {
		return 0
	}
	rank, seen := int64(math.Ceil(share*float64(h.n))), int64(0)
	for i, n := range h.counts {
		if seen += int64(n); seen >= rank {
			return most(i)
		}
	}
	return most(len(h.counts) - 1)
}

// bucket returns the index of the bucket of d.
func bucket(d time.Duration) int {
	ns := uint64(max(0, d))
	if ns < steps {
		return int(ns)
	}
	shift := bits.Len64(ns) - bits.Len64(steps-1) - 1 // ns>>shift is in [steps, 2*steps)
	return min((shift+1)*steps+int(ns>>shift)-steps, octaves*steps-1)
}

// most returns the greatest duration that is counted in bucket i.
func most(i int) time.Duration {
	if i < steps {
		return time.Duration(i)
	}
	shift := i/steps - 1
	return time.Duration((i%steps+steps+1)<<shift - 1)
}
