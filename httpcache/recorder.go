package httpcache

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// recorder is the ResponseWriter of a handler in a shared load. It records the
// response. Once the response is spilled, it passes it to the client: see
// exchange.
//
// A recorded response needs no Flush: the ReverseProxy of package httputil
// flushes each one of unknown length. If a handler needs more of the connection
// (Hijack, deadlines, full duplex) or flushes a stream, it gets the connection.
type recorder struct {
	x           *exchange
	header      http.Header // the handler's
	conditional bool        // a 304 is expected

	status   int // 0 until the header is written
	sent     http.Header
	declared int64 // Content-Length; -1 if absent
	body     []byte
	faulty   bool // it wrote more than Content-Length

	spilled  bool                // it goes to the client only
	hijacked bool                // the connection was hijacked
	w        http.ResponseWriter // of the client; nil if the client has left
	above    http.Header         // fields set there by outer handlers; nil until needed
	err      error               // the error of writes if w is nil
}

// Header implements http.ResponseWriter.
func (r *recorder) Header() http.Header { return r.header }

// WriteHeader implements http.ResponseWriter.
func (r *recorder) WriteHeader(status int) {
	if status < 100 || status > 999 {
		panic(fmt.Sprintf("httpcache: invalid WriteHeader code %v", status)) // like package http
	}
	r.adopt()
	switch informational := status < 200 && status != http.StatusSwitchingProtocols; {
	case r.status != 0:
		return
	case informational && !r.spilled:
		r.x.client.inform(status, r.header)
		return
	case r.spilled && informational: // the handler has the connection, and has not written the header
		if r.w != nil {
			r.head(r.w, status, r.header)
		}
		return
	case r.spilled:
		r.status, r.sent = status, r.header.Clone()
		if r.confirms() {
			r.status, r.sent, r.body = r.x.confirmed(r.sent)
		}
		if r.w != nil {
			r.replay(r.w)
		}
		r.body = nil
		return
	}
	r.status, r.sent = status, r.header.Clone()
	if n, err := strconv.ParseInt(r.sent.Get("Content-Length"), 10, 64); err == nil && n >= 0 {
		r.declared = n
	}
	if r.confirms() {
		return
	}
	t, why := r.x.h.decide(r.x.q, status, r.sent, time.Now())
	switch {
	case why != "" && slices.Contains(failures, status):
		r.spill(outcome{kind: failed, why: "status"})
	case why != "":
		r.spill(outcome{kind: private, why: why, vary: t.vary})
	case r.declared > r.x.h.o.MaxBody:
		r.spill(outcome{kind: private, why: "too-large", vary: t.vary})
	}
}

// confirms reports whether the response confirms the stored one.
func (r *recorder) confirms() bool { return r.conditional && r.status == http.StatusNotModified }

// Write implements http.ResponseWriter.
func (r *recorder) Write(p []byte) (int, error) {
	if r.status == 0 {
		r.WriteHeader(http.StatusOK)
	}
	r.adopt()
	switch {
	case r.spilled && r.w == nil:
		return 0, r.err
	case r.spilled:
		return r.w.Write(p)
	case !bodyAllowed(r.status):
		return 0, http.ErrBodyNotAllowed
	case r.declared >= 0 && int64(len(r.body)+len(p)) > r.declared:
		r.faulty = true
		return 0, http.ErrContentLength
	case int64(len(r.body)+len(p)) > r.x.h.o.MaxBody:
		r.spill(outcome{kind: private, why: "too-large"})
		return r.Write(p)
	}
	r.body = append(r.body, p...)
	return len(p), nil
}

// finish writes the header if the handler returned without doing so.
func (r *recorder) finish() {
	if r.status == 0 && !r.hijacked {
		r.WriteHeader(http.StatusOK)
	}
}

// spill decides that the response is for its own client alone, and waits for
// its connection.
func (r *recorder) spill(out outcome) {
	r.spilled = true
	if out.status = r.status; out.vary == nil {
		out.vary, _ = varyNames(r.sent)
	}
	r.x.publish(out)
	select {
	case w := <-r.x.attach:
		r.give(w)
	case <-r.x.ctx.Done():
		r.err = context.Cause(r.x.ctx)
		r.body = nil
	}
}

