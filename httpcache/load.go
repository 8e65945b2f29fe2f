package httpcache

import (
	"context"
	"crypto/rand"
	"errors"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/guard"
)

// job is the request of one client for a load. The load finds it in its ctx. If
// this client is the one that loads, the load starts this client's exchange.
type job struct {
	q    *query
	vary []string // the known Vary fields of the URI

	mu     sync.Mutex
	w      http.ResponseWriter // guarded by mu: for 1xx; nil if the client wants none or has left
	x      *exchange           // guarded by mu: started for this client, and not taken yet
	absent bool                // guarded by mu: the client does not wait, or no longer
}

// inform passes an informational response on to the client while it waits. j
// may be nil. The fields of an informational response are not part of the final
// one.
func (j *job) inform(status int, header http.Header) {
	if j == nil {
		return
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.w == nil {
		return
	}
	to := j.w.Header()
	above := to.Clone()
	copyHeader(to, header.Clone())
	j.w.WriteHeader(status)
	clear(to)
	maps.Copy(to, above)
}

// leave marks that the client does not wait any more: nothing else writes to
// its connection from now on. It returns the exchange that was started for the
// client, or nil.
func (j *job) leave() *exchange {
	j.mu.Lock()
	defer j.mu.Unlock()
	x := j.x
	j.x, j.w, j.absent = nil, nil, true
	return x
}

type jobKey struct{}

var (
	errFailed = errors.New("httpcache: the handler failed")
	errNoJob  = errors.New("httpcache: a load without a request")
)

// load returns the record of k, once for the fleet. If this client's exchange
// was started, load returns it too; the caller must answer or release it. If
// anew is set, the load begins after the call.
func (h *Handler) load(ctx context.Context, k key, j *job, anew bool) (rec record, how cachex.Outcome, x *exchange, err error) {
	j.q.prepare()
	ctx = cachex.WithOutcome(context.WithValue(ctx, jobKey{}, j), &how)
	if anew {
		rec, err = h.loads.Refresh(ctx, k)
	} else {
		rec, err = h.loads.Get(ctx, k)
	}
	return rec, how, j.leave(), err
}

// up is the Spec.Up of the cache of records.
func (h *Handler) up(ctx context.Context, k key) (record, error) {
	j, _ := ctx.Value(jobKey{}).(*job)
	if j == nil {
		return record{}, errNoJob
	}
	if j.q.noStore { // RFC 9111, section 5.2.1.5; waiting clients still share the response
		cachex.NoStore(ctx)
	}
	var prev *record
	if old, ok := cachex.Previous[record](ctx); ok && old.Kind == aResponse && old.Status == 200 {
		prev = &old
	}
	x := h.begin(ctx, j, prev)
	defer x.release()
	select {
	case <-x.decided:
	case <-ctx.Done():
		return record{}, context.Cause(ctx)
	}
	now := time.Now()
	pass := record{Kind: aPass, At: now.UnixMilli(), Life: h.o.PassTTL.Milliseconds()}
	if slices.Contains(refusals, x.out.status) {
		pass.Life = min(pass.Life, refusedTTL.Milliseconds())
	}
	switch out := &x.out; {
	case out.kind == failed, out.kind == broken:
		return record{}, errFailed
	case k.Variant == indexVariant && out.kind == shared:
		return h.index(ctx, j.q, out.vary, out.record), nil
	case k.Variant == indexVariant:
		return h.index(ctx, j.q, out.vary, pass), nil
	case out.kind == private:
		return pass, nil
	case !within(out.vary, j.vary):
		return h.addVary(ctx, k, j, out.vary), nil
	default:
		return out.record, nil
	}
}

// begin starts the exchange of a job. A load may start again for clients that
// came too late for it, with the request of a client that has left, or that
// already has an exchange. That client keeps its first exchange.
func (h *Handler) begin(ctx context.Context, j *job, prev *record) *exchange {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.absent || j.x != nil {
		return h.start(ctx, j.q, prev, nil, 1)
	}
	j.x = h.start(ctx, j.q, prev, j, 2)
	return j.x
}

// index makes the index of a URI that has none, and stores rec with it. The
// index has a new generation, so rec cannot be found before the index is
// stored. If the URI is invalidated meanwhile, it is never found.
func (h *Handler) index(ctx context.Context, q *query, vary []string, rec record) record {
	gen := rand.Text()
	variant := q.variant(gen, vary)
	if !q.noStore && h.loads.Stats().Breaker == cachex.BreakerClosed {
		// An error is counted there. The next client loads again.
		_ = h.loads.Set(ctx, q.key(variant), rec)
	}
	return record{Kind: aIndex, Gen: gen, Vary: vary, first: &rec, firstVariant: variant}
}

// addVary replaces the index of a URI after a response with more Vary fields
// than known. The response is not stored: the URI may have been invalidated
// since it was made, which the new index would not reflect.
func (h *Handler) addVary(ctx context.Context, k key, j *job, vary []string) record {
	all := slices.Concat(j.vary, vary)
	slices.Sort(all)
	all = slices.Compact(all)
	cachex.NoStore(ctx)
	if j.q.noStore {
		return record{Kind: aMoved}
	}
	if len(all) > maxVary {
		return record{Kind: aPass, At: time.Now().UnixMilli(), Life: h.o.PassTTL.Milliseconds()}
	}
	_ = h.loads.Set(ctx, key{k.URI, indexVariant}, record{Kind: aIndex, Gen: rand.Text(), Vary: all})
	return record{Kind: aMoved}
}

// renew loads a response in the background, under the usual lease, while a
// stale one is served. It runs at most one goroutine for each key in this
// process, which ends with the load.
func (h *Handler) renew(ctx context.Context, k key, vary []string, q *query) {
	if _, busy := h.renewing.LoadOrStore(k, true); busy {
		return
	}
	if !h.goroutines.enter(false) {
		h.renewing.Delete(k)
		return
	}
	ctx = context.WithoutCancel(ctx)
	q.prepare()
	// After an error the stored response stays, and the cache decides when to
	// retry.
	guard.Go(handler, func() error {
		_, _, _, err := h.load(ctx, k, &job{q: q, vary: vary, absent: true}, false)
		return err
	}, func(error) {
		defer h.goroutines.leave()
		h.renewing.Delete(k)
	})
}
