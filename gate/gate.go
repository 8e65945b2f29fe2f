// Package gate lets something happen once per interval and key in the whole
// fleet: one mail to reset a password in five minutes, however often and on
// however many servers the button is pressed.
//
//	resets := cachex.Must(gate.New(rdb, gate.Spec[int64]{
//		Key:   "password:{user_id}",
//		Every: 5 * time.Minute,
//	}))
//	err := resets.Do(ctx, userID, sendMail)
//
// Who passes an open gate closes it, in one step, and it opens by itself when the
// interval is over, by the clock of the server. Nobody holds it: a gate is no
// lock, and what runs behind it for longer than the interval may run twice.
package gate

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/saturate"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
)

// A Spec describes a gate. It is a value: New copies it and changes nothing.
type Spec[K comparable] struct {
	// Name is the name of the gate in errors that have no key. Defaults to Key up to
	// its first placeholder, "password" for "password:{user_id}".
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. It must not
	// be the template of a cache or of anything else. Required, unless KeyFunc is
	// set.
	Key string

	// KeyFunc returns the key in Redis, as it stands. It must return different
	// strings for different keys, be safe for concurrent use, and not be set
	// together with Key. Defaults to nil.
	KeyFunc func(K) string

	// Every is for how long a gate is closed after somebody has passed it, in whole
	// milliseconds, at most ten years. A gate that is found closed for longer, since
	// Every was more in an older program, is closed for Every from then. Required.
	Every time.Duration
}

// A Gate lets one caller through per key and interval. It is safe for concurrent
// use, starts no goroutine and needs no Close. Gates with the same template on
// the same Redis are one, in one process or in many.
type Gate[K comparable] struct {
	name  string
	every time.Duration
	rdb   redis.UniversalClient
	key   *key.Template[K]
}

// New returns the gate that spec describes, or an error that names the field that
// is wrong. It makes no call to Redis. The client stays the caller's. New refuses a
// Ring that may drop a shard: a gate that was passed would be open on another shard.
// Its HeartbeatFrequency must be cachex.Forever.
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

// Try reports whether the gate of key was open, and closes it for Spec.Every. It
// does not wait. Of any number of callers who find it open, one gets true. If it
// is closed, retryAfter is the time until it opens, at least 1 ms; else it is 0.
//
// The error is a *cachex.Error, and ok is then false: of Redis, or the cause of
// the end of ctx. With one that is ErrOutcomeUnknown the gate may be closed, for
// at most Spec.Every, though this call has let nobody through; Reset opens it.
// After one that is ErrForeign the key is as it was. After any other the gate is
// as it was.
//
// One call is one round trip. It is sent once: a copy that comes late would close
// a gate that has opened since.
func (g *Gate[K]) Try(ctx context.Context, key K) (ok bool, retryAfter time.Duration, err error) {
	k, err := g.enter(ctx, "try", key)
	if err != nil {
		return false, 0, err
	}
	return g.try(ctx, "try", k, entry.NewToken())
}

// Do calls f if the gate of key is open, and closes it for Spec.Every from before
// f begins. It returns the error of f, as it is.
//
//   - If the gate is closed, f is not called and the error is a *ClosedError.
//   - If f returns an error, panics or calls runtime.Goexit, the gate is opened
//     again, unless the interval is over and somebody else has passed it since.
//     That is done though ctx may have ended. If Redis fails then, the gate may stay
//     closed for the rest of the interval, and the error is that of f joined with
//     one that says so.
//   - If the process dies in f, the gate stays closed for the rest of the interval:
//     nobody can know how far f has come.
//   - If f takes longer than Spec.Every, the gate opens meanwhile, and f may run
//     somewhere else at the same time.
//   - If Redis fails, f is not called, and the error is that of Try.
func (g *Gate[K]) Do(ctx context.Context, key K, f func(context.Context) error) (err error) {
	k, err := g.enter(ctx, "do", key)
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
	defer func() { // and not after f, which may not return
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

// Reset opens the gate of key, whoever has closed it. If it is open that is no
// error.
//
// The error is a *cachex.Error, as that of Try. With ErrOutcomeUnknown the gate
// may still be opened later.
func (g *Gate[K]) Reset(ctx context.Context, key K) error {
	k, err := g.enter(ctx, "reset", key)
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
	return g.passed(op, k, reply)
}

// passed returns what the reply of PassGate says.
func (g *Gate[K]) passed(op, k string, reply any) (ok bool, retryAfter time.Duration, err error) {
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

// reopenTimeout bounds the reopening of a gate whose caller may have left, as far
// as the client heeds a deadline.
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

// enter begins a call: it returns the key in Redis, or the error of the call.
func (g *Gate[K]) enter(ctx context.Context, op string, key K) (string, error) {
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

// check returns an error that says what is wrong with what New was given.
func check(rdb redis.UniversalClient, every time.Duration) error {
	if client.Nil(rdb) {
		return errors.New("client is nil")
	}
	switch {
	case every == 0:
		return errors.New("Spec.Every is required: choose for how long a gate is closed")
	case every > maxEvery:
		return fmt.Errorf("Spec.Every is %v, must be at most ten years: what happens once and for all belongs in a database", every)
	}
	if err := loader.CheckLife(every); err != nil {
		return fmt.Errorf("Spec.Every: %w", err)
	}
	return client.CheckShards(rdb)
}

const maxEvery = 10 * 365 * 24 * time.Hour
