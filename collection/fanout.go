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

// fanOutBatch is how many timelines are written to in one pipeline. Redis does it
// within a few milliseconds, in which it serves others too.
const fanOutBatch = 500

// A FanOut is how far PostSeq or RemoveSeq has come.
type FanOut[K comparable] struct {
	// Done is how many keys of the sequence were sent and answered: the first so
	// many. Every one of them was reached, but those that Failed.
	Done int64

	// Last is the last of these.
	Last K

	// Failed are the keys of these of which it is not known that they were reached,
	// in their order, never more than 1000.
	Failed []K
}

// A FanOutError says whom PostSeq or RemoveSeq has reached, and why not all. To
// resume, call it with Failed and with what the sequence has after the first Done.
// To call it with the whole sequence again does no harm either.
type FanOutError[K comparable] struct {
	FanOut[K]

	// Err is the first of the causes: of Redis, of a key, or that of the end of ctx.
	Err error
}

// Error tells numbers, and no key.
func (e *FanOutError[K]) Error() string {
	return fmt.Sprintf("%d of the first %d keys were not reached: %v", len(e.Failed), e.Done, e.Err)
}

// Unwrap returns Err.
func (e *FanOutError[K]) Unwrap() error { return e.Err }

// PostSeq puts elem into the timelines of a sequence of keys, in pipelines of 500
// one after the other, so it needs no memory for more keys than these, however many
// there are. It takes them from the sequence as it goes, a page of a database at a
// time if that is how it is made. After each pipeline it calls progress, unless that
// is nil, in the goroutine of the caller.
//
// To post an element twice to a timeline changes nothing. So a fan-out whose process
// was killed can be resumed by whoever knows what progress was told last: a number,
// and a key to be used in "WHERE follower > ? ORDER BY follower". What he posts again
// does no harm.
//
// The error is a *cachex.Error with the first key that failed. It wraps a
// *FanOutError, which says exactly who was reached, unless nothing was sent: an error
// of the codec, of Score, or of a ctx that is nil. A key that fails by itself, one
// that holds something else perhaps, does not hold up the others; but PostSeq stops
// after a pipeline in which a round trip failed, or when 500 keys have failed, or
// ctx has ended.
//
// Posts to one timeline at the same time are all there. A post that is made while
// the timeline is being restored is kept. To remove an element while it is still
// being posted may leave it to some, until their timelines are restored.
func (f *Feed[K, E]) PostSeq(ctx context.Context, elem E, to iter.Seq[K], progress func(FanOut[K])) error {
	ttl := millis(f.ttl)
	if f.up != nil {
		ttl = "="
	}
	p, err := f.start(ctx, elem)
	if err != nil {
		return f.fail("post", "", err)
	}
	run := fanning[K]{op: "post", script: script.Score, args: []any{f.up != nil, f.most, ttl, "set", p.score, p.bytes}}
	return fanOut(ctx, &f.home, run, to, progress)
}

// RemoveSeq takes elem out of the timelines of a sequence of keys, as PostSeq puts it
// there, after the source was written. What is not there is no error. A load under
// way may have read it: nothing of that is stored.
//
// The error is that of PostSeq.
func (f *Feed[K, E]) RemoveSeq(ctx context.Context, elem E, from iter.Seq[K], progress func(FanOut[K])) error {
	p, err := f.start(ctx, elem)
	if err != nil {
		return f.fail("remove", "", err)
	}
	run := fanning[K]{op: "remove", script: script.Unrank, forget: true, args: []any{f.up != nil, "=", p.bytes}}
	return fanOut(ctx, &f.home, run, from, progress)
}

// start begins a fan-out.
func (f *Feed[K, E]) start(ctx context.Context, elem E) (place, error) {
	if ctx == nil {
		return place{}, errNilContext
	}
	return f.place("", elem)
}

// A fanning is a fan-out under way.
type fanning[K comparable] struct {
	op     string
	script *script.Script // may be sent twice
	args   []any          // the same for all keys
	forget bool           // loads under way may have read what is taken out

	keys  []K            // of the next pipeline
	calls []*script.Call // of these keys
	FanOutError[K]
	first string // the key in Redis of the first that failed
}

// fanOut sends the script to all keys.
func fanOut[K comparable, T any](ctx context.Context, h *home[K, T], f fanning[K], to iter.Seq[K], progress func(FanOut[K])) error {
	send := func() (goOn bool) {
		if len(f.keys) == 0 {
			return true
		}
		if ctx.Err() != nil {
			f.Err = cmp.Or(f.Err, context.Cause(ctx))
			return false
		}
		away := sendOut(ctx, h, &f)
		if progress != nil {
			progress(f.FanOut)
		}
		return !away && len(f.Failed) < fanOutBatch
	}
	goOn := true
	for key := range to {
		// A key that cannot be rendered has a call all the same, which has failed.
		k, err := h.rendered(key)
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

// sendOut sends one pipeline, and reports whether the round trip failed.
func sendOut[K comparable, T any](ctx context.Context, h *home[K, T], f *fanning[K]) (away bool) {
	able := make([]*script.Call, 0, len(f.calls))
	names := make([]string, 0, len(f.calls))
	for _, c := range f.calls {
		if c.Err == nil {
			able, names = append(able, c), append(names, c.Key)
		}
	}
	if len(able) > 0 {
		began := time.Now()
		away = script.Pipeline(ctx, h.rdb, able) != nil
		h.away.Done(ctx, began, len(able), func(i int) (string, error) { return able[i].Key, able[i].Err })
	}
	if f.forget {
		h.flights.Forget(names...) // who comes from now on begins anew
	}
	for i, c := range f.calls {
		if err := reached(c); err != nil {
			if f.Err == nil {
				f.first, f.Err = c.Key, script.Cause(ctx, err)
			}
			f.Failed = append(f.Failed, f.keys[i])
		}
	}
	f.Failed = slices.Clip(f.Failed) // progress may keep it
	f.Done, f.Last = f.Done+int64(len(f.keys)), f.keys[len(f.keys)-1]
	f.keys, f.calls = f.keys[:0], f.calls[:0]
	return away
}

// reached returns why a call of a fan-out has not reached its timeline.
func reached(c *script.Call) error {
	if c.Err != nil {
		return c.Err
	}
	if c.Script == script.Score {
		switch _, _, err := scored(c.Reply); {
		case errors.Is(err, errReply), errors.Is(err, ErrForeign):
			return err
		}
		return nil
	}
	switch c.Reply { // what script.Unrank says of one member
	case int64(0), int64(1):
		return nil
	case int64(-1):
		return ErrForeign
	}
	return errReply
}
