package httpcache

import (
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// span is a part of a body: length bytes from first on.
type span struct{ first, length int64 }

// contentRange returns the Content-Range of the part of a body of size bytes.
func (s span) contentRange(size int64) string {
	return fmt.Sprintf("bytes %d-%d/%d", s.first, s.first+s.length-1, size)
}

// rangeOf returns the part of a response with status 200 that a GET asks for,
// and status 206. If the body has no such part, the status is 416; if the whole
// body is the answer, it is 0. It is 0 for a Range with several parts too,
// which a server may ignore (RFC 9110, section 14.2).
func (q *query) rangeOf(header http.Header, size int64, now time.Time) (span, int) {
	lines := q.header["Range"]
	if len(lines) != 1 || q.head || size == 0 || !q.ifRange(header, now) {
		return span{}, 0
	}
	return parseRange(lines[0], size)
}

// parseRange parses a Range of one part (RFC 9110, section 14.1.2).
func parseRange(s string, size int64) (span, int) {
	unit, set, ok := strings.Cut(s, "=")
	if !ok || !strings.EqualFold(strings.Trim(unit, " \t"), "bytes") {
		return span{}, 0
	}
	from, to, ok := strings.Cut(strings.Trim(set, " \t"), "-")
	if !ok {
		return span{}, 0
	}
	last := size - 1
	if to != "" {
		if last, ok = position(to); !ok {
			return span{}, 0
		}
	}
	if from == "" { // the last bytes
		switch {
		case to == "":
			return span{}, 0
		case last == 0:
			return span{}, http.StatusRequestedRangeNotSatisfiable
		}
		last = min(last, size)
		return span{size - last, last}, http.StatusPartialContent
	}
	first, ok := position(from)
	switch {
	case !ok || to != "" && last < first:
		return span{}, 0
	case first >= size:
		return span{}, http.StatusRequestedRangeNotSatisfiable
	}
	last = min(last, size-1)
	return span{first, last - first + 1}, http.StatusPartialContent
}

// position parses digits. A number with too many of them exceeds any size.
func position(s string) (int64, bool) {
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil {
		n = math.MaxInt64
	}
	return n, s != ""
}

// ifRange reports whether If-Range, if present, matches the response with that
// header (RFC 9110, section 13.1.5). The comparison is strong: a date is a
// strong validator if it is before Date (section 8.8.2.2).
func (q *query) ifRange(header http.Header, now time.Time) bool {
	lines := q.header["If-Range"]
	if len(lines) == 0 {
		return true
	}
	want := strings.Trim(lines[0], " \t")
	if len(lines) != 1 {
		return false
	}
	if tag, weak, ok := parseETag(want); ok {
		stored, storedWeak, has := parseETag(header.Get("Etag"))
		return has && !weak && !storedWeak && tag == stored
	}
	since, ok := parseDate(want, now)
	modified, has := parseDate(header.Get("Last-Modified"), now)
	date, dated := parseDate(header.Get("Date"), now)
	return ok && has && dated && since.Equal(modified) && modified.Before(date)
}

// errEnough tells a handler that its client has everything that it asked for.
var errEnough = errors.New("httpcache: the client asked for no more of the body")

// excerpt passes on a response that a shared load could not store to a client
// that asked for its header or for a part of its body, which the handler does
// not know.
type excerpt struct {
	http.ResponseWriter
	q      *query
	skip   int64 // bytes before the part
	left   int64 // bytes left of the part; -1 for all
	enough bool  // the handler got errEnough
}

// excerpt returns w, or an excerpt that writes to it.
func (q *query) excerpt(w http.ResponseWriter) http.ResponseWriter {
	if !q.head && len(q.header["Range"]) == 0 {
		return w
	}
	return &excerpt{ResponseWriter: w, q: q, left: -1}
}

// WriteHeader implements http.ResponseWriter.
func (e *excerpt) WriteHeader(status int) {
	switch {
	case e.q.head && status >= 200:
		e.left = 0
	case status == http.StatusOK:
		status = e.part()
	}
	e.ResponseWriter.WriteHeader(status)
}

// part turns the header of a 200 into a 206 header if the length of the body
// is known and covers the part. It returns the status.
func (e *excerpt) part() int {
	header := e.Header()
	size, err := strconv.ParseInt(header.Get("Content-Length"), 10, 64)
	if err != nil || size < 0 {
		return http.StatusOK
	}
	s, status := e.q.rangeOf(header, size, time.Now())
	if status != http.StatusPartialContent {
		return http.StatusOK
	}
	e.skip, e.left = s.first, s.length
	header.Set("Content-Range", s.contentRange(size))
	header.Set("Content-Length", strconv.FormatInt(s.length, 10))
	return status
}

// Write implements http.ResponseWriter.
func (e *excerpt) Write(p []byte) (int, error) {
	if e.left == 0 && len(p) > 0 {
		e.enough = true
		return 0, errEnough
	}
	n := len(p)
	skipped := min(e.skip, int64(n))
	e.skip -= skipped
	if p = p[skipped:]; e.left >= 0 && int64(len(p)) > e.left {
		p = p[:e.left]
	}
	if len(p) == 0 {
		return n, nil
	}
	if m, err := e.ResponseWriter.Write(p); err != nil {
		return int(skipped) + m, err
	}
	if e.left >= 0 {
		e.left -= int64(len(p))
	}
	return n, nil
}

// Unwrap is for http.ResponseController.
func (e *excerpt) Unwrap() http.ResponseWriter { return e.ResponseWriter }

// ended reports whether a handler that panicked with fault got errEnough
// before. Its client then has a complete response. A ReverseProxy panics with
// http.ErrAbortHandler.
func ended(w http.ResponseWriter, fault any) bool {
	e, ok := w.(*excerpt)
	return ok && e.enough && fault == http.ErrAbortHandler
}
