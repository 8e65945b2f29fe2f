package httpcache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"regexp"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/httpcache"
	"github.com/cachex-go/cachex/internal/redistest"
)

var ttl = regexp.MustCompile(`; ttl=\d+`) // it depends on the fraction of the second

// get prints the answer of a handler.
func get(h http.Handler, url string, fields ...string) {
	r := httptest.NewRequest(http.MethodGet, url, nil)
	for i := 0; i < len(fields); i += 2 {
		r.Header.Set(fields[i], fields[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	fmt.Println(w.Code, w.Body.String(), "|", ttl.ReplaceAllString(w.Header().Get("Cache-Status"), ""))
}

func Example() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded() // or your own Redis
	if err != nil {
		panic(err)
	}
	defer server.Close()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /news", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("handling")
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = io.WriteString(w, "News!")
	})
	mux.HandleFunc("GET /account", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "Yours.") // it declares nothing, so it is not stored
	})
	pages := cachex.Must(httpcache.New(server.Client(nil), mux, httpcache.Options{Name: "pages"}))

	get(pages, "http://example.com/news")
	get(pages, "http://example.com/news")
	get(pages, "http://example.com/account")
	get(pages, "http://example.com/account")
	fmt.Println(pages.Close(ctx))
	// Output:
	// handling
	// 200 News! | pages; fwd=uri-miss; fwd-status=200; stored
	// 200 News! | pages; hit
	// 200 Yours. | pages; fwd=uri-miss; fwd-status=200; detail=no-freshness
	// 200 Yours. | pages; fwd=uri-miss; detail=pass
	// <nil>
}

// A background job has changed the content of a page.
func ExampleHandler_Invalidate() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	price := "9.99"
	shop := cachex.Must(httpcache.New(server.Client(nil), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "public, s-maxage=3600, max-age=0")
		_, _ = io.WriteString(w, price)
	}), httpcache.Options{Name: "shop"}))

	get(shop, "https://example.com/lamp")
	price = "8.99"
	fmt.Println(shop.Invalidate(ctx, "https://example.com/lamp"))
	get(shop, "https://example.com/lamp")
	fmt.Println(shop.Close(ctx))
	// Output:
	// 200 9.99 | shop; fwd=uri-miss; fwd-status=200; stored
	// <nil>
	// 200 8.99 | shop; fwd=uri-miss; fwd-status=200; stored
	// <nil>
}

// Of the cookies of these pages only the language matters. Logged-in users
// bypass the cache.
func ExampleOptions_partition() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	language := func(r *http.Request) string {
		if c, err := r.Cookie("lang"); err == nil {
			return c.Value
		}
		return "en"
	}
	pages := cachex.Must(httpcache.New(server.Client(nil), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "public, max-age=60")
		_, _ = io.WriteString(w, language(r))
	}), httpcache.Options{
		Name:   "pages",
		Hidden: []string{"X-Forwarded-For"}, // the handler does not need it
		Partition: func(r *http.Request) (string, bool) {
			_, err := r.Cookie("session")
			return language(r), err != nil
		},
		MaxStale: 10 * time.Minute,
	}))

	get(pages, "http://example.com/", "Cookie", "lang=de", "X-Forwarded-For", "192.0.2.1")
	get(pages, "http://example.com/", "Cookie", "lang=de; seen=1", "X-Forwarded-For", "192.0.2.2")
	get(pages, "http://example.com/", "Cookie", "lang=de; session=7")
	fmt.Println(pages.Close(ctx))
	// Output:
	// 200 de | pages; fwd=uri-miss; fwd-status=200; stored
	// 200 de | pages; hit
	// 200 de | pages; fwd=bypass; detail=partition
	// <nil>
}

// A cache in front of a reverse proxy also stores responses that come in parts,
// whose length is not known beforehand.
func ExampleNew_reverseProxy() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	origin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Println("handling")
		w.Header().Set("Cache-Control", "public, max-age=60")
		for _, part := range []string{"one, ", "two"} {
			_, _ = io.WriteString(w, part)
			w.(http.Flusher).Flush()
		}
	}))
	defer origin.Close()
	target, err := url.Parse(origin.URL)
	if err != nil {
		panic(err)
	}
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }}
	pages := cachex.Must(httpcache.New(server.Client(nil), proxy, httpcache.Options{Name: "proxy"}))

	get(pages, "http://example.com/")
	get(pages, "http://example.com/")
	get(pages, "http://example.com/", "Range", "bytes=0-2")
	fmt.Println(pages.Close(ctx))
	// Output:
	// handling
	// 200 one, two | proxy; fwd=uri-miss; fwd-status=200; stored
	// 200 one, two | proxy; hit
	// 206 one | proxy; hit
	// <nil>
}

// These pages are equal for all users who are not logged in, whatever other
// cookies they have. A field of its own tells the cache how long they are
// fresh.
func ExampleOptions_cookies() {
	ctx := context.Background()
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	defer server.Close()

	pages := cachex.Must(httpcache.New(server.Client(nil), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Pages-Cache-Control", "max-age=600")
		w.Header().Set("Cache-Control", "no-cache") // for browsers
		_, _ = io.WriteString(w, "News!")
	}), httpcache.Options{Name: "pages", Cookies: []string{"session"}, Targets: []string{"Pages-Cache-Control"}}))

	get(pages, "http://example.com/", "Cookie", "seen=1")
	get(pages, "http://example.com/", "Cookie", "seen=2; theme=dark")
	get(pages, "http://example.com/", "Cookie", "session=7")
	fmt.Println(pages.Close(ctx))
	// Output:
	// 200 News! | pages; fwd=uri-miss; fwd-status=200; stored
	// 200 News! | pages; hit
	// 200 News! | pages; fwd=bypass; detail=cookie
	// <nil>
}
