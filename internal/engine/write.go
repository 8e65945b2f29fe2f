package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// A Write is a value to write.
type Write struct {
	Key     string
	Payload []byte // bytes of a codec: see Engine.NewWrite
	Life    Life

	entry []byte // space for a header, and the payload; nil: Payload is a separate slice
}

// NewWrite returns the Write of the value in box. The error is the codec's.
func (l *Engine) NewWrite(key string, life Life, box any) (Write, error) {
	b, err := l.encode(make([]byte, entry.Size, entry.Size+max(l.entrySize.About(), 64)), key, life.Fresh, box)
	switch {
	case err != nil:
		return Write{}, err
	case len(b) < entry.Size || [entry.Size]byte(b) != [entry.Size]byte{}:
		return Write{}, errNotAppended
	}
	return Write{Key: key, Payload: b[entry.Size:], Life: life, entry: b}, nil
}

var errNotAppended = errors.New("codec: Append did not keep the bytes of dst")

// Write stores a value whatever the key holds, and takes the lease away from an
// active load. Of two concurrent writes, one stays. If a few writes are in
// flight, it is batched with others, and then returns when ctx ends.
//
// The value is sent once. If Redis does not answer, or ctx ends after it was
// sent, the error wraps ErrOutcomeUnknown: the value may be stored, or may be
// stored later, even after a later write. After any other error nothing was
// stored.
func (l *Engine) Write(ctx context.Context, w Write) error {
	cmd := l.leases.write(ctx, w)
	if err := l.mutate(ctx, w.Key, len(w.Payload), cmd); err != nil {
		return err
	}
	return l.leases.finishWrite(ctx, w, cmd)
}

// Delete is Leases.Delete. If a few writes are in flight, a deletion of one key
// is batched with others, and then returns when ctx ends.
func (l *Engine) Delete(ctx context.Context, keys []string) []error {
	if len(keys) != 1 {
		return l.leases.Delete(ctx, keys)
	}
	cmd := l.leases.unlink(ctx, keys[0])
	err := l.mutate(ctx, keys[0], 0, cmd)
	if err == nil {
		err = l.leases.unlinkErr(cmd)
	}
	return []error{err}
}

// mutate sends cmd, which changes the entry of key. If the error is not nil,
// cmd must not be looked at.
func (l *Engine) mutate(ctx context.Context, key string, size int, cmd redis.Cmder) error {
	if l.unbatched {
		_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
		return nil
	}
	at, _ := l.leases.locate(key)
	return l.gather.Write(ctx, at, size, cmd)
}

// Write is like Engine.Write, but sends in a round trip of its own.
func (l *Leases) Write(ctx context.Context, key string, payload []byte, life Life) error {
	w := Write{Key: key, Payload: payload, Life: life}
	cmd := l.write(ctx, w)
	_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
	return l.finishWrite(ctx, w, cmd)
}

// WriteMany is Write for several keys, in one round trip for each 500, and one
// more if some keys held something other than an entry. It returns one error
// for each key, nil on success.
func (l *Leases) WriteMany(ctx context.Context, ws []Write) []error {
	errs, cmds := make([]error, len(ws)), make([]redis.Cmder, len(ws))
	for i, w := range ws {
		cmds[i] = l.write(ctx, w)
	}
	for some := range slices.Chunk(cmds, convoy.Most) {
		_ = script.Exec(ctx, l.rdb, some) // each command has its own error
	}
	var calls []*script.Call
	var is []int
	for i, w := range ws {
		var call *script.Call
		if call, errs[i] = l.followUp(w, cmds[i]); call != nil {
			calls, is = append(calls, call), append(is, i)
		}
	}
	convoy.Run(ctx, l.rdb, calls)
	for j, call := range calls {
		errs[is[j]] = followUpErr(call)
	}
	return errs
}

// write returns the command that writes a value: a SET if canUseSET allows it,
// otherwise a script. See followUp.
func (l *Leases) write(ctx context.Context, w Write) redis.Cmder {
	if l.canUseSET(w) {
		return l.plainSet(ctx, w)
	}
	return l.writeCall(w).Command(ctx, false)
}

// finishWrite runs what followUp returns, and returns the error.
func (l *Leases) finishWrite(ctx context.Context, w Write, cmd redis.Cmder) error {
	call, err := l.followUp(w, cmd)
	if call == nil {
		return err
	}
	_ = call.Run(ctx, l.rdb) // the error is in call
	return followUpErr(call)
}

