package cachex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// core is a Cache without its types. It is compiled once for all caches of a
// program, so code that needs neither K nor V is a method of core.
type core struct {
	name          string
	settings      settings
	rdb           redis.UniversalClient
	values        boxCodec
	engine        *engine.Engine      // nil until openEngine
	writeBehind   *writebehind.Engine // nil without Spec.WriteBehind
	observer      Observer
	hasUp         bool // Up or UpMany is set
	zeroIfMissing bool // a missing key has the zero value: see kind.Kind

	calls         callGroup
	release       func()          // releases the template
	closing       context.Context // ends with Close, for calls that run until then
	end           context.CancelFunc
	redisFailures atomic.Int64 // of writes

	observerFailures atomic.Int64

	drainKind func(ctx context.Context, closing bool) error // nil if there is no kind, or it buffers nothing
}

// boxCodec is the part of values that core uses.
type boxCodec interface {
	engine.Codec

	// slab returns boxes for n values.
	slab(n int) slab
}

// slab is a set of boxes for values that are read together.
type slab interface {
	engine.Targets

	// free returns the slab to its pool. The boxes must not be used afterwards.
	free()
}

// open checks that the client is fit for a cache, and initializes c. values is
// the type of the cache's values, and template is the name of its template. If
// the cache is not created after all, the caller must call c.release.
func (c *core) open(rdb redis.UniversalClient, set *settings, template string, values reflect.Type) (err error) {
	c.name, c.settings, c.rdb, c.observer, c.release = cmp.Or(set.name, template), *set, rdb, set.observer, func() {}
	if set.writeBehind != 0 { // a pending write could be lost, which is worse than stale
		err = client.CheckShards(rdb)
	}
	if err == nil {
		err = client.CheckReads(rdb, set.allowStaleReads, "Spec.AllowStaleReads")
	}
	if err == nil && set.key != "" {
		of := "cache"
		if set.counts {
			of = "counter"
		}
		var release func()
		if release, err = client.TemplatesOf(rdb).Claim(set.key, set.packed, of, c.name, values); err == nil {
			c.release = release
		}
	}
	c.closing, c.end = context.WithCancel(context.Background())
	return err
}

// openEngine creates the engine, which decodes into boxes of vs.
func (c *core) openEngine(vs boxCodec) (err error) {
	set := &c.settings
	c.values = vs
	c.engine, err = engine.New(c.rdb, vs, engine.Options{
		LeaseTTL:             set.leaseTTL,
		Timeout:              set.upTimeout,
		MaxLoads:             set.maxLoads,
		StaleWhileRevalidate: set.swr,
		StaleIfError:         set.sie,
		SoftTimeout:          set.softTimeout,
		Backoff:              set.backoff,
		EarlyRefresh:         set.earlyRefresh,
		Packed:               set.packed > 0,
		NoCombining:          set.noCombining,
	})
	return err
}

// close implements Cache.Close.
func (c *core) close(ctx context.Context) error {
	if ctx == nil {
		return c.fail("close", "", errNilContext)
	}
	drained := c.drain(ctx, true)
	var late error
	idle := c.calls.close()
	c.end()
	c.release()
	select {
	case <-idle:
	default:
		select {
		case <-idle:
		case <-ctx.Done():
			late = context.Cause(ctx)
		}
	}
	var persisted error
	if c.writeBehind != nil {
		persisted = c.writeBehind.Close(ctx)
	}
	if err := cmp.Or(errors.Join(persisted, drained), c.engine.Close(ctx), late); err != nil {
		return c.fail("close", "", err)
	}
	return nil
}

// enter begins a call for the key rkey in Redis, or returns the error of the
// call. If bad is not nil, it is the cause. If the error is nil, the caller
// must call c.calls.exit.
func (c *core) enter(ctx context.Context, op, rkey string, bad error) (string, error) {
	if err := c.admit(ctx, op); err != nil {
		return "", err
	}
	if bad != nil {
		c.calls.exit()
		return "", c.fail(op, "", bad)
	}
	return rkey, nil
}

// admit is enter for a call without a single key.
func (c *core) admit(ctx context.Context, op string) error {
	if ctx == nil {
		return c.fail(op, "", errNilContext)
	}
	if !c.calls.enter() {
		return c.fail(op, "", ErrClosed)
	}
	if ctx.Err() != nil {
		c.calls.exit()
		return c.fail(op, "", context.Cause(ctx))
	}
	return nil
}

func (c *core) fail(op, key string, err error) error {
	return &Error{Op: op, Cache: c.name, Key: key, Err: err}
}

// failUnlessNil returns nil if err is nil, and otherwise the error of a call
// without a key.
func (c *core) failUnlessNil(op string, err error) error {
	if err == nil {
		return nil
	}
	return c.fail(op, "", err)
}

// failRedis counts a failure of Redis and returns the error of the call.
func (c *core) failRedis(ctx context.Context, op, key string, err error) error {
	c.redisFailures.Add(1)
	return c.fail(op, key, script.Cause(ctx, err))
}

