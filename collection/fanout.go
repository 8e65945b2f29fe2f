package collection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"time"

	"github.com/cachex-go/cachex/internal/script"
)

// fanOutBatch is the number of timelines that one pipeline writes to. Redis
// takes a few milliseconds for it, and serves other clients meanwhile.
const fanOutBatch = 500

// FanOut reports the progress of PostSeq or RemoveSeq.
type FanOut[K comparable] struct {
	// Done is the number of keys, from the start of the sequence, that were
	// sent and answered. All of them were reached except Failed.
	Done int64

	// Last is the last of these keys.
	Last K

	// Failed lists the keys among these that may not have been reached, in the
	// order of the sequence. It has at most 1000 keys.
	Failed []K
}

// FanOutError reports which keys PostSeq or RemoveSeq reached, and why it did
// not reach all. To resume, call the method with Failed, and with the keys that
// follow the first Done in the sequence. Calling it with the whole sequence
// again is harmless too.
type FanOutError[K comparable] struct {
	FanOut[K]

	// Err is the first cause: an error of Redis, the error of a key, or the
	// cause of the end of ctx.
	Err error
}

// Error reports numbers and the cause; it names no key.
func (e *FanOutError[K]) Error() string {
	return fmt.Sprintf("%d of the first %d keys were not reached: %v", len(e.Failed), e.Done, e.Err)
}

// Unwrap returns Err.
func (e *FanOutError[K]) Unwrap() error { return e.Err }

// PostSeq adds elem to the timelines of a sequence of keys. It sends pipelines
// of 500 keys, one after the other, and holds at most 500 keys in memory. It
// takes keys from the sequence as it proceeds, so the sequence may read a
// database page by page. After each pipeline PostSeq calls progress, unless
// that is nil, on the goroutine of the caller.
//
// Posting an element again to a timeline changes nothing. So if the process of
// a fan-out was killed, another process resumes it from the last FanOut passed
// to progress: a number, and a key for "WHERE follower > ? ORDER BY follower".
// Reposting is harmless.
//
// The error is a *cachex.Error with the first key that failed. It wraps a
// *FanOutError that says exactly which keys were reached. If nothing was sent,
// it wraps the cause directly: an error of the codec, of Score, or a nil ctx. A
// key that fails on its own, for example because it holds a value of another
// program, does not stop the others. PostSeq stops after a pipeline whose round
// trip failed, after 500 failed keys, or when ctx ends.
//
// Concurrent posts to one timeline are all kept. A post during the restoration
// of a timeline is kept. If an element is removed while it is still being
// posted, some timelines may keep it until they are restored.
func (f *Feed[K, E]) PostSeq(ctx context.Context, elem E, to iter.Seq[K], progress func(FanOut[K])) error {
	ttl := millis(f.ttl)
	if f.up != nil {
		ttl = "="
	}
	p, err := f.prepare(ctx, elem)
	if err != nil {
		return f.fail("post", "", err)
	}
	run := fanOutRun[K]{op: "post", script: script.Score, args: []any{f.up != nil, f.limit, ttl, "set", p.score, p.bytes}}
	return fanOut(ctx, &f.store, run, to, progress)
}

// RemoveSeq removes elem from the timelines of a sequence of keys. Call it
// after the source was written. It proceeds like [Feed.PostSeq]. A timeline
// without elem is not an error. If a load is in flight that may have read elem,
// its result is not stored.
//
// RemoveSeq returns the errors of [Feed.PostSeq].
func (f *Feed[K, E]) RemoveSeq(ctx context.Context, elem E, from iter.Seq[K], progress func(FanOut[K])) error {
	p, err := f.prepare(ctx, elem)
	if err != nil {
		return f.fail("remove", "", err)
	}
	run := fanOutRun[K]{op: "remove", script: script.Unrank, fence: true, args: []any{f.up != nil, "=", p.bytes}}
	return fanOut(ctx, &f.store, run, from, progress)
}

// prepare checks ctx, and returns the position of elem.
func (f *Feed[K, E]) prepare(ctx context.Context, elem E) (position, error) {
	if ctx == nil {
		return position{}, errNilContext
	}
	return f.position("", elem)
}

// fanOutRun is the state of one fan-out.
type fanOutRun[K comparable] struct {
	op     string
	script *script.Script // a resend is harmless
	args   []any          // the same for all keys
	fence  bool           // fence loads in flight: they may have read the removed element

	keys  []K            // of the next pipeline
	calls []*script.Call // one for each of keys
	FanOutError[K]
	first string // the first Redis key that failed
}

// fanOut sends the script to all keys.
func fanOut[K comparable, T any](ctx context.Context, h *store[K, T], f fanOutRun[K], to iter.Seq[K], progress func(FanOut[K])) error {
	send := func() (goOn bool) {
		if len(f.keys) == 0 {
			return true
		}
		if ctx.Err() != nil {
			f.Err = cmp.Or(f.Err, context.Cause(ctx))
			return false
		}
		failed := sendBatch(ctx, h, &f)
		if progress != nil {
			progress(f.FanOut)
		}
		return !failed && len(f.Failed) < fanOutBatch
	}
	goOn := true
	for key := range to {
		// If a key cannot be rendered, its call holds the error and is not
		// sent.
		k, err := h.renderKey(key)
		f.keys, f.calls = append(f.keys, key), append(f.calls, &script.Call{Script: f.script, Key: k, Args: f.args, Err: err})
		if len(f.keys) == fanOutBatch {
			if goOn = send(); !goOn {
				break
			}
		}
	}
	if goOn {
		send()
	}
	if f.Err == nil {
		return nil
	}
	return h.fail(f.op, f.first, &f.FanOutError)
}

// sendBatch sends one pipeline, and reports whether the round trip failed.
func sendBatch[K comparable, T any](ctx context.Context, h *store[K, T], f *fanOutRun[K]) (failed bool) {
	sendable := make([]*script.Call, 0, len(f.calls))
	names := make([]string, 0, len(f.calls))
	for _, c := range f.calls {
		if c.Err == nil {
			sendable, names = append(sendable, c), append(names, c.Key)
		}
	}
	if len(sendable) > 0 {
		began := time.Now()
		failed = script.Pipeline(ctx, h.rdb, sendable) != nil
		h.breakers.Done(ctx, began, len(sendable), func(i int) (string, error) { return sendable[i].Key, sendable[i].Err })
	}
	if f.fence {
		h.flights.Forget(names...) // later callers start a new load
	}
	for i, c := range f.calls {
		if err := checkReached(c); err != nil {
			if f.Err == nil {
				f.first, f.Err = c.Key, script.Cause(ctx, err)
			}
			f.Failed = append(f.Failed, f.keys[i])
		}
	}
	f.Failed = slices.Clip(f.Failed) // progress may keep it
	f.Done, f.Last = f.Done+int64(len(f.keys)), f.keys[len(f.keys)-1]
	f.keys, f.calls = f.keys[:0], f.calls[:0]
	return failed
}

// checkReached returns why c has not reached its timeline, or nil.
func checkReached(c *script.Call) error {
	if c.Err != nil {
		return c.Err
	}
	if c.Script == script.Score {
		switch _, _, err := parseScored(c.Reply); {
		case errors.Is(err, errReply), errors.Is(err, ErrForeign):
			return err
		}
		return nil
	}
	switch c.Reply { // script.Unrank returns the number of removed members
	case int64(0), int64(1):
		return nil
	case int64(-1):
		return ErrForeign
	}
	return errReply
}
