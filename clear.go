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

// Clear takes away the values of all keys of this cache, which are those that
// Spec.Key can have rendered, and returns how many Redis says were removed. It
// fences loads under way as Delete does: after Clear has returned nil, no call
// that starts later, in any process, returns a value that was stored, or whose
// load began, before Clear did. Keys written meanwhile may stay.
//
// It walks SCAN on every master, a thousand keys at a time, and sends UNLINK for
// those of this cache, so Redis is never held up, and others are served between.
// Its time is that of all keys in Redis, whoever's they are: seconds for a
// million. See WithProgress. ctx is heeded between batches. With Spec.Packed it takes
// away hashes, and counts the entries in them, those among them that have ended.
//
// A SCAN is of one server and its keys. If that fails over or restarts while
// Clear walks it, or a Cluster moves slots, some keys may stay although Clear
// returned nil: one that moves behind the walk is met on neither server. Clear again
// when that is over. So may those on a shard that a Ring holds to be down.
//
// The error is an *Error: of Redis, or the cause of the end of ctx; or it says
// that the keys cannot be told, since Spec.KeyFunc makes them or Spec.Key begins
// with a placeholder, or that all the masters cannot be reached, as through the
// AutoPipeline of a ClusterClient; then nothing was sent. What has been removed by
// then is counted and stays gone. Of several masters, those that do not fail are
// cleared to the end. It is safe to Clear again, and for several to Clear at once.
func (c *Cache[K, V]) Clear(ctx context.Context) (int64, error) {
	return c.keyed.core.clear(ctx, c.keyed.keyMatcher)
}

// clear is Cache.Clear. whole returns the pattern and the test of the keys.
func (c *core) clear(ctx context.Context, whole func() (pattern string, match func(string) bool, err error)) (int64, error) {
	if err := c.admit(ctx, OpClear); err != nil {
		return 0, err
	}
	defer c.calls.exit()
	pattern, match, err := whole()
	if err != nil {
		return 0, c.fail(OpClear, "", err)
	}
	s := &clearRun{pattern: pattern, match: match, packed: c.settings.packed != 0}
	s.progress, _ = ctx.Value(progressKey{}).(func(Progress))
	walk, err := s.allMasters(c.rdb)
	if err != nil {
		return 0, c.fail(OpClear, "", err)
	}
	// After the removal, for the reason that Delete has.
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

// Progress is how far a Clear has come.
type Progress struct {
	Keys    int64 // in Redis when Clear came there, of everybody; 0 if Redis does not tell
	Scanned int64 // about how many of these have been looked at
	Removed int64 // how many of this cache have been removed
}

// WithProgress returns a ctx whose Clear tells f after each batch how far it has
// come, on all masters together. f is called by one goroutine at a time, and
// Clear waits for it, so it must not take long. If it panics, the panic ends
// Clear as its error. Other calls than Clear pay it no heed.
//
// It comes with the ctx because it is about one call, and nobody who calls Clear
// in a test or a handler should have to pass a nil.
func WithProgress(ctx context.Context, f func(Progress)) context.Context {
	return context.WithValue(ctx, progressKey{}, f)
}

type progressKey struct{}

// scanCount is how many keys Redis looks at in one step. That takes it about a
// millisecond, in which nobody else is served.
const scanCount = 1000

// A sweep is the course of one Clear.
type clearRun struct {
	pattern  string
	match    func(key string) bool
	packed   bool           // the keys are those of hashes
	progress func(Progress) // nil: nobody asks

	mu       sync.Mutex // held while progress is called
	sum      Progress   // guarded by mu: of all masters
	panicked error      // guarded by mu: what became of progress
}

// over returns what walks every master of rdb.
func (s *clearRun) allMasters(rdb redis.UniversalClient) (func(context.Context) error, error) {
	topology, each, err := client.EachMaster(rdb)
	switch {
	case err != nil:
		return nil, err
	case topology == client.OneServer:
		return func(ctx context.Context) error { return s.walk(ctx, rdb, rdb) }, nil
	case topology == client.Ring:
		// Keys are removed not by the Ring: it would look for some on other shards, if
		// those have changed, and find them here again when they change back.
		return func(ctx context.Context) error {
			return each(ctx, func(ctx context.Context, shard *redis.Client) error { return s.walk(ctx, shard, shard) })
		}, nil
	}
	// Not by the master itself: a key may have moved to another one since it was
	// scanned, and the ClusterClient goes after it.
	return func(ctx context.Context) error {
		return each(ctx, func(ctx context.Context, master *redis.Client) error { return s.walk(ctx, master, rdb) })
	}, nil
}

var errSameCursor = errors.New("SCAN returned the cursor that it was given")

// walk scans node, and removes by rdb what is ours there.
func (s *clearRun) walk(ctx context.Context, node, rdb redis.Cmdable) error {
	left, sized := int64(math.MaxInt64), false // to be scanned, as far as is known
	if s.progress != nil {
		if n, err := node.DBSize(ctx).Result(); err == nil { // an error that matters comes again
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
		scanned := min(scanCount, left) // SCAN does not say
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
			return errSameCursor // which no Redis says: it would go on for ever
		}
		cursor = next
	}
}

// remove unlinks keys and returns how many entries were there. It sends one
// command a key, since those of one node may be of different slots.
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
			err = nil // of HLEN; that of UNLINK is looked at below
		}
		for i, cmd := range cmds {
			// An AutoPipeline may return from Pipelined before the reply is there, and
			// cmd waits for that.
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

// add counts what one batch has done, and tells of it. The error is the panic of
// progress, now or before.
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

// progress names the function of WithProgress in errors.
var progressCode = guard.Named("the function of WithProgress")

// end returns what add has made of it.
func (s *clearRun) result() (removed int64, panicked error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sum.Removed, s.panicked
}

// scanFailed says what a SCAN at cursor is for, where it looks as if it was
// refused. A proxy that does not know a command may say so or hang up, as
// twemproxy does.
func scanError(cursor uint64, err error) error {
	hungUp := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
	if cursor == 0 && hungUp || redis.HasErrorPrefix(err, "unknown command") || redis.HasErrorPrefix(err, "NOPERM") {
		return fmt.Errorf("Clear needs SCAN, which some proxies and ACLs refuse: %w", err)
	}
	return err
}
