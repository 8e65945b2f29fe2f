// Package script is what Redis runs for cachex: the scripts of the lease
// protocol, and the way they are sent.
//
// Every script touches one key, its KEYS[1], so that it runs on any node of a
// Cluster that owns the key and through a proxy that routes by it. (A proxy runs
// a script of two keys on the server of the first, without an error.) The scripts
// of write-behind and of trending rankings are the exception: their keys share a hash
// tag, and all but the first are touched by these scripts alone. Scripts read the time of the server; no
// clock of a client decides anything.
package script

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/redact"
)

// A Script is Lua source and its digest. It is safe for concurrent use.
type Script struct {
	name, src, sha string
	packed         *Script // nil: it is not there
}

// New returns the script of a name, for errors, and its source.
func New(name, src string) *Script {
	sum := sha1.Sum([]byte(src))
	return &Script{name: name, src: src, sha: hex.EncodeToString(sum[:])}
}

// basics is the beginning of all scripts: numbers of six bytes, big endian, and
// milliseconds of the server's clock.
const basics = `
local key = KEYS[1]
local function get48(s)
  local a, b, c, d, e, f = string.byte(s, 1, 6)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end
local function put48(n)
  local hi, lo = math.floor(n / 16777216), n % 16777216
  return string.char(math.floor(hi / 65536) % 256, math.floor(hi / 256) % 256, hi % 256,
    math.floor(lo / 65536), math.floor(lo / 256) % 256, lo % 256)
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
`

// Source returns the Lua source.
func (s *Script) Source() string { return s.src }

// Packed returns the script for entries that are packed. KEYS[1] is the hash, and two
// more arguments come behind the others: for how many milliseconds a value is of use
// after it is stale, "" forever; and the field. Of what it returns, and why it is safe,
// the same is true. It is nil if there is none.
func (s *Script) Packed() *Script { return s.packed }

// SHA returns the digest by which a server knows the script.
func (s *Script) SHA() string { return s.sha }

// Run runs the script and returns its reply. A server that does not know the
// script is sent its source by EVAL; SCRIPT LOAD is never sent, since a proxy
// closes the connection on it and a Cluster would need it on every node.
//
// The client may retry the command when the connection breaks, so Run is for
// scripts that may run twice. A reply that is nil is no error.
func (s *Script) Run(ctx context.Context, rdb redis.UniversalClient, key string, args ...any) (any, error) {
	return s.run(ctx, rdb, false, key, args)
}

// RunOnce is Run for a script that must not be sent twice: the client does not
// retry it. After an error that is not a Redis error, nobody knows whether the
// script ran, or will.
func (s *Script) RunOnce(ctx context.Context, rdb redis.UniversalClient, key string, args ...any) (any, error) {
	return s.run(ctx, rdb, true, key, args)
}

// Queue queues the script on a pipeline, as one that may be sent twice. The server
// may not know it: then the error of Reply says NOSCRIPT, see [NotKnown], and it is to
// be had by Run.
func (s *Script) Queue(ctx context.Context, p redis.Cmdable, key string, args ...any) *redis.Cmd {
	return p.EvalSha(ctx, s.sha, []string{key}, args...)
}

// Reply returns the reply to what Queue has queued, when it was sent. A reply that is
// nil is no error.
func (s *Script) Reply(cmd *redis.Cmd) (any, error) { return s.reply(cmd) }

