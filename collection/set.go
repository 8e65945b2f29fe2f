package collection

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/script"
)

// SetSpec describes sets. It is a value: NewSet copies it and changes nothing.
type SetSpec[K comparable, M comparable] struct {
	// Name names the collection in errors that have no key. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, which is used unchanged, like
	// cachex.Spec.KeyFunc. Defaults to nil.
	KeyFunc func(K) string

	// TTL is the time that a set is kept after the last write or restoration,
	// in whole milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Codec encodes members to the bytes kept in Redis. It must encode equal
	// members to equal bytes, so it must not encrypt. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// Up loads a set from the system of record, in any order. It is called like
	// RecentSpec.Up. Defaults to nil: an absent set is empty.
	Up func(ctx context.Context, key K) ([]M, error)

	// UpTimeout bounds one load, including the wait for a load of another
	// process. Defaults to a minute.
	UpTimeout time.Duration

	// LeaseTTL is the time that the fleet waits for a process that died in Up,
	// at least 100 ms. The lease is renewed while Up runs. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads limits the concurrent calls of Up in this process. Further loads
	// wait for a running one to end, within UpTimeout. Defaults to 0: no limit.
	MaxLoads int

	// NoCombining makes every Get send its own command, like
	// cachex.Spec.NoCombining. Large sets always have their own. Defaults to
	// false.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. On a Ring that may drop a shard, Add may
	// report a member as new twice. Defaults to false.
	AllowStaleReads bool
}

// Set keeps members of type M by keys of type K, each once. It is safe for
// concurrent use, and runs no goroutine unless a load is in flight. Sets with
// the same template on the same Redis are shared. The size of a set is not
// limited, and Get reads all members.
type Set[K comparable, M comparable] struct {
	store[K, []M]
	members elements[M]
}

// NewSet returns the sets that spec describes, or an error that names the wrong
// field. It does not call Redis. It does not close the client.
func NewSet[K comparable, M comparable](rdb redis.UniversalClient, spec SetSpec[K, M]) (*Set[K, M], error) {
	s := &Set[K, M]{}
	s.up, s.scripts = spec.Up, &script.Set
	var err error
	s.members, err = setUp(&s.store, rdb, commonSpec[K, M]{
		Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc, TTL: spec.TTL, Codec: spec.Codec,
		UpTimeout: spec.UpTimeout, LeaseTTL: spec.LeaseTTL, MaxLoads: spec.MaxLoads,
		AllowStaleReads: spec.AllowStaleReads, Compared: true,
	})
	if err != nil {
		return nil, fmt.Errorf("cachex: set: %w", err)
	}
	s.normalize, s.clone = s.normalizeLoaded, slices.Clone[[]M]
	s.command, s.parse, s.read = s.scanCommand, s.parseScan, s.readParts
	s.subscribe()
	if !spec.NoCombining {
		s.enableBatching(0)
	}
	return s, nil
}

// Add adds members to the set of key, and returns how many of them are new. If
// several callers add the same member concurrently, exactly one gets 1: the
// check and the insertion are one step. An absent set is restored first.
//
// With an Up, call Add before the source is written. Only the caller that
// received 1 may write to the source, and removes the member if that fails. If
// the set is lost in between, by an eviction or a DEL, it is restored without
// the member, and another caller may get 1. Use a unique index in the source if
// duplicates must be impossible.
//
// The error is a *cachex.Error: of Redis, of the codec, of Up, or the cause of
// the end of ctx. Members are added in steps of 1,000. If the error is
// ErrOutcomeUnknown, one step may be carried out or not, and the earlier ones are.
// After any other error only the earlier steps are carried out.
func (s *Set[K, M]) Add(ctx context.Context, key K, members ...M) (added int64, err error) {
	k, err := s.begin(ctx, "add", key)
	if err != nil || len(members) == 0 {
		return 0, err
	}
	args, err := s.members.encode(nil, k, members)
	for err == nil && len(args) > 0 {
		chunk := args[:min(len(args), maxArgs)]
		args = args[len(chunk):]
		var n int64
		n, err = s.add(ctx, k, key, append([]any{s.up != nil, millis(s.ttl)}, chunk...))
		added += n
	}
	if err != nil {
		return 0, s.fail("add", k, err)
	}
	return added, nil
}

func (s *Set[K, M]) add(ctx context.Context, k string, key K, args []any) (int64, error) {
	for range maxAttempts {
		reply, err := s.write(ctx, script.Enter, k, args)
		if err != nil {
			return 0, err
		}
		switch n, ok := reply.(int64); {
		case !ok, n < -2, n > int64(len(args)-2): // the first two are not members
			return 0, unknownReply(true)
		case n == -1:
			return 0, ErrForeign
		case n >= 0:
			return n, nil
		}
		// It only restores the set. If Redis has gone down since, Enter reports
		// it.
		if _, err := s.count(ctx, k, key, ""); err != nil {
			return 0, err
		}
	}
	return 0, errUnsettled
}

// Has reports whether member is in the set of key. An absent set is restored.
//
// It fails like [Recent.Get], with a *cachex.Error.
func (s *Set[K, M]) Has(ctx context.Context, key K, member M) (bool, error) {
	k, err := s.begin(ctx, "has", key)
	if err != nil {
		return false, err
	}
	m, err := s.members.encodeOne(k, member)
	var c countResult
	if err == nil {
		c, err = s.count(ctx, k, key, m)
	}
	if err != nil {
		return false, s.fail("has", k, err)
	}
	return c.has, nil
}

