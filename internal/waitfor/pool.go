package waitfor

import "context"

// Pool limits the number of concurrent loads. A nil Pool has no limit. It is
// safe for concurrent use.
type Pool struct {
	room chan struct{} // one element for each load inside
	in   map[*Load]int // guarded by mu: how often each load is inside
}

// NewPool returns a Pool for n loads, nil if n is 0.
func NewPool(n int) *Pool {
	if n == 0 {
		return nil
	}
	return &Pool{room: make(chan struct{}, n), in: make(map[*Load]int)}
}

// TryEnter lets l in if there is room, and reports whether it did. If so, the
// caller must call Leave.
func (p *Pool) TryEnter(l *Load) bool {
	select {
	case p.room <- struct{}{}:
		mu.Lock()
		defer mu.Unlock()
		p.in[l]++
		return true
	default:
		return false
	}
}

// Enter waits for room, and reports whether l was let in; then the caller must
// call Leave. Otherwise it returns the cause of the end of ctx; or nil, and l
// continues without room: a load inside waits for it.
func (p *Pool) Enter(ctx context.Context, l *Load) (in bool, err error) {
	if p.TryEnter(l) {
		return true, nil
	}
	mu.Lock()
	spared := make(chan struct{})
	l.pool, l.spared = p, spared
	l.settle(nil)
	mu.Unlock()
	select {
	case p.room <- struct{}{}:
		in = true
	case <-spared:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	mu.Lock()
	defer mu.Unlock()
	if l.pool = nil; in {
		p.in[l]++
	}
	return in, err
}

// Pass transfers the room of one load to another.
func (p *Pool) Pass(from, to *Load) {
	mu.Lock()
	defer mu.Unlock()
	p.in[to]++
	p.leave(from)
}

// leave removes a load. The caller holds mu.
func (p *Pool) leave(l *Load) {
	if p.in[l]--; p.in[l] == 0 {
		delete(p.in, l)
	}
}

// Leave frees the room of l.
func (p *Pool) Leave(l *Load) {
	mu.Lock()
	p.leave(l)
	mu.Unlock()
	<-p.room
}
