package httpcache

import (
	"context"
	"sync"
)

// group counts the goroutines of a Handler, so that Close can wait for them.
type group struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed bool          // guarded by mu
	idle   chan struct{} // made by close; closed when the group is closed and n is 0
}

// enter counts a goroutine. After close it reports false, unless must is set: a
// load in flight may still start a goroutine, which wait waits for.
func (c *group) enter(must bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed && !must {
		return false
	}
	c.n++
	return true
}

func (c *group) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	c.closeIdle()
}

// closeIdle closes idle if no goroutine is left. The caller holds mu.
func (c *group) closeIdle() {
	if c.closed && c.n == 0 {
		select {
		case <-c.idle:
		default:
			close(c.idle)
		}
	}
}

// close makes enter report false.
func (c *group) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed, c.idle = true, make(chan struct{})
	}
}

// wait waits until all goroutines have left. If ctx ends first, it returns the
// cause.
func (c *group) wait(ctx context.Context) error {
	c.mu.Lock()
	c.closeIdle()
	c.mu.Unlock()
	select {
	case <-c.idle:
		return nil
	default:
	}
	select {
	case <-c.idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
