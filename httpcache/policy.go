package httpcache

import (
	"net/http"
	"slices"
	"time"
)

// storable lists the statuses that may be stored, with explicit freshness or by
// Options.DefaultTTL; Options.Statuses adds others. Many other statuses are
// errors of one request, not of its resource: a rejected request must not keep
// the page from all clients.
var storable = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent,
	http.StatusMultipleChoices, http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
	http.StatusTemporaryRedirect, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

// heuristic lists the storable statuses that DefaultTTL applies to: the others
// are temporary unless they declare otherwise (RFC 9110, section 15.1).
var heuristic = []int{
	http.StatusOK, http.StatusNonAuthoritativeInfo, http.StatusNoContent, http.StatusMultipleChoices,
	http.StatusMovedPermanently, http.StatusPermanentRedirect, http.StatusNotFound, http.StatusGone,
}

// failures lists the statuses that a stale response may replace (RFC 5861,
// section 4).
var failures = []int{
	http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout,
}

// refusals lists the statuses that reject a request for its content or form.
// The next request may be answered with a page.
var refusals = []int{
	http.StatusBadRequest, http.StatusMethodNotAllowed, http.StatusNotAcceptable, http.StatusLengthRequired,
	http.StatusPreconditionFailed, http.StatusRequestEntityTooLarge, http.StatusRequestURITooLong, http.StatusUnsupportedMediaType,
	http.StatusRequestedRangeNotSatisfiable, http.StatusExpectationFailed, http.StatusMisdirectedRequest,
	http.StatusUnprocessableEntity, http.StatusTooEarly, http.StatusUpgradeRequired, http.StatusPreconditionRequired,
	http.StatusTooManyRequests, http.StatusRequestHeaderFieldsTooLarge,
}

// refusedTTL limits the time for which a refusal makes requests bypass the
// cache. Otherwise a client could keep a page out of the cache by one bad
// request for each Options.PassTTL.
const refusedTTL = time.Second

// freshnessTerms are the declarations of a response about its reuse.
type freshnessTerms struct {
	life      time.Duration // how long it is fresh, from its creation at the origin
	age       time.Duration // its age when it arrived
	swr, sie  time.Duration // how long it may then be served stale (RFC 5861)
	strict    bool          // it may be served stale only for these two
	immutable bool
	noCache   bool // it must be validated for each use
	vary      []string
}

// decide returns the freshnessTerms of a response that has just arrived, or the
// reason why a shared cache may not store it (RFC 9111, section 3). It does not
// change header.
func (h *Handler) decide(q *query, status int, header http.Header, now time.Time) (t freshnessTerms, why string) {
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
	case cc.has("private"): // of single fields too: section 5.2.2.7 allows that
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
		return t, "encoding" // it does not say for which clients
	case slices.ContainsFunc(vary, func(name string) bool { return h.hidden[name] && name != "Cookie" }):
		return t, "vary-hidden"
	}
	if q.auth && !cc.has("public") && !cc.has("must-revalidate") && !cc.has("s-maxage") { // section 3.5
		return t, "authorization"
	}
	t.vary = vary
	t.strict = cc.has("must-revalidate") || cc.has("proxy-revalidate") || cc.has("s-maxage")
	t.age = initialAge(header, now)
	if cc.has("no-cache") { // of single fields too: section 5.2.2.4 allows that
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

// lifetime returns the freshness of a response (RFC 9111, section 4.2.1). If
// the response contradicts itself, it is 0.
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
		expires, ok := parseDate(lines[0], now) // section 5.3: an invalid date is in the past
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

// initialAge returns the age of a response at its arrival (RFC 9111, section
// 4.2.3). The handler is called directly, so nothing is added for the transfer.
func initialAge(header http.Header, now time.Time) time.Duration {
	apparent := time.Duration(0)
	if date, ok := parseDate(header.Get("Date"), now); ok {
		// A Date has whole seconds: a response of the current second has age 0.
		apparent = max(0, now.Truncate(time.Second).Sub(date))
	}
	age := time.Duration(0)
	if list := elements(header["Age"]); len(list) > 0 { // section 5.1: the first one, if valid
		age, _ = parseSeconds(list[0])
	}
	return max(apparent, age)
}

// encoded reports whether a response has an encoding that not every client
// understands.
func encoded(header http.Header) bool {
	return slices.ContainsFunc(elements(header["Content-Encoding"]), func(e string) bool { return e != "identity" })
}
