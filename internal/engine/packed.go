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

// Only this file knows where in Redis an entry is; the rest of the package uses
// its key. If Options.Packed is set, an entry is a field of a hash, and its key
// is "hash field", split at the last space.

// locate returns where the entry of key is: the key in Redis, and the field if
// it is packed.
func (l *Leases) locate(key string) (at, field string) {
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
	at, field := l.locate(key)
	return &script.Call{Script: s.Packed(), Key: at, Args: append(args, l.retainStale, field)}
}

// get queues on c, or sends, the command that reads an entry.
func (l *Leases) get(ctx context.Context, c redis.Cmdable, key string) *redis.StringCmd {
	if !l.packed {
		return c.Get(ctx, key)
	}
	at, field := l.locate(key)
	return c.HGet(ctx, at, field)
}

// readAlone sends get in a round trip of its own.
func (l *Leases) readAlone(ctx context.Context, key string) (b []byte, err error) {
	defer guard.Catch(guard.Client, &err)
	return l.get(ctx, l.rdb, key).Bytes()
}

// unlink returns the command that removes an entry.
func (l *Leases) unlink(ctx context.Context, key string) *redis.IntCmd {
	if !l.packed {
		return redis.NewIntCmd(ctx, "unlink", key)
	}
	at, field := l.locate(key)
	return redis.NewIntCmd(ctx, "hdel", at, field)
}

// unlinkErr returns the error of unlink. A key that is not a hash contains no
// packed entry.
func (l *Leases) unlinkErr(cmd *redis.IntCmd) error {
	switch n, err := cmd.Result(); {
	case err != nil && l.packed && isWrongType(err):
		return nil
	case err == nil && (n < 0 || n > 1): // of one key
		return errReply
	default:
		return err
	}
}

// parse is entry.Parse, or entry.ParsePacked if entries are packed.
func (l *Leases) parse(key string, b []byte) (entry.Header, []byte, bool) {
	if l.packed {
		return entry.ParsePacked(key, b)
	}
	return entry.Parse(key, b)
}

// maxHMGetFields is the number of fields that one HMGET reads. Redis may scan a
// thousand earlier fields to find each.
const maxHMGetFields = 128

// groupByHash queues on p the commands that read keys: one for each 128 fields
// of a hash. It returns a single command for each key, and the index of the
// queued command that reads it. After a queued command was answered, distribute
// with its index gives its keys their replies.
func (l *Leases) groupByHash(ctx context.Context, p redis.Pipeliner, keys []string) (cmds []*redis.StringCmd, of []int, distribute func(n int)) {
	type hash struct {
		at     string
		n      int // its index in hashes
		fields []string
		cmds   []*redis.StringCmd // one for each field
		cmd    *redis.SliceCmd
	}
	var hashes []*hash
	index := make(map[string]*hash)
	cmds, of = make([]*redis.StringCmd, len(keys)), make([]int, len(keys))
	for i, key := range keys {
		at, field := l.locate(key)
		h := index[at]
		if h == nil || len(h.fields) == maxHMGetFields {
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