// NotKnown reports whether err says that the server does not know the script.
func NotKnown(err error) bool { return err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") }

func (s *Script) run(ctx context.Context, rdb redis.UniversalClient, once bool, key string, args []any) (any, error) {
	return s.runKeys(ctx, rdb, once, key, nil, args)
}

func (s *Script) runKeys(ctx context.Context, rdb redis.UniversalClient, once bool, key string, more []string, args []any) (any, error) {
	for _, source := range []bool{false, true} {
		cmd := s.command(ctx, source, key, more, args)
		if once {
			_ = rdb.Process(ctx, noRetry{cmd})
		} else {
			_ = rdb.Process(ctx, cmd)
		}
		// Not the error of Process: an AutoPipeline may return from it before the
		// reply is there, and cmd waits for that.
		if !NotKnown(cmd.Err()) {
			Failed(rdb, cmd.Err())
			return s.reply(cmd)
		}
	}
	return nil, fmt.Errorf("script %s: %w", s.name, redis.ErrNoScript)
}

// A Call is one script of a pipeline.
type Call struct {
	Script *Script
	Key    string   // KEYS[1], by which it is routed
	More   []string // KEYS[2] and so on, of the same hash tag
	Args   []any
	Once   bool // it must not be sent twice: then the client does not retry the pipeline

	// Reply and Err are what came back. Run sets them.
	Reply any
	Err   error
}

// Run runs one call by itself, as [Script.Run] and [Script.RunOnce] do, and
// returns its error.
func (c *Call) Run(ctx context.Context, rdb redis.UniversalClient) error {
	c.Reply, c.Err = c.Script.runKeys(ctx, rdb, c.Once, c.Key, c.More, c.Args)
	return c.Err
}

// Pipeline runs the calls in one round trip, or in two where a server did not
// know one of the scripts: the calls that were refused for that, and only
// these, are sent again by EVAL. Every call has its own Reply and Err; Pipeline
// returns an error only when a round trip failed, and then calls that were
// answered by another node still have their replies.
//
// The client may retry a pipeline as a whole, unless one of the calls is Once, or has
// several keys and may go to a Cluster. There a move of its slot may be in the way,
// TRYAGAIN: for that go-redis sends the pipeline again, and those of its commands that
// were told MOVED twice at once, which is a race for their replies.
func Pipeline(ctx context.Context, rdb redis.UniversalClient, calls []*Call) error {
	var failed error
	several := sync.OnceValue(func() bool { return client.TopologyOf(rdb) != client.OneServer })
	for _, source := range []bool{false, true} {
		var again []*Call
		cmds := make([]*redis.Cmd, len(calls))
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, c := range calls {
				cmds[i] = c.Script.command(ctx, source, c.Key, c.More, c.Args)
				if c.Once || len(c.More) > 0 && several() {
					_ = p.Process(ctx, noRetry{cmds[i]})
				} else {
					_ = p.Process(ctx, cmds[i])
				}
			}
			return nil
		})
		// The error of the pipeline is that of its first command that failed, and
		// says nothing of the others; unless a hook refused it as a whole, and left
		// the commands without an answer and without an error.
		for i, c := range calls {
			if cmds[i].Err() == nil && cmds[i].Val() == nil {
				cmds[i].SetErr(err)
			}
			c.Reply, c.Err = c.Script.reply(cmds[i])
			if NotKnown(c.Err) && !source {
				again = append(again, c)
			}
			if _, answered := errors.AsType[redis.Error](c.Err); c.Err != nil && !answered {
				Failed(rdb, c.Err)
				failed = fmt.Errorf("pipeline of %d scripts: %w", len(calls), c.Err)
			}
		}
		if len(again) == 0 {
			break
		}
		calls = again
	}
	return failed
}

func (s *Script) command(ctx context.Context, source bool, key string, more []string, args []any) *redis.Cmd {
	all := make([]any, 0, 4+len(more)+len(args))
	if source {
		all = append(all, "eval", s.src, 1+len(more), key)
	} else {
		all = append(all, "evalsha", s.sha, 1+len(more), key)
	}
	for _, key := range more {
		all = append(all, key)
	}
	return redis.NewCmd(ctx, append(all, args...)...)
}

func (s *Script) reply(cmd *redis.Cmd) (any, error) {
	v, err := cmd.Result()
	if errors.Is(err, redis.Nil) {
		return nil, nil
	}
	if err != nil {
		return nil, s.fail(err)
	}
	return v, nil
}

// fail names the script in an error.
func (s *Script) fail(err error) error { return fmt.Errorf("script %s: %w", s.name, Unquoted(err)) }

// Unquoted returns err without the arguments that a server quotes which lacks a command,
// EVALSHA say: some of them are values.
func Unquoted(err error) error {
	if text, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return redact.Error(text, err)
	}
	return err
}

// noRetry is a command that go-redis does not send again when the connection
// breaks after it may have been read.
type noRetry struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (noRetry) NoRetry() bool { return true }
