package httpcache

import (
	"net/http"
	"strings"
	"time"
)

// parseETag reads an entity-tag (RFC 9110, section 8.8.3).
func parseETag(s string) (opaque string, weak, ok bool) {
	opaque, rest, weak, ok := cutETag(s)
	return opaque, weak, ok && rest == ""
}

// cutETag reads the entity-tag that s begins with.
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

// notModified reports whether a client that sent header has the response already
// (RFC 9111, section 4.3.2). If-None-Match compares weakly, and If-Modified-Since
// is heeded only without it (RFC 9110, section 13.1).
func (rec *record) notModified(header http.Header) bool {
	if rec.Status != http.StatusOK {
		return false
	}
	if lines, there := header["If-None-Match"]; there {
		return matches(strings.Join(lines, ","), rec.Header.Get("Etag"))
	}
	lines := header["If-Modified-Since"]
	if len(lines) != 1 {
		return false
	}
	now := time.Now()
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

// matches reports whether etag is in a list of entity-tags. What is not one ends
// the list.
func matches(list, etag string) bool {
	if strings.Trim(list, " \t") == "*" {
		return true
	}
	want, _, ok := parseETag(etag)
	if !ok {
		return false
	}
	for {
		list = strings.TrimLeft(list, " \t,")
		tag, rest, _, ok := cutETag(list)
		if !ok {
			return false
		}
		if tag == want {
			return true
		}
		if rest = strings.TrimLeft(rest, " \t"); rest != "" && rest[0] != ',' {
			return false
		}
		list = rest
	}
}

// selected are the fields of a 304 (RFC 9110, section 15.4.5).
var selected = []string{"Cache-Control", "Content-Location", "Date", "Etag", "Expires", "Vary", "Last-Modified", "Cache-Status"}
