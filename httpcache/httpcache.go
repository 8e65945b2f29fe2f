package httpcache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/nonzero"
)

// Handler answers requests with stored responses of another handler, like a
// shared cache. It is safe for concurrent use.
type Handler struct {
	next http.Handler
	o    Options // with defaults

	skip   map[string]bool // request fields that are not in every key
	hides  map[string]bool // request fields that the handler never sees in a shared load
	hidden map[string]bool // canonical Options.Hidden

	overrides, targets []string        // canonical Options.MethodOverrides and .Targets
	selected           map[string]bool // fields of a stored response that a 304 repeats

	// reads and loads are two caches with the same keys. reads returns stored
	// records, stale or not, and the Handler judges them. loads treats stale
	// records as stale, and loads them or waits for a load.
	reads, loads *cachex.Cache[key, record]

	renewing   sync.Map // by key: a goroutine of this process loads it in the background
	goroutines group    // goroutines of exchanges and of renew

	hits, staleHits, collapsed, loadCalls, passes, removals, removeFailures atomic.Int64
}

// New returns a Handler that answers from Redis, and otherwise calls next: once
// for the fleet, for requests that may share a response. It does not call
// Redis. The error names the wrong option. The client stays the caller's.
//
// next must be safe for concurrent use. It may still be running for requests
// that were given up: check its ctx.
func New(rdb redis.UniversalClient, next http.Handler, o Options) (*Handler, error) {
	if next == nil {
		return nil, errors.New("httpcache: next is nil, and must be the handler whose responses are cached")
	}
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	if err := client.CheckReads(rdb, o.AllowStaleReads, "Options.AllowStaleReads"); err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	h := &Handler{next: next, o: o, hidden: canonical(o.Hidden), selected: canonical(selectedFields, o.Targets)}
	h.overrides, h.targets = canonicalList(o.MethodOverrides), canonicalList(o.Targets)
	h.hides, h.skip = fieldSets(o)
	spec := cachex.Spec[key, record]{
		Name:   o.Name,
		Key:    o.Name + ":{uri}:{variant}",
		TTL:    o.MaxTTL,
		TTLFor: h.ttl,
		Jitter: cachex.NoJitter, // a response declares its own freshness
		Codec:  codec.Version(codec.For[record](), 1),

		AllowStaleReads: o.AllowStaleReads,
	}
	var err error
	reads := spec
	reads.StaleWhileRevalidate = o.MaxStale
	if h.reads, err = cachex.New(rdb, reads); err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	spec.Up, spec.UpTimeout, spec.StaleIfError = h.up, o.LoadTimeout, o.MaxStale
	if h.loads, err = cachex.New(rdb, spec); err != nil {
		return nil, fmt.Errorf("httpcache: %w", err)
	}
	return h, nil
}

// Invalidate invalidates the stored responses of some URLs, in all variants,
// for the whole fleet. After it has returned nil, no later request is answered
// with a response of an earlier call of the handler. A URL is absolute,
// "https://example.com/page?n=1", and written as the Handler sees it; of its
// scheme only the default port matters. A URL without stored responses is not
// an error.
//
// If a URL cannot be parsed, the error names it, and nothing was sent.
// Otherwise the error is a *cachex.Error of Redis: any of the URLs may be
// invalidated or not, and it is safe to retry.
func (h *Handler) Invalidate(ctx context.Context, urls ...string) error {
	keys := make([]key, len(urls))
	for i, text := range urls {
		u, err := url.Parse(text)
		if err != nil {
			return fmt.Errorf("httpcache: invalidate: %w", err)
		}
		if u.Path == "" {
			u.Path = "/" // RFC 9110, section 4.2.3
		}
		uri, ok := uriOf(u)
		if !ok || u.Host == "" {
			return fmt.Errorf("httpcache: invalidate %q: not an absolute URL, such as https://example.com/page", text)
		}
		keys[i] = key{uriKey(hostOf(u.Scheme, u.Host), uri), indexVariant}
	}
	return h.remove(ctx, keys...)
}

// remove deletes indexes, and counts them.
func (h *Handler) remove(ctx context.Context, keys ...key) error {
	if err := h.loads.Delete(ctx, keys...); err != nil {
		h.removeFailures.Add(1)
		return err
	}
	h.removals.Add(int64(len(keys)))
	return nil
}

// Clear deletes all stored responses under Options.Name, like
// cachex.Cache.Clear, and returns the number of deleted keys.
func (h *Handler) Clear(ctx context.Context) (int64, error) { return h.loads.Clear(ctx) }

// Close makes further requests bypass the cache, and waits for loads in flight.
// If ctx ends first, it cancels them and returns the cause. It may be called
// more than once. It does not close the client.
func (h *Handler) Close(ctx context.Context) error {
	if ctx == nil {
		return errors.New("httpcache: close: ctx is nil")
	}
	h.goroutines.close()
	err := errors.Join(h.loads.Close(ctx), h.reads.Close(ctx))
	return cmp.Or(err, h.goroutines.wait(ctx))
}

// Stats counts the requests of a Handler since New, in this process.
type Stats struct {
	Hits                 int64 // answered with a fresh stored response
	StaleHits            int64 // answered with a stale one
	Collapsed            int64 // of these two, requests that waited for the load of another request
	Loads                int64 // calls of the handler for a response that might be shared
	Passes               int64 // requests that went to the handler as if there were no cache
	Invalidations        int64 // URIs invalidated, by Invalidate or by an unsafe method
	InvalidationFailures int64 // failures of Redis to invalidate; the old response may be served until it is stale

	Redis cachex.Stats // of the cache that loads
}

// String returns the fields that are not zero, for %v and %+v.
func (s Stats) String() string { return nonzero.Format(s) }

// Stats returns a snapshot. The fields are read one after the other.
func (h *Handler) Stats() Stats {
	return Stats{
		Hits:                 h.hits.Load(),
		StaleHits:            h.staleHits.Load(),
		Collapsed:            h.collapsed.Load(),
		Loads:                h.loadCalls.Load(),
		Passes:               h.passes.Load(),
		Invalidations:        h.removals.Load(),
		InvalidationFailures: h.removeFailures.Load(),
		Redis:                h.loads.Stats(),
	}
}
