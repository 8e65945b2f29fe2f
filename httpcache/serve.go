package httpcache

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex"
)

// ServeHTTP implements http.Handler. See the package's documentation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.change(w, r, note{fwd: fwdMethod}, r.Method)
		return
	}
	if method, ok := h.override(r.Header); ok {
		h.change(w, r, note{fwd: fwdBypass, detail: "method-override"}, method)
		return
	}
	q, why := h.examine(r)
	if why != "" {
		h.pass(w, q.from, note{fwd: fwdBypass, detail: why})
		return
	}
	s := &serving{h: h, w: w, r: q.from, q: q}
	s.run()
}

// override returns the method that one of Options.MethodOverrides claims, one that is
// not safe if there are several.
func (h *Handler) override(header http.Header) (method string, ok bool) {
	for _, name := range h.overrides {
		for _, line := range header[name] {
			if !ok || slices.Contains(safe, method) {
				method, ok = strings.ToUpper(strings.TrimSpace(line)), true
			}
		}
	}
	return method, ok
}

// pass lets the handler answer, as if there were no cache.
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
	return s.h.load(s.r.Context(), k, s.job(vary), false)
}

// job returns the job of this client.
func (s *serving) job(vary []string) *job {
	j := &job{q: s.q, vary: vary}
	if s.r.ProtoAtLeast(1, 1) { // RFC 9110, section 15.2: no 1xx for others
		j.w = s.w
	}
	return j
}

func (s *serving) loadAnew(k key, vary []string) (record, cachex.Outcome, *exchange, error) {
	s.validated = true
	return s.h.load(s.r.Context(), k, s.job(vary), true)
}

