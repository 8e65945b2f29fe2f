package httpcache

import (
	"context"
	"net/http"
	"time"
)

// A query is a GET or HEAD that the cache may answer.
type query struct {
	scheme, host, uri string
	header            http.Header // as it came; not to be changed
	head              bool
	auth              bool     // it has Authorization
	part              string   // of Options.Partition
	keyed             []string // fields that are in every key

	noCache      bool           // validate first
	onlyIfCached bool           // or 504
	maxAge       *time.Duration // nil: any
	minFresh     time.Duration
	maxStale     time.Duration // how stale it may be; 0: not at all

	// load is the request that a shared load shows to the handler: the GET, with
	// nothing in it that is neither in the key nor among the unkeyed fields, and
	// nothing that is the cache's to answer.
	load *http.Request
}

func (q *query) key(variant string) key { return key{uriKey(q.host, q.uri), variant} }

// examine returns what the cache is asked, or why it has no part in the request.
func (h *Handler) examine(r *http.Request) (q *query, why string) {
	q = &query{scheme: schemeOf(r), header: r.Header, head: r.Method == http.MethodHead}
	q.host = hostOf(q.scheme, r.Host)
	uri, ok := uriOf(r.URL)
	q.uri = uri
	if !ok {
		return nil, "uri"
	}
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return nil, "body"
	}
	for _, name := range []string{"Range", "If-Range", "If-Match", "If-Unmodified-Since"} {
		if _, there := r.Header[name]; there {
			return nil, "precondition"
		}
	}
	for _, name := range overrides {
		if _, there := r.Header[name]; there {
			return nil, "method-override"
		}
	}
	for _, name := range connectionNames(r.Header) {
		if name != "Keep-Alive" && name != "Close" && name != "Te" {
			return nil, "connection" // an upgrade, or a field that somebody wants to be forgotten
		}
	}
	if _, there := r.Header["Proxy-Authorization"]; there {
		return nil, "credentials"
	}
	_, q.auth = r.Header["Authorization"]
	if why := h.partition(q, r); why != "" {
		return nil, why
	}
	if why := q.control(r.Header); why != "" {
		return nil, why
	}
	q.keyed = keyedFields(r.Header, h.skip)
	q.load = h.shown(q, r)
	return q, ""
}

// partition asks Options.Partition. Without it, a cookie may be anybody's.
func (h *Handler) partition(q *query, r *http.Request) (why string) {
	if h.o.Partition == nil {
		if _, there := r.Header["Cookie"]; there && !h.hidden["Cookie"] {
			return "cookie"
		}
		return ""
	}
	part, ok := h.o.Partition(r)
	if q.part = part; !ok {
		return "partition"
	}
	return ""
}

// control reads the directives of the request (RFC 9111, section 5.2.1).
func (q *query) control(h http.Header) (why string) {
	lines, there := h["Cache-Control"]
	cc := parseDirectives(lines)
	switch {
	case cc.malformed:
		return "malformed"
	case cc.has("no-store"):
		return "no-store"
	}
	q.noCache = cc.has("no-cache")
	if !there { // section 5.4
		pragma := parseDirectives(h["Pragma"])
		q.noCache = pragma.has("no-cache")
	}
	q.onlyIfCached = cc.has("only-if-cached")
	if d, there, ok := cc.seconds("max-age"); there {
		if !ok {
			d = 0 // which is the strictest that it can have meant
		}
		q.maxAge = &d
	}
	if d, there, ok := cc.seconds("min-fresh"); there {
		if !ok {
			q.noCache = true
		}
		q.minFresh = d
	}
	for _, d := range cc.list {
		if d.name != "max-stale" {
			continue
		}
		if !d.has {
			q.maxStale = maxSeconds * time.Second
		} else if n, ok := parseSeconds(d.arg); ok {
			q.maxStale = n
		}
	}
	return ""
}

// shown returns the request that a shared load shows to the handler.
func (h *Handler) shown(q *query, r *http.Request) *http.Request {
	c := r.Clone(context.WithoutCancel(r.Context()))
	c.Method = http.MethodGet
	c.Host, c.RequestURI = q.host, q.uri
	c.URL.Scheme, c.URL.Host, c.URL.User, c.URL.Fragment, c.URL.RawFragment = "", "", nil, "", ""
	c.Body, c.GetBody, c.ContentLength = http.NoBody, nil, 0
	c.Close = false
	dropHopByHop(c.Header)
	for _, name := range ours {
		delete(c.Header, name)
	}
	for name := range h.hidden {
		delete(c.Header, name)
	}
	return c
}
