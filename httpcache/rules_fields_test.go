package httpcache

import (
	"io"
	"net/http"
	"strings"
)

func fieldRules() []rule {
	stored := func(name string, o origin, fields ...string) rule {
		return rule{section: "9111 3.1", name: name, origin: o, steps: []step{{body: "*"}, {body: "*", says: "hit", fields: fields}}}
	}
	return []rule{
		stored("fields are stored as they are", says("Cache-Control", fresh60, "X-A", "1", "X-A", "2", "Content-Type", "text/x"), "X-A", "1, 2", "Content-Type", "text/x"),
		stored("but not those of the connection", says("Cache-Control", fresh60, "Keep-Alive", "a", "Proxy-Authenticate", "b", "Upgrade", "c", "Te", "d"),
			"Keep-Alive", "", "Proxy-Authenticate", "", "Upgrade", "", "Te", ""),
		stored("nor those that Connection names", says("Cache-Control", fresh60, "Connection", "x-a, X-b", "X-A", "1", "X-B", "2", "X-C", "3"),
			"X-A", "", "X-B", "", "X-C", "3", "Connection", ""),
		stored("the type is found out once", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Cache-Control", fresh60)
			_, _ = io.WriteString(w, "<!DOCTYPE html>")
		}, "Content-Type", "text/html; charset=utf-8"),
		stored("unless the handler does not want one", func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Cache-Control", fresh60)
			w.Header()["Content-Type"] = nil
			_, _ = io.WriteString(w, "<!DOCTYPE html>")
		}, "Content-Type", ""),
		stored("the length is said", func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Cache-Control", fresh60)
			_, _ = io.WriteString(w, strings.Repeat("x", 5000))
		}, "Content-Length", "5000"),
		stored("fields set after the header do not count", func(w http.ResponseWriter, r *http.Request, n int) {
			says("Cache-Control", fresh60)(w, r, n)
			w.Header().Set("X-Late", "1")
		}, "X-Late", ""),
		{
			section: "9111 5.1", name: "Date stays that of the origin", origin: says("Cache-Control", fresh60, "Date", "Sat, 01 Jan 2000 00:00:00 GMT"),
			steps: []step{{body: "1", fields: []string{"Date", "Sat, 01 Jan 2000 00:00:00 GMT"}}, {wait: 9e9, body: "1", fields: []string{"Date", "Sat, 01 Jan 2000 00:00:00 GMT"}}},
		},
		{
			section: "9211 2", name: "what caches before us say comes first", origin: says("Cache-Control", fresh60, "Cache-Status", "cdn; hit"),
			options: Options{Name: "pages"},
			steps:   []step{{body: "1", says: "cdn; hit, pages; fwd=uri-miss"}, {body: "1", says: "cdn; hit, pages; hit; ttl=60"}},
		},
		{
			section: "9110 15.2", name: "hints on the way are not stored", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Link", "</a.css>")
				w.WriteHeader(http.StatusEarlyHints)
				w.Header().Del("Link")
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{body: "1"}, {body: "1", says: "hit", fields: []string{"Link", ""}}},
		},
		{
			section: "9111 3.3", name: "less than was announced is not stored", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					w.Header().Set("Content-Length", "10")
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{method: "HEAD", says: "detail=incomplete"}, {body: "2", says: "stored"}}, // with a GET, see TestAnIncompleteResponse
		},
		{
			section: "9111 3.3", name: "nor in place of a stale response", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 2 {
					w.Header().Set("Content-Length", "10")
				}
				says("Cache-Control", fresh60, "Etag", `"a"`)(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: 60e9, method: "HEAD", says: "detail=incomplete"}, {wait: 60e9, body: "3", says: "stored"}},
		},
	}
}

// echo is an origin whose response contains the values that it sees of these
// fields, and the host.
func echo(directives string, names ...string) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		saw := r.Host
		for _, name := range names {
			saw += "|" + r.Header.Get(name)
		}
		w.Header().Set("X-Saw", saw)
		says("Cache-Control", directives)(w, r, n)
	}
}

