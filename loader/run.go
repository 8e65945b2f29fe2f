package loader

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/entry"
)

// A run is the course of one flight of a Loader:
//
//	acquire the lease ── granted ──> load under a heartbeat ──> store or release
//	   │    ^      └──── found ────> that is the value
//	   │    └── it ended ── wait <── held by somebody else
//	   └── Redis does not answer ──> load, store nothing
//
// Before each command that can prove the result to be untouched it marks how
// many have joined the flight. What is proven is true for these.
type run[V any] struct {
	l    *Loader[V]
	f    *flight[V]
	key  string
	load Func[V]

	slot    bool // we have one of MaxLoads
	suspect bool // we have waited longer than any lease holds by itself
}

// maxUnfit is how many values that cannot be used a run overwrites. One is what
// a new version of a program meets; more mean that somebody keeps writing them.
const maxUnfit = 3

func (r *run[V]) fly(m miss) {
	l, f := r.l, r.f
	w := l.hear.expect(r.key)
	defer w.end()
	defer r.freeSlot()
	for unfit := 0; ; {
		if err := r.takeSlot(); err != nil {
			r.fail(err)
			return
		}
		if m.away != nil || unfit == maxUnfit {
			r.loadAlone()
			return
		}
		token, sent, proven := entry.NewToken(), time.Now(), f.mark()
		a, err := ask(l, f.ctx, func(ctx context.Context) (Acquisition, error) {
			return l.leases.acquire(ctx, r.key, token, m.unfit, l.expect(), r.suspect)
		})
		switch {
		case f.ctx.Err() != nil:
			r.fail(context.Cause(f.ctx))
			r.release(token)
			return
		case err != nil:
			l.stats.redisFailures.Add(1)
			r.loadAlone()
			if e, ok := errors.AsType[*net.OpError](err); !ok || e.Op != "dial" {
				r.release(token) // it may have been granted, or may be yet
			}
			return
		}
		switch a.Grant {
		case Granted, Refresh:
			r.lead(token, sent, proven)
			return
		case Found:
			v, bad, ok := l.parse(r.key, a.Entry, false)
			if ok {
				f.finish(v, nil, proven)
				return
			}
			m, unfit = bad, unfit+1
		default: // Held, Stale
			r.freeSlot()
			l.stats.waits.Add(1)
			var done bool
			if m, done = r.wait(w, a); done {
				return
			}
			if m.unfit != nil {
				unfit++
			}
		}
	}
}

// lead loads under the lease of token, and keeps it while the load lives.
func (r *run[V]) lead(token Token, sent time.Time, proven int) {
	l, f := r.l, r.f
	var life Life // written by the load before it sends on ch
	var took time.Duration
	ch := r.start(&life, &took)
	heartbeat := time.NewTicker(l.leases.ttl / 3)
	defer heartbeat.Stop()
	beat, joined := make(chan answer[bool], 1), 0
	for {
		select {
		case res := <-ch:
			r.land(f.blame(res), token, life, sent, took, proven)
			return
		case <-f.ctx.Done():
			n := f.mark()
			if r.release(token) {
				proven = n
			}
			var zero V
			f.finish(zero, context.Cause(f.ctx), proven)
			return
		case <-heartbeat.C:
			heartbeat.Stop() // until the answer is there
			joined = f.mark()
			f.fs.spawn(func() {
				held, err := ask(l, f.ctx, func(ctx context.Context) (bool, error) {
					return l.leases.Extend(ctx, r.key, token)
				})
				beat <- answer[bool]{held, err}
			})
		case a := <-beat:
			switch {
			case a.err != nil:
				l.stats.redisFailures.Add(1)
			case a.v:
				proven = joined
			default: // lost: who comes now would not be answered by this load
				f.fs.mu.Lock()
				f.detach()
				f.fs.mu.Unlock()
				continue
			}
			heartbeat.Reset(l.leases.ttl / 3)
		}
	}
}

// land stores what was loaded, or gives the lease back, and ends the flight.
func (r *run[V]) land(res result[V], token Token, life Life, sent time.Time, took time.Duration, proven int) {
	l, f := r.l, r.f
	n := f.mark()
	if res.err != nil {
		if r.release(token) {
			proven = n
		}
		f.finish(res.v, res.err, proven)
		return
	}
	payload, err := r.encode(res.v, life)
	if err != nil {
		l.stats.storeFailures.Add(1)
		if r.release(token) {
			proven = n
		}
		f.finish(res.v, nil, proven)
		return
	}
	verdict, err := ask(l, context.WithoutCancel(f.ctx), func(ctx context.Context) (Verdict, error) {
		return l.leases.Store(ctx, r.key, token, payload, life, sent, took)
	})
	switch {
	case err != nil:
		l.stats.redisFailures.Add(1)
		l.stats.storeFailures.Add(1)
	case verdict == Fenced:
		l.stats.fenced.Add(1)
	default:
		proven = n
	}
	f.finish(res.v, nil, proven)
	if err != nil {
		r.release(token) // Redis may be out of memory: let others try
	}
}

// loadAlone loads without a lease. Nothing proves the result to anybody who
// joins later, so these wait for it to end, and for a load that begins then.
func (r *run[V]) loadAlone() {
	n := r.f.mark()
	res := r.f.await(r.start(new(Life), new(time.Duration)))
	if res.err == nil {
		r.l.stats.storeFailures.Add(1)
	}
	r.f.finish(res.v, res.err, n)
}

