package collection

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/script"
)

// A RecentSpec describes lists of the latest elements. It is a value: NewRecent
// copies it and changes nothing.
type RecentSpec[K comparable, E any] struct {
	// Name is the name of the collection in errors that have no key. Defaults to Key
	// up to its first placeholder.
	Name string

	// Key is the template of the keys in Redis, as that of cachex.Spec. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as it stands, as that of cachex.Spec.
	// Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a list is kept after it was last written or restored, in whole
	// milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Len is how many elements a list has at most, 1 to 10 000: the latest ones.
	// Required.
	Len int

	// Unique says that a list has an element once: to push it again moves it to the
	// front. Elements are the same if the Codec makes the same bytes of them, so it
	// must not be one that encrypts. Each push then reads through the list. Defaults
	// to false.
	Unique bool

	// Codec turns elements into the bytes that Redis keeps. Defaults to
	// codec.For[E]().
	Codec codec.Codec[E]

	// Up restores a list from the system of record, latest element first. What is
	// more than Len is not used. An empty result is remembered as any other. It is
	// called as that of cachex.Spec is: once for the fleet, and it must be safe for
	// concurrent use. Defaults to nil: a list that is absent is empty.
	Up func(ctx context.Context, key K) ([]E, error)

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
	// error, and large lists go alone.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// Defaults to false.
	AllowStaleReads bool
}

// maxLen is how many elements one read may return. To read them, or to look for one in a
// list, keeps other clients of the server waiting.
const maxLen = 10_000

// A script takes longer for each member that it returns than a plain command.
const (
	maxPage   = 1000 // of a page of a feed
	maxAround = 500  // before a member, and after it
)

// A Recent keeps the latest elements of type E by keys of type K. It is safe for
// concurrent use, and owns no goroutine while nothing is being loaded. Recents
// with the same template on the same Redis share their lists.
type Recent[K comparable, E any] struct {
	home[K, []E]
	members members[E]
}

// NewRecent returns the lists that spec describes, or an error that names the
// field that is wrong. It makes no call to Redis. The client stays the caller's.
func NewRecent[K comparable, E any](rdb redis.UniversalClient, spec RecentSpec[K, E]) (*Recent[K, E], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[E]()
	}
	spec.UpTimeout = cmp.Or(spec.UpTimeout, defaultUpTimeout)
	spec.LeaseTTL = cmp.Or(spec.LeaseTTL, defaults.LeaseTTL())
	r := &Recent[K, E]{members: members[E]{codec.Bind(spec.Codec)}}
	r.up, r.unique, r.most, r.scripts = spec.Up, spec.Unique, spec.Len, &script.List
	err := r.settle(rdb, commonSpec[K]{spec.Name, spec.Key, spec.KeyFunc, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.AllowStaleReads})
	if err == nil {
		err = checkCommon(rdb, spec.TTL, spec.UpTimeout, spec.LeaseTTL, spec.MaxLoads, spec.Codec)
	}
	if err == nil && spec.Unique {
		err = checkCompared(spec.Codec)
	}
	if err == nil && (spec.Len < 1 || spec.Len > maxLen) {
		err = fmt.Errorf("Spec.Len is %d, must be from 1 to %d: how many elements a list has at most, since every read of it keeps the server from others", spec.Len, maxLen)
	}
	if err != nil {
		return nil, fmt.Errorf("cachex: recent: %w", err)
	}
	r.tidy = func(key string, elems []E) ([]E, []any, error) {
		elems = elems[:min(len(elems), r.most)]
		args, err := r.members.encode(nil, key, elems)
		return elems, args, err
	}
	r.first = slices.Clone[[]E]
	r.ask = func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder {
		return c.LRange(ctx, key, 0, int64(r.most)) // and the head
	}
	r.open = func(key string, reply redis.Cmder) ([]E, sight, error) {
		return r.members.open(key, reply, r.up != nil)
	}
	r.listen()
	if !spec.NoCombining {
		r.combine(r.most + 1)
	}
	return r, nil
}

