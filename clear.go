package cachex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"syscall"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
)

// Clear removes the values of all keys of this cache, that is all keys that
// Spec.Key can render. It returns how many entries Redis reports as removed.
// Like Delete, it fences loads in flight. After Clear has returned nil, no
// later call in any process returns a value that was stored, or whose load
// began, before the Clear. Keys written during the Clear may stay.
//
// Clear walks SCAN on every master, a thousand keys at a time, and sends UNLINK
// for the keys of this cache. Redis serves other commands in between. The time
// of Clear grows with all keys in Redis, including those of other programs:
// seconds for a million keys. See WithProgress. ctx is checked between batches.
// With Spec.Packed, Clear removes hashes and counts the entries in them,
// including ended ones.
//
// A SCAN covers one server and its keys. If the server fails over or restarts
// during the walk, or a Cluster moves slots, some keys may stay although Clear
// returned nil. For example, a key that moves behind the walk is found on
// neither server. Call Clear again when the move is over. Keys on a shard that
// a Ring considers down may stay too.
//
// The error is an *Error: the error of Redis, or the cause of the end of ctx.
// If Spec.KeyFunc is set or Spec.Key begins with a placeholder, the keys cannot
// be recognized, and Clear returns an error and sends nothing. The same holds
// if it cannot reach all masters, as through the AutoPipeline of a
// ClusterClient. Entries removed before an error are counted and stay removed.
// If one of several masters fails, the others are still cleared to the end.
// Clear may be called again, and concurrently.
func (c *Cache[K, V]) Clear(ctx context.Context) (int64, error) {
	return c.keyed.core.clear(ctx, c.keyed.keyMatcher)
}

// clear implements Cache.Clear. matcher returns the SCAN pattern and the
// predicate of the keys.
func (c *core) clear(ctx context.Context, matcher func() (pattern string, match func(string) bool, err error)) (int64, error) {
	if err := c.admit(ctx, OpClear); err != nil {
		return 0, err
	}
	defer c.calls.exit()
	pattern, match, err := matcher()
	if err != nil {
		return 0, c.fail(OpClear, "", err)
	}
	s := &clearRun{pattern: pattern, match: match, packed: c.settings.packed != 0}
	s.progress, _ = ctx.Value(progressKey{}).(func(Progress))
	walk, err := s.allMasters(c.rdb)
	if err != nil {
		return 0, c.fail(OpClear, "", err)
	}
	// After the removal: see forChunks.
	defer c.engine.ForgetAll()
	ctx, obs := c.observe(ctx, OpClear, "", 0)
	err = guard.Call(guard.Client, func() error { return walk(ctx) })
	obs.end(ctx, 0, err)
	removed, panicked := s.result()
	switch {
	case err == nil:
		return removed, nil
	case panicked != nil || ctx.Err() != nil:
		return removed, c.fail(OpClear, "", cmp.Or(panicked, context.Cause(ctx)))
	}
	return removed, c.failRedis(ctx, OpClear, "", err)
}

// Progress is the state of a running Clear.
type Progress struct {
	Keys    int64 // keys on the masters that Clear has begun, of all programs; 0 if Redis does not report it
	Scanned int64 // approximate number of keys scanned
	Removed int64 // entries of this cache removed
}

