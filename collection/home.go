package collection

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
	"github.com/cachex-go/cachex/loader"
)

// A home is what the kinds have in common: keys in Redis, and how a collection
// that is absent is restored. T is what Get returns.
type home[K comparable, T any] struct {
	name    string
	rdb     redis.UniversalClient
	key     *key.Template[K]
	ttl     time.Duration
	lease   time.Duration
	most    int  // members
	unique  bool // of a list: it has no repetitions
	scripts *script.Home

	up func(context.Context, K) (T, error) // nil: there is no source
	// tidy returns of what Up has returned what the collection has of it, in the order
	// of Get, and that as arguments of the script that stores it.
	tidy func(key string, v T) (T, []any, error)
	// ask adds the command that reads a collection, and open opens its reply. read
	// sends it by itself. It is one plain command. That of a Trending is a script, which a
	// server may not know, so it has a read of its own. So has a Set, which may be so large
	// that it is read in parts: then the error of open is errParts.
	ask  func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder
	open func(key string, reply redis.Cmder) (T, sight, error)
	read func(ctx context.Context, key string) (T, sight, error)
	// first returns what Get returns of a collection that was loaded, a copy: all who
	// waited for it have one of their own.
	first  func(T) T
	beside bool // the key has a hash tag, and is what others begin with

	gather  *gather.Client // of all who read on rdb; nil: every read is sent by itself
	size    gather.Size    // of a reply to ask
	closing sync.Once
	idle    <-chan struct{} // set by closing, which releases gather: closed when its reads have ended

	flights loader.Flights[loaded[T]]
	slots   *waitfor.Pool     // nil: no limit
	away    *circuit.Circuits // whether Redis is worth asking
	wakes   *wake.Listener    // of leases that other processes have; nil: poll only
	ticks   atomic.Int64      // tells what came before what, which a clock may be too coarse for
	stats   counters
}

// commonSpec is what all Specs have in common.
type commonSpec[K comparable] struct {
	name                string
	key                 string
	keyFunc             func(K) string
	ttl                 time.Duration
	upTimeout, leaseTTL time.Duration
	maxLoads            int
	allowStaleReads     bool
}

// settle makes h ready, or returns an error that names the field that is wrong.
func (h *home[K, T]) settle(rdb redis.UniversalClient, s commonSpec[K]) error {
	template, err := key.FromSpec(s.key, s.keyFunc)
	if err != nil {
		return err
	}
	if err := client.CheckReads(rdb, s.allowStaleReads, "Spec.AllowStaleReads"); err != nil {
		return err
	}
	h.rdb, h.key, h.ttl, h.lease, h.name = rdb, template, s.ttl, s.leaseTTL, s.name
	if h.name == "" {
		h.name = template.Name()
	}
	h.flights.Timeout, h.away = s.upTimeout, circuit.For(rdb)
	h.slots = waitfor.NewPool(s.maxLoads)
	h.read = func(ctx context.Context, key string) (v T, s sight, err error) {
		defer guard.Catch(guard.Client, &err)
		return h.open(key, h.ask(ctx, h.rdb, key))
	}
	return nil
}

// listen has flights be woken when a lease ends that they wait for, until close. It is
// called when nothing can fail any more.
func (h *home[K, T]) listen() {
	if h.up != nil {
		h.wakes = wake.For(h.rdb)
	}
}

// combine has reads leave together with those of others on the client, until close. It
// is called when nothing can fail any more. No more than most elements are expected in a
// reply before the first has come; 0 says that nobody knows.
func (h *home[K, T]) combine(most int) {
	h.gather = gather.For(h.rdb)
	h.size.Guess(most * gather.PerElement)
}

// together is read, but that it is sent together with what others read if a few reads are
// under way, and then leaves when ctx ends.
func (h *home[K, T]) together(ctx context.Context, k string) (T, sight, error) {
	if h.gather == nil {
		return h.read(ctx, k)
	}
	reply, err := h.gather.Do(ctx, k, &h.size, h.ask)
	if err != nil {
		var zero T
		return zero, sight{}, err
	}
	v, s, err := h.open(k, reply)
	if errors.Is(err, errParts) {
		return h.read(ctx, k)
	}
	return v, s, err
}

// get returns the collection of key.
func (h *home[K, T]) get(ctx context.Context, key K) (T, error) {
	var zero T
	k, err := h.enter(ctx, "get", key)
	if err != nil {
		return zero, err
	}
	return h.found(ctx, k, key, nil, nil)
}

// found is get for a reader who has seen something of it, or takes part in a batch.
func (h *home[K, T]) found(ctx context.Context, k string, key K, seen *look[T], with *party) (T, error) {
	v, err := find(ctx, h, request[K, T, T]{
		k: k, key: key, seen: seen, with: with,
		read: func(ctx context.Context) (T, sight, error) { return h.together(ctx, k) },
		from: func(v T) (T, error) { return h.first(v), nil },
	})
	if err != nil {
		var zero T
		return zero, h.fail("get", k, err)
	}
	return v, nil
}

