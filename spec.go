package cachex

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/near"
	"github.com/cachex-go/cachex/writebehind"
)

// A Spec describes a cache. It is a value: New copies it and changes nothing.
//
// Durations are whole milliseconds, which is what Redis counts in. One that
// would have to be rounded is refused.
type Spec[K comparable, V any] struct {
	// Name is the name of the cache in stats and errors. Defaults to Key up to its
	// first placeholder, "users" for "users:{id}".
	Name string

	// Key is the template of the keys in Redis. {name} is a placeholder for K, or
	// for the field of the struct K of that name; {{name}} is one in literal
	// braces, a hash tag of Redis Cluster. Every exported field has to be used, and
	// values are escaped, so that different keys are different in Redis. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as it stands. It must return different
	// strings for different keys, be safe for concurrent use, and not be set
	// together with Key. Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a value is fresh after it was stored. At most a share of it,
	// Jitter, is taken off. Forever is for values that are fresh until they are
	// deleted. Required.
	TTL time.Duration

	// StaleWhileRevalidate is how long a value is then served stale, at once, while
	// one process reloads it (RFC 5861). After a load that failed, nobody tries again
	// for Backoff. Defaults to 0: a reader waits for the reload.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long a value is then kept, to be served only when Up fails,
	// or takes longer than SoftTimeout (RFC 5861). After a load that failed, all
	// readers of the fleet are served it at once for Backoff. A load that began in
	// time may end up to UpTimeout later. Defaults to 0.
	StaleIfError time.Duration

	// SoftTimeout is how long a reader waits for Up where StaleIfError keeps a value.
	// It is then served that, and Up goes on, under the same lease, and what it
	// returns is stored. Defaults to 0: as long as Up takes.
	SoftTimeout time.Duration

	// Backoff is how long the fleet does not call Up again after it failed while a
	// stale value can be served. It doubles with each failure, up to a minute, and is
	// a fifth longer or shorter at random. Where there is no value, the next reader
	// tries again. Defaults to 1 s.
	Backoff time.Duration

	// NotFoundTTL is how long an ErrNotFound from Up is remembered. Jitter applies.
	// Set and Delete put an end to it. Defaults to 0: it is not, and what was stored
	// before is deleted.
	NotFoundTTL time.Duration

	// EarlyRefresh is how eagerly a value is reloaded before it is stale, so that
	// nobody ever waits for a key in demand: each reader decides at random, the
	// likelier the nearer the end is, and one process reloads. A value that takes d to
	// load is reloaded about EarlyRefresh times d ahead, and somewhat more the more
	// often it is read; 1 is a good choice. This is XFetch, by Vattani, Chierichetti
	// and Lowenstein, VLDB 2015. Defaults to 0: no value is reloaded early.
	EarlyRefresh float64

	// Jitter is the share of the TTL that is taken off at random, 0 to 1, evenly
	// distributed, so that what was stored together does not expire together.
	// NoJitter is for none. Defaults to 0.1.
	Jitter float64

	// TTLFor chooses the TTL of one value, and returns 0 for TTL. Jitter applies.
	// If it panics or returns what cannot be a TTL, Set returns an error, and a
	// loaded value is returned and not stored. It must be safe for concurrent use.
	// Defaults to nil.
	TTLFor func(K, V) time.Duration

	// Codec turns values into the bytes that Redis keeps. Defaults to
	// codec.For[V]().
	Codec codec.Codec[V]

	// Up restores the value of key from the system of record, on a miss. It
	// returns ErrNotFound, perhaps wrapped, if there is none.
	//
	// One call a key runs at a time in the fleet, and the others wait for it. Its
	// ctx has the values of the first caller's and ends when every caller in this
	// process has left, or after UpTimeout; an Up that does not heed it is left
	// behind. A panic is a *loader.PanicError for every caller. The value and the
	// error are shared by callers and must not be changed. Up must be safe for
	// concurrent use.
	//
	// Up may call Previous to learn the value that it is about to replace, and return
	// ErrNotModified if that is still right, which renews it without sending it again.
	// It may call NoStore, and what it returns is then not stored.
	//
	// Defaults to nil: UpMany is called with one key, and without that a miss is
	// ErrNotFound.
	Up func(ctx context.Context, key K) (V, error)

	// UpMany restores many values at once, for GetMany and batches, of at most MaxKeys keys
	// a call. GetMany has up to four calls under way. A key that is not
	// in the map has no value, as if Up had returned ErrNotFound for it, and what was
	// not asked for is ignored. If it returns an error, that is the error of the keys
	// that are not in the map. What is said of Up is true of it, but for Previous and
	// ErrNotModified. Defaults to nil: Up is called for each key, for at most
	// MaxLoads at once, or 16 if that is 0.
	UpMany func(ctx context.Context, keys []K) (map[K]V, error)

	// MaxKeys is how many keys one call of UpMany is for at most, and how many values
	// SetMany gives to one call of DownMany. GetMany, LookupMany, SetMany and batches that
	// are for more work in chunks of so many, so their memory grows with MaxKeys. From 1 to 10000: the leases of one call are renewed together. Defaults to
	// 1000, which every database takes in one statement: Oracle has no longer IN lists,
	// and SQL Server no more than 2100 parameters.
	MaxKeys int

	// UpContext chooses which values of ctx Up and UpMany see. It is given the ctx of a
	// load, which has all values of its first caller, and returns a ctx that has those
	// which may cross; the end of that ctx does not matter. A load is shared by the fleet
	// and may outlive the caller, as a reload in the background does. So an open
	// transaction, or the scope of a request that ends, must not cross: what Up reads in
	// a transaction that is rolled back would be stored for all. If it panics, the load
	// fails as if Up had. It must be safe for concurrent use. Defaults to nil: all values
	// cross.
	UpContext func(ctx context.Context) context.Context

	// Down persists a value to the system of record. Set calls it before it stores.
	// It must be safe for concurrent use. Defaults to nil: Set only stores.
	Down func(ctx context.Context, key K, value V) error

	// DownMany persists many values at once, for SetMany, all or none of them, and at most
	// MaxKeys a call.
	// Defaults to nil: Down is called for each, one after the other.
	DownMany func(ctx context.Context, values map[K]V) error

	// WriteBehind is how long a value may wait for Down, about: Set stores it, and
	// notes in Redis, in the same step, that it is to be persisted; of several values
	// of a key the last one is. Any process that has such a cache calls DownMany with
	// a batch of what has gathered, or Down with a batch of one value.
	// ledger.FromContext of its ctx returns the batch, for a ledger.Ledger to apply it
	// once. Without that it may be called again with the same, and after a pause of its
	// process with values that are out of date. A process that is killed loses nothing.
	//
	// A *ledger.RefusedError from Down, or one from DownMany that names its ids, puts
	// values aside for good: see Refused and Retry. If Down fails otherwise, it is
	// called again, and the values of about 1/64 of the keys wait for that. A value that
	// this release cannot read, since its Key, K or Codec is another one, is left to
	// processes that can: see Stats.WriteBehind.
	//
	// Until it is persisted, a value is read from what is pending, whatever else
	// expires or is deleted, and Delete takes nothing of that back. Keys in Redis begin
	// with a hash tag that is made of Key. Whole milliseconds, at least 10. Defaults to
	// 0: Set calls Down before it stores.
	WriteBehind time.Duration

	// WriteBehindOptions tune WriteBehind: Notify, MaxBatch, Timeout and so on. Name,
	// Merge, Every, Persist and Check must not be set, and MaxBatch needs DownMany.
	// Defaults to the defaults of writebehind.Options; MaxBatch without DownMany is 1.
	WriteBehindOptions writebehind.Options

	// UpTimeout bounds one load: the wait for one of MaxLoads and for the lease,
	// and Up. That of a key which GetMany has queued, for want of UpMany, begins with
	// its turn. Defaults to a minute.
	UpTimeout time.Duration

	// LeaseTTL is how long the fleet waits for a process that died in Up. The lease
	// of one that lives is renewed every third of this, so Up may take longer. At
	// least 100 ms. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads is how many calls of Up run at once in this process. The others
	// wait, and hold no lease meanwhile. A call that Up itself makes to this cache
	// is not counted, since Up waits for it; nor is one that queues when an Up comes
	// to wait for it, through this or another cache. Defaults to 0: no limit.
	MaxLoads int

	// AllowStaleReads accepts a client that reads from replicas (ReadOnly,
	// RouteByLatency, RouteRandomly) or from a cache in the process
	// (ClientSideCacheConfig), and a Ring that may drop a shard (HeartbeatFrequency is
	// not Forever). Such a read may return a value that was deleted or replaced
	// before, so guarantee 1 is lost. Clear passes over a shard that is dropped.
	// WriteBehind on such a Ring is refused nevertheless, since a pending write could
	// be lost. Defaults to false: New refuses such a client, as far as it shows these
	// options. A Ring that hides them is refused too.
	AllowStaleReads bool

	// Packed keeps entries in Redis hashes, about so many in each, which takes less than
	// half of the memory where values are small. Keys whose last placeholder is an
	// integer are packed by ranges of it, which suits numbers that are dense; others
	// need Expected. From 2 to 1024; 100 is a good choice, with Redis configured as
	// docs/packed.md says.
	//
	// Each entry has its own life, as ever. Its end is told by the clocks of the
	// readers, since Redis does not know of it. EarlyRefresh goes by what loads take in
	// this process. It does not go together with KeyFunc and WriteBehind, nor with a
	// hash tag of what is packed. To change it, or Expected, is to change all keys.
	// A value of more than 16,000 bytes is not stored: codec.ErrTooLarge.
	// Defaults to 0: every entry has a key of its own.
	Packed int

	// Expected is about how many entries there will be, for Packed to spread them over
	// so many hashes: for keys that do not end in an integer, or in one of numbers that
	// are far apart. If there are more, hashes become larger. Defaults to 0: entries are
	// packed by ranges.
	Expected int

	// NoCombining has every Get, Lookup, Set and Delete send its command by itself.
	// Defaults to false: a lone one goes out at once, and those that come while a few are
	// under way on the client leave together, with what other caches do, as one MGET, or as
	// one pipeline for each node of a Cluster or Ring; writes apart from reads. Each caller
	// leaves on its own ctx and gets its own error, and large values go alone.
	NoCombining bool

	// Near keeps decoded values in this process. Not supported yet. Defaults to
	// nil: it does not.
	Near *near.Options

	// Observer is told of calls that read and write, but for those that are refused
	// before they begin, and of every load, for traces and metrics.
	// Defaults to nil.
	Observer Observer
}

