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

// An exchange is one call of the handler for a shared load. The handler writes to
// a recorder, until one of these is known:
//
//   - The response is complete and may be stored: it is a record.
//   - It may not be stored, or is too long. That is mostly known from its header.
//     The handler then waits until the client whose request this is has attached
//     its connection, and writes to that from there on: first the recorded part, at
//     most Options.MaxBody, and then the rest, as it comes. No other client gets any
//     of it.
//
// So the handler is called once for a request, whatever comes of it, which matters
// to links that work once.
//
// Its goroutine is started by the load, or by the request that validates a response,
// and ends with the handler. Its ctx is canceled when neither the load nor the client
// have an interest in it any more.
type exchange struct {
	h      *Handler
	q      *query
	client *job    // of the client whose request this is, nil if no client waits
	prev   *record // a response that the handler may confirm, nil for none
	ctx    context.Context
	cancel context.CancelCauseFunc
	hold   atomic.Int32 // how many have an interest

	decided chan struct{} // closed when out is set
	out     outcome
	attach  chan http.ResponseWriter // of the client; one at most is ever sent
	done    chan struct{}            // closed when the handler has returned

	rec   recorder // of the handler's goroutine, until done is closed
	fault any      // what the handler panicked with; as rec
}

// An outcome is what is known of a response when it is decided what to do with it.
type outcome struct {
	kind   outcomeKind
	why    string // it is not shared, a token
	status int    // that the handler answered, 0 for none
	vary   []string
	record record
}

type outcomeKind uint8

const (
	shared  outcomeKind = iota + 1 // record is complete
	private                        // for its own client; so are, probably, those that follow
	broken                         // for its own client; the next one may be another thing
	failed                         // and a stale one may be served in its place
)

var errGoexit = errors.New("httpcache: the handler called runtime.Goexit")

// start calls the handler in a goroutine, with q.prepare done. holds is the number of
// interests, each of which is to be released: of the load, and of the client.
func (h *Handler) start(ctx context.Context, q *query, prev *record, client *job, holds int32) *exchange {
	x := &exchange{
		h: h, q: q, prev: prev, client: client,
		decided: make(chan struct{}), attach: make(chan http.ResponseWriter, 1), done: make(chan struct{}),
	}
	x.ctx, x.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	x.rec = recorder{x: x, header: http.Header{}, declared: -1}
	x.hold.Store(holds)
	h.loadCalls.Add(1)
	h.crew.enter(true)
	guard.Go(handler, func() error { x.serve(); return nil }, func(err error) {
		defer h.crew.leave()
		x.end(err)
	})
	return x
}

// release ends one interest.
func (x *exchange) release() {
	if x.hold.Add(-1) == 0 {
		x.cancel(context.Canceled)
	}
}

// end ends an exchange whose handler has returned, or has not: then err says why.
func (x *exchange) end(err error) {
	defer close(x.done)
	if err == nil {
		return
	}
	x.fault = errGoexit
	if p, ok := errors.AsType[*guard.PanicError](err); ok {
		x.fault = p.Value
	}
	x.decide(outcome{kind: failed, why: "panic"})
}

// handler names the handler in errors.
var handler = guard.Named("the handler")

// serve calls the handler; twice if that says "not modified" of another response
// than the one that is stored.
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

// conclude decides about a response that is whole.
func (x *exchange) conclude() {
	r := &x.rec
	if r.spilled {
		return // it is decided
	}
	now := time.Now()
	said, confirmed := r.status, r.confirms()
	if confirmed { // this is what its client gets, should it not be stored any more
		r.status, r.sent, r.body = x.confirmed(r.sent)
	}
	t, why := x.h.judge(x.q, r.status, r.sent, now)
	switch {
	case x.ctx.Err() != nil:
		x.decide(outcome{kind: broken, why: "canceled", status: said})
	case r.faulty || r.declared >= 0 && bodyAllowed(r.status) && !confirmed && r.declared != int64(len(r.body)):
		x.decide(outcome{kind: broken, why: "incomplete", status: said}) // RFC 9111, section 3.3
	case r.trailers():
		x.decide(outcome{kind: private, why: "trailers", status: said})
	case why != "":
		x.decide(outcome{kind: private, why: why, status: said, vary: t.vary})
	default:
		x.decide(outcome{kind: shared, status: said, vary: t.vary, record: newRecord(r.status, r.sent.Clone(), r.body, t, now)})
	}
}

// confirmed returns the stored response, updated by the header of a 304. If that is
// about another response, which serve sees to unless the handler already has the
// connection, there is nothing to give to the client but an error.
func (x *exchange) confirmed(update http.Header) (status int, header http.Header, body []byte) {
	if !x.prev.sameVariant(update) {
		return http.StatusBadGateway, http.Header{}, nil
	}
	return x.prev.Status, x.prev.freshen(update), x.prev.Body
}

// decide tells the load and the client what becomes of the response. Once that is
// clear, it is.
func (x *exchange) decide(out outcome) {
	select {
	case <-x.decided:
	default:
		x.out = out
		close(x.decided)
	}
}

// answered returns the status that the handler has answered, 0 for none yet.
func (x *exchange) answered() int {
	select {
	case <-x.decided:
		return x.out.status
	default:
		return 0
	}
}

// answer gives the response to the client whose request this is, and returns when
// the handler has. Where that panicked, so does answer: package http does with it
// what it always does. It ends the client's interest.
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
		panic(http.ErrAbortHandler) // its ctx had ended before the client attached: it lacks a part
	}
	x.rec.addTrailers(w.Header())
}

// trailers reports whether the handler has set some after its body.
func (r *recorder) trailers() bool {
	for name := range r.header {
		if strings.HasPrefix(name, http.TrailerPrefix) {
			return true
		}
	}
	return false
}

// addTrailers adds what the handler has set after its body.
func (r *recorder) addTrailers(to http.Header) {
	announced := canonical(elements(r.sent["Trailer"]))
	for name, values := range r.header {
		if announced[name] || strings.HasPrefix(name, http.TrailerPrefix) {
			to[name] = values
		}
	}
}
