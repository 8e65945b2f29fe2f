// Package gate lets something happen once per interval and key in the whole
// fleet. For example, one password mail in five minutes, however often and on
// however many servers the button is pressed:
//
//	resets := cachex.Must(gate.New(rdb, gate.Spec[int64]{
//		Key:   "password:{user_id}",
//		Every: 5 * time.Minute,
//	}))
//	err := resets.Do(ctx, userID, sendMail)
//
// A caller that passes an open gate closes it, in one step. The gate opens
// again when the interval is over, by the clock of the server. A gate is not a
// lock: no caller holds it, and work that takes longer than the interval may
// run twice.
package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
)

// Spec describes a gate. It is a value: New copies it and changes nothing.
type Spec[K comparable] struct {
	// Name names the gate in errors that have no key. Defaults to Key up to its
	// first placeholder, "password" for "password:{user_id}".
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. A cache or
	// anything else must not use the same template. Required, unless KeyFunc is
	// set.
	Key string

	// KeyFunc returns the Redis key, which is used unchanged. It must return
	// different strings for different keys, and be safe for concurrent use. It
	// must not be set together with Key. Defaults to nil.
	KeyFunc func(K) string

	// Every is the time that a gate stays closed after a caller has passed it,
	// in whole milliseconds, at most ten years. If a gate is found closed for
	// longer, because an older program had a greater Every, it is closed for
	// Every from then. Required.
	Every time.Duration
}

// Gate lets one caller pass per key and interval. It is safe for concurrent
// use, starts no goroutine and needs no Close. Gates with the same template on
// the same Redis are shared, in one process or in many.
type Gate[K comparable] struct {
	name  string
	every time.Duration
	rdb   redis.UniversalClient
	key   *key.Template[K]
}

// New returns the gate that spec describes, or an error that names the wrong
// field. It does not call Redis. It does not close the client. New rejects a
// Ring that may drop a shard, since a closed gate would be open on another
// shard: set its HeartbeatFrequency to cachex.Forever.
func New[K comparable](rdb redis.UniversalClient, spec Spec[K]) (*Gate[K], error) {
	template, err := key.FromSpec(spec.Key, spec.KeyFunc)
	if err == nil {
		err = check(rdb, spec.Every)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: gate: %w", err)
	}
	g := &Gate[K]{name: spec.Name, every: spec.Every, rdb: rdb, key: template}
	if g.name == "" {
		g.name = template.Name()
	}
	return g, nil
}

// Try reports whether the gate of key was open, and closes it for Spec.Every.
// It does not wait. If several callers find the gate open, exactly one gets
// true. If the gate is closed, retryAfter is the time until it opens, at least
// 1 ms; otherwise it is 0.
//
// The error is a *cachex.Error: of Redis, or the cause of the end of ctx. With
// an error, ok is false. If it is ErrOutcomeUnknown, the gate may be closed,
// for at most Spec.Every, although this call has let no caller pass; Reset
// opens it. If it is ErrForeign, the key is unchanged. After any other error
// the gate is unchanged.
//
// A call is one round trip. The command is sent once: a late copy would close a
// gate that has opened since.
func (g *Gate[K]) Try(ctx context.Context, key K) (ok bool, retryAfter time.Duration, err error) {
	k, err := g.begin(ctx, "try", key)
	if err != nil {
		return false, 0, err
	}
	return g.try(ctx, "try", k, entry.NewToken())
}

// Do calls f if the gate of key is open, and closes it for Spec.Every, from
// before f begins. It returns the error of f unchanged.
//
//   - If the gate is closed, f is not called and the error is a *ClosedError.
//   - If f returns an error, panics or calls runtime.Goexit, Do opens the gate
//     again, even if ctx has ended. It does not if the interval is over and
//     another caller has passed since. If Redis fails then, the gate may stay
//     closed for the rest of the interval, and the error of f is joined with
//     one that reports it.
//   - If the process dies in f, the gate stays closed for the rest of the
//     interval, since the progress of f is unknown.
//   - If f takes longer than Spec.Every, the gate opens before f ends, and f
//     may run elsewhere at the same time.
//   - If Redis fails, f is not called, and Do fails like [Gate.Try].
func (g *Gate[K]) Do(ctx context.Context, key K, f func(context.Context) error) (err error) {
	k, err := g.begin(ctx, "do", key)
	if err != nil {
		return err
	}
	if f == nil {
		return g.fail("do", k, errNilFunc)
	}
	token := entry.NewToken()
	ok, retryAfter, err := g.try(ctx, "do", k, token)
	if err != nil {
		return err
	}
	if !ok {
		return &ClosedError{Key: k, RetryAfter: retryAfter}
	}
	returned := false
	defer func() { // not only after f, which may not return
		if returned && err == nil {
			return
		}
		if failed := g.reopen(ctx, k, token); failed != nil {
			err = errors.Join(err, failed)
		}
	}()
	err = f(ctx)
	returned = true
	return err
}

