package httpcache

import (
	"net/http"
	"strings"
	"time"
)

// conditions evaluates the conditional fields of a request against a stored
// response (RFC 9110, section 13.2.2). It returns 304 or 412, or 0 if the
// response is the answer. A condition counts only if the answer would be 200
// without it.
//
// A cache may ignore If-Match and If-Unmodified-Since, but a client that
// resumes a download with them must not get a part of another version.
func (rec *record) conditions(header http.Header, now time.Time) int {
	switch {
	case rec.Status != http.StatusOK:
		return 0
	case !rec.unmodified(header, now):
		return http.StatusPreconditionFailed
	case rec.notModified(header, now):
		return http.StatusNotModified
	}
	return 0
}

// unmodified reports whether If-Match, or otherwise If-Unmodified-Since, holds.
func (rec *record) unmodified(header http.Header, now time.Time) bool {
	if lines := header["If-Match"]; len(lines) > 0 {
		return matches(strings.Join(lines, ","), rec.Header.Get("Etag"), true)
	}
	lines := header["If-Unmodified-Since"]
	if len(lines) != 1 {
		return true
	}
	since, ok := parseDate(lines[0], now)
	modified, known := parseDate(rec.Header.Get("Last-Modified"), now)
	return !ok || !known || !modified.After(since)
}

// notModified reports whether the client already has the response (RFC 9111,
// section 4.3.2). If-None-Match compares weakly, and If-Modified-Since counts
// only without it (RFC 9110, section 13.1).
func (rec *record) notModified(header http.Header, now time.Time) bool {
	if lines, there := header["If-None-Match"]; there {
		return matches(strings.Join(lines, ","), rec.Header.Get("Etag"), false)
	}
	lines := header["If-Modified-Since"]
	if len(lines) != 1 {
		return false
	}
	since, ok := parseDate(lines[0], now)
	if !ok {
		return false
	}
	modified, ok := parseDate(rec.Header.Get("Last-Modified"), now)
	if !ok {
		modified, ok = parseDate(rec.Header.Get("Date"), now)
	}
	return ok && !modified.After(since)
}

// matches reports whether etag is in a list of entity-tags. The list ends at
// the first part that does not match the grammar. In a strong comparison, a
// weak tag matches nothing.
func matches(list, etag string, strong bool) bool {
	if strings.Trim(list, " \t") == "*" {
		return true
	}
	want, wantWeak, ok := parseETag(etag)
	if !ok || strong && wantWeak {
		return false
	}
	for {
		list = strings.TrimLeft(list, " \t,")
		tag, rest, weak, ok := cutETag(list)
		if !ok {
			return false
		}
		if tag == want && !(strong && weak) {
			return true
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return false
		}
		list = rest
	}
}

// parseETag parses an entity-tag (RFC 9110, section 8.8.3).
func parseETag(s string) (opaque string, weak, ok bool) {
	opaque, rest, weak, ok := cutETag(s)
	return opaque, weak, ok && rest == ""
}

// cutETag parses the entity-tag at the beginning of s.
func cutETag(s string) (opaque, rest string, weak, ok bool) {
	s, weak = strings.CutPrefix(s, "W/")
	if !strings.HasPrefix(s, `"`) {
		return "", s, weak, false
	}
	opaque, rest, ok = strings.Cut(s[1:], `"`)
	for _, c := range []byte(opaque) {
		ok = ok && c > ' ' && c != 0x7f
	}
	return opaque, rest, weak, ok
}
