package httpcache

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
)

// query is a GET or HEAD that the cache may answer.
type query struct {
	h                 *Handler
	scheme, host, uri string
	from              *http.Request // unchanged
	header            http.Header   // of from; read-only
	body              []byte        // of a GET with a body
	head              bool
	upgrade           bool     // asks for another protocol
	auth              bool     // has credentials
	bare              bool     // the handler sees no Cookie
	part              string   // of Options.Partition
	connection        string   // the value of Connection that the handler sees; "" for none
	keyed             []string // fields that are in every key

	noCache      bool           // validate first
	noStore      bool           // do not store the response
	onlyIfCached bool           // or answer 504
	maxAge       *time.Duration // nil: no limit
	minFresh     time.Duration
	maxStale     time.Duration // accepted staleness; 0: none

	load *http.Request // set by prepare
}

func (q *query) key(variant string) key { return key{uriKey(q.host, q.uri), variant} }

// examine returns the query of a request, or the reason why the request
// bypasses the cache. In either case q.from is the request to pass on.
//
// A client chooses every field that it sends. So no field makes a request
// bypass the cache, except cookies and a change of protocol: a field is in the
// key, or the handler does not see it.
func (h *Handler) examine(r *http.Request) (q *query, why string) {
	q = &query{h: h, scheme: schemeOf(r), from: r, header: r.Header, head: r.Method == http.MethodHead}
	q.host = hostOf(q.scheme, r.Host)
	uri, ok := uriOf(r.URL)
	if q.uri = uri; !ok {
		return q, "uri"
	}
	q.connects()
	q.auth = len(r.Header["Authorization"]) > 0 || len(r.Header["Proxy-Authorization"]) > 0
	if why := h.partition(q, r); why != "" {
		return q, why
	}
	if !q.readBody() {
		return q, "body"
	}
	q.control()
	q.keyed = q.keyedFields()
	return q, ""
}

// connects reads Connection. Fields that it names stay in the request:
// otherwise a client could remove a field that a proxy before this server has
// added. A handler that forwards the request removes them itself (RFC 9110,
// section 7.6.1). So if Connection names such fields, the handler sees it, and
// it is in the key.
func (q *query) connects() {
	var others []string
	for _, name := range connectionNames(q.header) {
		switch name {
		case "Keep-Alive", "Close", "Te":
		case "Upgrade":
			q.upgrade = len(q.header["Upgrade"]) > 0
		default:
			others = append(others, name)
		}
	}
	if len(others) > 0 {
		slices.Sort(others)
		q.connection = strings.Join(slices.Compact(others), ", ")
	}
}

// maxRequestBody is the maximum length of a request body that is part of a key.
const maxRequestBody = 64 << 10

// readBody reads the body of a request. The body of a GET has no meaning (RFC
// 9110, section 9.3.1), but some handlers read it, so it is part of the key. If
// the body is too long for that, or cannot be read, readBody returns false.
// q.from has the whole body in either case.
func (q *query) readBody() bool {
	r := q.from
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 && len(r.TransferEncoding) == 0 {
		return true
	}
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequestBody+1))
	q.from = r.WithContext(r.Context()) // a handler must not change its request
	q.from.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(body), r.Body), r.Body}
	if err != nil || len(body) > maxRequestBody {
		return false
	}
	q.body = body
	return true
}

// partition applies Options.Cookies and Options.Partition. Without these, a
// response to a request with a cookie may be personal.
func (h *Handler) partition(q *query, r *http.Request) (why string) {
	if lines := r.Header["Cookie"]; len(lines) > 0 && !h.hidden["Cookie"] {
		switch {
		case h.o.Cookies == nil && h.o.Partition == nil, h.o.Cookies != nil && names(lines, h.o.Cookies):
			return "cookie"
		case h.o.Partition == nil:
			q.bare = true
		}
	}
	if h.o.Partition == nil {
		return ""
	}
	part, ok := h.o.Partition(r)
	if q.part = part; !ok {
		return "partition"
	}
	return ""
}

// names reports whether the lines of a Cookie field have a cookie with one of
// the names. A cookie that does not match the grammar has a name too: a handler
// may be less strict than package http.
func names(lines, cookies []string) bool {
	for _, line := range lines {
		for pair := range strings.FieldsFuncSeq(line, func(c rune) bool { return c == ';' || c == ',' }) {
			name, _, _ := strings.Cut(pair, "=")
			if slices.Contains(cookies, strings.TrimSpace(name)) {
				return true
			}
		}
	}
	return false
}

// control reads the directives of the request (RFC 9111, section 5.2.1). A
// malformed directive is ignored: the cache may ignore any, and a client must
// not bypass the cache by one.
func (q *query) control() {
	lines, there := q.header["Cache-Control"]
	if !there { // section 5.4
		if lines, there = q.header["Pragma"]; there {
			pragma := parseDirectives(lines)
			q.noCache = pragma.has("no-cache")
		}
		return
	}
	cc := parseDirectives(lines)
	q.noCache = cc.has("no-cache")
	q.noStore = cc.has("no-store")
	q.onlyIfCached = cc.has("only-if-cached")
	if d, there, ok := cc.seconds("max-age"); there {
		if !ok {
			d = 0 // the strictest possible meaning
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
}

// prepare makes q.load: the GET that a shared load shows to the handler, of
// which every part is in the key or unkeyed. It must be called while the
// request is being served, and before another goroutine uses q.
func (q *query) prepare() {
	if q.load != nil {
		return
	}
	plain := q.from.WithContext(context.WithoutCancel(q.from.Context()))
	plain.Header, plain.Trailer = nil, nil // copied below, as far as they are shown
	c := plain.Clone(plain.Context())
	c.Method = http.MethodGet
	c.Proto, c.ProtoMajor, c.ProtoMinor = "HTTP/1.1", 1, 1 // any client's; it is in no key
	c.Host, c.RequestURI = q.host, q.uri
	c.URL.Scheme, c.URL.Host, c.URL.User, c.URL.Fragment, c.URL.RawFragment = "", "", nil, "", ""
	c.TransferEncoding, c.GetBody, c.Close = nil, nil, false
	c.Body, c.ContentLength = nil, int64(len(q.body)) // each call of the handler gets its own body
	c.Header = make(http.Header, len(q.header))
	q.show(c.Header)
	q.load = c
}

// request returns a request for one call of the handler.
func (q *query) request(ctx context.Context) *http.Request {
	r := q.load.Clone(ctx)
	r.Body = http.NoBody
	if len(q.body) > 0 {
		r.Body = io.NopCloser(bytes.NewReader(q.body))
	}
	return r
}