// remove takes collections away, in one round trip for each 500. It returns the first
// error.
func (h *home[K, T]) remove(ctx context.Context, keys []K) error {
	ks := make([]string, len(keys))
	for i, key := range keys {
		k, err := h.enter(ctx, "delete", key)
		if err != nil {
			return err
		}
		ks[i] = k
	}
	for some := range slices.Chunk(ks, convoy.Most) {
		began := time.Now()
		k, err := h.unlink(ctx, some)
		h.note(ctx, cmp.Or(k, some[0]), began, err)
		h.flights.Forget(some...) // who comes from now on begins anew
		if err != nil {
			return h.fail("delete", k, script.Cause(ctx, err))
		}
	}
	return nil
}

// unlink returns the first key that failed, and its error.
func (h *home[K, T]) unlink(ctx context.Context, ks []string) (string, error) {
	cmds, all := make([]*redis.IntCmd, len(ks)), make([]redis.Cmder, len(ks))
	for i, k := range ks {
		cmds[i] = redis.NewIntCmd(ctx, "unlink", k)
		all[i] = cmds[i]
	}
	if len(all) == 1 {
		_ = script.Do(ctx, h.rdb, all[0]) // the error is in it
	} else {
		_ = script.Exec(ctx, h.rdb, all) // each has its own error
	}
	for i, cmd := range cmds {
		n, err := cmd.Result()
		if err == nil && (n < 0 || n > 1) {
			err = errReply
		}
		if err != nil {
			return ks[i], err
		}
	}
	return "", nil
}

// takeOut runs a script that takes members out, so many of them at a time: it keeps other
// clients of the server waiting.
func (h *home[K, T]) takeOut(ctx context.Context, s *script.Script, k string, head, members []any, size int) error {
	for some := range slices.Chunk(members, size) {
		if _, err := h.run(ctx, s, k, slices.Concat(head, some)); err != nil {
			return err
		}
	}
	return nil
}

// close waits for loads, and for reads that their callers have left.
func (h *home[K, T]) close(ctx context.Context) error {
	if ctx == nil {
		return h.fail("close", "", errNilContext)
	}
	err := h.flights.Close(ctx)
	h.closing.Do(func() {
		if h.gather != nil {
			h.idle = h.gather.Release()
		}
		if wait := h.wakes.Release(); wait != nil {
			reads, both := h.idle, make(chan struct{})
			h.idle = both
			guard.Go(guard.Client, func() error { // ends with the subscription, and with the reads
				wait()
				return over(context.Background(), reads)
			}, func(error) { close(both) })
		}
	})
	if err == nil {
		err = over(ctx, h.idle)
	}
	if err != nil {
		return h.fail("close", "", err)
	}
	return nil
}

// over waits for idle, if there is any, and returns the cause of the end of ctx if that
// comes first.
func over(ctx context.Context, idle <-chan struct{}) error {
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	default:
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// run runs a script that writes, and returns its integer.
func (h *home[K, T]) run(ctx context.Context, s *script.Script, k string, args []any) (int64, error) {
	call := &script.Call{Script: s, Key: k, Args: args}
	began := time.Now()
	_ = call.Run(ctx, h.rdb) // the error is in it
	return h.ran(ctx, call, began)
}

// ran is run of a call that was sent at a time, and has come back.
func (h *home[K, T]) ran(ctx context.Context, call *script.Call, began time.Time) (int64, error) {
	h.note(ctx, call.Key, began, call.Err)
	n, ok := call.Reply.(int64)
	switch {
	case call.Err != nil:
		return 0, script.Cause(ctx, call.Err)
	case !ok, n < -1:
		return 0, garbled(call.Script.Late().Once)
	case n == -1:
		return 0, ErrForeign
	}
	return n, nil
}

// write runs a script that writes, and returns its reply.
func (h *home[K, T]) write(ctx context.Context, s *script.Script, k string, args []any) (any, error) {
	began := time.Now()
	reply, err := s.Run(ctx, h.rdb, k, args...)
	h.note(ctx, k, began, err)
	if err != nil {
		return nil, script.Cause(ctx, err)
	}
	return reply, nil
}

// enter begins a call: it returns the key in Redis, or the error of the call.
func (h *home[K, T]) enter(ctx context.Context, op string, key K) (string, error) {
	if ctx == nil {
		return "", h.fail(op, "", errNilContext)
	}
	k, err := h.rendered(key)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", h.fail(op, k, err)
	}
	return k, nil
}

// rendered returns the key in Redis.
func (h *home[K, T]) rendered(of K) (string, error) {
	var buf [96]byte
	b, err := h.key.Append(buf[:0], of)
	if err != nil {
		return "", err
	}
	if h.beside {
		return key.Beside(string(b))
	}
	return string(b), nil
}

func (h *home[K, T]) fail(op, key string, err error) error {
	return &cachex.Error{Op: op, Cache: h.name, Key: key, Err: err}
}
