package sentinel

import (
	"fmt"
	"slices"
	"time"
)

// answer is the last answer of a Sentinel. The zero value says nothing.
type answer struct {
	epoch  int64     // of its configuration; it grows with every failover
	addr   string    // of the master
	others int       // Sentinels that it knows, without itself
	asked  time.Time // when the question was sent
}

// proof says which server is the master, or why that is not known.
type proof struct {
	addr  string
	asked time.Time // most Sentinels were asked at this time or later; zero if err is set
	err   error
}

// valid reports whether a command may be sent now to addr. Both clocks count,
// because the monotonic one stands still while the machine sleeps.
func (p *proof) valid(addr string, now time.Time) bool {
	return p.err == nil && p.addr == addr && p.age(now) <= MaxLag
}

func (p *proof) age(now time.Time) time.Duration {
	return max(now.Sub(p.asked), now.Round(0).Sub(p.asked.Round(0)))
}

// prove combines the answers into a proof at now. The highest epoch counts, as
// among Sentinels. Two majorities have a Sentinel in common, and its epoch
// never decreases. So as soon as a command was sent to a new master, no later
// question can find a majority for the old one.
func prove(answers []answer, now time.Time) *proof {
	known := len(answers)
	var addr string
	epoch, heard := int64(-1), 0
	for _, a := range answers {
		if a.asked.IsZero() || now.Sub(a.asked) > MaxLag {
			continue
		}
		heard++
		known = max(known, a.others+1)
		if a.epoch > epoch {
			epoch, addr = a.epoch, a.addr
		}
	}
	var asked []time.Time
	for _, a := range answers {
		if !a.asked.IsZero() && a.epoch == epoch && a.addr == addr {
			asked = append(asked, a.asked)
		}
	}
	most := known/2 + 1
	if len(asked) < most {
		return &proof{err: fmt.Errorf("%w: of %d Sentinels, %d answer and %d name %q", ErrMaster, known, heard, len(asked), addr)}
	}
	slices.SortFunc(asked, func(a, b time.Time) int { return b.Compare(a) })
	return &proof{addr: addr, asked: asked[most-1]}
}
