package httpcache

import (
	"bufio"
	"context"
	"net"
	"net/http"
	"net/url"
	"slices"
	"time"
)

// invalidateTimeout bounds the wait for Redis after a change, since the client
// waits for it.
const invalidateTimeout = 5 * time.Second

// safe are the methods that change nothing (RFC 9110, section 9.2.1).
var safe = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}

// change lets the handler answer a request that may change what is stored, by its
// method. If the response is no error, its URI is invalidated, and so are those in
// Location and Content-Location, if they are of the same host (RFC 9111, section
// 4.4): before the client hears of it, so that its next read is new, and again when
// the handler has returned, should it have changed something after that. A handler
// that panics may have changed something as well.
func (h *Handler) change(w http.ResponseWriter, r *http.Request, n note, method string) {
	if slices.Contains(safe, method) {
		h.pass(w, r, n)
		return
	}
	h.passes.Add(1)
	h.say(w.Header(), n)
	c := &changer{ResponseWriter: w, h: h, r: r}
	var cw http.ResponseWriter = c
	if hijacker, ok := w.(http.Hijacker); ok {
		cw = hijackable{c, hijacker}
	}
	returned := false
	defer func() {
		if !returned || c.status < 400 {
			c.invalidate()
		}
	}()
	h.next.ServeHTTP(cw, r)
	returned = true
}

// A changer is the ResponseWriter of a handler that may change what is stored.
type changer struct {
	http.ResponseWriter
	h      *Handler
	r      *http.Request
	status int // 0 until the header is written
}

// WriteHeader implements http.ResponseWriter.
func (c *changer) WriteHeader(status int) {
	if c.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		if c.status = status; status < 400 {
			c.invalidate()
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *changer) Write(p []byte) (int, error) {
	c.implicit()
	return c.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (c *changer) Flush() { _ = c.FlushError() }

// FlushError is Flush for http.ResponseController.
func (c *changer) FlushError() error {
	c.implicit()
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (c *changer) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *changer) implicit() {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
}

type hijackable struct {
	*changer
	hijacker http.Hijacker
}

// Hijack implements http.Hijacker.
func (c hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return c.hijacker.Hijack() }

// invalidate takes away what is stored for the URIs that the response concerns.
func (c *changer) invalidate() {
	scheme := schemeOf(c.r)
	host := hostOf(scheme, c.r.Host)
	var keys []key
	add := func(u *url.URL) {
		if uri, ok := uriOf(u); ok {
			keys = append(keys, key{uriKey(host, uri), indexVariant})
		}
	}
	add(c.r.URL)
	for _, name := range []string{"Location", "Content-Location"} {
		u, err := url.Parse(c.Header().Get(name))
		if err != nil || *u == (url.URL{}) || u.Host != "" && hostOf(u.Scheme, u.Host) != host {
			continue
		}
		add(c.r.URL.ResolveReference(u))
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.r.Context()), invalidateTimeout)
	defer cancel()
	_ = c.h.remove(ctx, keys...) // it is counted: the response is what it is
}