const (
	// Forever is the TTL of a value that is fresh until it is deleted, and the
	// HeartbeatFrequency of a redis.Ring that drops no shard.
	Forever = engine.Forever

	// NoJitter is the Jitter of values that live exactly for their TTL.
	NoJitter = -1
)

// resolve returns the settings of the Spec, sets its Codec if it has none, and returns
// how its keys are made; or the error of New. It is a method of its own so that to test
// a Spec that is refused costs no Cache of its types.
func (s *Spec[K, V]) resolve() (settings, *key.Template[K], error) {
	if s.Codec == nil {
		s.Codec = codec.For[V]()
	}
	all := settings{
		name: s.Name, key: s.Key, ttl: s.TTL, swr: s.StaleWhileRevalidate, sie: s.StaleIfError, softTimeout: s.SoftTimeout,
		backoff: s.Backoff, notFoundTTL: s.NotFoundTTL, earlyRefresh: s.EarlyRefresh, jitter: s.Jitter, maxKeys: s.MaxKeys,
		upContext: s.UpContext, writeBehind: s.WriteBehind, writeBehindOptions: s.WriteBehindOptions, upTimeout: s.UpTimeout,
		leaseTTL: s.LeaseTTL, maxLoads: s.MaxLoads, allowStaleReads: s.AllowStaleReads, packed: s.Packed, expected: s.Expected,
		noCombining: s.NoCombining, observer: s.Observer,
		near: s.Near != nil, keyFunc: s.KeyFunc != nil, up: s.Up != nil, upMany: s.UpMany != nil,
		down: s.Down != nil, downMany: s.DownMany != nil, ttlFor: s.TTLFor != nil,
	}
	template, err := resolveSettings(&all, s.KeyFunc, s.Codec)
	return all, template, err
}

// resolved is resolve of the settings of a Spec, without the type of its values.
func resolveSettings[K comparable](all *settings, keyFunc func(K) string, c any) (*key.Template[K], error) {
	template, err := key.FromSpec(all.key, keyFunc)
	if err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	_, all.counts = c.(kind.Carrier[K])
	if c, ok := c.(interface{ Check() error }); ok { // as codec.Check has it
		all.codec = c.Check()
	}
	all.withDefaults()
	if err := all.validate(template.Parses); err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	return template, nil
}