func deceptionRules() []rule {
	evil := func(name string) rule {
		return rule{
			section: "9111 2", name: "a reflected " + name + " is the sender's own", origin: echo(fresh60, name),
			steps: []step{
				{with: []string{name, "evil"}, body: "1", fields: []string{"X-Saw", "example.com|evil"}},
				{body: "2", fields: []string{"X-Saw", "example.com|"}},
				{with: []string{name, "worse"}, body: "3"},
				{body: "2"},
			},
		}
	}
	rules := []rule{
		{
			section: "9111 2", name: "another host is another resource", origin: echo(fresh60),
			steps: []step{
				{with: []string{"Host", "evil.example"}, body: "1"},
				{body: "2", fields: []string{"X-Saw", "example.com"}},
				{with: []string{"Host", "EXAMPLE.com:80"}, body: "2", fields: []string{"X-Saw", "example.com"}},
				{with: []string{"Host", "example.com:81"}, body: "3", fields: []string{"X-Saw", "example.com:81"}},
			},
		},
		{
			section: "9111 2", name: "the handler does not see which form the host was in", origin: echo(fresh60),
			steps: []step{{with: []string{"Host", "EXAMPLE.com:80"}, body: "1", fields: []string{"X-Saw", "example.com"}}},
		},
		{
			section: "9110 4.2.3", name: "queries in another order are others", origin: says("Cache-Control", fresh60),
			steps: []step{{path: "/p?a=1&b=2", body: "1"}, {path: "/p?b=2&a=1", body: "2"}, {path: "/p?a=1&b=2", body: "1"}},
		},
		{
			section: "9110 4.2.3", name: "a parameter that comes twice is not one that comes once", origin: says("Cache-Control", fresh60),
			steps: []step{{path: "/p?a=1", body: "1"}, {path: "/p?a=1&a=2", body: "2"}, {path: "/p?a=2&a=1", body: "3"}, {path: "/p?a=1", body: "1"}},
		},
		{
			section: "9110 4.2.3", name: "an empty query is not none", origin: says("Cache-Control", fresh60),
			steps: []step{{path: "/p", body: "1"}, {path: "/p?", body: "2"}, {path: "/p", body: "1"}},
		},
		{
			section: "9110 4.2.3", name: "escapes are not undone", origin: says("Cache-Control", fresh60),
			steps: []step{
				{path: "/a/b", body: "1"}, {path: "/a%2Fb", body: "2"}, {path: "/a/x/../b", body: "3"}, {path: "/a/%2e%2e/b", body: "4"},
				{path: "/a/%2E%2E/b", body: "5"}, {path: "//a/b", body: "6"}, {path: "/a/b", body: "1"},
			},
		},
		{
			section: "9111 7.1", name: "a field that claims another method is in the key, and purges nothing", origin: echo(fresh60, "X-HTTP-Method-Override"),
			steps: []step{
				{body: "1"},
				{with: []string{"X-HTTP-Method-Override", "POST"}, body: "2", fields: []string{"X-Saw", "example.com|POST"}},
				{with: []string{"X-HTTP-Method-Override", "POST"}, body: "2", says: "hit"},
				{body: "1", says: "hit"},
			},
		},
		{
			section: "9111 4.4", name: "unless MethodOverrides names it", origin: echo(fresh60, "X-Method"),
			options: Options{MethodOverrides: []string{"x-method"}},
			steps: []step{
				{body: "1"},
				{with: []string{"X-Method", "get"}, body: "2", says: "fwd=bypass; detail=method-override"},
				{body: "1", says: "hit"},
				{with: []string{"X-Method", "delete"}, body: "3", says: "fwd=bypass; detail=method-override"},
				{body: "4"},
				{with: []string{"X-Method", "get", "X-Method", "put"}, body: "5"},
				{body: "6"},
			},
		},
		{
			section: "9111 7.3", name: "a request with a cookie is passed", origin: echo(fresh60, "Cookie"),
			steps: []step{{with: []string{"Cookie", "s=1"}, body: "1"}, {body: "2", fields: []string{"X-Saw", "example.com|"}}, {with: []string{"Cookie", "s=1"}, body: "3", says: "fwd=bypass; detail=cookie"}},
		},
		{
			section: "9111 7.2", name: "a private page under a static name is not stored", origin: echo("private, no-cache", "Cookie"),
			steps: []step{{path: "/account/x.css", with: []string{"Cookie", "s=1"}, body: "1"}, {path: "/account/x.css", body: "2"}, {path: "/account/x.css", body: "3"}},
		},
		{
			section: "9111 3.5", name: "who says Authorization does not spoil the page of those who do not", origin: echo(fresh60, "Authorization"),
			steps: []step{{with: []string{"Authorization", "x"}, body: "1"}, {body: "2"}, {with: []string{"Authorization", "x"}, body: "3"}, {body: "2"}},
		},
		{
			section: "9111 3.5", name: "a public page that says Vary: Authorization is one for each", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Vary", "Authorization")
				echo("public, max-age=60", "Authorization")(w, r, n)
			},
			steps: []step{
				{with: []string{"Authorization", "a"}, body: "1", fields: []string{"X-Saw", "example.com|a"}},
				{with: []string{"Authorization", "b"}, body: "2", fields: []string{"X-Saw", "example.com|b"}},
				{with: []string{"Authorization", "a"}, body: "1"},
			},
		},
		{
			section: "9110 7.6.1", name: "a field that Connection names stays, and is in the key as is Connection", origin: echo(fresh60, "X-Role", "Connection"),
			steps: []step{
				{with: []string{"Connection", "x-role", "X-Role", "admin"}, body: "1", fields: []string{"X-Saw", "example.com|admin|X-Role"}},
				{with: []string{"Connection", "close, X-ROLE,,x-role", "X-Role", "admin"}, body: "1", says: "hit"},
				{with: []string{"X-Role", "admin"}, body: "2", fields: []string{"X-Saw", "example.com|admin|"}},
				{body: "3"},
			},
		},
		{
			section: "9111 4", name: "what the client asked of the cache is not shown", origin: echo(fresh60, "Cache-Control", "Pragma", "If-None-Match"),
			steps: []step{{with: []string{"Cache-Control", "max-stale", "Pragma", "x", "If-None-Match", `"x"`}, body: "1", fields: []string{"X-Saw", "example.com|||"}}},
		},
		{
			section: "9111 4.1", name: "a hidden field is not shown, and does not matter", origin: echo(fresh60, "X-Forwarded-For"),
			options: Options{Hidden: []string{"x-forwarded-for"}},
			steps:   []step{{with: []string{"X-Forwarded-For", "1"}, body: "1", fields: []string{"X-Saw", "example.com|"}}, {body: "1"}, {with: []string{"X-Forwarded-For", "2"}, body: "1"}},
		},
		{
			section: "9111 4.1", name: "a response that varies on a hidden field is not stored", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				says("Cache-Control", fresh60, "Vary", "X-Forwarded-For")(w, r, n)
			},
			options: Options{Hidden: []string{"X-Forwarded-For"}},
			steps:   []step{{body: "1"}, {body: "2"}},
		},
		{
			section: "9111 4.1", name: "an unkeyed field is shown, and does not matter", origin: echo(fresh60, "X-Request-Id"),
			options: Options{Unkeyed: []string{"x-request-id"}},
			steps:   []step{{with: []string{"X-Request-Id", "1"}, body: "1", fields: []string{"X-Saw", "example.com|1"}}, {with: []string{"X-Request-Id", "2"}, body: "1"}},
		},
		{
			section: "9111 7.3", name: "Cookies says which cookies matter", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Vary", "Cookie")
				echo(fresh60, "Cookie")(w, r, n)
			},
			options: Options{Cookies: []string{"session"}},
			steps: []step{
				{with: []string{"Cookie", "seen=1"}, body: "1", fields: []string{"X-Saw", "example.com|"}},
				{body: "1", says: "hit"},
				{with: []string{"Cookie", "a=session; b=\"x\"; Session=1"}, body: "1", says: "hit"},
				{with: []string{"Cookie", "a=1; session=7"}, body: "2", says: "fwd=bypass; detail=cookie", fields: []string{"X-Saw", "example.com|a=1; session=7"}},
				{with: []string{"Cookie", "a=1", "Cookie", " session "}, body: "3", says: "detail=cookie"},
				{with: []string{"Cookie", "a=1,session=2"}, body: "4", says: "detail=cookie"},
				{body: "1"},
			},
		},
		{
			section: "9111 7.3", name: "with Cookies too, Partition is asked about the other cookies", origin: echo(fresh60, "Cookie"),
			options: Options{Cookies: []string{"session"}, Partition: func(r *http.Request) (string, bool) {
				c, err := r.Cookie("lang")
				if err != nil {
					return "", true
				}
				return c.Value, true
			}},
			steps: []step{
				{with: []string{"Cookie", "lang=de"}, body: "1", fields: []string{"X-Saw", "example.com|lang=de"}},
				{with: []string{"Cookie", "lang=de"}, body: "1"}, {body: "2"},
				{with: []string{"Cookie", "lang=de; session=1"}, body: "3", says: "detail=cookie"},
			},
		},
		{
			section: "9111 7.3", name: "cookies that are hidden do not matter", origin: echo(fresh60, "Cookie"),
			options: Options{Hidden: []string{"Cookie"}},
			steps:   []step{{with: []string{"Cookie", "a=1"}, body: "1", fields: []string{"X-Saw", "example.com|"}}, {body: "1"}},
		},
		{
			section: "9111 7.3", name: "Partition says what of a cookie matters", origin: echo(fresh60, "Cookie"),
			options: Options{Partition: func(r *http.Request) (string, bool) {
				c, err := r.Cookie("lang")
				if err != nil {
					return "", r.Header.Get("Cookie") == ""
				}
				return c.Value, true
			}},
			steps: []step{
				{with: []string{"Cookie", "lang=en"}, body: "1"}, {with: []string{"Cookie", "lang=de"}, body: "2"}, {with: []string{"Cookie", "x=1; lang=en"}, body: "1"},
				{body: "3"}, {with: []string{"Cookie", "x=1"}, body: "4", says: "detail=partition"}, {body: "3"},
			},
		},
		{
			section: "9110 15.5", name: "nor for longer than a second, by a field that is in no key", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if r.Header.Get("Accept") == "no/such" {
					status(406, "Cache-Control", fresh60)(w, r, n)
					return
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{
				{with: []string{"Accept", "no/such"}, status: 406, body: "1"},
				{body: "2", says: "detail=pass"}, {wait: 1e9, body: "3", says: "stored"}, {body: "3", says: "hit"},
				{wait: 60e9, with: []string{"Accept", "no/such"}, status: 406, body: "4"},
				{body: "5", says: "detail=pass"}, {wait: 1e9, body: "6", says: "stored"},
			},
		},
		{
			section: "9110 15.5", name: "a request that is refused does not keep the page from others", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if len(r.Header.Get("User-Agent")) > 1000 {
					status(431, "Cache-Control", fresh60)(w, r, n)
					return
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			options: Options{PassTTL: 1e9},
			steps:   []step{{with: []string{"User-Agent", strings.Repeat("x", 2000)}, status: 431, body: "1"}, {body: "2"}, {wait: 1e9, body: "3"}, {body: "3"}},
		},
	}
	for _, name := range []string{
		"X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-For", "Forwarded", "X-Original-URL", "X-Rewrite-URL", "X-Host", "Origin",
		"X-Anything",
	} {
		rules = append(rules, evil(name))
	}
	return rules
}
