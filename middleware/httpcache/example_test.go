package httpcache_test

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"regexp"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/middleware/httpcache"
)

var ttl = regexp.MustCompile(`; ttl=\d+`) // which depends on when in a second it is

// get prints what a handler answers.
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
	server, err := redistest.NewEmbedded() // or the Redis that you have
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
		_, _ = io.WriteString(w, "Yours.") // it says nothing, so it is not stored
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

// A job in the background has changed what a page shows.
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

// Of the cookies of these pages, only the language matters, and who is logged in is
// none of the cache's business.
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
		Hidden: []string{"X-Forwarded-For"}, // the handler has no use for it
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
