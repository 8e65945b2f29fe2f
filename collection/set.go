package collection

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/script"
)

// A SetSpec describes sets. It is a value: NewSet copies it and changes nothing.
type SetSpec[K comparable, M comparable] struct {
	// Name is the name of the collection in errors that have no key. Defaults to Key
	// up to its first placeholder.
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as it stands, as that of cachex.Spec.
	// Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a set is kept after it was last written or restored, in whole
	// milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Codec turns members into the bytes that Redis keeps. It must make the same
	// bytes of members that are the same, so not one that encrypts. Defaults to
	// codec.For[M]().
	Codec codec.Codec[M]

	// Up restores a set from the system of record, in any order. It is called as
	// that of RecentSpec is. Defaults to nil: a set that is absent is empty.
	Up func(ctx context.Context, key K) ([]M, error)

	// UpTimeout bounds one load, with the wait for one elsewhere. Defaults to a
	// minute.
	UpTimeout time.Duration

	// LeaseTTL is how long the fleet waits for a process that died in Up, at least
	// 100 ms. A lease is renewed while Up runs. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads is how many calls of Up run at once in this process. The others wait
	// for one to end, within UpTimeout. Defaults to 0: no limit.
	MaxLoads int

	// NoCombining has every Get send its read by itself. Defaults to false: a lone one
	// goes out at once, and those that come while a few are under way on the client leave
	// together, with what caches and other collections read, as one pipeline, or as one for
	// each node of a Cluster or Ring. Each caller leaves on its own ctx and gets its own
	// error, and large sets go alone.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// On a Ring that may drop a shard, Add may report a member as new twice.
	// Defaults to false.
	AllowStaleReads bool
}

// A Set keeps members of type M by keys of type K, each once. It is safe for
// concurrent use, and owns no goroutine while nothing is being loaded. Sets with
// the same template on the same Redis are shared. How many members one has is
// nobody's concern but yours: Get reads all of them.
type Set[K comparable, M comparable] struct {
	home[K, []M]
	members members[M]
}

// NewSet returns the sets that spec describes, or an error that names the field
// that is wrong. It makes no call to Redis. The client stays the caller's.
func NewSet[K comparable, M comparable](rdb redis.UniversalClient, spec SetSpec[K, M]) (*Set[K, M], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[M]()
	}
	spec.UpTimeout = cmp.Or(spec.UpTimeout, defaultUpTimeout)
	spec.LeaseTTL = cmp.Or(spec.LeaseTTL, defaults.LeaseTTL())
	s := &Set[K, M]{members: members[M]{codec.Bind(spec.Codec)}}
	s.up, s.scripts = spec.Up, &script.Set
	err := s.settle(rdb, commonSpec[K]{spec.Name, spec.Key, spec.KeyFunc, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.AllowStaleReads})
	if err == nil {
		err = checkCommon(rdb, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.Codec)
	}
	if err == nil {
		err = checkCompared(spec.Codec)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: set: %w", err)
	}
	s.tidy, s.first = s.tidied, slices.Clone[[]M]
	s.ask, s.open, s.read = s.scan, s.opened, s.parts
	s.listen()
	if !spec.NoCombining {
		s.combine(0)
	}
	return s, nil
}

// Add puts members into the set of key, and returns how many of them were not
// there. Of any number of callers who add the same member, one gets 1: that it is
// new, and its entry, are one step. A set that is absent is restored first.
//
// So with an Up it is to be called before the source is written, by whoever got 1
// and only by him, and the member removed if that fails. If the set is lost in
// between, by an eviction or a DEL, it is restored without the member, and another
// caller may get 1: let the source have a unique index if that must not be.
//
// The error is a *cachex.Error: of Redis, of the codec, of Up, or the cause of the
// end of ctx. Members are added in steps of 1,000. After an error that is
// ErrOutcomeUnknown those of one step may be there, and those of the steps before it
// are; after any other only these.
func (s *Set[K, M]) Add(ctx context.Context, key K, members ...M) (added int64, err error) {
	k, err := s.enter(ctx, "add", key)
	if err != nil || len(members) == 0 {
		return 0, err
	}
	args, err := s.members.encode(nil, k, members)
	for err == nil && len(args) > 0 {
		some := args[:min(len(args), page)]
		args = args[len(some):]
		var n int64
		n, err = s.add(ctx, k, key, append([]any{s.up != nil, millis(s.ttl)}, some...))
		added += n
	}
	if err != nil {
		return 0, s.fail("add", k, err)
	}
	return added, nil
}

func (s *Set[K, M]) add(ctx context.Context, k string, key K, args []any) (int64, error) {
	for range rounds {
		reply, err := s.write(ctx, script.Enter, k, args)
		if err != nil {
			return 0, err
		}
		switch n, ok := reply.(int64); {
		case !ok, n < -2, n > int64(len(args)-2): // the first two are no members
			return 0, garbled(true)
		case n == -1:
			return 0, ErrForeign
		case n >= 0:
			return n, nil
		}
		// Only to have it restored. If Redis has gone away meanwhile, Enter says so.
		if _, err := s.count(ctx, k, key, ""); err != nil {
			return 0, err
		}
	}
	return 0, errUnsettled
}

