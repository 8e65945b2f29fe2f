package writebehind

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// most is how many scripts one pipeline has. A server answers no other client
// while it runs one.
const most = 500

var errSilent = errors.New("Redis did not answer in time")

// call runs a script on the keys of a bucket.
func (e *Engine) call(ctx context.Context, s *script.Script, b int, args ...any) (any, error) {
	c := e.on(s, b, args...)
	if err := e.run(ctx, c); err != nil {
		return nil, err
	}
	return c.Reply, nil
}

// maxParts is how many calls in a row do a part of the work of one script. Each
// moves up to Engine.atOnce elements, so more mean that a proxy makes up
// replies.
const maxParts = 10_000

// errParts ends a script that never ends. What its calls moved stays moved, and
// the next flush goes on.
var errParts = errors.New("Redis has replied time after time that a script is not done")

// parts repeats call for a script that does a part of its work at a time. It
// returns errParts after maxParts calls.
func (e *Engine) parts(ctx context.Context, s *script.Script, b int, args ...any) (any, error) {
	for range maxParts {
		v, err := e.call(ctx, s, b, args...)
		if err != nil || v != int64(2) {
			return v, err
		}
	}
	return nil, errParts
}

// run executes c. After an error, the caller must not read c: the client may
// still use it.
func (e *Engine) run(ctx context.Context, c *script.Call) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(e.o.LeaseTTL, time.Second), errSilent)
	defer cancel()
	return e.ask(ctx, func(ctx context.Context) error { return c.Run(ctx, e.rdb) })
}

// on returns the call of a script on the keys of a bucket.
func (e *Engine) on(s *script.Script, b int, args ...any) *script.Call {
	keys := e.Keys(b)
	more := []string{keys.InFlight, keys.Refused, keys.Unread, keys.Parked}
	if s == script.DropBatch {
		more = append(more, e.asideKey(b))
	}
	return &script.Call{Script: s, Key: keys.Pending, More: more, Args: args}
}

// pipeline runs calls, in one round trip for each 500 of them. After an error,
// the caller must not read them. A failed call has its own error.
func (e *Engine) pipeline(ctx context.Context, calls []*script.Call) error {
	ctx, cancel := context.WithTimeoutCause(ctx, max(e.o.LeaseTTL, time.Second), errSilent)
	defer cancel()
	return e.ask(ctx, func(ctx context.Context) error {
		for some := range slices.Chunk(calls, most) {
			_ = script.Pipeline(ctx, e.rdb, some) // the calls have the errors
		}
		return nil
	})
}

// ask runs fn, a call to Redis, and returns when ctx ends: the client does not
// heed ctx while it reads.
func (e *Engine) ask(ctx context.Context, fn func(context.Context) error) error {
	if ctx.Done() == nil {
		return guard.Call(guard.Client, func() error { return fn(ctx) })
	}
	answer := make(chan error, 1)
	if !e.spawn(guard.Client, func() error { return fn(ctx) }, func(err error) { answer <- err }) {
		return ErrClosed
	}
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// spawn is guard.Go in a goroutine that Close waits for. If the engine has
// ended, spawn does nothing and returns false. A WaitGroup does not fit: after
// a Close that stopped waiting, a later Close waits again.
func (e *Engine) spawn(code guard.Code, fn func() error, done func(error)) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.ended {
		return false
	}
	e.alive++
	e.start(code, fn, done)
	return true
}

// start is guard.Go in a goroutine that is already counted.
func (e *Engine) start(code guard.Code, fn func() error, done func(error)) {
	guard.Go(code, fn, func(err error) {
		defer e.landed()
		done(err)
	})
}

func (e *Engine) landed() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.alive--; e.alive == 0 && e.idle != nil {
		close(e.idle)
		e.idle = nil
	}
}

// wait waits until no goroutine is left, and reports whether that happened. If
// last is true, no goroutine starts later.
func (e *Engine) wait(ctx context.Context, last bool) bool {
	e.mu.Lock()
	e.ended = e.ended || last
	if e.alive == 0 {
		e.mu.Unlock()
		return true
	}
	if e.idle == nil {
		e.idle = make(chan struct{})
	}
	idle := e.idle
	e.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

// reply is the reply of a script, read from the front. The first element of an
// unexpected type sets err.
type reply struct {
	rest []any
	err  error
}

func read(v any, err error) *reply {
	list, ok := v.([]any)
	if err == nil && !ok {
		err = fmt.Errorf("reply is a %T", v)
	}
	return &reply{list, err}
}

func (r *reply) next() any {
	if len(r.rest) == 0 {
		if r.err == nil {
			r.err = errors.New("reply is too short")
		}
		return nil
	}
	v := r.rest[0]
	r.rest = r.rest[1:]
	return v
}

func (r *reply) text() string {
	v := r.next()
	s, ok := v.(string)
	if !ok && r.err == nil {
		r.err = fmt.Errorf("reply has a %T where text should be", v)
	}
	return s
}

// int reads an integer, or the text of one.
func (r *reply) int() int64 {
	v := r.next()
	if n, ok := v.(int64); ok {
		return n
	}
	s, _ := v.(string)
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil && r.err == nil {
		r.err = fmt.Errorf("reply has a %T where a number should be", v)
	}
	return n
}

func (r *reply) duration() time.Duration { return saturate.Millis(r.int()) }

func (r *reply) list() []any {
	v := r.next()
	list, ok := v.([]any)
	if !ok && r.err == nil {
		r.err = fmt.Errorf("reply has a %T where a list should be", v)
	}
	return list
}

// pairs yields the fields and values of a list that holds them alternately.
func pairs(list []any) iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for k := 0; k+1 < len(list); k += 2 {
			field, _ := list[k].(string)
			value, _ := list[k+1].(string)
			if !yield(field, value) {
				return
			}
		}
	}
}
