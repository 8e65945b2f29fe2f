package engine

import (
	"context"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// All else in this package calls an entry by its key, and knows only here where in
// Redis it is. That of a packed entry, see Options.Packed, is in the field of a hash,
// and "hash field" is its key: the last space is where the two part.

// place returns where the entry of key is: the key in Redis, and the field if it is
// packed.
func (l *Leases) place(key string) (at, field string) {
	if !l.packed {
		return key, ""
	}
	i := strings.LastIndexByte(key, ' ')
	if i < 0 {
		return key, ""
	}
	return key[:i], key[i+1:]
}

// call returns the call of a script.
func (l *Leases) call(s *script.Script, key string, args ...any) *script.Call {
	if !l.packed {
		return &script.Call{Script: s, Key: key, Args: args}
	}
	at, field := l.place(key)
	return &script.Call{Script: s.Packed(), Key: at, Args: append(args, l.stale, field)}
}

// get queues on c, or sends, the command that reads an entry.
func (l *Leases) get(ctx context.Context, c redis.Cmdable, key string) *redis.StringCmd {
	if !l.packed {
		return c.Get(ctx, key)
	}
	at, field := l.place(key)
	return c.HGet(ctx, at, field)
}

// read sends get by itself.
func (l *Leases) read(ctx context.Context, key string) (b []byte, err error) {
	defer guard.Catch(guard.Client, &err)
	return l.get(ctx, l.rdb, key).Bytes()
}

// unlink returns the command that takes an entry away.
func (l *Leases) unlink(ctx context.Context, key string) *redis.IntCmd {
	if !l.packed {
		return redis.NewIntCmd(ctx, "unlink", key)
	}
	at, field := l.place(key)
	return redis.NewIntCmd(ctx, "hdel", at, field)
}

// unlinked returns the error of unlink. What is no hash has no packed entry.
func (l *Leases) unlinked(cmd *redis.IntCmd) error {
	switch n, err := cmd.Result(); {
	case err != nil && l.packed && wrongType(err):
		return nil
	case err == nil && (n < 0 || n > 1): // of one key
		return errReply
	default:
		return err
	}
}

// parse is entry.Parse, or ParsePacked.
func (l *Leases) parse(key string, b []byte) (entry.Header, []byte, bool) {
	if l.packed {
		return entry.ParsePacked(key, b)
	}
	return entry.Parse(key, b)
}

// mostFields is how many fields one HMGET reads. Each of them is found by looking at those
// before it, of which there may be a thousand.
const mostFields = 128

// hashes queues on p the commands that read keys, one for each 128 of a hash. It
// returns the command that there would be for each key, and the number of the one that
// reads it. The keys of a command have their answers when deal was called with its
// number, after the command was answered.
func (l *Leases) hashes(ctx context.Context, p redis.Pipeliner, keys []string) (cmds []*redis.StringCmd, of []int, deal func(n int)) {
	type hash struct {
		at     string
		n      int // which of hashes it is
		fields []string
		cmds   []*redis.StringCmd // by field
		cmd    *redis.SliceCmd
	}
	var hashes []*hash
	index := make(map[string]*hash)
	cmds, of = make([]*redis.StringCmd, len(keys)), make([]int, len(keys))
	for i, key := range keys {
		at, field := l.place(key)
		h := index[at]
		if h == nil || len(h.fields) == mostFields {
			h = &hash{at: at, n: len(hashes)}
			hashes, index[at] = append(hashes, h), h // in the order of keys
		}
		cmds[i], of[i] = redis.NewStringCmd(ctx, "hget", at, field), h.n
		h.fields, h.cmds = append(h.fields, field), append(h.cmds, cmds[i])
	}
	for _, h := range hashes {
		h.cmd = p.HMGet(ctx, h.at, h.fields...)
	}
	return cmds, of, func(n int) {
		h := hashes[n]
		values, err := h.cmd.Result()
		if err == nil && len(values) != len(h.cmds) {
			err = convoy.ErrSilent
		}
		for j, cmd := range h.cmds {
			if err != nil {
				cmd.SetErr(err)
			} else if s, there := values[j].(string); there {
				cmd.SetVal(s)
			} else {
				cmd.SetErr(redis.Nil)
			}
		}
	}
}
