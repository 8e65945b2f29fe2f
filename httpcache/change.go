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
// waits too.
const invalidateTimeout = 5 * time.Second

// safe lists the methods that change nothing (RFC 9110, section 9.2.1).
var safe = []string{http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace}

// change passes a request to the handler that, by its method, may change stored
// responses. If the response is not an error, its URI is invalidated, and so
// are those in Location and Content-Location on the same host (RFC 9111,
// section 4.4). This happens before the client gets the response, so that its
// next read is new. It happens again when the handler has returned, in case the
// handler changed something after the response. A handler that panics may have
// changed something too.
func (h *Handler) change(w http.ResponseWriter, r *http.Request, n statusNote, method string) {
	if slices.Contains(safe, method) {
		h.pass(w, r, n)
		return
	}
	h.passes.Add(1)
	h.writeStatus(w.Header(), n)
	c := &invalidatingWriter{ResponseWriter: w, h: h, r: r}
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

// invalidatingWriter is the ResponseWriter of a handler that may change stored
// responses.
type invalidatingWriter struct {
	http.ResponseWriter
	h      *Handler
	r      *http.Request
	status int // 0 until the header is written
}

// WriteHeader implements http.ResponseWriter.
func (c *invalidatingWriter) WriteHeader(status int) {
	if c.status == 0 && (status >= 200 || status == http.StatusSwitchingProtocols) {
		if c.status = status; status < 400 {
			c.invalidate()
		}
	}
	c.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (c *invalidatingWriter) Write(p []byte) (int, error) {
	c.implicit()
	return c.ResponseWriter.Write(p)
}

// Flush implements http.Flusher.
func (c *invalidatingWriter) Flush() { _ = c.FlushError() }

// FlushError is Flush for http.ResponseController.
func (c *invalidatingWriter) FlushError() error {
	c.implicit()
	return http.NewResponseController(c.ResponseWriter).Flush()
}

// Unwrap is for http.ResponseController.
func (c *invalidatingWriter) Unwrap() http.ResponseWriter { return c.ResponseWriter }

func (c *invalidatingWriter) implicit() {
	if c.status == 0 {
		c.WriteHeader(http.StatusOK)
	}
}

type hijackable struct {
	*invalidatingWriter
	hijacker http.Hijacker
}

// Hijack implements http.Hijacker.
func (c hijackable) Hijack() (net.Conn, *bufio.ReadWriter, error) { return c.hijacker.Hijack() }

// invalidate deletes the stored responses of the URIs that the response
// concerns.
func (c *invalidatingWriter) invalidate() {
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
	_ = c.h.remove(ctx, keys...) // a failure is counted; it does not change the response
}
