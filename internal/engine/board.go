package engine

import (
	"context"

	"github.com/cachex-go/cachex/internal/waitfor"
)

// A member is one caller.
type member struct {
	f    *flight       // guarded by fs.mu: whom the member waits for
	left bool          // guarded by fs.mu
	link *waitfor.Link // guarded by fs.mu: nil unless it is a load that waits
	anew bool          // it wants a load that begins after it came

	run func(*flight) // of a member who is anew: flies a flight that loads
}

// board joins the flight of key, or starts one, which run then has to finish. If
// run is nil it does not start one, and returns nil if there is none that may be
// joined by a caller who has not read the key.
func (fs *group) board(ctx context.Context, key string, run func(*flight)) (*member, error) {
	m, _, err := fs.embark(ctx, key, false, run, nil)
	return m, err
}

// boardOne joins the flight of one of many keys, as board does without run, but
// leaves it in the queue. It returns the flight too if it is queued.
func (fs *group) boardOne(ctx context.Context, key string) (m *member, queued *flight, err error) {
	if err := fs.admit(ctx, key); err != nil {
		return nil, nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	switch {
	case fs.closed:
		return nil, nil, ErrClosed
	case f == nil || f.aside:
		return nil, nil, nil
	case f.queued:
		queued = f
	}
	return f.board(), queued, nil
}

// boardAside joins a flight, or starts one that nobody joins who has not read the
// key.
func (fs *group) boardAside(ctx context.Context, key string, run func(*flight)) (*member, error) {
	m, _, err := fs.embark(ctx, key, true, run, nil)
	return m, err
}

// embark is board, or boardAside. It reports whether it has started the flight. bring
// is called, under fs.mu and unless it is nil, if others may join the flight who have
// not read the key.
func (fs *group) embark(ctx context.Context, key string, aside bool, run, bring func(*flight)) (m *member, started bool, err error) {
	if err := fs.admit(ctx, key); err != nil {
		return nil, false, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	switch {
	case fs.closed:
		return nil, false, ErrClosed
	case f != nil && (run != nil || !f.aside):
	case run == nil:
		return nil, false, nil
	default:
		f, started = fs.launch(ctx, key, run), true
		f.aside = aside
	}
	f.claim(company{}) // who asks for one key does not queue behind many
	m = f.board()
	if bring != nil && !f.aside {
		bring(f)
	}
	return m, started, nil
}

// boardAnew joins a flight of which the load has not begun, or starts one. Who
// comes while such a load is under way waits for it and for the next one, which
// all of them share: so at most one at a time runs in this process.
func (fs *group) boardAnew(ctx context.Context, key string, run func(*flight)) (*member, error) {
	if err := fs.admit(ctx, key); err != nil {
		return nil, err
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, ErrClosed
	}
	f := fs.m[key]
	if f == nil || !f.anew {
		f = fs.launch(ctx, key, run) // in place of one that began before
		f.aside, f.anew = true, true
	}
	m := f.board()
	m.anew, m.run = true, run
	return m, nil
}

// A boarding says who boards the flights of several keys.
type boarding uint8

const (
	readers    boarding = iota // those who need a value
	refreshers                 // those who see to a new one: readers may have a value
	nobody                     // and no one waits; what flies already is left alone
)

// leaveAside starts a flight that nobody waits for, unless there is one.
func (fs *group) leaveAside(ctx context.Context, key string, run func(*flight)) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if !fs.closed && fs.m[key] == nil {
		f := fs.launch(unasked(ctx), key, run)
		f.aside, f.steady = true, true
		f.waiting++
	}
}

// unasked returns ctx for a load that nobody waits for: it may ask for whatever is
// being loaded.
func unasked(ctx context.Context) context.Context {
	if waitfor.From(ctx) == nil {
		return ctx
	}
	return waitfor.With(ctx, nil)
}

// boardAll boards the flights of several keys. Those that it has to start are
// flown together, by what crew returns for so many, before any of them starts; run
// flies the i-th by itself, should that be needed. If queue is set, they wait to be
// claimed, by crew or by whoever boards one of them. queued are those that it has
// found queued. The error is one a key.
func (fs *group) boardAll(ctx context.Context, keys []string, who boarding, queue bool, run func(i int) func(*flight), crew func(n int, queued []*flight) func(fs []*flight, is []int)) (members []*member, errs []error) {
	members, errs = make([]*member, len(keys)), make([]error, len(keys))
	if who != nobody {
		for i, key := range keys {
			errs[i] = fs.admit(ctx, key)
		}
	}
	values := context.WithoutCancel(ctx)
	if who == nobody {
		values = unasked(values)
	}
	var started, queued []*flight
	var is []int
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for i, key := range keys {
		f := fs.m[key]
		switch {
		case errs[i] != nil:
			continue
		case fs.closed:
			errs[i] = ErrClosed
			continue
		case f == nil:
			f = fs.register(values, key, run(i))
			f.queued = queue
			started, is = append(started, f), append(is, i)
			if f.aside, f.steady = who != readers, who == nobody; f.steady {
				f.waiting++
			}
		case f.queued && who != nobody:
			queued = append(queued, f)
		}
		if who != nobody {
			members[i] = f.board()
		}
	}
	fly := crew(len(started), queued)
	if len(started) > 0 {
		fs.fly(func() { fly(started, is) }, started...)
	}
	return members, errs
}

// admit returns the error of a caller who cannot board.
func (fs *group) admit(ctx context.Context, key string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if load := waitfor.From(ctx); load != nil && load.Loads(fs, key) {
		return ErrReentrant
	}
	return nil
}

// await says that m waits, with the ctx of its caller, if that is the one of a load.
// The caller holds fs.mu.
func (m *member) await(ctx context.Context) {
	if m.link == nil && !over(m.f.done) {
		m.link = waitfor.Await(ctx, &m.f.node)
	}
}

// awaits is await for several, nil or not, before any of them is waited for.
func (fs *group) awaits(ctx context.Context, members []*member) {
	if waitfor.From(ctx) == nil {
		return
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for _, m := range members {
		if m != nil {
			m.await(ctx)
		}
	}
}

// wait returns what the flight of m finds, or that of a later one, which is not to be
// written to. It reports false if early comes before, and then m has not left.
//
// A result has a value in it. It is passed on by reference, since those who wait are
// many, and of goroutines that have just begun each would have to move to a larger
// stack for the copies.
func (fs *group) wait(ctx context.Context, m *member, early <-chan struct{}) (*result, bool) {
	fs.mu.Lock()
	f := m.f
	ended := over(f.done)
	if !ended {
		m.await(ctx)
	}
	link := m.link
	fs.mu.Unlock()
	if link != nil {
		defer fs.unlink(m)
	}
	if ended { // as for those whom a turn has brought: they need no select, nor the stack for it
		return &f.r, true
	}
	for {
		hurry, itself := false, false
		select {
		case <-f.done:
		case <-ctx.Done():
		case <-early:
			hurry = true
		case <-link.Broken():
			itself = true
		}
		fs.mu.Lock()
		switch {
		case itself && !over(m.f.done):
			m.left = true
			m.f.leave()
			fs.mu.Unlock()
			return &result{err: ErrReentrant}, true
		case m.f != f:
			f = m.f // it came too late for what that flight found
		case over(f.done):
			fs.mu.Unlock()
			return &f.r, true
		}
		if ctx.Err() != nil && !over(f.done) {
			m.left = true
			f.leave()
			fs.mu.Unlock()
			return &result{err: context.Cause(ctx)}, true
		}
		fs.mu.Unlock()
		if hurry && !over(f.done) {
			return nil, false
		}
	}
}

// unlink says that m does not wait any more.
func (fs *group) unlink(m *member) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m.link.End()
	m.link = nil
}

// linger is for a member who leaves without harm to the flight: it flies on,
// though nobody may be waiting for it.
func (fs *group) linger(m *member) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	m.left = true
	f := m.f
	if over(f.done) {
		return
	}
	if f.aside = true; f.steady {
		f.leave()
	}
	f.steady = true // and so m's place is the one that keeps it flying
}