// WithProgress returns a ctx for Clear. After each batch, Clear calls f with
// its progress on all masters together. Calls of f do not overlap, and Clear
// waits for them, so f must return soon. If f panics, Clear ends with the panic
// as its error. Other methods ignore this ctx value.
//
// The function travels in the ctx because it belongs to one call. As a
// parameter, it would be nil in most calls of Clear.
func WithProgress(ctx context.Context, f func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

type progressKey struct{}

// scanCount is the number of keys that Redis scans in one step. One step takes
// about a millisecond, during which Redis serves no other command.
const scanCount = 1000

// clearRun is one call of Clear.
type clearRun struct {
	pattern  string
	match    func(key string) bool
	packed   bool           // keys are hashes of packed entries
	progress func(Progress) // may be nil

	mu       sync.Mutex // held while progress is called
	sum      Progress   // guarded by mu: total of all masters
	panicked error      // guarded by mu: the panic of progress
}

// allMasters returns a function that walks every master of rdb.
func (s *clearRun) allMasters(rdb redis.UniversalClient) (func(context.Context) error, error) {
	topology, each, err := client.EachMaster(rdb)
	switch {
	case err != nil:
		return nil, err
	case topology == client.OneServer:
		return func(ctx context.Context) error { return s.walk(ctx, rdb, rdb) }, nil
	case topology == client.Ring:
		// Removes on the shard itself. If its set of shards changes, the Ring
		// looks for some keys on other shards, and finds them here again later.
		return func(ctx context.Context) error {
			return each(ctx, func(ctx context.Context, shard *redis.Client) error { return s.walk(ctx, shard, shard) })
		}, nil
	}
	// Removes by the ClusterClient, not by the master: a key may have moved
	// since the SCAN, and the ClusterClient follows it.
	return func(ctx context.Context) error {
		return each(ctx, func(ctx context.Context, master *redis.Client) error { return s.walk(ctx, master, rdb) })
	}, nil
}

var errSameCursor = errors.New("SCAN returned the cursor that it was called with")

// walk scans node, and removes the matching keys by rdb.
func (s *clearRun) walk(ctx context.Context, node, rdb redis.Cmdable) error {
	left, sized := int64(math.MaxInt64), false // keys left to scan, as far as known
	if s.progress != nil {
		if n, err := node.DBSize(ctx).Result(); err == nil { // a lasting error also fails SCAN
			left, sized = n, true
			s.mu.Lock()
			s.sum.Keys += n
			s.mu.Unlock()
		}
	}
	for cursor := uint64(0); ; {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		keys, next, err := node.Scan(ctx, cursor, s.pattern, scanCount).Result()
		if err != nil {
			return scanError(cursor, err)
		}
		scanned := min(scanCount, left) // an estimate: SCAN does not report it
		if sized && next == 0 {
			scanned = left
		}
		left -= scanned
		keys = slices.DeleteFunc(keys, func(key string) bool { return !s.match(key) })
		removed, err := s.remove(ctx, rdb, keys)
		if err := cmp.Or(err, s.addProgress(scanned, removed)); err != nil {
			return err
		}
		switch {
		case next == 0:
			return nil
		case next == cursor:
			return errSameCursor // would loop forever; no real Redis does this
		}
		cursor = next
	}
}

// remove unlinks keys and returns the number of removed entries. It sends one
// command per key, since keys of one node may have different slots.
func (s *clearRun) remove(ctx context.Context, rdb redis.Cmdable, keys []string) (removed int64, err error) {
	for batch := range slices.Chunk(keys, deleteChunk) {
		if ctx.Err() != nil {
			return removed, context.Cause(ctx)
		}
		cmds, sizes := make([]*redis.IntCmd, len(batch)), make([]*redis.IntCmd, len(batch))
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for i, rkey := range batch {
				if s.packed {
					sizes[i] = p.HLen(ctx, rkey)
				}
				cmds[i] = p.Unlink(ctx, rkey)
			}
			return nil
		})
		if s.packed && err != nil && redis.HasErrorPrefix(err, "WRONGTYPE") {
			err = nil // an error of HLEN; UNLINK is checked below
		}
		for i, cmd := range cmds {
			// An AutoPipeline may return from Pipelined before the replies
			// arrive; cmd waits for its reply.
			switch {
			case cmd.Err() != nil:
			case s.packed && cmd.Val() > 0 && sizes[i].Err() == nil:
				removed += sizes[i].Val()
			default:
				removed += cmd.Val()
			}
			err = cmp.Or(err, cmd.Err())
		}
		if err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// addProgress counts the work of one batch and calls progress. It returns the
// panic of progress, from this call or an earlier one.
func (s *clearRun) addProgress(scanned, removed int64) (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sum.Scanned += scanned
	s.sum.Removed += removed
	if s.progress == nil || s.panicked != nil {
		return s.panicked
	}
	s.panicked = guard.Call(progressCode, func() error { s.progress(s.sum); return nil })
	return s.panicked
}

// progressCode names the function of WithProgress in errors.
var progressCode = guard.Named("the function of WithProgress")

// result returns the number of removed entries, and the panic of progress.
func (s *clearRun) result() (removed int64, panicked error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum.Removed, s.panicked
}

// scanError adds a hint to the error of a SCAN at cursor if the command was
// probably refused. A proxy that does not know a command may return an error
// or, like twemproxy, close the connection.
func scanError(cursor uint64, err error) error {
	hungUp := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if cursor == 0 && hungUp || redis.HasErrorPrefix(err, "unknown command") || redis.HasErrorPrefix(err, "NOPERM") {
		return fmt.Errorf("Clear needs SCAN, which some proxies and ACLs refuse: %w", err)
	}
	return err
}