// followUp returns the script to run after write, or nil and the error.
//
// If a server does not know the script Write, followUp returns it with its
// source. If a SET replaced a lease that callers wait for, they must be woken.
// If the previous bytes are not an entry of this key, they may not be the reply
// to a SET at all; and if the key held no string, its type is all that is
// known. In these cases a script writes.
func (l *Leases) followUp(w Write, cmd redis.Cmder) (*script.Call, error) {
	if cmd.Name() != "set" {
		if script.NotKnown(cmd.Err()) {
			return l.writeCall(w), nil
		}
		call := new(script.Call)
		call.Reply, call.Err = script.Write.Reply(cmd)
		return nil, followUpErr(call)
	}
	err := cmd.Err()
	old, _ := script.Inner(cmd).Val().(string)
	h, _, ok := entry.Parse(w.Key, []byte(old))
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case isWrongType(err), err == nil && !ok:
		return l.writeCall(w), nil
	case err != nil:
		return nil, script.With(cmd, script.Unquoted(err))
	case h.Flags&entry.Awaited != 0 && h.Leased():
		return &script.Call{Script: script.Wake, Key: w.Key}, nil
	}
	return nil, nil
}

// followUpErr returns the error of a call of followUp. A failed wake-up is
// ignored: waiters also poll.
func followUpErr(call *script.Call) error {
	if call.Script == script.Wake {
		return nil
	}
	_, err := intReply(call, 1)
	return err
}

func (l *Leases) writeCall(w Write) *script.Call {
	keep, fresh := w.Life.Args()
	h := entry.Header{State: entry.Value, Token: entry.NewToken(), Sum: entry.Sum(w.Key, w.Payload)}
	return l.call(script.Write, w.Key, h.Append(nil), keep, fresh, w.Payload)
}

// maxPlainSet is the largest payload that a SET writes. The SET returns the
// previous value, which may be as large.
const maxPlainSet = 1 << 10

// canUseSET reports whether a SET can write the value, in a tenth of the time
// of a script. Only a script can store the server's time, which decides how
// long a value is fresh. If Redis removes the value when it becomes stale, that
// time is not needed. The entry then states its end by the writer's clock,
// which matters only if the TTL is lost.
func (l *Leases) canUseSET(w Write) bool {
	return !l.packed && !l.earlyRefresh && w.Life.Keep == w.Life.Fresh && w.Life.Keep >= time.Millisecond && len(w.Payload) <= maxPlainSet
}

// plainSet returns the SET of a value. Its reply is the previous value.
func (l *Leases) plainSet(ctx context.Context, w Write) redis.Cmder {
	h := entry.Header{State: entry.Value, Soft: entry.Forever, Token: entry.NewToken(), Sum: entry.Sum(w.Key, w.Payload)}
	h.Born = time.Now().UnixMilli() // by the clock of this process, like Soft
	if w.Life.Fresh != Forever {
		h.Soft = h.Born + w.Life.Fresh.Milliseconds()
	}
	b := w.entry
	if b == nil {
		b = append(make([]byte, entry.Size), w.Payload...)
	}
	h.Append(b[:0])
	ttl := w.Life.Keep
	if ttl == Forever {
		ttl = 0
	}
	return script.NewSet(ctx, w.Key, b, ttl)
}

// ExpireMany is Expire for several keys, in one round trip for each 500. It
// returns one error for each key, nil on success.
func (l *Leases) ExpireMany(ctx context.Context, keys []string) []error {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		calls[i] = l.expireCall(key)
	}
	return pipeline(ctx, l.rdb, calls)
}

// Delete removes the entries of keys, with their leases, in one round trip. It
// sends one command a key, since keys may be on different nodes. It returns one
// error for each key, nil on success.
func (l *Leases) Delete(ctx context.Context, keys []string) []error {
	errs := make([]error, len(keys))
	if len(keys) == 1 {
		cmd := l.unlink(ctx, keys[0])
		_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
		errs[0] = l.unlinkErr(cmd)
		return errs
	}
	cmds, all := make([]*redis.IntCmd, len(keys)), make([]redis.Cmder, len(keys))
	for i, key := range keys {
		cmds[i] = l.unlink(ctx, key)
		all[i] = cmds[i]
	}
	_ = script.Exec(ctx, l.rdb, all) // each command has its own error
	for i, cmd := range cmds {
		errs[i] = l.unlinkErr(cmd)
	}
	return errs
}

// pipeline runs calls that reply 0 or 1, and returns the error of each.
func pipeline(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) []error {
	convoy.Run(ctx, rdb, calls)
	errs := make([]error, len(calls))
	for i, c := range calls {
		_, errs[i] = intReply(c, 1)
	}
	return errs
}
