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

// A Writing is a value to be written.
type Writing struct {
	Key     string
	Payload []byte // of a codec: see Engine.Writing
	Life    Life

	entry []byte // room for a header, and the payload; nil: the payload stands alone
}

// Writing returns the value in box as one to be written. The error is that of the codec.
func (l *Engine) Writing(key string, life Life, box any) (Writing, error) {
	b, err := l.encode(make([]byte, entry.Size, entry.Size+max(l.size.About(), 64)), key, life.Fresh, box)
	switch {
	case err != nil:
		return Writing{}, err
	case len(b) < entry.Size || [entry.Size]byte(b) != [entry.Size]byte{}:
		return Writing{}, errNotAppended
	}
	return Writing{Key: key, Payload: b[entry.Size:], Life: life, entry: b}, nil
}

var errNotAppended = errors.New("codec: Append has not kept the bytes that it was to append to")

// Write stores the value of a key whatever is there, and takes the lease away from a load
// under way. Of two writes at the same time one stays. It leaves together with what others
// write, if a few are under way, and then returns when ctx ends.
//
// The value is sent once. If Redis does not answer, or ctx ends after it was sent, the
// error wraps ErrOutcomeUnknown: the value may be stored, or may be yet, even after a
// later write. After any other error nothing was stored.
func (l *Engine) Write(ctx context.Context, w Writing) error {
	cmd := l.leases.write(ctx, w)
	if err := l.alter(ctx, w.Key, len(w.Payload), cmd); err != nil {
		return err
	}
	return l.leases.settle(ctx, w, cmd)
}

// Delete is Leases.Delete. If it is of one key, it leaves together with what others write,
// if a few are under way, and then returns when ctx ends.
func (l *Engine) Delete(ctx context.Context, keys []string) []error {
	if len(keys) != 1 {
		return l.leases.Delete(ctx, keys)
	}
	cmd := l.leases.unlink(ctx, keys[0])
	err := l.alter(ctx, keys[0], 0, cmd)
	if err == nil {
		err = l.leases.unlinked(cmd)
	}
	return []error{err}
}

// alter sends cmd, which changes the entry of key. If the error is not nil, cmd must not
// be looked at.
func (l *Engine) alter(ctx context.Context, key string, size int, cmd redis.Cmder) error {
	if l.apart {
		_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
		return nil
	}
	at, _ := l.leases.place(key)
	return l.gather.Write(ctx, at, size, cmd)
}

// Write is Engine.Write, sent by itself.
func (l *Leases) Write(ctx context.Context, key string, payload []byte, life Life) error {
	w := Writing{Key: key, Payload: payload, Life: life}
	cmd := l.write(ctx, w)
	_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
	return l.settle(ctx, w, cmd)
}

// WriteMany is Write for several keys, in one round trip for each 500; and in another one
// if some of them held something else than an entry. It returns an error for each, nil
// where all is well.
func (l *Leases) WriteMany(ctx context.Context, ws []Writing) []error {
	errs, cmds := make([]error, len(ws)), make([]redis.Cmder, len(ws))
	for i, w := range ws {
		cmds[i] = l.write(ctx, w)
	}
	for some := range slices.Chunk(cmds, convoy.Most) {
		_ = script.Exec(ctx, l.rdb, some) // each has its own error
	}
	var calls []*script.Call
	var is []int
	for i, w := range ws {
		var call *script.Call
		if call, errs[i] = l.rest(w, cmds[i]); call != nil {
			calls, is = append(calls, call), append(is, i)
		}
	}
	convoy.Run(ctx, l.rdb, calls)
	for j, call := range calls {
		errs[is[j]] = written(call)
	}
	return errs
}

// write returns the command that writes a value: a SET if it is plain, or else a script.
// See rest.
func (l *Leases) write(ctx context.Context, w Writing) redis.Cmder {
	if l.plain(w) {
		return l.set(ctx, w)
	}
	return l.writing(w).Command(ctx, false)
}

// settle does what is left to do after write, and returns the error.
func (l *Leases) settle(ctx context.Context, w Writing, cmd redis.Cmder) error {
	call, err := l.rest(w, cmd)
	if call == nil {
		return err
	}
	_ = call.Run(ctx, l.rdb) // the error is in call
	return written(call)
}