// Has reports whether member is in the set of key. If the set is absent it is
// restored.
//
// The error is a *cachex.Error, as that of Recent.Get.
func (s *Set[K, M]) Has(ctx context.Context, key K, member M) (bool, error) {
	k, err := s.enter(ctx, "has", key)
	if err != nil {
		return false, err
	}
	m, err := s.members.one(k, member)
	var c counted
	if err == nil {
		c, err = s.count(ctx, k, key, m)
	}
	if err != nil {
		return false, s.fail("has", k, err)
	}
	return c.has, nil
}

// Len returns how many members the set of key has. If the set is absent it is
// restored.
//
// The error is a *cachex.Error, as that of Recent.Get.
func (s *Set[K, M]) Len(ctx context.Context, key K) (int64, error) {
	k, err := s.enter(ctx, "len", key)
	if err != nil {
		return 0, err
	}
	c, err := s.count(ctx, k, key, "")
	if err != nil {
		return 0, s.fail("len", k, err)
	}
	return c.members, nil
}

// Get returns the members of the set of key, in no order: from Redis, or from Up,
// which one caller of the whole fleet calls while the others wait, each as long as
// its ctx allows. Without an Up, a set that is absent is empty.
//
// A set of a thousand members is read in one step, and a larger one in several: a
// member that is added or removed meanwhile may be returned or not.
//
// The error is a *cachex.Error, as that of Recent.Get.
func (s *Set[K, M]) Get(ctx context.Context, key K) ([]M, error) { return s.get(ctx, key) }

// Intersect returns the members that the sets of both keys have, in no order. It
// reads the two one after the other, wherever they are, so what is written
// meanwhile may be in one and not in the other.
//
// The error is a *cachex.Error, as that of Recent.Get, of the first that failed.
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

// Remove takes members out of the set of key, 1,000 in one step. What is not there is no
// error. A load that is under way may have read them: nothing of it is stored.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx. It is safe to remove them again.
func (s *Set[K, M]) Remove(ctx context.Context, key K, members ...M) error {
	k, err := s.enter(ctx, "remove", key)
	if err != nil || len(members) == 0 {
		return err
	}
	args, err := s.members.encode(nil, k, members)
	if err == nil {
		err = s.takeOut(ctx, script.Leave, k, []any{s.up != nil, millis(s.ttl)}, args, page)
	}
	s.flights.Forget(k)
	if err != nil {
		return s.fail("remove", k, err)
	}
	return nil
}

// Delete takes sets away, and fences loads under way, as Recent.Delete does.
func (s *Set[K, M]) Delete(ctx context.Context, keys ...K) error { return s.remove(ctx, keys) }

// Close makes every further load loader.ErrClosed and waits for those under way,
// as Recent.Close does.
func (s *Set[K, M]) Close(ctx context.Context) error { return s.close(ctx) }

// counted is what script.Count returns.
type counted struct {
	members int64
	has     bool
}

// count counts the members of a set and looks for one, by its bytes.
func (s *Set[K, M]) count(ctx context.Context, k string, key K, m string) (counted, error) {
	return find(ctx, &s.home, request[K, []M, counted]{
		k: k, key: key,
		read: func(ctx context.Context) (counted, sight, error) {
			reply, err := script.Count.Run(ctx, s.rdb, k, s.up != nil, m)
			if err != nil {
				return counted{}, sight{}, err
			}
			parts, _ := reply.([]any)
			if len(parts) != 3 {
				return counted{}, sight{}, errReply
			}
			state, ok := parts[0].(int64)
			n, counts := parts[1].(int64)
			if !ok || !counts || state < -1 || state > 1 || n < 0 {
				return counted{}, sight{}, errReply
			}
			return counted{n, parts[2] == int64(1)}, sight{whole: state == 1, foreign: state == -1}, nil
		},
		from: func(all []M) (counted, error) {
			c := counted{members: int64(len(all))}
			for _, member := range all {
				b, err := s.members.one(k, member)
				if err != nil {
					return counted{}, err
				}
				c.has = c.has || b == m
			}
			return c, nil
		},
	})
}

// unpack returns the head of a set, and the members of it, of all that stands in Redis.
func (s *Set[K, M]) unpack(key string, all []string) (h head, members []M, seen sight, err error) {
	if len(all) == 0 {
		return h, nil, sight{}, nil
	}
	rest := all[:0]
	for _, m := range all {
		switch {
		case len(m) == 3 && strings.HasPrefix(m, mark+"H"):
			h.state = m[2]
		case len(m) == 10 && strings.HasPrefix(m, mark+"T"):
			copy(h.token[:], m[2:])
		default:
			rest = append(rest, m)
		}
	}
	if !h.whole(s.up != nil) {
		return h, nil, sight{foreign: h.state == 0}, nil
	}
	members = make([]M, 0, len(rest))
	for _, b := range rest {
		m, err := s.members.decode(key, b)
		if err != nil {
			return h, nil, sight{foreign: true, token: h.token, why: err}, nil
		}
		members = append(members, m)
	}
	return h, members, sight{whole: true}, nil
}

// tidied returns the members that Up has returned, each once.
func (s *Set[K, M]) tidied(key string, all []M) ([]M, []any, error) {
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
