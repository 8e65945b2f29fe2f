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

// Spec describes a cache. It is a value: New copies it and changes nothing.
//
// Durations are whole milliseconds, the unit of Redis. New refuses a duration
// that would have to be rounded.
type Spec[K comparable, V any] struct {
	// Name is the name of the cache in stats and errors. Defaults to Key up to
	// its first placeholder: "users" for "users:{id}".
	Name string

	// Key is the template of the keys in Redis. {name} is a placeholder for K
	// or, if K is a struct, for its field of that name. {{name}} is a
	// placeholder in literal braces, a hash tag of Redis Cluster. Every
	// exported field must be used. Values are escaped, so different keys stay
	// different in Redis. Required, unless KeyFunc is set.
	Key string

	// KeyFunc returns the complete key in Redis. It must return different
	// strings for different keys and be safe for concurrent use. It must not be
	// set together with Key. Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a value is fresh after it was stored. Jitter shortens it.
	// If TTL is Forever, values are fresh until they are deleted. Required.
	TTL time.Duration

	// StaleWhileRevalidate is how long after TTL a stale value is served at
	// once while one process reloads it (RFC 5861). After a failed load, no
	// process tries again for Backoff. Defaults to 0: readers wait for the
	// reload.
	StaleWhileRevalidate time.Duration

	// StaleIfError is how long after StaleWhileRevalidate a value is kept, to
	// be served only if Up fails or takes longer than SoftTimeout (RFC 5861).
	// After a failed load, all readers of the fleet are served the value at
	// once for Backoff. A load that began within this time may end up to
	// UpTimeout later. Defaults to 0.
	StaleIfError time.Duration

	// SoftTimeout is how long a reader waits for Up while StaleIfError keeps a
	// value. Then the reader is served that value. Up goes on under the same
	// lease, and its result is stored. Defaults to 0: readers wait until Up
	// returns.
	SoftTimeout time.Duration

	// Backoff is how long the fleet does not call Up again after a failure, as
	// long as a stale value can be served. It doubles with each failure, up to
	// a minute, with a random deviation of up to a fifth. If there is no value
	// to serve, the next reader tries again. Defaults to 1 s.
	Backoff time.Duration

	// NotFoundTTL is how long an ErrNotFound from Up is remembered. Jitter
	// applies. Set and Delete end it. Defaults to 0: ErrNotFound is not
	// remembered, and the previous value is deleted.
	NotFoundTTL time.Duration

	// EarlyRefresh is how eagerly a value is reloaded before it is stale, so
	// that readers never wait for a key in demand. Each reader decides at
	// random, more likely the nearer the end is, and one process reloads. A
	// value that takes d to load is reloaded about EarlyRefresh times d ahead,
	// and somewhat earlier the more often it is read. 1 is a good choice. The
	// algorithm is XFetch, by Vattani, Chierichetti and Lowenstein, VLDB 2015.
	// Defaults to 0: no value is reloaded early.
	EarlyRefresh float64

	// Jitter is the largest share of the TTL that is taken off at random, from
	// 0 to 1, evenly distributed. It keeps values that were stored together
	// from expiring together. NoJitter turns it off. Defaults to 0.1.
	Jitter float64

	// TTLFor returns the TTL of one value, or 0 for Spec.TTL. Jitter applies.
	// If it panics or returns an invalid TTL, Set returns an error, and a
	// loaded value is returned but not stored. It must be safe for concurrent
	// use. Defaults to nil.
	TTLFor func(K, V) time.Duration

	// Codec encodes values as the bytes that Redis stores. Defaults to
	// codec.For[V]().
	Codec codec.Codec[V]

	// Up loads the value of key from the system of record, on a miss. If there
	// is no value, it returns ErrNotFound, perhaps wrapped.
	//
	// At most one call per key runs at a time in the fleet; all other callers
	// wait for it. The ctx of Up has the values of the first caller's ctx. It
	// ends when every caller in this process has left, or after UpTimeout. An
	// Up that ignores its ctx is left running. If Up panics, every caller gets
	// a *loader.PanicError. Callers share the value and the error, which must
	// not be changed. Up must be safe for concurrent use.
	//
	// Up may call Previous to read the value that it is about to replace. If
	// that value is still right, Up returns ErrNotModified, which renews the
	// value without sending it again. If Up calls NoStore, its result is not
	// stored.
	//
	// Defaults to nil: UpMany is called with one key. If UpMany is nil too, a
	// miss is ErrNotFound.
	Up func(ctx context.Context, key K) (V, error)

	// UpMany loads many values at once, for GetMany and batches: at most
	// MaxKeys keys per call. GetMany runs up to four calls at the same time. A
	// key missing from the map has no value, as if Up had returned ErrNotFound
	// for it. Keys that were not asked for are ignored. An error of UpMany is
	// the error of the keys missing from the map. UpMany follows the rules of
	// Up, except that Previous and ErrNotModified do not apply. Defaults to
	// nil: Up is called for each key, at most MaxLoads calls at once, or 16 if
	// MaxLoads is 0.
	UpMany func(ctx context.Context, keys []K) (map[K]V, error)

	// MaxKeys is the maximum number of keys in one call of UpMany, and of
	// values in one call of DownMany. GetMany, LookupMany, SetMany and batches
	// process more keys in chunks of MaxKeys, so their memory grows with
	// MaxKeys. From 1 to 10000, because the leases of one call are renewed
	// together. Defaults to 1000, which every database accepts in one
	// statement: Oracle allows no longer IN lists, and SQL Server at most 2100
	// parameters.
	MaxKeys int

	// UpContext chooses the ctx values that Up and UpMany see. It receives the
	// ctx of a load, which has all values of the first caller's ctx. It returns
	// a ctx with the values that may cross; the end of the returned ctx is
	// ignored. A load is shared by the fleet and may outlive its caller, as a
	// background reload does. So an open transaction or a request scope must
	// not cross: a value that Up read in a rolled-back transaction would be
	// stored for all readers. If UpContext panics, the load fails as if Up had
	// panicked. It must be safe for concurrent use. Defaults to nil: all values
	// cross.
	UpContext func(ctx context.Context) context.Context

	// Down persists a value to the system of record. Set calls it before it
	// stores the value. It must be safe for concurrent use. Defaults to nil:
	// Set only stores.
	Down func(ctx context.Context, key K, value V) error

	// DownMany persists many values at once, for SetMany: all of them or none,
	// and at most MaxKeys per call. Defaults to nil: Down is called for one
	// value after the other.
	DownMany func(ctx context.Context, values map[K]V) error

	// WriteBehind is roughly how long a value may wait for Down. Set stores the
	// value and, in the same step, records in Redis that it is pending. If a
	// key is set several times, only the last value is persisted. Any process
	// with the same cache calls DownMany with a batch of the pending values, or
	// Down with a batch of one value. Inside them, ledger.FromContext(ctx)
	// returns the batch, so that a ledger.Ledger applies it once. Without a
	// ledger, they may be called again with the same batch and, after a pause
	// of their process, with outdated values. A process that is killed loses
	// nothing.
	//
	// If Down returns a *ledger.RefusedError, or DownMany returns one that
	// names its ids, the refused values are put aside for good: see Refused and
	// Retry. After any other error, Down is called again, and the values of
	// about 1/64 of the keys wait until it succeeds. A value that this release
	// cannot read, because its Key, K or Codec differs, is left to processes
	// that can read it: see Stats.WriteBehind.
	//
	// Until a value is persisted, loads read it from the pending values, even
	// if the entry expires or is deleted. Delete does not remove a pending
	// write. Keys in Redis begin with a hash tag made from Key. Whole
	// milliseconds, at least 10. Defaults to 0: Set calls Down before it
	// stores.
	WriteBehind time.Duration

	// WriteBehindOptions tunes WriteBehind: Notify, MaxBatch, Timeout and so
	// on. Name, Merge, Every, Persist and Check must not be set, and MaxBatch
	// needs DownMany. Defaults to the defaults of writebehind.Options, except
	// that MaxBatch is 1 without DownMany.
	WriteBehindOptions writebehind.Options

	// UpTimeout bounds one load: the wait for MaxLoads and for the lease, and
	// Up itself. If GetMany queues a key because UpMany is nil, the time of
	// that key begins when its turn comes. Defaults to a minute.
	UpTimeout time.Duration

	// LeaseTTL is how long the fleet waits for a process that died in Up. A
	// live process renews its lease every third of LeaseTTL, so Up may take
	// longer. At least 100 ms. Defaults to 3 s.
	LeaseTTL time.Duration

	// MaxLoads is the maximum number of concurrent calls of Up in this process.
	// Further loads wait and hold no lease while they wait. A load that Up
	// itself starts in this cache is not counted, since Up waits for it. Nor is
	// a queued load that an Up begins to wait for, through this cache or
	// another. Defaults to 0: no limit.
	MaxLoads int

	// AllowStaleReads accepts a client that reads from replicas (ReadOnly,
	// RouteByLatency, RouteRandomly) or from a cache in the process
	// (ClientSideCacheConfig). It also accepts a Ring that may drop a shard
	// (HeartbeatFrequency is not Forever). Reads of such a client may return
	// deleted or replaced values, so guarantee 1 is lost. Clear skips a dropped
	// shard. WriteBehind on such a Ring is always refused, since a pending
	// write could be lost. Defaults to false: New refuses a client that shows
	// one of these options, and a Ring that hides them.
	AllowStaleReads bool

	// Packed stores about Packed entries in each Redis hash, which takes less
	// than half the memory if values are small. If the last placeholder is an
	// integer, keys are packed by ranges of it, which suits dense numbers.
	// Other keys need Expected. From 2 to 1024; 100 is a good choice if Redis
	// is configured as docs/packed.md says.
	//
	// Each entry keeps its own lifetime, but Redis does not know when it ends.
	// Readers decide by their own clocks. EarlyRefresh uses the load times
	// measured in this process. Packed cannot be combined with KeyFunc,
	// WriteBehind, or a hash tag around the packed placeholder. A change of
	// Packed or Expected changes all keys. A value of more than 16,000 bytes is
	// not stored: codec.ErrTooLarge. Defaults to 0: every entry has its own
	// key.
	Packed int

	// Expected is the approximate number of entries. Packed uses it to spread
	// entries over hashes if keys do not end in an integer, or if their
	// integers are sparse. If there are more entries, hashes become larger.
	// Defaults to 0: entries are packed by ranges.
	Expected int

	// NoCombining sends the command of each Get, Lookup, Set and Delete
	// separately. Defaults to false: a single command is sent immediately, and
	// commands issued while others are in flight are batched across all caches
	// of the client. A batch is one MGET, or one pipeline per node of a Cluster
	// or Ring; reads and writes have separate batches. Each caller leaves on
	// its own ctx and gets its own error. Large values are sent alone.
	NoCombining bool

	// Near keeps decoded values in this process. It is not supported yet.
	// Defaults to nil: nothing is kept.
	Near *near.Options

	// Observer observes reads, writes and loads, for traces and metrics. It
	// does not see calls that are refused before they begin. Defaults to nil.
	Observer Observer
}

const (
	// Forever is the TTL of a value that is fresh until it is deleted. It is
	// also the HeartbeatFrequency of a redis.Ring that drops no shard.
	Forever = engine.Forever

	// NoJitter is the Jitter of values that live for exactly their TTL.
	NoJitter = -1
)

// resolve returns the settings and the key template of s, or the error of New.
// It sets the Codec if that is nil. New calls it before it creates a Cache, so
// that a test of an invalid Spec does not compile a Cache of its types.
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

// resolveSettings completes and validates the settings of a Spec. It does not
// depend on the type of the values.
func resolveSettings[K comparable](all *settings, keyFunc func(K) string, c any) (*key.Template[K], error) {
	template, err := key.FromSpec(all.key, keyFunc)
	if err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	_, all.counts = c.(kind.Carrier[K])
	if c, ok := c.(interface{ Check() error }); ok { // see codec.Check
		all.codec = c.Check()
	}
	all.withDefaults()
	if err := all.validate(template.Parses); err != nil {
		return nil, fmt.Errorf("cachex: %w", err)
	}
	return template, nil
}
