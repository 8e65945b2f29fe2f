// Command httpcache is a reverse proxy with a cache in Redis.
//
//	go run ./httpcache -origin http://127.0.0.1:8000 -listen 127.0.0.1:8002
//
// It runs on an embedded Redis, or on the Redis that REDIS_ADDR names. It
// listens until it is interrupted. Then it waits for requests in progress, and
// closes the cache.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/httpcache"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "httpcache:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	flags := flag.NewFlagSet("httpcache", flag.ContinueOnError)
	origin := flags.String("origin", "http://127.0.0.1:8000", "URL of the server whose responses are cached")
	listen := flags.String("listen", "127.0.0.1:8002", "address to listen on")
	var o httpcache.Options
	list := func(to *[]string) func(string) error {
		return func(s string) error {
			*to = append(*to, strings.Split(s, ",")...)
			return nil
		}
	}
	flags.Func("unkeyed", "request fields that are in no key, separated by commas", list(&o.Unkeyed))
	flags.Func("targets", "response fields that override Cache-Control, separated by commas", list(&o.Targets))
	flags.Func("cookies", "cookies that matter, separated by commas", list(&o.Cookies))
	if err := flags.Parse(args); err != nil {
		return err
	}
	target, err := url.Parse(*origin)
	if err != nil {
		return err
	}
	addr := os.Getenv("REDIS_ADDR")
	rdb := redis.NewClient(&redis.Options{Addr: addr})
	if addr == "" {
		embedded, err := cachextest.Open()
		if err != nil {
			return err
		}
		defer embedded.Close()
		rdb, addr = embedded.Client(), "an embedded Redis"
	}
	defer rdb.Close()

	pages, err := newProxy(rdb, target, o)
	if err != nil {
		return err
	}
	server := &http.Server{Addr: *listen, Handler: pages, ReadHeaderTimeout: 10 * time.Second}
	failed := make(chan error, 1)
	go func() { failed <- server.ListenAndServe() }()
	fmt.Printf("http://%s answers for %s, with what is kept in Redis at %s\n", *listen, target, addr)
	select {
	case err := <-failed:
		return errors.Join(err, pages.Close(context.WithoutCancel(ctx)))
	case <-ctx.Done():
	}
	ending, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	return errors.Join(server.Shutdown(ending), pages.Close(ending))
}

// newProxy returns a handler that answers from the cache, and otherwise asks
// target.
func newProxy(rdb redis.UniversalClient, target *url.URL, o httpcache.Options) (*httpcache.Handler, error) {
	proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host
	}}
	o.Name = "proxy"
	return httpcache.New(rdb, proxy, o)
}
