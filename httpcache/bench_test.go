package httpcache

import (
	"net/http"
	"net/http/httptest"
	"testing"
)

// BenchmarkHit answers the request of a browser from the store.
func BenchmarkHit(b *testing.B) {
	h := newHandler(b, embedded(b), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		says("Cache-Control", "max-age=3600", "Vary", "Accept-Encoding")(w, r, 1)
	}), Options{})
	r := httptest.NewRequest(http.MethodGet, "http://example.com/p?a=1", nil)
	for name, value := range map[string]string{
		"User-Agent":      "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		"Accept":          "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
		"Accept-Language": "en-US,en;q=0.5", "Accept-Encoding": "gzip, deflate, br, zstd",
		"Connection": "keep-alive", "Upgrade-Insecure-Requests": "1",
		"Sec-Fetch-Dest": "document", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Site": "none", "Sec-Fetch-User": "?1",
		"Priority": "u=0, i", "X-Forwarded-Proto": "https",
	} {
		r.Header.Set(name, value)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeHTTP(httptest.NewRecorder(), r)
	}
}
