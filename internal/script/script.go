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
	packed         *Script // nil: it is not there
}

// New returns the script of a name, for errors, and its source. What a late copy
// of it does is in the row of its name in lates.
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

// All returns all scripts, for tests that have to know of each.
func All() []*Script {
	registry.Lock()
	defer registry.Unlock()
	return slices.Clone(registry.all)
}

// Name returns the name of the script, by which its row is found.
func (s *Script) Name() string { return s.name }

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

// Late says what a late copy of the script does.
func (s *Script) Late() Late { return s.late }

// Run runs the script and returns its reply, as [Call.Run] does.
func (s *Script) Run(ctx context.Context, rdb redis.UniversalClient, key string, args ...any) (any, error) {
	c := Call{Script: s, Key: key, Args: args}
	err := c.Run(ctx, rdb)
	return c.Reply, err
}

// Queue queues the script on a pipeline, as one of which a late copy is harmless. The
// server may not know it: then the error of Reply says NOSCRIPT, see [NotKnown], and it
// is to be had by Run.
func (s *Script) Queue(ctx context.Context, p redis.Cmdable, key string, args ...any) *redis.Cmd {
	return p.EvalSha(ctx, s.sha, []string{key}, args...)
}

// Reply returns the reply to a command of the script, when it was sent. A reply
// that is nil is no error. The error wraps ErrOutcomeUnknown as that of [Err].
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

// Unquoted returns err without the arguments that a server quotes which lacks a command,
// EVALSHA say: some of them are values.
func Unquoted(err error) error {
	if text, _, quotes := strings.Cut(err.Error(), ", with args beginning with"); quotes {
		return redact.Error(text, err)
	}
	return err
}
