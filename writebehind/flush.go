package writebehind

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/ledgernote"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// maxBackoff bounds how long a batch waits after Persist has failed. It waits
// for Every, then twice that, and so on, up to maxBackoff, or up to Every if
// that is longer. The back-off holds for the whole fleet.
const maxBackoff = time.Minute

// glance is the interval at which a process checks whether a batch of another
// process is done.
const glance = 20 * time.Millisecond

// flush persists the pending ids of a bucket, batch after batch, until a batch
// leaves none. If must is true, flush waits for batches of other processes, and
// retries a failed batch before its back-off ends. If must is false, it leaves
// both alone.
func (e *Engine) flush(ctx context.Context, b int, must bool) error {
	select {
	case e.buckets[b].busy <- struct{}{}:
		defer func() { <-e.buckets[b].busy }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return e.flushHeld(ctx, b, must)
}

// flushHeld is flush for a caller that already holds the bucket.
func (e *Engine) flushHeld(ctx context.Context, b int, must bool) error {
	for {
		again, wait, err := e.step(ctx, b, must)
		if err != nil || !again && wait == 0 || !must && wait > 0 {
			return err
		}
		pause := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		case <-pause.C:
		}
	}
}

// step persists one batch and reports whether there is another one. If another
// process has the batch, step returns how long to wait.
func (e *Engine) step(ctx context.Context, b int, must bool) (again bool, wait time.Duration, err error) {
	select {
	case e.workers <- struct{}{}:
		defer func() { <-e.workers }()
	case <-ctx.Done():
		return false, 0, context.Cause(ctx)
	}
	t, err := e.take(ctx, b, must)
	if err != nil {
		e.redisFailed(b, err)
		return false, 0, err
	}
	switch t.state {
	case clean:
		again, err := e.rescueNew(ctx, b, t)
		return again, 0, err
	case taken, resumed:
		return e.work(ctx, b, t)
	}
	return false, min(t.wait, glance), nil
}

// The states of a bucket, as TakeBatch returns them.
const (
	clean      = "C"
	busy       = "B"
	unfinished = "F"
	taken      = "T"
	resumed    = "R"
)

// take is a reply of TakeBatch.
type take struct {
	state   string
	wait    time.Duration // how long another process still holds the batch
	n       string
	batch   ledger.Batch
	more    int64    // ids that are still pending
	fails   int64    // failed attempts to persist it
	garbage []string // fields of a Sum that are not numbers
	unread  string   // version of the unread ids; "" if there are none
	parked  []string // tokens of the parked batches
}

// outcome lists the fields of a batch that are not persisted.
type outcome struct{ refused, unread []string }

// take takes the batch in flight or the next one. It makes as many calls as it
// needs, and each of them occupies the server for about a millisecond.
func (e *Engine) take(ctx context.Context, b int, must bool) (*take, error) {
	most := ""
	if e.o.Merge == Last {
		most = strconv.Itoa(e.o.MaxBytes)
	}
	force := ""
	if must {
		force = "1"
	}
	for {
		r := read(e.call(ctx, script.TakeBatch, b, rand.Text(), e.me, e.o.LeaseTTL.Milliseconds(), e.o.MaxBatch, most, force, e.atOnce))
		t := &take{state: r.text()}
		switch t.state {
		case clean:
			t.readUnread(r)
		case busy:
			t.wait = max(r.duration(), time.Millisecond)
		case unfinished:
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			continue
		case taken, resumed:
			e.taken(t, b, r)
			_ = r.int() // ids of the batch
			list := r.list()
			t.readUnread(r)
			if r.err == nil && len(list) == 0 {
				return e.readBatch(ctx, b, t)
			}
			e.fill(t, list)
		}
		if r.err != nil {
			return nil, r.err
		}
		return t, nil
	}
}

// taken reads the part of a reply of TakeBatch that comes before the content of
// the batch.
func (e *Engine) taken(t *take, b int, r *reply) {
	t.n = r.text()
	t.batch = ledger.Batch{Namespace: e.o.Name, Bucket: b, Token: r.text(), Incarnation: r.text()}
	t.more, t.fails = r.int(), r.int()
	n, err := strconv.ParseInt(t.n, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("batch has number %q", t.n)
	}
	t.batch.N = n
	if t.batch.Values = make(map[string][]byte); e.o.Merge == Sum {
		t.batch.Deltas = make(map[string]int64)
	}
}

