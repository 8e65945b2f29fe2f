// Package script has the scripts that cachex runs in Redis, such as the lease
// protocol, and sends them.
//
// Every script touches one key, its KEYS[1]. So it runs on any node of a
// Cluster that owns the key, and through a proxy that routes by the key. (If a
// script has two keys, a proxy runs it on the server of the first, without an
// error.) The scripts of write-behind and of trending rankings are the
// exception. Their keys share a hash tag, and only these scripts touch the keys
// behind the first. Scripts read the time of the server; no clock of a client
// decides anything.
package script

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/redact"
)

// A Script is Lua source and its digest. It is safe for concurrent use.
type Script struct {
	name, src, sha string
	late           Late
	packed         *Script // nil: the script has no packed form
}

// New returns a script with a name, which errors show, and its source. The row
// of the name in lates tells the effect of a late copy of the script.
func New(name, src string) *Script {
	sum := sha1.Sum([]byte(src))
	s := &Script{name: name, src: src, sha: hex.EncodeToString(sum[:]), late: late(name)}
	registry.Lock()
	defer registry.Unlock()
	registry.all = append(registry.all, s)
	return s
}

var registry struct {
	sync.Mutex
	all []*Script // guarded by the Mutex
}

// All returns all scripts, for tests that must know each of them.
func All() []*Script {
	registry.Lock()
	defer registry.Unlock()
	return slices.Clone(registry.all)
}

// Name returns the name of the script, which is also the key of its row in
// lates.
func (s *Script) Name() string { return s.name }

// basics begins every script. It has functions for numbers of six bytes, big
// endian, and for the milliseconds of the server's clock.
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

// Packed returns the script for packed entries, or nil if there is none.
// KEYS[1] is the hash. Two more arguments follow the others: the milliseconds
// for which a value is of use after it is stale, "" forever; and the field. The
// packed script has the same replies, and is safe for the same reasons.
func (s *Script) Packed() *Script { return s.packed }

// SHA returns the digest by which a server knows the script.
func (s *Script) SHA() string { return s.sha }

// Late returns the effect of a late copy of the script.
func (s *Script) Late() Late { return s.late }

// Run runs the script and returns its reply, as [Call.Run] does.
func (s *Script) Run(ctx context.Context, rdb redis.UniversalClient, key string, args ...any) (any, error) {
	c := Call{Script: s, Key: key, Args: args}
	err := c.Run(ctx, rdb)
	return c.Reply, err
}

// Queue queues the script on a pipeline, as a command whose late copy is
// harmless. If the server does not know the script, the error of Reply says
// NOSCRIPT, see [NotKnown]. The caller can then call Run.
func (s *Script) Queue(ctx context.Context, p redis.Cmdable, key string, args ...any) *redis.Cmd {
	return p.EvalSha(ctx, s.sha, []string{key}, args...)
}

// Reply returns the reply to a command of the script that was sent. A nil reply
// is not an error. Like the error of [Err], this one may wrap
// ErrOutcomeUnknown.
func (s *Script) Reply(cmd redis.Cmder) (any, error) {
	switch err := cmd.Err(); {
	case errors.Is(err, redis.Nil):
		return nil, nil
	case err != nil:
		return nil, With(cmd, s.fail(err))
	}
	return Inner(cmd).Val(), nil
}

// NotKnown reports whether err says that the server does not know the script.
func NotKnown(err error) bool { return err != nil && redis.HasErrorPrefix(err, "NOSCRIPT") }

// fail names the script in an error.
func (s *Script) fail(err error) error { return fmt.Errorf("script %s: %w", s.name, Unquoted(err)) }

// Unquoted returns err without the arguments that it quotes: some are values. A
// server quotes them if it lacks a command, such as EVALSHA.
func Unquoted(err error) error {
	if text, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return redact.Error(text, err)
	}
	return err
}