// cannotLoad answers requests for which nothing may be loaded.
func (s *serving) cannotLoad(fwd string) bool {
	switch {
	case s.q.onlyIfCached: // RFC 9111, section 5.2.1.7
		s.h.say(s.w.Header(), note{detail: "only-if-cached"})
		http.Error(s.w, http.StatusText(http.StatusGatewayTimeout), http.StatusGatewayTimeout)
		return true
	case s.q.upgrade: // RFC 9110, section 7.8: a stored response is an answer, a new one is the handler's
		s.pass(note{fwd: fwd, detail: "upgrade"})
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
	case unvalidated:
		if s.q.onlyIfCached || s.q.upgrade {
			return false
		}
		s.validate(k, rec)
		return true
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
			own := *s.q
			own.noStore = false // this request is the cache's own
			s.h.renew(s.r.Context(), k, s.index.Vary, &own)
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

// validate answers the request by a response that is good only for a request for
// which the handler confirms it (RFC 9111, section 5.2.2.4): no request shares the
// answer of another one. A newer response takes its place in the store.
func (s *serving) validate(k key, rec record) {
	if !s.h.crew.enter(false) { // Close does not wait any more
		s.pass(note{fwd: fwdStale})
		return
	}
	defer s.h.crew.leave()
	s.q.prepare()
	ctx, j := s.r.Context(), s.job(s.index.Vary)
	x := s.h.start(ctx, s.q, &rec, j, 1)
	select {
	case <-x.decided:
	case <-ctx.Done():
	}
	j.leave()
	stored := false
	if out := &x.out; ctx.Err() == nil && out.kind == shared && out.status != http.StatusNotModified &&
		!s.q.noStore && within(out.vary, s.index.Vary) {
		stored = s.h.loads.Set(ctx, k, out.record) == nil
	}
	s.finish(note{fwd: fwdStale, stored: stored}, x)
}

// conclude answers a request that could not be answered from the store. x is its
// own exchange, nil if the handler was called for another request or not at all.
func (s *serving) conclude(fwd string, rec record, how cachex.Outcome, x *exchange, err error) {
	now := time.Now()
	if how == cachex.Stale && rec.forErrors(now) {
		n := note{hit: x == nil, detail: "stale-if-error"}
		if x != nil { // RFC 9211, section 2.1: a request that was forwarded is no hit
			n.fwd, n.status = fwdStale, x.answered()
			x.release()
		}
		s.h.staleHits.Add(1)
		s.write(&rec, n, now, true)
		return
	}
	if x == nil && s.r.Context().Err() == nil {
		s.pass(note{fwd: fwd, alone: !errors.Is(err, cachex.ErrClosed)})
		return
	}
	s.finish(note{fwd: fwd, stored: how == cachex.Loaded && rec.Kind != aMoved && err == nil && !s.q.noStore}, x)
}

// finish answers the request by its own exchange. n.stored says whether a response
// that may be stored was.
func (s *serving) finish(n note, x *exchange) {
	if s.r.Context().Err() != nil { // most likely the client has left; others may wait for its exchange
		if x != nil {
			x.release()
		}
		s.h.say(s.w.Header(), note{detail: "canceled"})
		http.Error(s.w, http.StatusText(http.StatusServiceUnavailable), http.StatusServiceUnavailable)
		return
	}
	select {
	case <-x.decided:
		n.status, n.detail = x.out.status, x.out.why
		if x.out.kind == shared {
			x.release()
			s.write(&x.out.record, n, time.Now(), false)
			return
		}
	default:
		n.detail = "slow"
	}
	n.stored = false
	s.h.say(s.w.Header(), n)
	x.answer(s.r.Context(), s.q.excerpt(s.w))
}

func (s *serving) pass(n note) { s.h.pass(s.w, s.r, n) }

// write answers the request by a response that is whole. reused says that it was
// not loaded for this request.
func (s *serving) write(rec *record, n note, now time.Time, reused bool) {
	out := s.w.Header()
	left, age := rec.left(now), rec.age(now)
	if reused || n.stored {
		n.ttl = &left
	}
	s.h.say(out, n)
	header, status, body := rec.Header.Clone(), rec.Status, rec.Body
	switch condition := rec.conditions(s.q.header, now); {
	case condition != 0:
		status, body = condition, nil
		maps.DeleteFunc(header, func(name string, _ []string) bool { return !s.h.selected[name] })
	case status == http.StatusOK:
		status, body = s.part(rec, header, now)
	}
	copyHeader(out, header)
	if reused || rec.Age > 0 { // RFC 9111, section 5.1
		out.Set("Age", strconv.FormatInt(int64(min(age, maxSeconds*time.Second)/time.Second), 10))
	}
	s.w.WriteHeader(status)
	if !s.q.head && len(body) > 0 {
		_, _ = s.w.Write(body) // the client may have left
	}
}

// part returns the status and the body of the answer by a stored 200: the part that
// the client asks for, or the whole body. It changes header accordingly.
func (s *serving) part(rec *record, header http.Header, now time.Time) (int, []byte) {
	if len(s.q.header["Range"]) == 0 {
		return rec.Status, rec.Body
	}
	size := int64(len(rec.Body))
	part, status := s.q.rangeOf(rec.Header, size, now)
	switch status {
	case http.StatusPartialContent:
		header.Set("Content-Range", part.contentRange(size))
		header.Set("Content-Length", strconv.FormatInt(part.length, 10))
		return status, rec.Body[part.first : part.first+part.length]
	case http.StatusRequestedRangeNotSatisfiable: // RFC 9110, section 15.5.17
		maps.DeleteFunc(header, func(name string, _ []string) bool { return !s.h.selected[name] })
		header.Set("Content-Range", fmt.Sprintf("bytes */%d", size))
		return status, nil
	}
	return rec.Status, rec.Body
}

// peek returns what is stored under k, stale or not. That Redis fails is no error:
// the cache that loads finds out as well, and what it does then is for it to say.
func (h *Handler) peek(ctx context.Context, k key) (record, bool) {
	rec, ok, err := h.reads.Lookup(ctx, k)
	return rec, ok && err == nil
}
