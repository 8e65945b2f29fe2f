package counter

import (
	"context"

	"github.com/cachex-go/cachex/internal/combine"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// pendingAdd is one Add in a batch.
type pendingAdd struct {
	addRequest
	delta  int64 // delta
	n      int64 // the count after it
	status string
	err    error
}

// newBatcher returns the batcher of additions: while two round trips are in
// flight, further additions wait for one to end, and share the next.
func (c *Counter[K]) newBatcher() *combine.Combiner[*pendingAdd] {
	// Not c.kind.Spawn itself, which cachex.New sets later.
	spawn := func(code guard.Code, fn func() error, done func(error)) { c.kind.Spawn(code, fn, done) }
	return &combine.Combiner[*pendingAdd]{Send: c.sendAll, Fail: failAll, Most: convoy.Most, Go: spawn}
}

// failAll sets the error of additions whose send panicked or called
// runtime.Goexit.
func failAll(all []*pendingAdd, err error) {
	for _, a := range all {
		a.err = unknown(err)
	}
}

// send sends one addition. The error is an error of Redis, or of the end of
// ctx.
func (c *Counter[K]) send(ctx context.Context, req addRequest, delta int64) (n int64, status string, err error) {
	own := &pendingAdd{addRequest: req, delta: delta}
	if c.spec.NoCombining {
		if err := guard.Call(guard.Client, func() error { c.sendAll(ctx, []*pendingAdd{own}); return nil }); err != nil {
			failAll([]*pendingAdd{own}, err)
		}
		return own.n, own.status, own.err
	}
	switch sent, err := c.batcher.Do(ctx, own); {
	case err == nil:
		return own.n, own.status, own.err
	case sent:
		return 0, "", unknown(err)
	default:
		return 0, "", err
	}
}

// sendAll sends additions in one round trip. Additions to the same count are
// one command with their sum. Each caller gets the count after its own
// addition, as if they had been sent one after the other.
func (c *Counter[K]) sendAll(ctx context.Context, all []*pendingAdd) {
	sums := coalesce(all)
	calls := make([]*script.Call, len(sums))
	for i, s := range sums {
		calls[i] = c.addCall(s.request(), c.onMissing())
	}
	c.kind.Send(ctx, calls...)
	var apart []*pendingAdd
	for i, s := range sums {
		n, status, err := parseAdded(calls[i])
		if err == ErrOverflow && len(s.parts) > 1 { // some of them may fit
			apart = append(apart, s.parts...)
			continue
		}
		s.distribute(n, status, err)
	}
	if len(apart) == 0 {
		return
	}
	calls = calls[:0]
	for _, a := range apart {
		calls = append(calls, c.addCall(a.addRequest, c.onMissing()))
	}
	c.kind.Send(ctx, calls...)
	for i, a := range apart {
		a.n, a.status, a.err = parseAdded(calls[i])
	}
}

// coalesced is a group of additions to one count in one direction. If the count
// fits int64 after all of them, it fits after each.
type coalesced struct {
	parts []*pendingAdd
	total int64
}

// coalesce groups additions to equal counts. Operations of AddOnce are not
// grouped.
func coalesce(all []*pendingAdd) []*coalesced {
	if len(all) == 1 {
		return []*coalesced{{all, all[0].delta}}
	}
	type direction struct {
		key  string
		down bool
	}
	sums, at := make([]*coalesced, 0, len(all)), make(map[direction]*coalesced, len(all))
	for _, a := range all {
		to := direction{a.key, a.delta < 0}
		if s := at[to]; s != nil && a.op == "" {
			if total, ok := plus(s.total, a.delta); ok {
				s.parts, s.total = append(s.parts, a), total
				continue
			}
		}
		s := &coalesced{[]*pendingAdd{a}, a.delta}
		if sums = append(sums, s); a.op == "" {
			at[to] = s
		}
	}
	return sums
}

// request returns the addition of the whole group.
func (s *coalesced) request() addRequest {
	a := s.parts[0].addRequest
	if len(s.parts) > 1 {
		a.delta = decimal(s.total)
	}
	return a
}

// distribute sets the result of each addition of the group.
func (s *coalesced) distribute(n int64, status string, err error) {
	n -= s.total
	for _, a := range s.parts {
		n += a.delta
		a.n, a.status, a.err = n, status, err
	}
}