// readBatch reads the content of a batch that is too long for one reply.
func (e *Engine) readBatch(ctx context.Context, b int, t *take) (*take, error) {
	for cursor := "0"; ; {
		r := read(e.call(ctx, script.ReadBatch, b, t.n, t.batch.Token, cursor, 2*e.atOnce))
		next, list := r.text(), r.list()
		switch {
		case r.err != nil:
			return nil, r.err
		case next == "": // acknowledged meanwhile
			return &take{state: busy, wait: time.Millisecond}, nil
		}
		e.fill(t, list)
		switch next {
		case "0":
			return t, nil
		case cursor:
			return nil, errCursor
		}
		cursor = next
	}
}

// fill adds fields and values of Keys.InFlight to the batch.
func (e *Engine) fill(t *take, list []any) {
	for field, value := range pairs(list) {
		if strings.HasPrefix(field, "#") {
			continue
		}
		if e.o.Merge == Last {
			t.batch.Values[unfield(field)] = []byte(value)
			continue
		}
		total, set := strings.CutPrefix(value, "=")
		delta, err := strconv.ParseInt(total, 10, 64)
		if err == nil && set {
			t.batch.Values[unfield(field)] = []byte(total)
			continue
		}
		if err != nil {
			if !slices.Contains(t.garbage, field) { // HSCAN may return it twice
				t.garbage = append(t.garbage, field)
			}
			continue
		}
		t.batch.Deltas[unfield(field)] = delta
	}
}

// work persists a batch and acknowledges it.
func (e *Engine) work(ctx context.Context, b int, t *take) (again bool, wait time.Duration, err error) {
	if t.state == resumed {
		e.counters.replays.Add(1)
	}
	done := &e.buckets[b].done
	if done.n != t.n || done.token != t.batch.Token {
		if unread := e.check(t); e.mustPark(t) {
			return e.park(ctx, b, t, unread)
		}
		out, err := e.persisted(t, e.persist(ctx, b, t))
		if conflict, ok := errors.AsType[*ledger.ConflictError](err); ok {
			again, err := e.settleParked(ctx, b, t, conflict)
			if !again && err == nil {
				again, err = e.resolve(ctx, b, t, conflict)
			}
			if err == nil || again {
				return true, 0, err
			}
			return false, 0, e.fail(ctx, b, t, err)
		}
		if err != nil {
			return false, 0, e.fail(ctx, b, t, err)
		}
		done.n, done.token, done.outcome = t.n, t.batch.Token, out
	}
	args := []any{t.n, t.batch.Token, e.o.Merge.arg(), e.atOnce, len(done.refused)}
	for _, field := range slices.Concat(done.refused, done.unread) {
		args = append(args, field)
	}
	acked, err := e.ack(context.WithoutCancel(ctx), b, args)
	if err != nil {
		e.redisFailed(b, err)
		return false, 0, err
	}
	if acked == int64(1) {
		size := int64(t.live() + len(t.batch.Unread) + len(t.garbage))
		e.counters.batches.Add(1)
		e.counters.persisted.Add(size - int64(len(done.refused)+len(done.unread)))
		e.counters.refused.Add(int64(len(done.refused)))
		e.counters.unread.Add(int64(len(done.unread)))
	} else {
		e.counters.stale.Add(1) // another process has persisted it and gone on
		return true, 0, nil
	}
	// Ids that this call has put into Unread are checked once more, and are
	// then known.
	return t.more > 0 || len(done.unread) > 0 || e.unseen(b, t.unread), 0, nil
}

// persisted returns the ids of a finished batch that are not persisted. If the
// batch is not persisted, it returns the error that says so.
func (e *Engine) persisted(t *take, err error) (outcome, error) {
	out := outcome{refused: t.garbage, unread: fields(t.batch.Unread)}
	if err == nil {
		return out, nil
	}
	if applied, beside := errs.Find[*ledger.AppliedError](err); len(applied) > 0 && !beside {
		out.refused = slices.Concat(t.garbage, fields(applied[0].Refused))
		out.unread = fields(applied[0].Unread)
		return out, nil
	}
	refused, ok := t.batch.Refused(err)
	if !ok {
		return out, err
	}
	e.notify(fmt.Errorf("cachex: persist %v: %w", t.batch, err))
	out.refused = slices.Concat(t.garbage, fields(refused))
	return out, nil
}

