package httpcache

import (
	"io"
	"net/http"
	"strconv"
	"time"
)

// cc is a Cache-Control field of a request.
func cc(directives string) []string { return []string{"Cache-Control", directives} }

func requestRules() []rule {
	return []rule{
		{
			section: "9111 5.2.1.4", name: "no-cache loads anew, and that is stored", origin: says("Cache-Control", fresh60),
			steps: []step{{body: "1"}, {with: cc("no-cache"), body: "2", says: "fwd=request"}, {body: "2", says: "hit"}},
		},
		{
			section: "9111 5.4", name: "so does Pragma, if there is no Cache-Control", origin: says("Cache-Control", fresh60),
			steps: []step{
				{body: "1"},
				{with: []string{"Pragma", "no-cache"}, body: "2"},
				{with: []string{"Pragma", "no-cache", "Cache-Control", "max-stale"}, body: "2"},
				{with: []string{"Pragma", "x"}, body: "2"},
			},
		},
		{
			section: "9111 5.2.1.5", name: "a response to no-store is not stored, and a stored one is an answer", origin: says("Cache-Control", fresh60),
			steps: []step{
				{with: cc("no-store"), body: "1", says: "fwd=uri-miss; fwd-status=200"},
				{with: cc("no-store"), body: "2"}, {body: "3", says: "stored"},
				{with: cc("no-store"), body: "3", says: "hit"},
				{with: cc("no-store, no-cache"), body: "4"}, {body: "3", says: "hit"},
				{with: []string{"X-Variant", "1", "Cache-Control", "no-store"}, body: "5"}, {with: []string{"X-Variant", "1"}, body: "6", says: "stored"},
			},
		},
		{
			section: "9111 5.2.1.5", name: "nor is what it shows of Vary", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					w.Header().Set("Vary", "Accept-Language")
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{body: "1"}, {with: []string{"X-Variant", "1", "Cache-Control", "no-store"}, body: "2"}, {body: "1", says: "hit"}},
		},
		{
			section: "5861 3", name: "a no-store request that is served a stale response has a new one stored", origin: says("Cache-Control", "max-age=60, stale-while-revalidate=60"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, with: cc("no-store"), body: "1", says: "hit; ttl=-10"}, {wait: time.Second, body: "2", says: "hit"}},
		},
		{
			section: "9111 5.2.1.1", name: "max-age bounds the age", origin: says("Cache-Control", fresh60),
			steps: []step{
				{body: "1"},
				{wait: 10 * time.Second, with: cc("max-age=10"), body: "1"},
				{with: cc("max-age=9"), body: "2", says: "fwd=request"},
				{body: "2"},
				{wait: time.Second, with: cc("max-age=0"), body: "3"},
			},
		},
		{
			section: "9111 5.2.1.1", name: "one that is no number is 0", origin: says("Cache-Control", fresh60),
			steps: []step{{body: "1"}, {wait: time.Second, with: cc("max-age=x"), body: "2"}},
		},
		{
			section: "8246 2.1", name: "immutable spares reloads that do not insist", origin: says("Cache-Control", "max-age=60, immutable"),
			steps: []step{
				{body: "1"},
				{wait: time.Second, with: cc("max-age=0"), body: "1"},
				{with: cc("no-cache"), body: "2"},
				{wait: 60 * time.Second, body: "3"},
			},
		},
		{
			section: "9111 5.2.1.3", name: "min-fresh wants freshness to be left", origin: says("Cache-Control", fresh60),
			steps: []step{
				{body: "1"},
				{wait: 30 * time.Second, with: cc("min-fresh=30"), body: "1"},
				{with: cc("min-fresh=31"), body: "2"},
			},
		},
		{
			section: "9111 5.2.1.2", name: "max-stale is content with a stale response", origin: says("Cache-Control", fresh60),
			steps: []step{
				{body: "1"},
				{wait: 70 * time.Second, with: cc("max-stale=10"), body: "1", says: "hit; ttl=-10"},
				{with: cc("max-stale"), body: "1"},
				{with: cc("max-stale=9"), body: "2"},
			},
		},
		{
			section: "9111 5.2.2.2", name: "but not against must-revalidate", origin: says("Cache-Control", "max-age=60, must-revalidate"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, with: cc("max-stale"), body: "2"}},
		},
		{
			section: "9111 5.2.2.8", name: "nor against proxy-revalidate", origin: says("Cache-Control", "max-age=60, proxy-revalidate"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, with: cc("max-stale"), body: "2"}},
		},
		{
			section: "9111 5.2.2.10", name: "nor against s-maxage", origin: says("Cache-Control", "s-maxage=60"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, with: cc("max-stale"), body: "2"}},
		},
		{
			section: "9111 5.2.1.7", name: "only-if-cached loads nothing", origin: says("Cache-Control", fresh60),
			steps: []step{
				{with: cc("only-if-cached"), status: 504, body: "*"},
				{body: "1"},
				{with: cc("only-if-cached"), body: "1", says: "hit"},
				{wait: time.Minute, with: cc("only-if-cached"), status: 504, body: "*"},
				{with: cc("only-if-cached, max-stale"), body: "1"},
			},
		},
		{
			section: "9111 5.2.1", name: "directives that cannot be read are ignored", origin: says("Cache-Control", fresh60),
			steps: []step{{body: "1"}, {with: cc(`max-age="`), body: "1", says: "hit"}, {with: cc(`x y, no-cache`), body: "2", says: "fwd=request"}},
		},
	}
}