// rest returns the script that is left to be run after write; or nil, and the error.
//
// A server may not know the script of Write. After a SET, those who wait for a lease that
// was there are to be woken. If what comes back is no entry of this key, it may be no
// answer to a SET either; and of a key that is no string it cannot be told. Then a script
// writes.
func (l *Leases) rest(w Writing, cmd redis.Cmder) (*script.Call, error) {
	if cmd.Name() != "set" {
		if script.NotKnown(cmd.Err()) {
			return l.writing(w), nil
		}
		call := new(script.Call)
		call.Reply, call.Err = script.Write.Reply(cmd)
		return nil, written(call)
	}
	err := cmd.Err()
	old, _ := script.Inner(cmd).Val().(string)
	h, _, ok := entry.Parse(w.Key, []byte(old))
	switch {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case wrongType(err), err == nil && !ok:
		return l.writing(w), nil
	case err != nil:
		return nil, script.With(cmd, script.Unquoted(err))
	case h.Flags&entry.Awaited != 0 && h.Leased():
		return &script.Call{Script: script.Wake, Key: w.Key}, nil
	}
	return nil, nil
}

// written returns the error of a script of rest. Who is not woken looks again in time.
func written(call *script.Call) error {
	if call.Script == script.Wake {
		return nil
	}
	_, err := number(call, 1)
	return err
}

func (l *Leases) writing(w Writing) *script.Call {
	keep, fresh := w.Life.Args()
	h := entry.Header{State: entry.Value, Token: entry.NewToken(), Sum: entry.Sum(w.Key, w.Payload)}
	return l.call(script.Write, w.Key, h.Append(nil), keep, fresh, w.Payload)
}

// mostPlain is how many bytes a payload has at most that is written by a SET: what was
// there comes back, and may be as large.
const mostPlain = 1 << 10

// plain reports whether a value can be written by a SET, which is done in a tenth of the
// time of a script. The clock of the server is the one that counts, and a SET cannot put
// its time into an entry. It need not where Redis ends a value when it is stale: then the
// end that the entry states, by the writer's clock, matters only if the TTL is lost.
func (l *Leases) plain(w Writing) bool {
	return !l.packed && !l.timed && w.Life.Keep == w.Life.Fresh && w.Life.Keep >= time.Millisecond && len(w.Payload) <= mostPlain
}

// set returns the SET of a value that is plain. Its reply is what was there.
func (l *Leases) set(ctx context.Context, w Writing) redis.Cmder {
	h := entry.Header{State: entry.Value, Soft: entry.Forever, Token: entry.NewToken(), Sum: entry.Sum(w.Key, w.Payload)}
	h.Born = time.Now().UnixMilli() // by our own clock, as Soft is
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
// returns an error for each, nil where all is well.
func (l *Leases) ExpireMany(ctx context.Context, keys []string) []error {
	calls := make([]*script.Call, len(keys))
	for i, key := range keys {
		calls[i] = l.expiring(key)
	}
	return pipeline(ctx, l.rdb, calls)
}

// Delete takes the entries of keys away, and leases with them, in one round trip. It
// sends one command a key, since keys may live on different nodes, and returns an
// error for each, nil where all is well.
func (l *Leases) Delete(ctx context.Context, keys []string) []error {
	errs := make([]error, len(keys))
	if len(keys) == 1 {
		cmd := l.unlink(ctx, keys[0])
		_ = script.Do(ctx, l.rdb, cmd) // the error is in cmd
		errs[0] = l.unlinked(cmd)
		return errs
	}
	cmds, all := make([]*redis.IntCmd, len(keys)), make([]redis.Cmder, len(keys))
	for i, key := range keys {
		cmds[i] = l.unlink(ctx, key)
		all[i] = cmds[i]
	}
	_ = script.Exec(ctx, l.rdb, all) // each has its own error
	for i, cmd := range cmds {
		errs[i] = l.unlinked(cmd)
	}
	return errs
}

// pipeline runs calls that reply 0 or 1, and returns the error of each.
func pipeline(ctx context.Context, rdb redis.UniversalClient, calls []*script.Call) []error {
	convoy.Run(ctx, rdb, calls)
	errs := make([]error, len(calls))
	for i, c := range calls {
		_, errs[i] = number(c, 1)
	}
	return errs
}
