package httpcache

import (
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const fresh60 = "max-age=60"

// status returns an origin like says, with a status.
func status(code int, fields ...string) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		says(fields...)(header{w, code}, r, n)
	}
}

type header struct {
	http.ResponseWriter
	code int
}

func (h header) Write(p []byte) (int, error) {
	h.WriteHeader(h.code)
	return h.ResponseWriter.Write(p)
}

func storingRules() []rule {
	rules := []rule{
		twice("9111 3", "a response with explicit freshness is reused", says("Cache-Control", fresh60), "1", "1"),
		twice("9111 3", "one without is not", says(), "1", "2"),
		twice("9111 3", "public alone is no freshness", says("Cache-Control", "public"), "1", "2"),
		twice("9111 5.2.2.5", "no-store is not stored", says("Cache-Control", "no-store, max-age=60"), "1", "2"),
		twice("9111 5.2.2.5", "nor in another case", says("Cache-Control", "nO-StOrE, max-age=60"), "1", "2"),
		twice("9111 5.2.2.3", "no-store is ignored where must-understand is and the status is understood",
			says("Cache-Control", "no-store, must-understand, max-age=60"), "1", "1"),
		twice("9111 5.2.2.7", "private is not stored", says("Cache-Control", "private, max-age=60"), "1", "2"),
		twice("9111 5.2.2.7", "private of a field is taken for private", says("Cache-Control", `private="X-User", max-age=60`), "1", "2"),
		twice("9111 5.2.2.7", "private and public is private", says("Cache-Control", "public, private, max-age=60"), "1", "2"),
		twice("9111 5.2.2.4", "no-cache is not reused", says("Cache-Control", "no-cache, max-age=60"), "1", "2"),
		twice("9111 5.2.2.4", "no-cache of a field is taken for no-cache", says("Cache-Control", `no-cache="X-A", max-age=60`), "1", "2"),
		twice("9111 5.2.2.4", "also with a validator, by which the handler says that it is new", says("Cache-Control", "no-cache", "Etag", `"a"`), "1", "2"),
		twice("9111 7.3", "a response that sets a cookie is not stored", says("Cache-Control", "public, max-age=60", "Set-Cookie", "a=b"), "1", "2"),
		twice("9111 3.3", "what claims to be a part is not stored", says("Cache-Control", fresh60, "Content-Range", "bytes 0-0/2"), "1", "2"),
		twice("9110 8.4", "a coded response that does not vary on the coding is not stored",
			says("Cache-Control", fresh60, "Content-Encoding", "br"), "1", "2"),
		twice("9110 6.6.2", "a response with trailers is not stored", func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("Trailer", "X-Sum")
			says("Cache-Control", fresh60)(w, r, n)
			w.Header().Set("X-Sum", "1")
		}, "1", "2"),
		twice("9110 6.6.2", "nor one whose trailers come unannounced", func(w http.ResponseWriter, r *http.Request, n int) {
			says("Cache-Control", fresh60)(w, r, n)
			w.Header().Set(http.TrailerPrefix+"X-Sum", "1")
		}, "1", "2"),
		{
			section: "9111 4.2.2", name: "DefaultTTL is for responses that say nothing", origin: says(),
			options: Options{DefaultTTL: time.Minute},
			steps:   []step{{body: "1"}, {body: "1"}, {wait: 61 * time.Second, body: "2"}},
		},
		{
			section: "9111 4.2.2", name: "and not for those that say something", origin: says("Cache-Control", "max-age=0"),
			options: Options{DefaultTTL: time.Minute}, steps: []step{{body: "1"}, {body: "2"}},
		},
		{
			section: "9111 4.2.2", name: "nor for Pragma: no-cache", origin: says("Pragma", "no-cache"),
			options: Options{DefaultTTL: time.Minute}, steps: []step{{body: "1"}, {body: "2"}},
		},
		{
			section: "9110 15.1", name: "nor for a redirect that is temporary", origin: status(302, "Location", "/x"),
			options: Options{DefaultTTL: time.Minute}, steps: []step{{status: 302, body: "1"}, {status: 302, body: "2"}},
		},
		{
			section: "9111 3", name: "HEAD is answered from a stored GET", origin: says("Cache-Control", fresh60),
			steps: []step{{body: "1"}, {method: "HEAD", fields: []string{"Content-Length", "1"}, says: "hit"}},
		},
		{
			section: "9111 3", name: "HEAD alone loads the GET", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				says("Cache-Control", fresh60, "X-Method", r.Method)(w, r, n)
			},
			steps: []step{{method: "HEAD", says: "stored", fields: []string{"X-Method", "GET", "Content-Length", "1"}}, {body: "1", says: "hit"}},
		},
		{
			section: "9110 9.3.2", name: "a response that is not stored is passed to HEAD without its body", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				says("X-Method", r.Method)(w, r, n)
			},
			steps: []step{{method: "HEAD", fields: []string{"X-Method", "GET"}}, {method: "HEAD", says: "detail=pass", fields: []string{"X-Method", "HEAD"}}},
		},
		{
			section: "9110 9.3.1", name: "a GET with a body is stored for that body",
			origin: func(w http.ResponseWriter, r *http.Request, n int) {
				b, _ := io.ReadAll(r.Body)
				says("Cache-Control", fresh60, "X-Body", string(b))(w, r, n)
			},
			steps: []step{
				{with: []string{"body", "hello"}, body: "1", fields: []string{"X-Body", "hello"}},
				{with: []string{"body", "hello"}, body: "1", says: "hit"}, {with: []string{"body", "world"}, body: "2"},
				{body: "3", fields: []string{"X-Body", ""}}, {body: "3", says: "hit"},
			},
		},
		{
			section: "9110 9.3.1", name: "a GET with a long body is passed, and the handler can read it",
			origin: func(w http.ResponseWriter, r *http.Request, n int) {
				b, _ := io.ReadAll(r.Body)
				says("Cache-Control", fresh60, "X-Body", strconv.Itoa(len(b)))(w, r, n)
			},
			steps: []step{
				{with: []string{"body", strings.Repeat("x", maxRequestBody)}, body: "1", says: "stored", fields: []string{"X-Body", "65536"}},
				{with: []string{"body", strings.Repeat("x", maxRequestBody+1)}, body: "2", says: "fwd=bypass; detail=body", fields: []string{"X-Body", "65537"}},
			},
		},
		{
			section: "9111 3.5", name: "with Authorization nothing is stored",
			origin: says("Cache-Control", fresh60),
			steps:  []step{{with: []string{"Authorization", "a"}, body: "1"}, {with: []string{"Authorization", "a"}, body: "2"}, {body: "3"}},
		},
	}
	for _, directive := range []string{"public, max-age=60", "s-maxage=60", "max-age=60, must-revalidate"} {
		rules = append(rules, rule{
			section: "9111 3.5", name: "unless the response says " + directive,
			origin: says("Cache-Control", directive),
			steps:  []step{{with: []string{"Authorization", "a"}, body: "1"}, {with: []string{"Authorization", "b"}, body: "1"}, {body: "2"}},
		})
	}
	for _, code := range []int{200, 203, 300, 301, 302, 303, 307, 308, 404, 410} {
		rules = append(rules, rule{
			section: "9111 3", name: "reused: " + http.StatusText(code), origin: status(code, "Cache-Control", fresh60),
			steps: []step{{status: code, body: "1"}, {status: code, body: "1"}},
		})
	}
	for _, code := range []int{206, 400, 401, 403, 405, 413, 429, 451, 500, 501, 503, 299, 599} {
		rules = append(rules, rule{
			section: "9111 3", name: "not reused: " + http.StatusText(code), origin: status(code, "Cache-Control", fresh60),
			steps: []step{{status: code, body: "1"}, {status: code, body: "2"}},
		})
	}
	rules[len(rules)-2].name, rules[len(rules)-1].name = "not reused: 299", "not reused: 599"
	for _, code := range []int{299, 400, 429, 503, 599} {
		rules = append(rules, rule{
			section: "9111 3", name: "reused, if Statuses has it: " + strconv.Itoa(code), origin: status(code, "Cache-Control", fresh60),
			options: Options{Statuses: []int{code}},
			steps:   []step{{status: code, body: "1"}, {status: code, body: "1", says: "hit"}, {wait: 60e9, status: code, body: "2"}},
		}, rule{
			section: "9111 5.2.2.3", name: "but not with must-understand: " + strconv.Itoa(code), origin: status(code, "Cache-Control", "max-age=60, must-understand"),
			options: Options{Statuses: []int{code}}, steps: []step{{status: code, body: "1"}, {status: code, body: "2"}},
		}, rule{
			section: "9111 3", name: "nor without explicit freshness: " + strconv.Itoa(code), origin: status(code),
			options: Options{Statuses: []int{code}, DefaultTTL: 60e9}, steps: []step{{status: code, body: "1"}, {status: code, body: "2"}},
		})
	}
	return append(rules, rule{
		section: "9111 3", name: "reused: No Content",
		origin: func(w http.ResponseWriter, _ *http.Request, _ int) {
			w.Header().Set("Cache-Control", fresh60)
			w.WriteHeader(http.StatusNoContent)
		},
		steps: []step{{status: 204}, {status: 204, says: "hit"}},
	})
}