// Len returns the number of members in the set of key. An absent set is
// restored.
//
// It fails like [Recent.Get], with a *cachex.Error.
func (s *Set[K, M]) Len(ctx context.Context, key K) (int64, error) {
	k, err := s.begin(ctx, "len", key)
	if err != nil {
		return 0, err
	}
	c, err := s.count(ctx, k, key, "")
	if err != nil {
		return 0, s.fail("len", k, err)
	}
	return c.members, nil
}

// Get returns the members of the set of key, in no order. If the set is absent,
// one caller of the whole fleet calls Up, and the others wait, each until its
// own ctx ends. Without an Up, an absent set is empty.
//
// A set of a thousand members is read in one step, and a larger one in several.
// A member that is added or removed during the read may be returned or not.
//
// It fails like [Recent.Get], with a *cachex.Error.
func (s *Set[K, M]) Get(ctx context.Context, key K) ([]M, error) { return s.get(ctx, key) }

// Intersect returns the members that the sets of both keys have, in no order.
// It reads the sets one after the other, on any nodes, so a concurrent write
// may be seen in one and not in the other.
//
// It fails like [Recent.Get], with a *cachex.Error, for the first set
// that failed.
func (s *Set[K, M]) Intersect(ctx context.Context, a, b K) ([]M, error) {
	of, err := s.get(ctx, a)
	if err != nil {
		return nil, err
	}
	with, err := s.get(ctx, b)
	if err != nil {
		return nil, err
	}
	in := make(map[M]bool, len(of))
	for _, m := range of {
		in[m] = true
	}
	both := make([]M, 0, min(len(of), len(with)))
	for _, m := range with {
		if in[m] {
			both = append(both, m)
		}
	}
	return both, nil
}

// Remove removes members from the set of key, 1,000 in one step. Absent members
// are not an error. If a load is in flight that may have read them, its result
// is not stored.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end
// of ctx. It is safe to remove them again.
func (s *Set[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := s.begin(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := s.members.encode(nil, k, members)
	if err == nil {
		err = s.removeElements(ctx, script.Leave, k, []any{s.up != nil, millis(s.ttl)}, args, maxArgs)
	}
	s.flights.Forget(k)
	if err != nil {
		return s.fail("remove", k, err)
	}
	return nil
}

// Delete deletes sets and fences loads in flight, like [Recent.Delete].
func (s *Set[K, M]) Delete(ctx context.Context, keys ...K) error { return s.deleteKeys(ctx, keys) }

// Close makes further loads fail with loader.ErrClosed and waits for loads in
// flight, like [Recent.Close].
func (s *Set[K, M]) Close(ctx context.Context) error { return s.close(ctx) }

// countResult is the reply of script.Count.
type countResult struct {
	members int64
	has     bool
}

// count counts the members of a set and looks up one, by its bytes.
func (s *Set[K, M]) count(ctx context.Context, k string, key K, m string) (countResult, error) {
	return readOrLoad(ctx, &s.store, request[K, []M, countResult]{
		rkey: k, key: key,
		read: func(ctx context.Context) (countResult, readState, error) {
			reply, err := script.Count.Run(ctx, s.rdb, k, s.up != nil, m)
			if err != nil {
				return countResult{}, readState{}, err
			}
			parts, _ := reply.([]any)
			if len(parts) != 3 {
				return countResult{}, readState{}, errReply
			}
			state, ok := parts[0].(int64)
			n, counts := parts[1].(int64)
			if !ok || !counts || state < -1 || state > 1 || n < 0 {
				return countResult{}, readState{}, errReply
			}
			return countResult{n, parts[2] == int64(1)}, readState{complete: state == 1, foreign: state == -1}, nil
		},
		extract: func(all []M) (countResult, error) {
			c := countResult{members: int64(len(all))}
			for _, member := range all {
				b, err := s.members.encodeOne(k, member)
				if err != nil {
					return countResult{}, err
				}
				c.has = c.has || b == m
			}
			return c, nil
		},
	})
}

// parseMembers splits the elements of a Redis set into head and members.
func (s *Set[K, M]) parseMembers(key string, all []string) (h head, members []M, seen readState, err error) {
	if len(all) == 0 {
		return h, nil, readState{}, nil
	}
	rest := all[:0]
	for _, m := range all {
		switch {
		case len(m) == 3 && strings.HasPrefix(m, headMarker+"H"):
			h.state = m[2]
		case len(m) == 10 && strings.HasPrefix(m, headMarker+"T"):
			copy(h.token[:], m[2:])
		default:
			rest = append(rest, m)
		}
	}
	if !h.complete(s.up != nil) {
		return h, nil, readState{foreign: h.state == 0}, nil
	}
	members = make([]M, 0, len(rest))
	for _, b := range rest {
		m, err := s.members.decode(key, b)
		if err != nil {
			return h, nil, readState{foreign: true, token: h.token, err: err}, nil
		}
		members = append(members, m)
	}
	return h, members, readState{complete: true}, nil
}

// normalizeLoaded returns the members that Up has returned, each once.
func (s *Set[K, M]) normalizeLoaded(key string, all []M) ([]M, []any, error) {
	args, err := s.members.encode(make([]any, 0, len(all)), key, all)
	if err != nil {
		return nil, nil, err
	}
	seen := make(map[any]bool, len(all))
	members, each := make([]M, 0, len(all)), make([]any, 0, len(all))
	for i, b := range args {
		if !seen[b] {
			seen[b] = true
			members, each = append(members, all[i]), append(each, b)
		}
	}
	return members, each, nil
}
