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

// ServeHTTP implements http.Handler. See the package documentation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		h.change(w, r, statusNote{fwd: fwdMethod}, r.Method)
		return
	}
	if method, ok := h.override(r.Header); ok {
		h.change(w, r, statusNote{fwd: fwdBypass, detail: "method-override"}, method)
		return
	}
	q, why := h.examine(r)
	if why != "" {
		h.pass(w, q.from, statusNote{fwd: fwdBypass, detail: why})
		return
	}
	s := &serving{h: h, w: w, r: q.from, q: q}
	s.run()
}

// override returns the method that one of Options.MethodOverrides claims. If
// there are several, it prefers one that is not safe.
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

// pass calls the handler, as if there were no cache.
func (h *Handler) pass(w http.ResponseWriter, r *http.Request, n statusNote) {
	h.passes.Add(1)
	h.writeStatus(w.Header(), n)
	h.next.ServeHTTP(w, r)
}

// serving is the state of one request that the cache may answer.
type serving struct {
	h *Handler
	w http.ResponseWriter
	r *http.Request
	q *query

	index     record
	waited    bool // for a load of another request
	validated bool // records found from now on were loaded for this request
}

// maxRounds limits how often a request looks again because the index has
// changed.
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
	s.pass(statusNote{fwd: fwdVary, detail: "unsteady"})
}

// findIndex finds the index of the URI. It reports whether the request is
// already answered: there was no index, and the handler was called to make it.
func (s *serving) findIndex() bool {
	k := s.q.key(indexVariant)
	if found, ok := s.h.lookup(s.r.Context(), k); ok && found.Kind == aIndex {
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

// findResponse finds or loads a response. It reports whether the request is
// answered.
func (s *serving) findResponse() bool {
	k := s.q.key(s.q.variant(s.index.Gen, s.index.Vary))
	rec, ok := record{}, false
	if first := s.index.first; first != nil && k.Variant == s.index.firstVariant {
		rec, ok = *first, true
	} else {
		rec, ok = s.h.lookup(s.r.Context(), k)
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
	if err == nil && x == nil && how == cachex.Hit && rec.Kind == aResponse && rec.freshness(s.q, time.Now(), s.validated) == useless {
		// The inner cache, which uses the clock of Redis, takes it to be fresh.
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

// load loads a record. If the client accepts no stored response, the load
// begins after it came.
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
		s.h.writeStatus(s.w.Header(), statusNote{detail: "only-if-cached"})
		http.Error(s.w, http.StatusText(http.StatusGatewayTimeout), http.StatusGatewayTimeout)
		return true
	case s.q.upgrade: // RFC 9110, section 7.8: a stored response may answer it, otherwise the handler does
		s.pass(statusNote{fwd: fwd, detail: "upgrade"})
		return true
	}
	return false
}

// use answers the request with a record, if the record permits.
func (s *serving) use(k key, rec record) bool {
	now := time.Now()
	n := statusNote{hit: !s.waited}
	if s.waited {
		n.fwd, n.collapsed = fwdURI, true
		if len(s.index.Vary) > 0 {
			n.fwd = fwdVary
		}
	}
	switch rec.freshness(s.q, now, s.validated) {
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
		s.pass(statusNote{fwd: fwdURI, detail: "pass", alone: s.waited})
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

// validate answers the request with a response that the handler must confirm
// for each request (RFC 9111, section 5.2.2.4): no request shares the answer of
// another one. A newer response replaces the stored one.
func (s *serving) validate(k key, rec record) {
	if !s.h.goroutines.enter(false) { // Close no longer waits
		s.pass(statusNote{fwd: fwdStale})
		return
	}
	defer s.h.goroutines.leave()
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
	s.finish(statusNote{fwd: fwdStale, stored: stored}, x)
}

// conclude answers a request that could not be answered from the store. x is
// its own exchange; nil if the handler was called for another request or not at
// all.
func (s *serving) conclude(fwd string, rec record, how cachex.Outcome, x *exchange, err error) {
	now := time.Now()
	if how == cachex.Stale && rec.forErrors(now) {
		n := statusNote{hit: x == nil, detail: "stale-if-error"}
		if x != nil { // RFC 9211, section 2.1: a forwarded request is not a hit
			n.fwd, n.status = fwdStale, x.answered()
			x.release()
		}
		s.h.staleHits.Add(1)
		s.write(&rec, n, now, true)
		return
	}
	if x == nil && s.r.Context().Err() == nil {
		s.pass(statusNote{fwd: fwd, alone: !errors.Is(err, cachex.ErrClosed)})
		return
	}
	s.finish(statusNote{fwd: fwd, stored: how == cachex.Loaded && rec.Kind != aMoved && err == nil && !s.q.noStore}, x)
}

// finish answers the request with its own exchange. n.stored says whether a
// storable response was stored.
func (s *serving) finish(n statusNote, x *exchange) {
	if s.r.Context().Err() != nil { // the client has probably left; others may wait for its exchange
		if x != nil {
			x.release()
		}
		s.h.writeStatus(s.w.Header(), statusNote{detail: "canceled"})
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
	s.h.writeStatus(s.w.Header(), n)
	x.answer(s.r.Context(), s.q.excerpt(s.w))
}

func (s *serving) pass(n statusNote) { s.h.pass(s.w, s.r, n) }

// write answers the request with a complete response. reused says that it was
// not loaded for this request.
func (s *serving) write(rec *record, n statusNote, now time.Time, reused bool) {
	out := s.w.Header()
	left, age := rec.left(now), rec.age(now)
	if reused || n.stored {
		n.ttl = &left
	}
	s.h.writeStatus(out, n)
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

// part returns status and body of the answer from a stored 200: the part that
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

// lookup returns the record stored under k, stale or not. It ignores failures
// of Redis: the cache that loads notices them too, and decides how to proceed.
func (h *Handler) lookup(ctx context.Context, k key) (record, bool) {
	rec, ok, err := h.reads.Lookup(ctx, k)
	return rec, ok && err == nil
}
