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
	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/waitfor"
	"github.com/cachex-go/cachex/internal/wake"
)

// store implements the parts that all collections share: Redis keys, and the
// restoration of absent collections. T is the type that Get returns.
type store[K comparable, T any] struct {
	name    string
	rdb     redis.UniversalClient
	key     *key.Template[K]
	ttl     time.Duration
	lease   time.Duration
	limit   int  // maximum number of members
	unique  bool // a list without repetitions
	scripts *script.Home

	up func(context.Context, K) (T, error) // nil: there is no source
	// normalize takes the result of Up. It returns the elements that the
	// collection keeps, in the order of Get, and the arguments of the script
	// that stores them.
	normalize func(key string, v T) (T, []any, error)
	// command queues the command that reads a collection, and parse parses its
	// reply. read sends it on its own. The command is a plain one, with two
	// exceptions, which have their own read: Trending runs a script, which a
	// server may not know. A Set may be too large for one command; then parse
	// returns errNeedsParts.
	command func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder
	parse   func(key string, reply redis.Cmder) (T, readState, error)
	read    func(ctx context.Context, key string) (T, readState, error)
	// clone copies a loaded collection for Get. Each waiter of a flight gets
	// its own copy.
	clone    func(T) T
	sameSlot bool // the key has a hash tag, and is the prefix of other keys

	gather  *gather.Client // shared by all readers of rdb; nil: reads are not batched
	size    gather.Size    // of a reply to command
	closing sync.Once
	idle    <-chan struct{} // set by closing, which releases gather: closed when its reads have ended

	flights  engine.Flights[loadResult[T]]
	slots    *waitfor.Pool     // nil: no limit
	breakers *circuit.Circuits // of the nodes of the client
	wakes    *wake.Listener    // notifies of leases that other processes release; nil: poll only
	clock    atomic.Int64      // a logical clock, which orders events that time.Now cannot tell apart
	stats    counters
}

// subscribe makes flights wake up when the lease that they wait for ends, until
// close. It is called when construction cannot fail any more.
func (h *store[K, T]) subscribe() {
	if h.up != nil {
		h.wakes = wake.For(h.rdb)
	}
}

// enableBatching makes reads share pipelines with other reads of the client,
// until close. It is called when construction cannot fail any more. most is the
// expected number of elements in the first reply; 0 means unknown.
func (h *store[K, T]) enableBatching(most int) {
	h.gather = gather.For(h.rdb)
	h.size.Guess(most * gather.PerElement)
}

// readBatched is like read, but the command shares a pipeline if other reads of
// the client are in flight. It returns when ctx ends.
func (h *store[K, T]) readBatched(ctx context.Context, k string) (T, readState, error) {
	if h.gather == nil {
		return h.read(ctx, k)
	}
	reply, err := h.gather.Do(ctx, k, &h.size, h.command)
	if err != nil {
		var zero T
		return zero, readState{}, err
	}
	v, s, err := h.parse(k, reply)
	if errors.Is(err, errNeedsParts) {
		return h.read(ctx, k)
	}
	return v, s, err
}

// get returns the collection of key.
func (h *store[K, T]) get(ctx context.Context, key K) (T, error) {
	var zero T
	k, err := h.begin(ctx, "get", key)
	if err != nil {
		return zero, err
	}
	return h.getPrior(ctx, k, key, nil, nil)
}

// getPrior is get for a reader that has a prior result, or takes part in a
// batch.
func (h *store[K, T]) getPrior(ctx context.Context, k string, key K, prior *readResult[T], part *participant) (T, error) {
	v, err := readOrLoad(ctx, h, request[K, T, T]{
		rkey: k, key: key, prior: prior, part: part,
		read:    func(ctx context.Context) (T, readState, error) { return h.readBatched(ctx, k) },
		extract: func(v T) (T, error) { return h.clone(v), nil },
	})
	if err != nil {
		var zero T
		return zero, h.fail("get", k, err)
	}
	return v, nil
}

