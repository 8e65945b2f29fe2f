package engine

import (
	"context"
	"errors"
	"hash/maphash"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/gather"
)

// A getTable lets concurrent readers of a key share a GET.
//
// A caller may share a GET only if it came before the GET was sent. Otherwise
// the key could have been deleted in between, even by another process, and the
// deletion could have returned. So callers that come during a read wait for its
// end, and then send the next one together. If the read finds nothing and
// starts a flight, they join that flight and send nothing: see adoptGetWaiters.
//
// A lone caller pays one lock out of 64 for it.
type getTable struct {
	seed   maphash.Seed
	shards [64]getShard
}

type getShard struct {
	mu   sync.Mutex
	m    map[string]*sharedGet // guarded by mu: the active read of a key, or the next one
	solo *sync.Pool            // of sharedGets of lone callers, the usual case; no other caller sees them
	_    [40]byte              // no two shards on a cache line
}

// A sharedGet is one GET of a key, for all callers that waited for it. One of
// them sends it.
type sharedGet struct {
	begin   chan struct{} // closed when the previous one has ended; nil if there was none before it
	done    chan struct{} // closed when b and err are set; nil if no other caller waited
	waiting int           // guarded by getShard.mu: callers that wait for begin and have not left
	lookups int           // guarded by getShard.mu: those callers of waiting that do not load
	sent    bool          // guarded by getShard.mu: a caller sends it
	next    *sharedGet    // guarded by getShard.mu: for callers that come during this one
	b       []byte
	err     error

	// adopted are the waiters of a flight that the callers waiting for begin
	// have joined; begin is closed when that flight has ended. Each caller
	// takes any of them. Set by adoptGetWaiters, under getShard.mu and before
	// begin is closed; nil if they joined no flight.
	adopted []waiter
	claimed atomic.Int64
}

// claimSlot returns a waiter of the flight for the caller.
func (g *sharedGet) claimSlot() *waiter { return &g.adopted[g.claimed.Add(1)-1] }

func (rs *getTable) init() {
	rs.seed = maphash.MakeSeed()
	solo := &sync.Pool{New: func() any { return &sharedGet{sent: true} }}
	for i := range rs.shards {
		rs.shards[i].m, rs.shards[i].solo = make(map[string]*sharedGet), solo
	}
}

func (rs *getTable) shard(key string) *getShard {
	return &rs.shards[maphash.String(rs.seed, key)%uint64(len(rs.shards))]
}

// join returns the next sharedGet of key. If its begin is nil, the caller must
// send it at once. Other callers wait for begin. Then they call claimSlot if
// adopted is set, and becomeSender or leave if not. load reports whether the
// caller loads a missing key.
func (s *getShard) join(key string, load bool) *sharedGet {
	s.mu.Lock()
	defer s.mu.Unlock()
	g := s.m[key]
	if g == nil {
		g = s.solo.Get().(*sharedGet)
		s.m[key] = g
		return g
	}
	if g.begin == nil || g.sent { // else it has begun, but may still be joined
		if g.next == nil {
			g.next = &sharedGet{begin: make(chan struct{}), done: make(chan struct{})}
		}
		g = g.next
	}
	g.waiting++
	if !load {
		g.lookups++
	}
	return g
}

// adoptGetWaiters adds the callers that wait for the end of g to the waiters of
// f, if all of them would join f then. They go on waiting, until f has ended.
// So they are woken once instead of twice, and not while f requests the lease,
// when many of them would only delay it. It returns their number. The caller
// must hold f.group.mu.
func (s *getShard) adoptGetWaiters(g *sharedGet, f *flight) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := g.next
	if next == nil || next.waiting == 0 || next.lookups > 0 {
		return 0
	}
	g.next = nil
	next.adopted = make([]waiter, next.waiting)
	for i := range next.adopted {
		f.addWaiter(&next.adopted[i])
	}
	f.alsoWake = append(f.alsoWake, next.begin)
	return next.waiting
}

// becomeSender reports whether the caller must send g. Otherwise the caller
// waits for done.
func (s *getShard) becomeSender(g *sharedGet) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g.waiting--
	if g.sent {
		return false
	}
	g.sent = true
	return true
}

