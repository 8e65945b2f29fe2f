package httpcache

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/cachex-go/cachex"
)

// ServeHTTP implements http.Handler. See the package's documentation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.change(w, r, fwdMethod)
		return
	}
	q, why := h.examine(r)
	switch {
	case why == "method-override":
		h.change(w, r, fwdBypass)
	case why != "":
		h.pass(w, r, note{fwd: fwdBypass, detail: why})
	default:
		s := &serving{h: h, w: w, r: r, q: q}
		s.run()
	}
}

// pass lets the handler answer, as if we were not there.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, n note) {
	h.passes.Add(1)
	h.say(w.Header(), n)
	h.next.ServeHTTP(w, r)
}

// A serving is the course of one request that the cache may answer.
type serving struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	q *query

	index     record
	waited    bool // for a load of another request
	validated bool // what is found now was loaded for this request
}

// maxRounds is how often a request looks again since the index has changed.
const maxRounds = 3

func (s *serving) run() {
	for range maxRounds {
		if s.findIndex() {
			return
		}
		if s.findResponse() {
			return
		}
	}
	s.pass(note{fwd: fwdVary, detail: "unsteady"})
}

// findIndex finds the index of the URI. It reports whether the request is answered,
// since there was none, and the handler was called to make it.
func (s *serving) findIndex() bool {
	k := s.q.key(indexVariant)
	if found, ok := s.h.peek(s.r.Context(), k); ok && found.Kind == aIndex {
		s.index = found
		return false
	}
	if s.cannotLoad(fwdURI) {
		return true
	}
	rec, how, x, err := s.load(k, nil)
	if err != nil || x != nil || rec.Kind != aIndex {
		s.conclude(fwdURI, rec, how, x, err)
		return true
	}
	s.index, s.waited = rec, true
	return false
}

// findResponse finds a response, or has one loaded. It reports whether the request
// is answered.
func (s *serving) findResponse() bool {
	k := s.q.key(s.q.variant(s.index.Gen, s.index.Vary))
	rec, ok := record{}, false
	if first := s.index.first; first != nil && k.Variant == s.index.firstVariant {
		rec, ok = *first, true
	} else {
		rec, ok = s.h.peek(s.r.Context(), k)
	}
	if ok && s.use(k, rec) {
		return true
	}
	fwd := fwdVary
	switch {
	case ok && rec.Kind == aResponse && rec.left(time.Now()) > 0:
		fwd = fwdRequest
	case ok && rec.Kind == aResponse:
		fwd = fwdStale
	case len(s.index.Vary) == 0:
		fwd = fwdURI
	}
	if s.cannotLoad(fwd) {
		return true
	}
	rec, how, x, err := s.load(k, s.index.Vary)
	if err == nil && x == nil && how == cachex.Hit && rec.Kind == aResponse && rec.assess(s.q, time.Now(), s.validated) == useless {
		// The cache underneath, whose clock is that of Redis, takes it to be fresh.
		rec, how, x, err = s.loadAnew(k, s.index.Vary)
	}
	if err == nil && x == nil {
		s.waited = s.waited || how > cachex.Stale
		if rec.Kind == aMoved {
			return false
		}
		if s.use(k, rec) {
			return true
		}
	}
	s.conclude(fwd, rec, how, x, err)
	return true
}

// load has a record loaded. A client that wants nothing from a store gets what is
// loaded after it came.
func (s *serving) load(k key, vary []string) (record, cachex.Outcome, *exchange, error) {
	if s.q.noCache || s.q.maxAge != nil || s.q.minFresh > 0 {
		return s.loadAnew(k, vary)
	}
	return s.h.load(s.r.Context(), k, &job{q: s.q, vary: vary}, false)
}

func (s *serving) loadAnew(k key, vary []string) (record, cachex.Outcome, *exchange, error) {
	s.validated = true
	return s.h.load(s.r.Context(), k, &job{q: s.q, vary: vary}, true)
}