// Reset opens the gate of key, regardless of the caller that closed it. An open
// gate is not an error.
//
// It fails like [Gate.Try], with a *cachex.Error. If that is ErrOutcomeUnknown,
// the gate may still be opened later.
func (g *Gate[K]) Reset(ctx context.Context, key K) error {
	k, err := g.begin(ctx, "reset", key)
	if err != nil {
		return err
	}
	reply, err := script.ResetGate.Run(ctx, g.rdb, k)
	if err != nil {
		return g.fail("reset", k, script.Cause(ctx, err))
	}
	switch reply {
	case int64(0), int64(1):
		return nil
	case int64(-1):
		return g.fail("reset", k, ErrForeign)
	}
	return g.fail("reset", k, fmt.Errorf("%w: %w", ErrOutcomeUnknown, errReply))
}

var errReply = errors.New("unexpected reply of a script")

func (g *Gate[K]) try(ctx context.Context, op, k string, token entry.Token) (ok bool, retryAfter time.Duration, err error) {
	reply, err := script.PassGate.Run(ctx, g.rdb, k, token[:], g.every.Milliseconds())
	if err != nil {
		return false, 0, g.fail(op, k, script.Cause(ctx, err))
	}
	return g.parsePass(op, k, reply)
}

// parsePass parses the reply of PassGate.
func (g *Gate[K]) parsePass(op, k string, reply any) (ok bool, retryAfter time.Duration, err error) {
	parts, _ := reply.([]any)
	if len(parts) == 2 {
		ms, ok := parts[1].(int64)
		switch parts[0] {
		case "P":
			if ok && ms == 0 {
				return true, 0, nil
			}
		case "C":
			if ms > 0 && ms <= g.every.Milliseconds() {
				return false, saturate.Millis(ms), nil
			}
		case "F":
			return false, 0, g.fail(op, k, ErrForeign)
		}
	}
	return false, 0, g.fail(op, k, fmt.Errorf("%w: %w", ErrOutcomeUnknown, errReply))
}

// reopenTimeout bounds the reopening of a gate, whose caller may have left, if
// the client respects deadlines.
const reopenTimeout = 5 * time.Second

// reopen opens a gate that this token has closed.
func (g *Gate[K]) reopen(ctx context.Context, k string, token entry.Token) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), reopenTimeout)
	defer cancel()
	reply, err := script.ReopenGate.Run(ctx, g.rdb, k, token[:])
	if err == nil && reply != int64(0) && reply != int64(1) {
		err = errReply
	}
	if err != nil {
		return g.fail("reopen", k, fmt.Errorf("the gate may stay closed for up to %v: %w", g.every, err))
	}
	return nil
}

// begin starts a call: it returns the Redis key, or the error of the call.
func (g *Gate[K]) begin(ctx context.Context, op string, key K) (string, error) {
	if ctx == nil {
		return "", g.fail(op, "", errNilContext)
	}
	var buf [96]byte
	b, err := g.key.Append(buf[:0], key)
	if err != nil {
		return "", g.fail(op, "", err)
	}
	if ctx.Err() != nil {
		return "", g.fail(op, string(b), context.Cause(ctx))
	}
	return string(b), nil
}

func (g *Gate[K]) fail(op, key string, err error) error {
	return &cachex.Error{Op: op, Cache: g.name, Key: key, Err: err}
}

// check returns an error that names the wrong argument of New.
func check(rdb redis.UniversalClient, every time.Duration) error {
	if client.Nil(rdb) {
		return errors.New("client is nil")
	}
	switch {
	case every == 0:
		return errors.New("Spec.Every is required: the time that a gate stays closed")
	case every > maxEvery:
		return fmt.Errorf("Spec.Every is %v, must be at most ten years: keep permanent facts in a database", every)
	}
	if err := engine.CheckLife(every); err != nil {
		return fmt.Errorf("Spec.Every: %w", err)
	}
	return client.CheckShards(rdb)
}

const maxEvery = 10 * 365 * 24 * time.Hour
