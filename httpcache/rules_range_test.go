package httpcache

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// digits is an origin with the body "0123456789" that does not support ranges.
func digits(fields ...string) origin {
	return func(w http.ResponseWriter, _ *http.Request, n int) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		w.Header().Set("X-Call", strconv.Itoa(n))
		w.Header().Set("Content-Type", "text/plain")
		_, _ = io.WriteString(w, "0123456789")
	}
}

func rangeRules() (rules []rule) {
	fields := []string{"Cache-Control", fresh60, "Etag", `"a"`, "Last-Modified", longAgo}
	for _, c := range []struct {
		status       int
		contentRange string
		body         string
		ranges       []string
	}{
		{206, "bytes 0-1/10", "01", []string{"bytes=0-1", "Bytes=0-1", "bytes= 0-1 ", "bytes =0-1"}},
		{206, "bytes 3-9/10", "3456789", []string{"bytes=3-", "bytes=3-9", "bytes=3-99999999999999999999", "bytes=-7"}},
		{206, "bytes 9-9/10", "9", []string{"bytes=9-", "bytes=-1", "bytes=9-9"}},
		{206, "bytes 0-9/10", "0123456789", []string{"bytes=0-", "bytes=-10", "bytes=-11", "bytes=-99999999999999999999"}},
		{416, "bytes */10", "", []string{"bytes=10-", "bytes=10-11", "bytes=-0", "bytes=99999999999999999999-"}},
		{200, "", "0123456789", []string{
			"bytes=", "bytes", "bytes=-", "bytes=5-4", "bytes=11-10", "bytes=a-", "bytes=0-b", "bytes=--1", "bytes=0-1,3-4", "bytes=+1-2",
			"bytes=0x1-2", "lines=0-1", "=0-1", "bytes=1 - 2",
		}},
	} {
		for _, r := range c.ranges {
			answer := []string{"Content-Range", c.contentRange, "Etag", `"a"`}
			if c.body != "" {
				answer = append(answer, "Content-Length", strconv.Itoa(len(c.body)), "X-Call", "1")
			}
			rules = append(rules, rule{
				section: "9110 14.2", name: "a stored response is the answer to Range: " + r, origin: digits(fields...),
				steps: []step{{body: "*"}, {with: []string{"Range", r}, status: c.status, body: c.body, says: "hit", fields: answer}},
			})
		}
	}
	part := func(name string, status int, with ...string) rule {
		body := "01"
		if status == http.StatusOK {
			body = "0123456789"
		}
		return rule{
			section: "9110 13.1.5", name: name, origin: digits(fields...),
			steps: []step{{body: "*"}, {with: append(with, "Range", "bytes=0-1"), status: status, body: body, says: "hit"}},
		}
	}
	return append(rules,
		part("If-Range of the ETag is a part", 206, "If-Range", `"a"`),
		part("of another one it is the whole", 200, "If-Range", `"b"`),
		part("of a weak one too", 200, "If-Range", `W/"a"`),
		part("of the Last-Modified it is a part", 206, "If-Range", longAgo),
		part("of a later date it is the whole", 200, "If-Range", "Tue, 02 Jan 1990 00:00:00 GMT"),
		part("of no validator too", 200, "If-Range", "a"),
		part("of two too", 200, "If-Range", `"a"`, "If-Range", `"a"`),
		part("two of Range are none", 200, "Range", "bytes=0-1"),
		rule{
			section: "9110 13.1.5", name: "a Last-Modified of the same second is no strong validator", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				now := time.Now().UTC().Format(http.TimeFormat)
				digits("Cache-Control", fresh60, "Date", now, "Last-Modified", now)(w, r, n)
			},
			steps: []step{{with: []string{"If-Range", "Sat, 01 Jan 2000 00:00:00 GMT", "Range", "bytes=0-1"}, body: "0123456789", fields: []string{"Last-Modified", "Sat, 01 Jan 2000 00:00:00 GMT"}}},
		},
		rule{
			section: "9110 13.2.2", name: "conditions come first", origin: digits(fields...),
			steps: []step{
				{body: "*"},
				{with: []string{"If-None-Match", `"a"`, "Range", "bytes=0-1"}, status: 304},
				{with: []string{"If-Match", `"b"`, "Range", "bytes=0-1"}, status: 412},
				{with: []string{"If-Match", `"a"`, "Range", "bytes=0-1"}, status: 206, body: "01"},
			},
		},
		rule{
			section: "9110 14.2", name: "Range is for GET", origin: digits(fields...),
			steps: []step{{body: "*"}, {method: "HEAD", with: []string{"Range", "bytes=0-1"}, fields: []string{"Content-Length", "10"}}},
		},
		rule{
			section: "9110 14.2", name: "a part of a response that is not stored yet has the whole loaded", origin: digits(fields...),
			steps: []step{
				{with: []string{"Range", "bytes=0-1"}, status: 206, body: "01", says: "fwd=uri-miss; fwd-status=200; ttl=60; stored"},
				{body: "0123456789", says: "hit"},
			},
		},
		rule{
			section: "9110 14.2", name: "an empty body has no parts", origin: func(w http.ResponseWriter, _ *http.Request, _ int) {
				w.Header().Set("Cache-Control", fresh60)
			},
			steps: []step{{}, {with: []string{"Range", "bytes=0-1"}, says: "hit"}},
		},
		rule{
			section: "9110 14.2", name: "nor has another status", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				digits(fields...)(header{w, http.StatusNotFound}, r, n)
			},
			steps: []step{{status: 404, body: "*"}, {with: []string{"Range", "bytes=0-1"}, status: 404, body: "0123456789", says: "hit"}},
		},
		rule{
			section: "9110 14.2", name: "of a response that may not be stored its own client gets its part", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("X-Range", r.Header.Get("Range"))
				digits("Cache-Control", "private", "Content-Length", "10")(w, r, n)
			},
			steps: []step{
				{with: []string{"Range", "bytes=2-4"}, status: 206, body: "234", says: "detail=private", fields: []string{"X-Range", "", "Content-Range", "bytes 2-4/10", "Content-Length", "3"}},
				{with: []string{"Range", "bytes=2-4"}, body: "0123456789", says: "detail=pass", fields: []string{"X-Range", "bytes=2-4"}}, // it bypasses the cache unchanged
			},
		},
		rule{
			section: "9110 14.2", name: "if its length is known", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				digits("Cache-Control", "private")(w, r, n)
			},
			steps: []step{{with: []string{"Range", "bytes=2-4"}, body: "0123456789"}},
		},
	)
}

