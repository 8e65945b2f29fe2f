package counter

import (
	"context"

	"github.com/cachex-go/cachex/internal/combine"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// An addition is one Add on its way.
type addition struct {
	adding
	by   int64 // delta
	n    int64 // what the script says came of it
	kind string
	err  error
}

// together makes what sends the additions of several goroutines: while two round trips
// are under way, those who come wait for one of them to end, and leave together.
func (c *Counter[K]) together() *combine.Combiner[*addition] {
	// Not c.kind.Spawn itself, which cachex.New sets later.
	spawn := func(code guard.Code, fn func() error, done func(error)) { c.kind.Spawn(code, fn, done) }
	return &combine.Combiner[*addition]{Send: c.sendAll, Fail: failAll, Most: convoy.Most, Go: spawn}
}

// failAll gives additions the error of a send that panicked or called runtime.Goexit.
func failAll(all []*addition, err error) {
	for _, a := range all {
		a.err = unknown(err)
	}
}

// send sends one addition. The error is that of Redis, or of the end of ctx.
func (c *Counter[K]) send(ctx context.Context, a adding, by int64) (n int64, kind string, err error) {
	own := &addition{adding: a, by: by}
	if c.spec.NoCombining {
		if err := guard.Call(guard.Client, func() error { c.sendAll(ctx, []*addition{own}); return nil }); err != nil {
			failAll([]*addition{own}, err)
		}
		return own.n, own.kind, own.err
	}
	switch sent, err := c.adds.Do(ctx, own); {
	case err == nil:
		return own.n, own.kind, own.err
	case sent:
		return 0, "", unknown(err)
	default:
		return 0, "", err
	}
}

// sendAll sends additions in one round trip. Those to the same count are one command:
// they are added as one sum, and everybody is told what the count would have been
// after his own, had they come one after the other.
func (c *Counter[K]) sendAll(ctx context.Context, all []*addition) {
	sums := summed(all)
	calls := make([]*script.Call, len(sums))
	for i, s := range sums {
		calls[i] = c.adding(s.adding(), c.whereMissing())
	}
	c.kind.Send(ctx, calls...)
	var apart []*addition
	for i, s := range sums {
		n, kind, err := added(calls[i])
		if err == ErrOverflow && len(s.parts) > 1 { // some of them may fit
			apart = append(apart, s.parts...)
			continue
		}
		s.answer(n, kind, err)
	}
	if len(apart) == 0 {
		return
	}
	calls = calls[:0]
	for _, a := range apart {
		calls = append(calls, c.adding(a.adding, c.whereMissing()))
	}
	c.kind.Send(ctx, calls...)
	for i, a := range apart {
		a.n, a.kind, a.err = added(calls[i])
	}
}

// A sum is additions to one count that go in one direction. So if the count fits
// int64 after all of them, it did after each.
type sum struct {
	parts []*addition
	total int64
}

// summed adds up what can be. An operation that is carried out once is not for adding
// up.
func summed(all []*addition) []*sum {
	if len(all) == 1 {
		return []*sum{{all, all[0].by}}
	}
	type direction struct {
		key  string
		down bool
	}
	sums, at := make([]*sum, 0, len(all)), make(map[direction]*sum, len(all))
	for _, a := range all {
		to := direction{a.key, a.by < 0}
		if s := at[to]; s != nil && a.op == "" {
			if total, ok := plus(s.total, a.by); ok {
				s.parts, s.total = append(s.parts, a), total
				continue
			}
		}
		s := &sum{[]*addition{a}, a.by}
		if sums = append(sums, s); a.op == "" {
			at[to] = s
		}
	}
	return sums
}

// adding is what adds the sum.
func (s *sum) adding() adding {
	a := s.parts[0].adding
	if len(s.parts) > 1 {
		a.delta = decimal(s.total)
	}
	return a
}

// answer gives everybody what came of the sum.
func (s *sum) answer(n int64, kind string, err error) {
	n -= s.total
	for _, a := range s.parts {
		n += a.by
		a.n, a.kind, a.err = n, kind, err
	}
}