// leave removes a caller that has waited and does not read. If it was added to
// a flight, leave returns its waiter, which has not left the flight. Otherwise
// it returns nil.
func (s *getShard) leave(key string, g *sharedGet, load bool) *waiter {
	s.mu.Lock()
	defer s.mu.Unlock()
	if g.adopted != nil {
		return g.claimSlot()
	}
	if !load {
		g.lookups--
	}
	if g.waiting--; g.waiting == 0 && !g.sent && s.m[key] == g {
		s.advance(key, g)
	}
	return nil
}

// finish gives the reply to the callers that share g, and begins the next read.
func (s *getShard) finish(key string, g *sharedGet, v gather.Value, err error) {
	s.mu.Lock()
	s.advance(key, g)
	s.mu.Unlock()
	if g.done != nil {
		g.b, g.err = v.Own(), err
		close(g.done)
		return
	}
	v.Release()
	g.next = nil
	s.solo.Put(g)
}

// advance makes the successor of g the current sharedGet of key. The caller
// must hold s.mu.
func (s *getShard) advance(key string, g *sharedGet) {
	for g = g.next; g != nil && g.waiting == 0; {
		g = g.next // all callers that waited for it have left
	}
	if g == nil {
		delete(s.m, key)
		return
	}
	s.m[key] = g
	close(g.begin)
}

// A getTicket is the part of one caller in a sharedGet.
type getTicket struct {
	l     *Engine
	shard *getShard
	key   string
	get   *sharedGet // nil once the caller has no part in it
	sends bool       // the caller sends the GET

	value   gather.Value // the reply, for the callers that share get
	readErr error        // the error of the read

	waiter      *waiter // of the flight that the caller has joined
	missCounted bool    // the caller that adopted this one counted its miss
	err         error   // of joining the flight, or of waiting
}

// joinFlight joins the flight of the key if there is one. It returns true if
// that, or its error, makes reading unnecessary.
func (r *getTicket) joinFlight(ctx context.Context) bool {
	if r.l.flights.anyActive.Load() {
		r.waiter, r.err = r.l.flights.join(ctx, r.key, nil)
	}
	return r.waiter != nil || r.err != nil
}

// await waits for the caller's read, and reports whether there is still
// something to read. If load is set and a flight has begun in between, the
// caller has joined it instead.
func (r *getTicket) await(ctx context.Context, load bool) bool {
	r.shard = r.l.gets.shard(r.key)
	r.get = r.shard.join(r.key, load)
	if r.get.begin == nil {
		r.sends = true
		return true
	}
	select {
	case <-r.get.begin:
		if r.get.adopted != nil {
			r.waiter, r.get, r.missCounted = r.get.claimSlot(), nil, true
			return false
		}
		if !load || !r.joinFlight(ctx) {
			r.sends = r.shard.becomeSender(r.get)
			return true
		}
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if w := r.shard.leave(r.key, r.get, load); w != nil {
		r.waiter, r.err, r.missCounted = w, nil, true // waiting for the flight, the caller leaves it
	}
	r.get = nil
	return false
}

// read returns the bytes of key, or redis.Nil if there are none. If another
// caller sends the GET, read leaves when ctx is done. Its own GET obeys ctx as
// far as the client does.
func (r *getTicket) read(ctx context.Context) ([]byte, error) {
	if r.sends {
		r.readErr = convoy.ErrSilent // for the callers that share it, if a hook of the client panics
		r.value, r.readErr = r.l.get(ctx, r.key)
		return r.value.B, r.readErr
	}
	g := r.get
	r.get = nil
	select {
	case <-g.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if g.err == nil || errors.Is(g.err, redis.Nil) {
		return g.b, g.err
	}
	// It failed, perhaps only because the ctx of its sender ended.
	if away := r.l.breakerErr(r.key); away != nil {
		return nil, away
	}
	v, err := r.l.get(ctx, r.key)
	return v.B, err
}

// adopter returns a function that adds the callers waiting for the end of this
// read to a flight. It returns nil if they must be woken, because each has a
// soft timeout of its own to keep.
func (r *getTicket) adopter() func(*flight) {
	if !r.sends || r.l.hasSoftTimeout() {
		return nil
	}
	shard, g, misses := r.shard, r.get, &r.l.stats.misses
	return func(f *flight) { misses.Add(int64(shard.adoptGetWaiters(g, f))) }
}

// end releases the callers that wait for this read. Further calls do nothing.
func (r *getTicket) end() {
	if r.sends && r.get != nil {
		r.shard.finish(r.key, r.get, r.value, r.readErr)
	}
	r.get = nil
}
