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

// reads lets callers who read one key at the same time share a GET.
//
// A caller may share a GET only if it came before that was sent: the key can
// have been deleted in between, and the deletion have returned, in another
// process even. So those who come while a key is being read wait for that read
// to end, and then send the next one together. And when it finds nothing and
// starts a flight, they are on board and send nothing: see bring.
//
// A lone caller pays for it with one lock out of 64.
type reads struct {
	seed    maphash.Seed
	stripes [64]stripe
}

type stripe struct {
	mu   sync.Mutex
	m    map[string]*turn // guarded by mu: the read under way, or about to be
	lone *sync.Pool       // of turns of lone callers, which are the rule. Nobody else ever sees them
	_    [40]byte         // no two stripes on a cache line
}

// A turn is one GET of a key, for all who waited for it. One of them sends it.
type turn struct {
	begin chan struct{} // closed when the turn before has ended; nil if there was none
	done  chan struct{} // closed when b and err are set; nil if nobody else waited
	n     int           // guarded by stripe.mu: who waits for begin and has not left
	look  int           // guarded by stripe.mu: those of n who do not load
	sent  bool          // guarded by stripe.mu: somebody sends it
	next  *turn         // guarded by stripe.mu: for those who come meanwhile
	b     []byte
	err   error

	// Those who wait for begin are on board of a flight, and begin is closed when that
	// has ended. It is no matter who of them is which of these. Set by bring, under
	// stripe.mu and before begin is closed; nil if they are not.
	crew    []member
	claimed atomic.Int64
}

// claim returns whom the caller is on board.
func (t *turn) claim() *member { return &t.crew[t.claimed.Add(1)-1] }

func (rs *reads) init() {
	rs.seed = maphash.MakeSeed()
	lone := &sync.Pool{New: func() any { return &turn{sent: true} }}
	for i := range rs.stripes {
		rs.stripes[i].m, rs.stripes[i].lone = make(map[string]*turn), lone
	}
}

func (rs *reads) stripe(key string) *stripe {
	return &rs.stripes[maphash.String(rs.seed, key)%uint64(len(rs.stripes))]
}

// take returns the next turn of key. Who gets one that has no begin sends it at
// once; others wait for begin, and then claim if there is a crew, or else call send
// or leave. load says whether the caller loads what is not there.
func (s *stripe) take(key string, load bool) *turn {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.m[key]
	if t == nil {
		t = s.lone.Get().(*turn)
		s.m[key] = t
		return t
	}
	if t.begin == nil || t.sent { // else it has begun, but may still be joined
		if t.next == nil {
			t.next = &turn{begin: make(chan struct{}), done: make(chan struct{})}
		}
		t = t.next
	}
	t.n++
	if !load {
		t.look++
	}
	return t
}

// bring takes those on board of f who wait until t has ended, if all of them would
// board it then. They wait on, until f has ended. So they are woken once and not
// twice; and not while f asks for the lease, when they would only be in its way if
// they are many. It returns how many they are. The caller holds fs.mu.
func (s *stripe) bring(t *turn, f *flight) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	next := t.next
	if next == nil || next.n == 0 || next.look > 0 {
		return 0
	}
	t.next = nil
	next.crew = make([]member, next.n)
	for i := range next.crew {
		f.take(&next.crew[i])
	}
	f.waking = append(f.waking, next.begin)
	return next.n
}

// send reports whether the caller is the one who sends the turn. Else it waits
// for done.
func (s *stripe) send(t *turn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	t.n--
	if t.sent {
		return false
	}
	t.sent = true
	return true
}

// leave is for who has waited, and does not read any more. It returns whom the caller
// is on board of a flight, which it has not left; nil if it is not.
func (s *stripe) leave(key string, t *turn, load bool) *member {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t.crew != nil {
		return t.claim()
	}
	if !load {
		t.look--
	}
	if t.n--; t.n == 0 && !t.sent && s.m[key] == t {
		s.pass(key, t)
	}
	return nil
}

// end gives what was read to those who share the turn, and begins the next one.
func (s *stripe) end(key string, t *turn, v gather.Value, err error) {
	s.mu.Lock()
	s.pass(key, t)
	s.mu.Unlock()
	if t.done != nil {
		t.b, t.err = v.Own(), err
		close(t.done)
		return
	}
	v.Release()
	t.next = nil
	s.lone.Put(t)
}

// pass makes the turn after t the one of key. The caller holds mu.
func (s *stripe) pass(key string, t *turn) {
	for t = t.next; t != nil && t.n == 0; {
		t = t.next // all who waited for it have left
	}
	if t == nil {
		delete(s.m, key)
		return
	}
	s.m[key] = t
	close(t.begin)
}

// A reading is one caller's part in a turn.
type reading struct {
	l   *Engine
	s   *stripe
	key string
	t   *turn // nil once we have no part in it
	own bool  // we send it

	v     gather.Value // what we read, for those who share the turn
	found error        // of reading v

	m       *member // of the flight that we joined
	counted bool    // as a miss, by whoever has brought us on board
	err     error   // of joining it, or of waiting
}

// join joins the flight of the key if there is one, and reports whether that, or
// an error of it, makes reading unnecessary.
func (r *reading) join(ctx context.Context) bool {
	if r.l.flights.some.Load() {
		r.m, r.err = r.l.flights.board(ctx, r.key, nil)
	}
	return r.m != nil || r.err != nil
}

// await waits for our turn, and reports whether there is still anything to read.
// If load is set and a flight has begun meanwhile, we are on board instead.
func (r *reading) await(ctx context.Context, load bool) bool {
	r.s = r.l.reads.stripe(r.key)
	r.t = r.s.take(r.key, load)
	if r.t.begin == nil {
		r.own = true
		return true
	}
	select {
	case <-r.t.begin:
		if r.t.crew != nil {
			r.m, r.t, r.counted = r.t.claim(), nil, true
			return false
		}
		if !load || !r.join(ctx) {
			r.own = r.s.send(r.t)
			return true
		}
	case <-ctx.Done():
		r.err = context.Cause(ctx)
	}
	if m := r.s.leave(r.key, r.t, load); m != nil {
		r.m, r.err, r.counted = m, nil, true // its wait is what leaves the flight
	}
	r.t = nil
	return false
}

// read returns what key holds, redis.Nil if nothing. It leaves when ctx is done
// if another caller sends the GET; its own GET heeds ctx as far as the client
// does.
func (r *reading) read(ctx context.Context) ([]byte, error) {
	if r.own {
		r.found = convoy.ErrSilent // for those who share it, should a hook of the client panic
		r.v, r.found = r.l.get(ctx, r.key)
		return r.v.B, r.found
	}
	t := r.t
	r.t = nil
	select {
	case <-t.done:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if t.err == nil || errors.Is(t.err, redis.Nil) {
		return t.b, t.err
	}
	// It failed, and perhaps only because the ctx of that caller ended.
	if away := r.l.refusal(r.key); away != nil {
		return nil, away
	}
	v, err := r.l.get(ctx, r.key)
	return v.B, err
}

// followers returns what takes those on board of a flight who wait for this read to
// end; nil if they have to be woken, to see to it that they do not wait for too long.
func (r *reading) followers() func(*flight) {
	if !r.own || r.l.hasty() {
		return nil
	}
	s, t, misses := r.s, r.t, &r.l.stats.misses
	return func(f *flight) { misses.Add(int64(s.bring(t, f))) }
}

// end lets those go on who wait for this read. Called again it does nothing.
func (r *reading) end() {
	if r.own && r.t != nil {
		r.s.end(r.key, r.t, r.v, r.found)
	}
	r.t = nil
}
