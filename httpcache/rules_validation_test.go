package httpcache

import (
	"net/http"
	"time"
)

// tagged is an origin with an entity-tag that answers 304 to a matching
// condition. X-Asked has the condition.
func tagged(etag string, fields ...string) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		asked := r.Header.Get("If-None-Match")
		w.Header().Set("X-Asked", asked)
		w.Header().Set("Etag", etag)
		if asked != "" && asked == etag {
			says(fields...)(bodiless{w}, r, n)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		says(fields...)(w, r, n)
	}
}

type bodiless struct{ http.ResponseWriter }

func (bodiless) Write(p []byte) (int, error) { return len(p), nil }

const longAgo = "Mon, 01 Jan 1990 00:00:00 GMT"

func validationRules() []rule {
	inm := func(v string) []string { return []string{"If-None-Match", v} }
	ims := func(v string) []string { return []string{"If-Modified-Since", v} }
	strong := says("Cache-Control", fresh60, "Etag", `"a"`, "X-Other", "1", "Last-Modified", longAgo)
	answer := func(name string, o origin, with []string, status int) rule {
		body := ""
		if status == 200 {
			body = "1"
		}
		return rule{section: "9111 4.3.2", name: name, origin: o, steps: []step{{body: "1"}, {with: with, status: status, body: body, says: "hit"}}}
	}
	return []rule{
		answer("If-None-Match that matches is 304", strong, inm(`"a"`), 304),
		answer("one that does not is not", strong, inm(`"b"`), 200),
		answer("* matches", strong, inm("*"), 304),
		answer("the comparison is weak", strong, inm(`W/"a"`), 304),
		answer("also of a weak tag", says("Cache-Control", fresh60, "Etag", `W/"a"`), inm(`"a"`), 304),
		answer("a list matches if one does", strong, inm(`"b", W/"c","a"`), 304),
		answer("a comma may be in a tag", says("Cache-Control", fresh60, "Etag", `"a,b"`), inm(`"x", "a,b"`), 304),
		answer("what is not quoted matches nothing", strong, inm(`a`), 200),
		answer("a lower-case w is no weak tag", says("Cache-Control", fresh60, "Etag", `W/"a"`), inm(`w/"a"`), 200),
		answer("If-None-Match takes precedence", strong, append(inm(`"b"`), ims("Mon, 01 Jan 2035 00:00:00 GMT")...), 200),
		answer("If-Modified-Since of the same time is 304", strong, ims(longAgo), 304),
		answer("of a later one", strong, ims("Tuesday, 02-Jan-90 00:00:00 GMT"), 304),
		answer("not of an earlier one", strong, ims("Sun, 31 Dec 1989 23:59:59 GMT"), 200),
		answer("nor of none", strong, ims("yesterday"), 200),
		answer("not of one that has two lines", strong, append(ims(longAgo), ims(longAgo)...), 200),
		answer("If-Match that matches is no condition", strong, []string{"If-Match", `"b", "a"`}, 200),
		answer("* matches all", strong, []string{"If-Match", "*"}, 200),
		answer("one that does not match is 412", strong, []string{"If-Match", `"b"`}, 412),
		answer("this comparison is strong", strong, []string{"If-Match", `W/"a"`}, 412),
		answer("it takes precedence over a 304", strong, append(inm(`"a"`), "If-Match", `"b"`), 412),
		answer("If-Unmodified-Since of the same time is no condition", strong, []string{"If-Unmodified-Since", longAgo}, 200),
		answer("of an earlier one it is 412", strong, []string{"If-Unmodified-Since", "Sun, 31 Dec 1989 23:59:59 GMT"}, 412),
		answer("of none it is ignored", strong, []string{"If-Unmodified-Since", "yesterday"}, 200),
		answer("If-Match takes precedence", strong, []string{"If-Match", `"a"`, "If-Unmodified-Since", "Sun, 31 Dec 1989 23:59:59 GMT"}, 200),
		answer("without Last-Modified it is compared with Date", dated(0, time.Minute), ims("Mon, 01 Jan 2035 00:00:00 GMT"), 304),
		{
			section: "9110 15.4.5", name: "a 304 has the fields that a cache needs, and no others", origin: strong,
			steps: []step{{body: "1"}, {with: inm(`"a"`), status: 304, fields: []string{
				"Etag", `"a"`, "Cache-Control", fresh60, "Last-Modified", longAgo, "X-Other", "", "Content-Length", "", "Content-Type", "", "Age", "0",
			}}},
		},
		{
			section: "9111 4.3.2", name: "the client's condition is answered on a miss too, and the whole response stored", origin: tagged(`"a"`, "Cache-Control", fresh60),
			steps: []step{{with: inm(`"a"`), status: 304, fields: []string{"X-Asked", ""}}, {body: "1", fields: []string{"X-Asked", ""}}},
		},
		{
			section: "9111 4.3.1", name: "a stale response is validated by its ETag", origin: tagged(`"a"`, "Cache-Control", fresh60, "Last-Modified", longAgo),
			steps: []step{
				{body: "1"},
				{wait: time.Minute, body: "1", fields: []string{"X-Asked", `"a"`, "Age", ""}, says: "fwd=stale; fwd-status=304; ttl=60; stored"},
				{wait: 59 * time.Second, body: "1", says: "hit", fields: []string{"X-Asked", `"a"`}},
			},
		},
		{
			section: "9111 4.3.1", name: "a weak one will do", origin: tagged(`W/"a"`, "Cache-Control", fresh60),
			steps: []step{{body: "1"}, {wait: time.Minute, body: "1", fields: []string{"X-Asked", `W/"a"`}}},
		},
		{
			section: "9111 4.3.1", name: "or by its Last-Modified", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Cache-Control", fresh60)
				w.Header().Set("Last-Modified", longAgo)
				if r.Header.Get("If-Modified-Since") == longAgo {
					w.WriteHeader(http.StatusNotModified)
					return
				}
				says()(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: time.Minute, body: "1", says: "stored"}, {body: "1", says: "hit"}},
		},
		{
			section: "9111 5.2.2.4", name: "a response with no-cache is stored, and validated for each use", origin: tagged(`"a"`, "Cache-Control", "no-cache, max-age=60"),
			steps: []step{
				{body: "1", says: "fwd=uri-miss; fwd-status=200; ttl=0; stored"},
				{body: "1", says: "fwd=stale; fwd-status=304", fields: []string{"X-Asked", `"a"`}},
				{with: inm(`"a"`), status: 304, says: "fwd-status=304"},
				{with: cc("max-stale"), body: "1", says: "fwd-status=304"},
				{with: cc("only-if-cached, max-stale"), status: 504, body: "*"},
				{with: []string{"Range", "bytes=0-0"}, status: 206, body: "1", says: "fwd-status=304"},
			},
		},
		{
			section: "9111 5.2.2.4", name: "and a newer one takes its place", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				tagged([]string{"", `"1"`, `"2"`, `"2"`, `"3"`, `"3"`}[n], "Cache-Control", []string{"", "no-cache", "no-cache", "no-cache", "private", "private"}[n])(w, r, n)
			},
			steps: []step{
				{body: "1"},
				{body: "2", says: "fwd=stale; fwd-status=200; ttl=0; stored", fields: []string{"X-Asked", `"1"`}},
				{body: "2", says: "fwd=stale; fwd-status=304", fields: []string{"X-Asked", `"2"`}},
				{body: "4", says: "detail=private", fields: []string{"X-Asked", `"2"`}},
				{body: "5", says: "detail=private", fields: []string{"X-Asked", `"2"`}},
			},
		},
		{
			section: "9111 4.2.4", name: "and it is never served in place of an error", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					w.WriteHeader(http.StatusServiceUnavailable)
					return
				}
				tagged(`"a"`, "Cache-Control", "no-cache, stale-if-error=60")(w, r, n)
			},
			steps: []step{{body: "1"}, {status: 503, says: "fwd=stale; fwd-status=503; detail=status"}},
		},
		{
			section: "9111 5.2.2.4", name: "without a validator it is not stored", origin: says("Cache-Control", "no-cache"),
			steps: []step{{body: "1", says: "detail=no-cache"}, {body: "2", says: "detail=pass"}},
		},
		{
			section: "9111 5.2.1.4", name: "no-cache validates", origin: tagged(`"a"`, "Cache-Control", fresh60),
			steps: []step{{body: "1"}, {with: cc("no-cache"), body: "1", fields: []string{"X-Asked", `"a"`}}},
		},
		{
			section: "9111 4.3.3", name: "a new response takes the place of the old one", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				tag := `"1"`
				if n > 1 {
					tag = `"2"`
				}
				tagged(tag, "Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: time.Minute, body: "2", fields: []string{"X-Asked", `"1"`}}, {body: "2", says: "hit"}},
		},
		{
			section: "9111 4.3.4", name: "a 304 updates the fields that it has", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("X-Kept", "kept")
				if n > 1 {
					w.Header().Set("X-Kept", "")
					w.Header().Del("X-Kept")
					w.Header().Set("X-New", "new")
					w.Header().Set("Content-Length", "77")
					w.Header().Set("Content-Encoding", "br")
					w.Header().Set("Connection", "X-Hop")
					w.Header().Set("X-Hop", "1")
				}
				tagged(`"a"`, "Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{
				{body: "1"},
				{wait: time.Minute, body: "1", fields: []string{"X-Kept", "kept", "X-New", "new", "Content-Length", "1", "Content-Encoding", "", "X-Hop", ""}},
				{body: "1", says: "hit", fields: []string{"X-Kept", "kept", "X-New", "new", "Content-Length", "1", "Content-Encoding", "", "X-Hop", ""}},
			},
		},
		{
			section: "9111 4.3.4", name: "a 304 of another response is not used", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				says0 := says("Cache-Control", fresh60, "Etag", `"a"`)
				if r.Header.Get("If-None-Match") != "" {
					w.Header().Set("Etag", `"b"`)
					w.WriteHeader(http.StatusNotModified)
					return
				}
				says0(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: time.Minute, body: "3"}, {body: "3", says: "hit"}},
		},
		{
			section: "9111 4.3.4", name: "a 304 may forbid to go on", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					tagged(`"a"`, "Cache-Control", "private")(w, r, n)
					return
				}
				tagged(`"a"`, "Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: time.Minute, body: "1", says: "detail=private"}, {body: "3", says: "detail=pass"}},
		},
		{
			section: "9111 4.3.3", name: "a 304 that nobody asked for is passed", origin: func(w http.ResponseWriter, _ *http.Request, _ int) {
				w.Header().Set("Cache-Control", fresh60)
				w.WriteHeader(http.StatusNotModified)
			},
			steps: []step{{status: 304}, {status: 304, says: "detail=pass"}},
		},
	}
}