// flaky is an origin that answers with a status other than 200 from its second
// call on.
func flaky(code int, directives string) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		if n > 1 {
			w.WriteHeader(code)
			_, _ = io.WriteString(w, strconv.Itoa(n))
			return
		}
		says("Cache-Control", directives)(w, r, n)
	}
}

func staleRules() []rule {
	return []rule{
		{
			section: "5861 3", name: "stale-while-revalidate serves at once, and loads once", origin: says("Cache-Control", "max-age=60, stale-while-revalidate=30"),
			steps: []step{
				{body: "1"},
				{wait: 89 * time.Second, body: "1", says: "hit; ttl=-29"},
				{wait: time.Second, body: "2", says: "hit; ttl=59"},
				{wait: 89 * time.Second, body: "3", says: "fwd=stale"},
			},
		},
		{
			section: "5861 3", name: "also with s-maxage, which by itself forbids it", origin: says("Cache-Control", "s-maxage=60, stale-while-revalidate=30"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, body: "1"}, {wait: time.Second, body: "2"}},
		},
		{
			section: "5861 3", name: "but not with must-revalidate", origin: says("Cache-Control", "max-age=60, must-revalidate, stale-while-revalidate=30"),
			steps: []step{{body: "1"}, {wait: 60 * time.Second, body: "2"}},
		},
		{
			section: "5861 3", name: "a HEAD has it loaded too", origin: says("Cache-Control", "max-age=60, stale-while-revalidate=30"),
			steps: []step{{body: "1"}, {wait: 70 * time.Second, method: "HEAD", says: "hit"}, {wait: time.Second, body: "2", says: "hit"}},
		},
		{
			section: "5861 3", name: "and what it finds may not be shared any more", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 2 {
					w.Header().Set("Set-Cookie", "secret=2")
				}
				says("Cache-Control", "max-age=60, stale-while-revalidate=30")(w, r, n)
			},
			steps: []step{
				{body: "1"},
				{wait: 70 * time.Second, body: "1"},
				{wait: time.Second, body: "3", says: "detail=pass", fields: []string{"Set-Cookie", ""}},
			},
		},
		{
			section: "5861 4", name: "stale-if-error serves in place of a failure", origin: flaky(503, "max-age=60, stale-if-error=600"),
			steps: []step{
				{body: "1"},
				{wait: 100 * time.Second, body: "1", says: "; fwd=stale; fwd-status=503; ttl=-40; detail=stale-if-error"},
				{body: "1", says: "; hit; ttl=-40; detail=stale-if-error"}, // during the back-off: the handler is not called
				{with: cc("no-cache"), status: 503, body: "3"},
				{with: cc("max-age=10"), status: 503, body: "4"},
				{wait: 600 * time.Second, status: 503, body: "*"},
			},
		},
		{
			section: "9211 2.1", name: "a handler that panics has no status", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 1 {
					panic(http.ErrAbortHandler)
				}
				says("Cache-Control", "max-age=60, stale-if-error=600")(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: 100 * time.Second, body: "1", says: "; fwd=stale; ttl=-40; detail=stale-if-error"}},
		},
		{
			section: "5861 4", name: "not of one that is the request's", origin: flaky(400, "max-age=60, stale-if-error=600"),
			steps: []step{{body: "1"}, {wait: 100 * time.Second, status: 400, body: "2"}},
		},
		{
			section: "5861 4", name: "and not against must-revalidate", origin: flaky(503, "max-age=60, must-revalidate, stale-if-error=600"),
			steps: []step{{body: "1"}, {wait: 100 * time.Second, status: 503, body: "2"}},
		},
		{
			section: "9111 4.2.4", name: "without it a failure is one", origin: flaky(503, "max-age=60"),
			steps: []step{{body: "1"}, {wait: 100 * time.Second, status: 503, body: "2"}, {status: 503, body: "3"}},
		},
		{
			section: "9111 4.2.4", name: "a response that is not to be stored takes the place of what was", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 2 {
					says("Cache-Control", "no-store")(w, r, n)
					return
				}
				says("Cache-Control", "max-age=60")(w, r, n)
			},
			steps: []step{{body: "1"}, {wait: time.Minute, body: "2"}, {with: cc("max-stale"), body: "3"}},
		},
		{
			section: "9111 4.2.4", name: "MaxStale bounds it", origin: says("Cache-Control", "max-age=60, stale-while-revalidate=600"),
			options: Options{MaxStale: 10 * time.Second},
			steps:   []step{{body: "1"}, {wait: 70 * time.Second, body: "2"}, {wait: 65 * time.Second, body: "2"}},
		},
		{
			section: "9111 4.2.4", name: "after PassTTL a response is looked at again", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n > 2 {
					w.Header().Set("Cache-Control", fresh60)
				}
				says()(w, r, n)
			},
			steps: []step{{body: "1"}, {body: "2", says: "detail=pass"}, {wait: time.Minute, body: "3", says: "stored"}, {body: "3"}},
		},
	}
}

