package httpcache

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
)

// exchange is one call of the handler for a shared load. The handler writes to
// a recorder until one of these is known:
//
//   - The response is complete and may be stored: it becomes a record.
//   - It may not be stored, or is too long. That is mostly known from its
//     header. The handler then waits until the client of this request has
//     attached its connection, and writes to it from then on: first the
//     recorded part, at most Options.MaxBody, then the rest directly. No other
//     client gets any of it.
//
// So the handler is called once for a request, whatever the result, which
// matters for links that work only once.
//
// Its goroutine is started by the load, or by the request that validates a
// response, and ends with the handler. Its ctx is cancelled when neither the
// load nor the client needs it any more.
type exchange struct {
	h      *Handler
	q      *query
	client *job    // of the client of this request; nil if no client waits
	prev   *record // a response that the handler may confirm, or nil
	ctx    context.Context
	cancel context.CancelCauseFunc
	hold   atomic.Int32 // number of references: load and client

	decided chan struct{} // closed when out is set
	out     outcome
	attach  chan http.ResponseWriter // of the client; at most one is sent
	done    chan struct{}            // closed when the handler has returned

	rec   recorder // used by the goroutine of the handler until done is closed
	fault any      // the value of the handler's panic; synchronised like rec
}

// outcome is the decision about a response.
type outcome struct {
	kind   outcomeKind
	why    string // the reason for not sharing it, a token
	status int    // the status that the handler answered; 0 for none
	vary   []string
	record record
}

type outcomeKind uint8

const (
	shared  outcomeKind = iota + 1 // record is complete
	private                        // for its own client; later responses are probably private too
	broken                         // for its own client; the next response may differ
	failed                         // a stale response may be served instead
)

var errGoexit = errors.New("httpcache: the handler called runtime.Goexit")

// start calls the handler on a goroutine. q.prepare must have been called.
// holds is the number of references, and each holder must call release: the load, and the client.
func (h *Handler) start(ctx context.Context, q *query, prev *record, client *job, holds int32) *exchange {
	x := &exchange{
		h: h, q: q, prev: prev, client: client,
		decided: make(chan struct{}), attach: make(chan http.ResponseWriter, 1), done: make(chan struct{}),
	}
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	x.rec = recorder{x: x, header: http.Header{}, declared: -1}
	x.hold.Store(holds)
	h.loadCalls.Add(1)
	h.goroutines.enter(true)
	guard.Go(handler, func() error { x.serve(); return nil }, func(err error) {
		defer h.goroutines.leave()
		x.end(err)
	})
	return x
}

// release drops one reference.
func (x *exchange) release() {
	if x.hold.Add(-1) == 0 {
		x.cancel(context.Canceled)
	}
}

// end ends an exchange. If the handler did not return normally, err says why.
func (x *exchange) end(err error) {
	defer close(x.done)
	if err == nil {
		return
	}
	x.fault = errGoexit
	if p, ok := errors.AsType[*guard.PanicError](err); ok {
		x.fault = p.Value
	}
	x.publish(outcome{kind: failed, why: "panic"})
}

// handler names the handler in errors.
var handler = guard.Named("the handler")

// serve calls the handler. If it answers "not modified" for a response other
// than the stored one, serve calls it again.
func (x *exchange) serve() {
	req := x.q.request(x.ctx)
	if x.prev != nil {
		etag, modified := validators(x.prev.Header, time.Now())
		if etag != "" {
			req.Header.Set("If-None-Match", etag)
		}
		if modified != "" {
			req.Header.Set("If-Modified-Since", modified)
		}
		x.rec.conditional = etag != "" || modified != ""
	}
	x.h.next.ServeHTTP(&x.rec, req)
	x.rec.finish()
	if x.rec.confirms() && !x.prev.sameVariant(x.rec.sent) {
		x.rec = recorder{x: x, header: http.Header{}, declared: -1}
		x.h.loadCalls.Add(1)
		x.h.next.ServeHTTP(&x.rec, x.q.request(x.ctx))
		x.rec.finish()
	}
	x.conclude()
}

// conclude decides about a complete response.
func (x *exchange) conclude() {
	r := &x.rec
	if r.spilled {
		return // already decided
	}
	now := time.Now()
	said, confirmed := r.status, r.confirms()
	if confirmed { // the client gets it even if it can no longer be stored
		r.status, r.sent, r.body = x.confirmed(r.sent)
	}
	t, why := x.h.decide(x.q, r.status, r.sent, now)
	switch {
	case x.ctx.Err() != nil:
		x.publish(outcome{kind: broken, why: "canceled", status: said})
	case r.faulty || r.declared >= 0 && bodyAllowed(r.status) && !confirmed && r.declared != int64(len(r.body)):
		x.publish(outcome{kind: broken, why: "incomplete", status: said}) // RFC 9111, section 3.3
	case r.trailers():
		x.publish(outcome{kind: private, why: "trailers", status: said})
	case why != "":
		x.publish(outcome{kind: private, why: why, status: said, vary: t.vary})
	default:
		x.publish(outcome{kind: shared, status: said, vary: t.vary, record: newRecord(r.status, r.sent.Clone(), r.body, t, now)})
	}
}

// confirmed returns the stored response, updated by the header of a 304. If the
// 304 is about another response, it returns an error status: serve prevents
// this, unless the handler already has the connection.
func (x *exchange) confirmed(update http.Header) (status int, header http.Header, body []byte) {
	if !x.prev.sameVariant(update) {
		return http.StatusBadGateway, http.Header{}, nil
	}
	return x.prev.Status, x.prev.freshen(update), x.prev.Body
}

// publish tells the load and the client the outcome. Only the first call
// counts.
func (x *exchange) publish(out outcome) {
	select {
	case <-x.decided:
	default:
		x.out = out
		close(x.decided)
	}
}

// answered returns the status that the handler has answered; 0 if it has not
// yet.
func (x *exchange) answered() int {
	select {
	case <-x.decided:
		return x.out.status
	default:
		return 0
	}
}

// answer gives the response to the client of this request, and returns when the
// handler has returned. If the handler panicked, answer panics too: net/http
// handles that as usual. It drops the reference of the client.
func (x *exchange) answer(ctx context.Context, w http.ResponseWriter) {
	defer x.release()
	stop := context.AfterFunc(ctx, func() { x.cancel(context.Cause(ctx)) })
	defer stop()
	x.attach <- w
	<-x.done
	switch {
	case ended(w, x.fault):
		return
	case x.fault == errGoexit:
		panic(http.ErrAbortHandler)
	case x.fault != nil:
		panic(x.fault)
	case !x.rec.spilled:
		x.rec.replay(w)
	case x.rec.err != nil:
		panic(http.ErrAbortHandler) // its ctx ended before the client attached: a part is missing
	}
	x.rec.addTrailers(w.Header())
}

// trailers reports whether the handler has set trailers after its body.
func (r *recorder) trailers() bool {
	for name := range r.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// addTrailers adds the fields that the handler has set after its body.
func (r *recorder) addTrailers(to http.Header) {
	announced := canonical(elements(r.sent["Trailer"]))
	for name, values := range r.header {
		if announced[name] || strings.HasPrefix(name, http.TrailerPrefix) {
			to[name] = values
		}
	}
}