// A handler that stops at the first error of a Write, like a ReverseProxy,
// which panics, has not failed: the client has its part.
func TestRange_OfAnUnstoredResponseEndsWithoutAnError(t *testing.T) {
	t.Parallel()
	for _, method := range []string{http.MethodGet, http.MethodHead} {
		t.Run(method, func(t *testing.T) {
			t.Parallel()
			errs := make(chan error, 1)
			s, logged := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Content-Length", "10000000")
				w.Header().Set("Cache-Control", fresh60)
				for range 1000 {
					if _, err := io.WriteString(w, strings.Repeat("x", 10_000)); err != nil {
						errs <- err
						panic(http.ErrAbortHandler)
					}
				}
				errs <- nil
			}, Options{})
			got := s.do(t, method, "/p", "Range", "bytes=5000-14999")
			require.ErrorIs(t, receive(t, errs), errEnough)
			if method == http.MethodGet {
				require.Equal(t, http.StatusPartialContent, got.status)
				require.Equal(t, strings.Repeat("x", 10_000), got.body)
				require.Equal(t, "bytes 5000-14999/10000000", got.header.Get("Content-Range"))
			} else {
				require.Equal(t, http.StatusOK, got.status)
				require.Equal(t, "10000000", got.header.Get("Content-Length"))
			}
			require.Empty(t, logged.String())
		})
	}
}

// FuzzRange checks that a part is within its body, and is the one that the
// grammar means.
func FuzzRange(f *testing.F) {
	f.Add("bytes=0-1", int64(10))
	f.Add("bytes=-5", int64(3))
	f.Add("bytes=99999999999999999999-", int64(1))
	f.Fuzz(func(t *testing.T, s string, size int64) {
		if size <= 0 {
			return
		}
		part, status := parseRange(s, size)
		if status == http.StatusPartialContent && (part.first < 0 || part.length <= 0 || part.first+part.length > size) {
			t.Fatalf("%q of %d is %v", s, size, part)
		}
		var first, last int64
		if n, _ := fmt.Sscanf(s, "bytes=%d-%d", &first, &last); n == 2 && fmt.Sprintf("bytes=%d-%d", first, last) == s &&
			first >= 0 && first <= last && first < size && (status != http.StatusPartialContent || part.first != first || part.length != min(last, size-1)-first+1) {
			t.Fatalf("%q of %d is %v, %d", s, size, part, status)
		}
	})
}