func varyRules() []rule {
	lang := func(vary ...string) origin {
		return func(w http.ResponseWriter, r *http.Request, n int) {
			w.Header().Set("X-Saw", r.Header.Get("Accept-Language")+r.Header.Get("Foo"))
			for _, v := range vary {
				w.Header().Add("Vary", v)
			}
			says("Cache-Control", fresh60)(w, r, n)
		}
	}
	al := func(v string) []string { return []string{"Accept-Language", v} }
	rules := []rule{
		{
			section: "9111 4.1", name: "each variant has a response of its own", origin: lang("Accept-Language"),
			steps: []step{
				{with: al("en"), body: "1", fields: []string{"X-Saw", "en"}},
				{with: al("de"), body: "2", fields: []string{"X-Saw", "de"}, says: "fwd=vary-miss"},
				{with: al("en"), body: "1"},
				{with: al("de"), body: "2", says: "hit"},
				{body: "3"}, // without the field
				{body: "3"},
				{with: al(""), body: "4"}, // with an empty one
			},
		},
		{
			section: "9111 4.1", name: "what is not in Vary does not matter, if it is for negotiation", origin: lang(),
			steps: []step{{with: al("en"), body: "1"}, {with: al("de"), body: "1"}},
		},
		{
			section: "9111 4.1", name: "spaces and case of languages do not matter", origin: lang("Accept-Language"),
			steps: []step{{with: al("en, de;q=0.5"), body: "1"}, {with: al("EN,de; q=0.5"), body: "1"}, {with: al("de, en"), body: "2"}},
		},
		{
			section: "9111 4.1", name: "nor does it how a field is split into lines", origin: lang("Foo"),
			steps: []step{{with: []string{"Foo", "1", "Foo", "2"}, body: "1"}, {with: []string{"Foo", "1, 2"}, body: "1"}, {with: []string{"Foo", "2, 1"}, body: "2"}},
		},
		{
			section: "9111 4.1", name: "all fields in Vary have to match", origin: lang("Accept-Language, User-Agent", "Accept"),
			steps: []step{
				{with: []string{"Accept", "a", "User-Agent", "b"}, body: "1"},
				{with: []string{"Accept", "a", "User-Agent", "b"}, body: "1"},
				{with: []string{"Accept", "a", "User-Agent", "c"}, body: "2"},
				{with: []string{"Accept", "b", "User-Agent", "a"}, body: "3"},
			},
		},
		{
			section: "9111 4.1", name: "a Vary that grows makes other variants", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				w.Header().Set("Vary", "Accept-Language")
				if n == 2 {
					w.Header().Set("Vary", "Accept")
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{
				{with: []string{"Accept-Language", "en", "Accept", "a"}, body: "1"},
				{with: []string{"Accept-Language", "de", "Accept", "a"}, body: "2"},
				// Both are now known to matter.
				{with: []string{"Accept-Language", "de", "Accept", "a"}, body: "3"},
				{with: []string{"Accept-Language", "de", "Accept", "b"}, body: "4"},
				{with: []string{"Accept-Language", "de", "Accept", "a"}, body: "3"},
			},
		},
		{
			section: "9111 4.1", name: "a Vary that shrinks harms nobody", origin: func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					w.Header().Set("Vary", "Accept-Language")
				}
				says("Cache-Control", fresh60)(w, r, n)
			},
			steps: []step{{with: al("en"), body: "1"}, {with: al("de"), body: "2"}, {with: al("de"), body: "2"}, {with: al("en"), body: "1"}},
		},
		{
			section: "9111 4.1", name: "a response that varies on Cookie is one for those without", origin: lang("Cookie"),
			steps: []step{{body: "1"}, {body: "1"}, {with: []string{"Cookie", "a=b"}, body: "2"}, {body: "1"}},
		},
		{
			section: "9111 4.1", name: "Vary of a field that Cache-Control is", origin: lang("Cache-Control"),
			steps: []step{{body: "1"}, {with: cc("max-stale"), body: "1"}},
		},
	}
	for _, vary := range []string{"*", "*, *", ", *", "*, Foo", "Foo, *", "F oo"} {
		rules = append(rules, twice("9111 4.1", "Vary is never matched: "+vary, lang(vary), "1", "2"))
	}
	return append(rules, twice("9111 4.1", "nor where the * has a line of its own", lang("Foo", "*"), "1", "2"))
}
