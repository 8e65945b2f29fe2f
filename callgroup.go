package cachex

import (
	"sync"
	"sync/atomic"
)

// A door counts those who are inside, and when shut says when the last has left.
type callGroup struct {
	n    atomic.Int64                  // how many are inside, and shutBit
	idle atomic.Pointer[chan struct{}] // made by the first shut
	once sync.Once                     // closes idle
}

const closedBit = 1 << 62

// enter reports whether the door is open, and then counts the caller.
func (d *callGroup) enter() bool {
	if d.n.Add(1)&closedBit == 0 {
		return true
	}
	d.exit()
	return false
}

func (d *callGroup) exit() {
	if d.n.Add(-1) == closedBit {
		d.once.Do(func() { close(*d.idle.Load()) }) // who is refused passes here too
	}
}

// shut shuts the door and returns a channel that is closed when nobody is
// inside.
func (d *callGroup) close() <-chan struct{} {
	idle := make(chan struct{})
	if d.idle.CompareAndSwap(nil, &idle) {
		d.n.Add(closedBit + 1)
		d.exit() // if we are the last
	}
	return *d.idle.Load()
}
