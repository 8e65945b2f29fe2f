package httpcache

import (
	"net/http"
	"slices"
	"time"
)

// storable are the statuses that may be stored, with explicit freshness or by
// Options.DefaultTTL; Options.Statuses adds others. Many of the others are errors of
// one request and not of its resource: a request that is refused must not keep the
// page from all.
var storable = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent,
	http.StatusMultipleChoices, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
	http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

// heuristic are those of them that DefaultTTL is for: the others are temporary
// unless they say otherwise (RFC 9110, section 15.1).
var heuristic = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices,
	http.StatusMovedPermanently, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

// failures are the statuses in place of which a stale response may be served
// (RFC 5861, section 4).
var failures = []int{
	http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// refusals are the statuses of a request that is refused for what it asks or how it
// asks. The next request may be answered by a page.
var refusals = []int{
	http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusLengthRequired,
	http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusUnsupportedMediaType,
	http.StatusRequestedRangeNotSatisfiable, http.StatusExpectationFailed, http.StatusMisdirectedRequest,
	http.StatusUnprocessableEntity, http.StatusTooEarly, http.StatusUpgradeRequired, http.StatusPreconditionRequired,
	http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge,
}

// refusedTTL bounds how long a refusal has requests passed. A client could otherwise
// keep a page out of the cache by one bad request for each Options.PassTTL.
const refusedTTL = time.Second

// terms are what a response says of its own reuse.
type terms struct {
	life      time.Duration // how long it is fresh, from when the origin made it
	age       time.Duration // how old it was when it came
	swr, sie  time.Duration // how long it may then be served stale (RFC 5861)
	strict    bool          // it may never be served stale but for these two
	immutable bool
	noCache   bool // it is validated for each use
	vary      []string
}

// judge returns the terms of a response that has come now, or why it may not be
// stored by a shared cache (RFC 9111, section 3). h is not changed.
func (h *Handler) judge(q *query, status int, header http.Header, now time.Time) (t terms, why string) {
	cc, targeted := h.policyOf(header)
	vary, varies := varyNames(header)
	understood := slices.Contains(storable, status)
	switch {
	case !understood && (cc.has("must-understand") || !slices.Contains(h.o.Statuses, status)): // section 5.2.2.3
		return t, "status"
	case cc.malformed:
		return t, "malformed"
	case cc.has("no-store") && !cc.has("must-understand"): // section 5.2.2.3 again
		return t, "no-store"
	case cc.has("private"): // of single fields too: section 5.2.2.7 allows for that
		return t, "private"
	case cc.has("no-cache") && (status != http.StatusOK || !validatable(header, now)):
		return t, "no-cache" // it could never be used
	case len(header["Set-Cookie"]) > 0, len(header["Set-Cookie2"]) > 0:
		return t, "set-cookie"
	case !varies:
		return t, "vary"
	case len(header["Content-Range"]) > 0:
		return t, "partial"
	case len(header["Trailer"]) > 0:
		return t, "trailers"
	case encoded(header) && !slices.Contains(vary, "Accept-Encoding"):
		return t, "encoding" // for whom? It does not say
	case slices.ContainsFunc(vary, func(name string) bool { return h.hidden[name] && name != "Cookie" }):
		return t, "vary-hidden"
	}
	if q.auth && !cc.has("public") && !cc.has("must-revalidate") && !cc.has("s-maxage") { // section 3.5
		return t, "authorization"
	}
	t.vary = vary
	t.strict = cc.has("must-revalidate") || cc.has("proxy-revalidate") || cc.has("s-maxage")
	t.age = initialAge(header, now)
	if cc.has("no-cache") { // of single fields too: section 5.2.2.4 allows for that
		t.noCache = true
		return t, ""
	}
	t.immutable = cc.has("immutable")
	if t.life, why = h.lifetime(status, &cc, targeted, header, now); why != "" {
		return t, why
	}
	if !cc.has("must-revalidate") && !cc.has("proxy-revalidate") {
		if d, _, ok := cc.seconds("stale-while-revalidate"); ok {
			t.swr = min(d, h.o.MaxStale)
		}
		if d, _, ok := cc.seconds("stale-if-error"); ok {
			t.sie = min(d, h.o.MaxStale)
		}
	}
	if t.life+max(t.swr, t.sie) <= t.age {
		return t, "stale"
	}
	return t, ""
}

// validatable reports whether a response has a validator.
func validatable(header http.Header, now time.Time) bool {
	etag, modified := validators(header, now)
	return etag != "" || modified != ""
}

// lifetime returns how long a response is fresh (RFC 9111, section 4.2.1), which is
// 0 if it contradicts itself.
func (h *Handler) lifetime(status int, cc *directives, targeted bool, header http.Header, now time.Time) (time.Duration, string) {
	for _, name := range []string{"s-maxage", "max-age"} {
		if d, there, ok := cc.seconds(name); there {
			if !ok {
				d = 0
			}
			return min(d, h.o.MaxTTL), ""
		}
	}
	if lines, there := header["Expires"]; there && !targeted {
		if len(lines) != 1 {
			return 0, ""
		}
		expires, ok := parseDate(lines[0], now) // section 5.3: an invalid one is in the past
		date, dated := parseDate(header.Get("Date"), now)
		if !dated {
			date = now
		}
		if !ok || expires.Before(date) {
			return 0, ""
		}
		return min(expires.Sub(date), h.o.MaxTTL), ""
	}
	switch pragma := parseDirectives(header["Pragma"]); {
	case h.o.DefaultTTL == 0, !slices.Contains(heuristic, status):
		return 0, "no-freshness"
	case pragma.has("no-cache"):
		return 0, "no-cache"
	}
	return min(h.o.DefaultTTL, h.o.MaxTTL), ""
}

// initialAge is how old a response was when it came (RFC 9111, section 4.2.3). The
// handler is a call away, so nothing is added for the time of that.
func initialAge(header http.Header, now time.Time) time.Duration {
	apparent := time.Duration(0)
	if date, ok := parseDate(header.Get("Date"), now); ok {
		// A Date is whole seconds: one of this second is no older than now.
		apparent = max(0, now.Truncate(time.Second).Sub(date))
	}
	age := time.Duration(0)
	if list := elements(header["Age"]); len(list) > 0 { // section 5.1: the first, if it is one
		age, _ = parseSeconds(list[0])
	}
	return max(apparent, age)
}

// encoded reports whether a response is in an encoding of which it does not go
// without saying that everybody can read it.
func encoded(header http.Header) bool {
	return slices.ContainsFunc(elements(header["Content-Encoding"]), func(e string) bool { return e != "identity" })
}