// Push puts elems before all that the list of key has, the last one first of
// all, and drops what is more than Spec.Len. With an Up it is to be called after
// the source was written; a list that is absent then stays so.
//
// With Spec.Unique each of elems is looked for in the list, in one step for a few of
// them: 40 of a Len of 1,000, 4 of one of 10,000. A reader may see the list between two
// steps.
//
// The error is a *cachex.Error: of Redis, of the codec, or the cause of the end of
// ctx. With one that is ErrOutcomeUnknown the elements of a step may be there, all or
// none; with Spec.Unique it is safe to push them again. After any other the step has
// changed nothing. The steps before it have been made, and none after it.
func (r *Recent[K, E]) Push(ctx context.Context, key K, elems ...E) error {
	k, err := r.enter(ctx, "push", key)
	if err != nil || len(elems) == 0 {
		return err
	}
	args, err := r.pushing(k, elems)
	for size := r.step(); err == nil && len(args) > 0; {
		some := args
		if r.unique {
			some = args[:min(len(args), size)]
		}
		args = args[len(some):]
		var state int64
		head := []any{r.up != nil, r.most, millis(r.ttl), r.unique}
		if state, err = r.run(ctx, script.Push, k, append(head, some...)); err == nil && state > 2 {
			err = garbled(script.Push.Late().Once)
		}
	}
	if err != nil {
		return r.fail("push", k, err)
	}
	return nil
}

// looks is how many elements of a list one script may look at, which takes the server one
// to three milliseconds.
const looks = 40_000

// step returns how many elements a script looks for in a list.
func (r *Recent[K, E]) step() int { return max(looks/r.most, 1) }

// pushing returns the members that Push puts into the list of k.
func (r *Recent[K, E]) pushing(k string, elems []E) ([]any, error) {
	if !r.unique {
		elems = elems[max(0, len(elems)-r.most):]
	}
	all, err := r.members.encode(nil, k, elems)
	if err != nil {
		return nil, err
	}
	if r.unique {
		all = lastOnes(all)
		all = all[max(0, len(all)-r.most):]
	}
	return all, nil
}

// lastOnes returns all in their order, of those that are the same the last one.
func lastOnes(all []any) []any {
	seen := make(map[any]bool, len(all))
	kept := len(all)
	for i := len(all) - 1; i >= 0; i-- {
		if !seen[all[i]] {
			seen[all[i]] = true
			kept--
			all[kept] = all[i]
		}
	}
	return all[kept:]
}

// Remove takes elements out of the list of key, wherever they are and however
// often. What is not there is no error. A load that is under way may have read
// them: nothing of it is stored. A few elements are taken out in one step, as many as Push
// looks for.
//
// The error is a *cachex.Error, as that of Push; it is safe to remove them again.
// If the codec is not deterministic, as codec.Encrypt, no element can be found
// by its bytes, and the error is a codec.ErrConfig.
func (r *Recent[K, E]) Remove(ctx context.Context, key K, elems ...E) error {
	k, err := r.enter(ctx, "remove", key)
	if err != nil || len(elems) == 0 {
		return err
	}
	if err := checkCompared[E](r.members.codec); err != nil {
		return r.fail("remove", k, err)
	}
	args, err := r.members.encode(nil, k, elems)
	if err == nil {
		err = r.takeOut(ctx, script.Pull, k, []any{r.up != nil, millis(r.ttl)}, lastOnes(args), r.step())
	}
	r.flights.Forget(k)
	if err != nil {
		return r.fail("remove", k, err)
	}
	return nil
}

// Get returns the elements of the list of key, latest first: from Redis, or from
// Up, which one caller of the whole fleet calls while the others wait, each as
// long as its ctx allows. Without an Up, a list that is absent is empty.
//
// The error is a *cachex.Error: of Up, or *loader.PanicError and the like, or the
// cause of the end of ctx; nothing is stored then, and the next reader loads. That
// Redis failed is an error only where there is no Up, or else Up is called once in
// each process and nothing is stored.
func (r *Recent[K, E]) Get(ctx context.Context, key K) ([]E, error) { return r.get(ctx, key) }

// Delete takes lists away, and fences loads under way: after Delete has returned
// nil, no call of Get that starts later, in any process, returns what a load has
// read that began before it. A key that has no list is no error.
//
// The error is a *cachex.Error with the first key that failed. It is safe to
// Delete all again.
func (r *Recent[K, E]) Delete(ctx context.Context, keys ...K) error { return r.remove(ctx, keys) }

// Close makes every further load loader.ErrClosed and waits for those under way, and
// for reads that their callers have left. If ctx ends first, Close cancels the loads
// and returns the cause of that end. What is in Redis can still be read. The
// client stays open. It may be called more than once.
func (r *Recent[K, E]) Close(ctx context.Context) error { return r.close(ctx) }