// cannotLoad answers requests for which nothing may be loaded.
func (s *serving) cannotLoad(fwd string) bool {
	switch {
	case s.q.onlyIfCached: // RFC 9111, section 5.2.1.7
		s.h.say(s.w.Header(), note{detail: "only-if-cached"})
		http.Error(s.w, http.StatusText(http.StatusGatewayTimeout), http.StatusGatewayTimeout)
		return true
	case s.q.head: // which says nothing of a body
		s.pass(note{fwd: fwd, detail: "head"})
		return true
	}
	return false
}

// use answers the request by a record, if that is good for it.
func (s *serving) use(k key, rec record) bool {
	now := time.Now()
	n := note{hit: !s.waited}
	if s.waited {
		n.fwd, n.collapsed = fwdURI, true
		if len(s.index.Vary) > 0 {
			n.fwd = fwdVary
		}
	}
	switch rec.assess(s.q, now, s.validated) {
	case passing:
		if s.q.onlyIfCached {
			return false
		}
		s.pass(note{fwd: fwdURI, detail: "pass", alone: s.waited})
		return true
	case fresh:
		s.h.hits.Add(1)
	case staleReuse:
		if !s.waited {
			s.h.renew(s.r.Context(), k, s.index.Vary, s.q)
		}
		s.h.staleHits.Add(1)
	case staleAsked:
		s.h.staleHits.Add(1)
	default:
		return false
	}
	if s.waited {
		s.h.collapsed.Add(1)
	}
	s.write(&rec, n, now, true)
	return true
}

// conclude answers a request that could not be answered from the store. x is its
// own exchange, nil if the handler was called for another request or not at all.
func (s *serving) conclude(fwd string, rec record, how cachex.Outcome, x *exchange, err error) {
	now := time.Now()
	if how == cachex.Stale && rec.forErrors(now) {
		if x != nil {
			x.release()
		}
		s.h.staleHits.Add(1)
		s.write(&rec, note{hit: true, detail: "stale-if-error"}, now, true)
		return
	}
	switch {
	case s.r.Context().Err() != nil: // the client has left, most likely; others may still wait for its exchange
		if x != nil {
			x.release()
		}
		s.h.say(s.w.Header(), note{detail: "canceled"})
		http.Error(s.w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
		return
	case x == nil:
		s.pass(note{fwd: fwd, alone: !errors.Is(err, cachex.ErrClosed)})
		return
	}
	n := note{fwd: fwd}
	select {
	case <-x.decided:
		n.status, n.detail = x.out.status, x.out.why
		if x.out.kind == shared {
			x.release()
			n.stored = how == cachex.Loaded && rec.Kind != aMoved && err == nil
			s.write(&x.out.record, n, now, false)
			return
		}
	default:
		n.detail = "slow"
	}
	s.h.say(s.w.Header(), n)
	x.answer(s.r.Context(), s.w)
}

func (s *serving) pass(n note) { s.h.pass(s.w, s.r, n) }

// write answers the request by a response that is whole. reused says that it was
// not loaded for this request.
func (s *serving) write(rec *record, n note, now time.Time, reused bool) {
	out := s.w.Header()
	left, age := rec.left(now), rec.age(now)
	if n.hit || n.stored || n.collapsed {
		n.ttl = &left
	}
	s.h.say(out, n)
	header := rec.Header
	status := rec.Status
	if rec.notModified(s.q.header) {
		status = http.StatusNotModified
		header = maps.Clone(header)
		maps.DeleteFunc(header, func(name string, _ []string) bool { return !slices.Contains(selected, name) })
	}
	copyHeader(out, header.Clone())
	if reused || rec.Age > 0 { // RFC 9111, section 5.1
		out.Set("Age", strconv.FormatInt(int64(min(age, maxSeconds*time.Second)/time.Second), 10))
	}
	s.w.WriteHeader(status)
	if !s.q.head && bodyAllowed(status) {
		_, _ = s.w.Write(rec.Body) // the client may have left
	}
}

// peek returns what is stored under k, stale or not. That Redis fails is no error:
// the cache that loads finds out as well, and what it does then is for it to say.
func (h *Handler) peek(ctx context.Context, k key) (record, bool) {
	rec, ok, err := h.reads.Lookup(ctx, k)
	return rec, ok && err == nil
}