// deleteKeys deletes collections, 500 in one round trip. It returns the first
// error.
func (h *store[K, T]) deleteKeys(ctx context.Context, keys []K) error {
	rkeys := make([]string, len(keys))
	for i, key := range keys {
		k, err := h.begin(ctx, "delete", key)
		if err != nil {
			return err
		}
		rkeys[i] = k
	}
	for chunk := range slices.Chunk(rkeys, convoy.Most) {
		began := time.Now()
		k, err := h.unlink(ctx, chunk)
		h.report(ctx, cmp.Or(k, chunk[0]), began, err)
		h.flights.Forget(chunk...) // later callers start a new load
		if err != nil {
			return h.fail("delete", k, script.Cause(ctx, err))
		}
	}
	return nil
}

// unlink returns the first key that failed, and its error.
func (h *store[K, T]) unlink(ctx context.Context, rkeys []string) (string, error) {
	cmds, all := make([]*redis.IntCmd, len(rkeys)), make([]redis.Cmder, len(rkeys))
	for i, k := range rkeys {
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
			return rkeys[i], err
		}
	}
	return "", nil
}

// removeElements runs a script that removes members, size of them at a time, so
// that one script does not block the server for long.
func (h *store[K, T]) removeElements(ctx context.Context, s *script.Script, k string, head, members []any, size int) error {
	for chunk := range slices.Chunk(members, size) {
		if _, err := h.runInt(ctx, s, k, slices.Concat(head, chunk)); err != nil {
			return err
		}
	}
	return nil
}

// close waits for loads, and for reads that their callers have abandoned.
func (h *store[K, T]) close(ctx context.Context) error {
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
			guard.Go(guard.Client, func() error { // ends with the subscription and the reads
				wait()
				return waitIdle(context.Background(), reads)
			}, func(error) { close(both) })
		}
	})
	if err == nil {
		err = waitIdle(ctx, h.idle)
	}
	if err != nil {
		return h.fail("close", "", err)
	}
	return nil
}

// waitIdle waits until idle is closed; a nil idle is ready. If ctx ends first,
// it returns the cause.
func waitIdle(ctx context.Context, idle <-chan struct{}) error {
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

// runInt runs a script that writes, and returns its integer reply.
func (h *store[K, T]) runInt(ctx context.Context, s *script.Script, k string, args []any) (int64, error) {
	call := &script.Call{Script: s, Key: k, Args: args}
	began := time.Now()
	_ = call.Run(ctx, h.rdb) // the error is in it
	return h.intReply(ctx, call, began)
}

// intReply evaluates a call that was sent at began, and returns its integer
// reply.
func (h *store[K, T]) intReply(ctx context.Context, call *script.Call, began time.Time) (int64, error) {
	h.report(ctx, call.Key, began, call.Err)
	n, ok := call.Reply.(int64)
	switch {
	case call.Err != nil:
		return 0, script.Cause(ctx, call.Err)
	case !ok, n < -1:
		return 0, unknownReply(call.Script.Late().Once)
	case n == -1:
		return 0, ErrForeign
	}
	return n, nil
}

// write runs a script that writes, and returns its reply.
func (h *store[K, T]) write(ctx context.Context, s *script.Script, k string, args []any) (any, error) {
	began := time.Now()
	reply, err := s.Run(ctx, h.rdb, k, args...)
	h.report(ctx, k, began, err)
	if err != nil {
		return nil, script.Cause(ctx, err)
	}
	return reply, nil
}

// begin starts a call: it returns the Redis key, or the error of the call.
func (h *store[K, T]) begin(ctx context.Context, op string, key K) (string, error) {
	if ctx == nil {
		return "", h.fail(op, "", errNilContext)
	}
	k, err := h.renderKey(key)
	if err == nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		return "", h.fail(op, k, err)
	}
	return k, nil
}

// renderKey returns the Redis key.
func (h *store[K, T]) renderKey(of K) (string, error) {
	var buf [96]byte
	b, err := h.key.Append(buf[:0], of)
	if err != nil {
		return "", err
	}
	if h.sameSlot {
		return key.Beside(string(b))
	}
	return string(b), nil
}

func (h *store[K, T]) fail(op, key string, err error) error {
	return &cachex.Error{Op: op, Cache: h.name, Key: key, Err: err}
}