// start starts the load, which takes our slot with it.
func (r *run[V]) start(life *Life, took *time.Duration) <-chan result[V] {
	l, slot := r.l, r.slot
	r.slot = false
	return r.f.start(func(ctx context.Context) (V, error) {
		began := time.Now()
		failed := true
		defer func() {
			*took = time.Since(began)
			l.stats.loads.Add(1)
			l.stats.loadTime.Add(int64(*took))
			if failed {
				l.stats.loadFailures.Add(1)
			} else {
				l.learn(*took)
			}
			if slot {
				l.slots.Release(1)
			}
		}()
		v, lives, err := r.load(ctx)
		*life = lives
		failed = err != nil && !errors.Is(err, ErrNotFound)
		return v, err
	})
}

// wait waits until the lease of somebody else ends. It reports true if it has
// ended the flight, else what is known of the key now.
func (r *run[V]) wait(w *wait, a Acquisition) (m miss, done bool) {
	l, f := r.l, r.f
	began, p := time.Now(), newPoll(a, l.expect(), l.leases.ttl)
	var till int64     // of the lease on a stale value, when we looked last
	var seen time.Time // when we first saw it
	for {
		timer := time.NewTimer(p.next(w.begin()))
		select {
		case <-w.look:
		case <-timer.C:
		case <-f.ctx.Done():
		}
		timer.Stop()
		if f.ctx.Err() != nil {
			r.fail(context.Cause(f.ctx))
			return miss{}, true
		}
		proven := f.mark()
		b, err := ask(l, f.ctx, func(ctx context.Context) ([]byte, error) {
			return l.rdb.Get(ctx, r.key).Bytes()
		})
		switch {
		case f.ctx.Err() != nil:
			r.fail(context.Cause(f.ctx))
			return miss{}, true
		case errors.Is(err, redis.Nil), wrongType(err):
			return miss{}, false
		case err != nil:
			l.stats.redisFailures.Add(1)
			return miss{away: err}, false
		}
		if h, _, ok := entry.Parse(r.key, b); ok {
			switch {
			case h.State == entry.Value && h.Till == 0:
			case l.leases.hint && h.Flags&entry.Awaited == 0:
				return miss{}, false // somebody else's lease, who does not know that we wait
			case h.State == entry.Lease: // still, or again
				if r.suspect = time.Since(began) > 2*l.leases.ttl; r.suspect {
					return miss{}, false
				}
				continue
			case h.Till != 0: // likewise; whether it still holds is for the server's clock to say
				if h.Till != till {
					till, seen = h.Till, time.Now()
				}
				if time.Since(seen) > l.leases.ttl { // no heartbeat for so long
					return miss{}, false
				}
				continue
			}
			if h.Token == (Token{}) { // the load failed, and left the stale value
				return miss{}, false
			}
			if h.Cost > 0 { // so that we know when to look the next time
				l.learn(h.Cost)
			}
		}
		v, m, ok := l.parse(r.key, b, false)
		if ok {
			f.finish(v, nil, proven)
		}
		return m, ok
	}
}

// encode returns the bytes of v, or an error if they or its life cannot be
// stored.
func (r *run[V]) encode(v V, life Life) ([]byte, error) {
	if err := life.check(); err != nil {
		return nil, err
	}
	return r.l.Encode(r.key, v)
}

// release gives the lease of token back, whatever ended the flight, and reports
// whether nothing had happened to it.
func (r *run[V]) release(token Token) bool {
	held, err := ask(r.l, context.WithoutCancel(r.f.ctx), func(ctx context.Context) (bool, error) {
		return r.l.leases.Release(ctx, r.key, token)
	})
	if err != nil {
		r.l.stats.redisFailures.Add(1)
	}
	return held
}

// fail ends the flight for all its members.
func (r *run[V]) fail(err error) {
	var zero V
	r.f.finish(zero, err, r.f.mark())
}

// takeSlot waits for one of MaxLoads. A load that a load of ours has asked for
// goes without: the one that waits for it has a slot, and might have the last.
func (r *run[V]) takeSlot() error {
	if r.l.slots == nil || r.slot || r.f.nested() {
		return nil
	}
	if r.l.slots.Acquire(r.f.ctx, 1) != nil {
		return context.Cause(r.f.ctx)
	}
	r.slot = true
	return nil
}

func (r *run[V]) freeSlot() {
	if r.slot {
		r.l.slots.Release(1)
		r.slot = false
	}
}

// A poll says when to look at a lease again.
type poll struct {
	first time.Duration // when the load should be over
	after time.Duration // between two looks from then on
	most  time.Duration
	began bool
}

// newPoll plans for a load that takes as long as its holder, or else we, expect.
func newPoll(a Acquisition, expect, lease time.Duration) poll {
	p := poll{first: 5 * time.Millisecond, after: 2 * time.Millisecond, most: min(250*time.Millisecond, lease/4)}
	if a.Cost > 0 {
		expect = a.Cost
	}
	if expect > 0 && a.Grant == Held {
		// The clocks may differ by anything. That moves the first look between at
		// once and expect from now, and decides nothing.
		since := min(max(time.Since(a.Began), 0), expect)
		p.first = max(2*time.Millisecond, expect-since+time.Millisecond)
	}
	p.first = min(p.first, lease) // its holder may be dead
	return p
}

// next returns how long to wait before the next look. A live listener is given
// time to be first.
func (p *poll) next(live bool) time.Duration {
	if !p.began {
		p.began = true
		if live {
			return p.first + min(max(100*time.Millisecond, p.first/4), 250*time.Millisecond)
		}
		return p.first
	}
	d := p.after + rand.N(p.after/4+1)
	p.after = min(p.after*8/5, p.most)
	if live {
		d = max(d, 100*time.Millisecond)
	}
	return min(d, p.most+p.most/4)
}