func fields(ids []string) []string {
	all := make([]string, len(ids))
	for i, id := range ids {
		all[i] = Field(id)
	}
	return all
}

// persist calls Persist, and renews the lease of the batch meanwhile.
func (e *Engine) persist(ctx context.Context, b int, t *take) (err error) {
	ctx, lost := context.WithCancelCause(ctx)
	defer lost(nil)
	ctx, cancel := context.WithTimeout(ctx, e.o.Timeout)
	defer cancel()
	stop := e.keep(ctx, b, t, lost)
	defer stop()
	ctx, lostBefore := ledgernote.With(ctx)
	defer func() {
		if lostBefore() && !strings.HasPrefix(t.batch.Incarnation, renewed) {
			e.counters.fork(ForkLost)
			e.notify(fmt.Errorf("cachex: flush %s: %w", e.tag(b), &ForkError{Fork: ForkLost, Batch: t.batch}))
		}
	}()
	defer guard.Catch(guard.Persist, &err)
	return e.o.Persist(ctx, t.batch)
}

// PanicError reports a panic of Persist. Value is the value of the panic. Stack
// is the stack of the goroutine that panicked, as debug.Stack formats it. If
// Value is an error, errors.Is and errors.As find it.
type PanicError = guard.PanicError

var errLost = errors.New("the batch is somebody else's now")

// keep renews the lease of a batch until ctx ends or stop is called. stop waits
// for the renewing goroutine to end. If keep finds that another process has the
// batch, it calls lost.
func (e *Engine) keep(ctx context.Context, b int, t *take, lost context.CancelCauseFunc) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	if !e.spawn(guard.Client, func() error {
		tick := time.NewTicker(e.o.LeaseTTL / 3)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return nil
			case <-tick.C:
			}
			held, err := e.call(ctx, script.HoldBatch, b, t.n, t.batch.Token, e.me, e.o.LeaseTTL.Milliseconds(), "")
			if err == nil && held == int64(0) {
				lost(errLost)
				return nil
			}
		}
	}, func(error) { close(ended) }) {
		close(ended)
	}
	return func() {
		cancel()
		<-ended
	}
}

// fail makes a batch that could not be persisted wait for its back-off, and
// returns the error.
func (e *Engine) fail(ctx context.Context, b int, t *take, err error) error {
	e.counters.failures.Add(1)
	err = &persistError{t.batch.String(), err}
	e.notify(fmt.Errorf("cachex: %w", err))
	wait := time.Duration(0) // if ctx has ended, the database did not fail
	if ctx.Err() == nil {
		longest := max(maxBackoff, e.o.Every)
		wait = min(longest, saturate.Double(e.o.Every, t.fails))
		wait -= mathrand.N(wait/5 + 1)
	}
	_, holdErr := e.call(context.WithoutCancel(ctx), script.HoldBatch, b, t.n, t.batch.Token, e.me, wait.Milliseconds(), "1")
	if holdErr != nil {
		e.redisFailed(b, holdErr)
	}
	return err
}

// persistError says that Persist failed, not Redis.
type persistError struct {
	batch string
	err   error
}

// Error names the batch and the cause.
func (e *persistError) Error() string { return fmt.Sprintf("persist %s: %v", e.batch, e.err) }

// Unwrap returns the error of Persist.
func (e *persistError) Unwrap() error { return e.err }

func (e *Engine) redisFailed(b int, err error) {
	e.counters.redisFailures.Add(1)
	e.notify(fmt.Errorf("cachex: flush %s: %w", e.tag(b), err))
}

func (e *Engine) notify(err error) {
	if e.o.Notify != nil {
		_ = guard.Call(notify, func() error { e.o.Notify(err); return nil }) // a panic of Notify stops nothing
	}
}

// notify names Options.Notify in errors.
var notify = guard.Named("Options.Notify")