// forChunks calls do for n keys in Redis, deleteChunk at a time. render returns
// the i-th key. do returns the first key that failed.
func (c *core) forChunks(ctx context.Context, op string, n int, render func(i int) (string, error), do func(context.Context, []string) (string, error)) error {
	if err := c.admit(ctx, op); err != nil {
		return err
	}
	defer c.calls.exit()
	rkeys := make([]string, n)
	for i := range rkeys {
		rkey, err := render(i)
		if err != nil {
			return c.fail(op, "", err)
		}
		rkeys[i] = rkey
	}
	if len(rkeys) == 0 {
		return nil
	}
	ctx, obs := c.observe(ctx, op, rkeys[0], len(rkeys))
	// After the writes: a load that began before may have read an outdated
	// value, and must not be joined.
	defer c.engine.Forget(rkeys...)
	var err error
	for some := range slices.Chunk(rkeys, deleteChunk) {
		began := time.Now()
		rkey, failed := do(ctx, some)
		c.engine.Observe(ctx, cmp.Or(rkey, some[0]), began, failed)
		if failed != nil {
			err = c.failRedis(ctx, op, rkey, failed)
			break
		}
	}
	obs.end(ctx, 0, err)
	return err
}

// unlink deletes keys, and returns the first one that failed.
func (c *core) unlink(ctx context.Context, keys []string) (string, error) {
	for i, err := range c.engine.Delete(ctx, keys) {
		if err != nil {
			return keys[i], err
		}
	}
	return "", nil
}

// expire makes keys stale, and returns the first one that failed.
func (c *core) expire(ctx context.Context, keys []string) (string, error) {
	for i, err := range c.engine.Leases().ExpireMany(ctx, keys) {
		if err != nil {
			return keys[i], err
		}
	}
	return "", nil
}

// write stores a value without calling Down.
func (c *core) write(ctx context.Context, w engine.Write) error {
	began := time.Now()
	err := c.engine.Write(ctx, w)
	c.engine.Observe(ctx, w.Key, began, err)
	c.engine.Forget(w.Key) // after the write: callers that join a load from now on must see it
	if err != nil {
		return c.failRedis(ctx, OpSet, w.Key, err)
	}
	return nil
}

// writeMany stores values without calling Down.
func (c *core) writeMany(ctx context.Context, ws []engine.Write, rkeys []string) []error {
	began := time.Now()
	errs := c.engine.Leases().WriteMany(ctx, ws)
	c.engine.Observe(ctx, rkeys[0], began, errs[0])
	c.engine.Forget(rkeys...)
	return errs
}

// firstError returns the first error of the writes, as the error of the call.
func (c *core) firstError(ctx context.Context, op string, rkeys []string, errs []error) error {
	for i, err := range errs {
		switch _, down := errors.AsType[*downError](err); {
		case err == nil:
		case down:
			return c.fail(op, rkeys[i], err)
		default:
			return c.failRedis(ctx, op, rkeys[i], err)
		}
	}
	return nil
}

// lifetime returns the lifetime of a value, with jitter applied. ttlFor calls
// Spec.TTLFor for the value; it may be nil.
func (c *core) lifetime(ttlFor func() time.Duration) (life engine.Life, err error) {
	ttl, stale := c.settings.ttl, c.settings.swr+c.settings.sie
	if ttlFor != nil {
		defer guard.Catch(ttlForCode, &err)
		if d := ttlFor(); d != 0 {
			err := engine.CheckLife(d)
			if err == nil {
				err = engine.CheckLife(retention(d, stale))
			}
			if err != nil {
				return engine.Life{}, fmt.Errorf("Spec.TTLFor: %w", err)
			}
			ttl = d
		}
	}
	ttl = c.jittered(ttl)
	return engine.Life{Fresh: ttl, Keep: retention(ttl, stale)}, nil
}

// ttlForCode names Spec.TTLFor in errors.
var ttlForCode = guard.Named("Spec.TTLFor")

// retention returns the Redis TTL of a value that is fresh for ttl.
func retention(ttl, stale time.Duration) time.Duration {
	if ttl == Forever || ttl > Forever-stale {
		return ttl
	}
	return ttl + stale
}

// jittered returns ttl with jitter applied.
func (c *core) jittered(ttl time.Duration) time.Duration {
	share := max(c.settings.jitter, 0) // NoJitter is negative
	if off := int64(share * float64(ttl.Milliseconds())); off > 0 && ttl != Forever {
		return max(ttl-time.Duration(rand.Int64N(off+1))*time.Millisecond, time.Millisecond)
	}
	return ttl
}

// notFoundLifetime returns the lifetime of a remembered ErrNotFound.
func (c *core) notFoundLifetime() engine.Life {
	if c.settings.notFoundTTL == 0 {
		return engine.Life{}
	}
	ttl := c.jittered(c.settings.notFoundTTL)
	return engine.Life{Fresh: ttl, Keep: ttl}
}