// adopt spills the response if its client has attached, which happens after
// Options.LoadTimeout: from now on the client gets it directly.
func (r *recorder) adopt() {
	if r.spilled || r.conditional && (r.status == 0 || r.confirms()) {
		return // the client wants no 304
	}
	select {
	case w := <-r.x.attach:
		r.spilled = true
		r.x.publish(outcome{kind: broken, why: "slow", status: r.status})
		r.give(w)
	default:
	}
}

// give writes the recorded part to the client, which gets the rest directly.
func (r *recorder) give(w http.ResponseWriter) {
	if r.w = w; r.status != 0 {
		r.replay(w)
	}
	r.body = nil
}

// replay writes the recorded response.
func (r *recorder) replay(w http.ResponseWriter) {
	r.head(w, r.status, r.sent)
	if len(r.body) > 0 {
		_, _ = w.Write(r.body)
	}
}

// head writes a header. Fields of an earlier 1xx are not part of the response.
func (r *recorder) head(w http.ResponseWriter, status int, header http.Header) {
	to := w.Header()
	if r.above == nil {
		r.above = to.Clone()
	}
	clear(to)
	maps.Copy(to, r.above)
	copyHeader(to, header.Clone())
	w.WriteHeader(status)
}

// streams reports whether the client must not wait for the end of a response.
func streams(header http.Header) bool {
	if strings.EqualFold(header.Get("X-Accel-Buffering"), "no") { // as nginx understands it
		return true
	}
	media, _, _ := strings.Cut(header.Get("Content-Type"), ";")
	media = strings.ToLower(strings.TrimSpace(media))
	return media == "text/event-stream" || media == "multipart/x-mixed-replace" || strings.HasPrefix(media, "application/grpc")
}

// listed are the fields to which a handler adds if outer handlers have set
// them. It replaces all others.
var listed = []string{"Vary", "Set-Cookie", "Link", "Server-Timing"}

// copyHeader sets the fields of a response, next to fields from handlers around
// the cache. Its Cache-Status follows that field of caches nearer to the origin.
func copyHeader(to, from http.Header) {
	status := slices.Concat(from["Cache-Status"], to["Cache-Status"])
	for name, values := range from {
		if slices.Contains(listed, name) {
			values = slices.Concat(to[name], values)
		}
		to[name] = values
	}
	if len(status) > 0 {
		to["Cache-Status"] = status
	}
}

// connection returns a controller of the client's connection, to which the
// response is spilled.
func (r *recorder) connection() (*http.ResponseController, error) {
	if !r.spilled {
		r.spill(outcome{kind: private, why: "streamed"})
	}
	if r.w == nil {
		return nil, r.err
	}
	return http.NewResponseController(r.w), nil
}

// Flush implements http.Flusher.
func (r *recorder) Flush() { _ = r.FlushError() }

// FlushError is Flush for http.ResponseController.
func (r *recorder) FlushError() error {
	r.finish()
	if r.adopt(); !r.spilled && (r.confirms() || !streams(r.sent)) {
		return nil
	}
	c, err := r.connection()
	if err != nil {
		return err
	}
	return c.Flush()
}

// Hijack implements http.Hijacker.
func (r *recorder) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, err := r.connection()
	if err != nil {
		return nil, nil, err
	}
	conn, rw, err := c.Hijack()
	r.hijacked = err == nil
	return conn, rw, err
}

// SetReadDeadline is for http.ResponseController.
func (r *recorder) SetReadDeadline(t time.Time) error {
	c, err := r.connection()
	if err != nil {
		return err
	}
	return c.SetReadDeadline(t)
}

// SetWriteDeadline is for http.ResponseController.
func (r *recorder) SetWriteDeadline(t time.Time) error {
	c, err := r.connection()
	if err != nil {
		return err
	}
	return c.SetWriteDeadline(t)
}

// EnableFullDuplex is for http.ResponseController.
func (r *recorder) EnableFullDuplex() error {
	c, err := r.connection()
	if err != nil {
		return err
	}
	return c.EnableFullDuplex()
}
