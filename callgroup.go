package cachex

import (
	"sync"
	"sync/atomic"
)

// callGroup counts the calls in flight, and after close reports when the last
// one has ended.
type callGroup struct {
	n    atomic.Int64                  // number of calls, plus closedBit after close
	idle atomic.Pointer[chan struct{}] // set by the first close
	once sync.Once                     // closes idle
}

const closedBit = 1 << 62

// enter counts the caller and returns true, or returns false after close.
func (d *callGroup) enter() bool {
	if d.n.Add(1)&closedBit == 0 {
		return true
	}
	d.exit()
	return false
}

func (d *callGroup) exit() {
	if d.n.Add(-1) == closedBit {
		d.once.Do(func() { close(*d.idle.Load()) }) // refused callers also reach this line
	}
}

// close refuses further calls. It returns a channel that is closed when no call
// is in flight.
func (d *callGroup) close() <-chan struct{} {
	idle := make(chan struct{})
	if d.idle.CompareAndSwap(nil, &idle) {
		d.n.Add(closedBit + 1)
		d.exit() // closes idle if no call is in flight
	}
	return *d.idle.Load()
}