func invalidationRules() (rules []rule) {
	o := func(w http.ResponseWriter, r *http.Request, n int) {
		if r.Method == http.MethodGet {
			says("Cache-Control", fresh60)(w, r, n)
			return
		}
		for _, name := range []string{"Location", "Content-Location"} {
			if v := r.Header.Get("Say-" + name); v != "" {
				w.Header().Set(name, v)
			}
		}
		switch r.Header.Get("Say") {
		case "fail":
			w.WriteHeader(http.StatusConflict)
		case "move":
			w.WriteHeader(http.StatusSeeOther)
		case "panic":
			panic(http.ErrAbortHandler)
		}
	}
	for _, method := range []string{"POST", "PUT", "DELETE", "PATCH", "M-SEARCH"} {
		rules = append(rules,
			rule{section: "9111 4.4", name: method + " invalidates", origin: o, steps: []step{{body: "1"}, {method: method, says: "fwd=method"}, {body: "3"}}},
			rule{section: "9111 4.4", name: method + " that fails does not", origin: o, steps: []step{{body: "1"}, {method: method, with: []string{"Say", "fail"}, status: 409}, {body: "1"}}})
	}
	for _, method := range []string{"OPTIONS", "TRACE"} {
		rules = append(rules, rule{section: "9111 4.4", name: method + " does not", origin: o, steps: []step{{body: "1"}, {method: method}, {body: "1"}}})
	}
	return append(rules,
		rule{section: "9111 4.4", name: "a redirect is no error", origin: o, steps: []step{{body: "1"}, {method: "POST", with: []string{"Say", "move"}, status: 303}, {body: "3"}}},
		rule{section: "9111 4.4", name: "another query is another URI", origin: o, steps: []step{{path: "/p?a=1", body: "1"}, {method: "POST"}, {path: "/p?a=1", body: "1"}}},
		rule{
			section: "9111 4.4", name: "all variants are invalidated", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Vary", "Accept-Language")
				o(w, r, n)
			},
			steps: []step{
				{with: []string{"Accept-Language", "en"}, body: "1"}, {with: []string{"X-Any", "1"}, body: "2"}, {method: "POST"},
				{with: []string{"Accept-Language", "en"}, body: "4"}, {with: []string{"X-Any", "1"}, body: "5"},
			},
		},
		rule{
			section: "9111 4.4", name: "so are Location and Content-Location of this host", origin: o,
			steps: []step{
				{path: "/a/l", body: "1"}, {path: "/c?x", body: "2"}, {path: "/d", body: "3"},
				{method: "POST", path: "/a/b", with: []string{"Say-Location", "l", "Say-Content-Location", "http://EXAMPLE.com:80/c?x"}},
				{path: "/a/l", body: "5"}, {path: "/c?x", body: "6"}, {path: "/d", body: "3"},
			},
		},
		rule{
			section: "9111 4.4", name: "but not of another one", origin: o,
			steps: []step{{body: "1"}, {method: "POST", path: "/x", with: []string{"Say-Location", "http://example.org/p"}}, {body: "1"}},
		},
	)
}
