package httpcache

import (
	"context"
	"sync"
)

// A crew counts the goroutines of a Handler, so that Close can wait for them.
type crew struct {
	mu     sync.Mutex
	n      int           // guarded by mu
	closed bool          // guarded by mu
	idle   chan struct{} // made by the first wait; closed when closed and n is 0
}

// enter counts a goroutine. After wait it refuses, unless it must not: a load that
// is under way may still begin what wait will see.
func (c *crew) enter(must bool) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed && !must {
		return false
	}
	c.n++
	return true
}

func (c *crew) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	c.settle()
}

// settle closes idle if it is time. The caller holds mu.
func (c *crew) settle() {
	if c.closed && c.n == 0 {
		select {
		case <-c.idle:
		default:
			close(c.idle)
		}
	}
}

// shut makes enter refuse.
func (c *crew) shut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed {
		c.closed, c.idle = true, make(chan struct{})
	}
}

// wait returns when all have left, or with the cause of the end of ctx.
func (c *crew) wait(ctx context.Context) error {
	c.mu.Lock()
	c.settle()
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
