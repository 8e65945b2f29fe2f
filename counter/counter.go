// Package counter counts in Redis without losing counts. A missing count is
// restored from the system of record, and additions are persisted there.
//
//	views := cachex.Must(counter.New(rdb, counter.Spec[int64]{
//		Key: "jobs:{job_id}:views", TTL: time.Hour, Up: db.Views, Down: db.AddViews,
//	}))
//	n, err := views.Inc(ctx, 7)
//
// A Counter is a cachex.Cache of int64, and has its methods: Get, GetMany and
// batches read counts, and restore missing ones.
package counter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/combine"
	"github.com/cachex-go/cachex/internal/kind"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// Counter keeps counts of type int64, by keys of type K. It is safe for
// concurrent use.
//
// It embeds a Cache. Get and its other readers restore missing counts. Set sets
// a count; if Spec.Down is set, Set needs Spec.DownValues. Delete deletes the
// count in Redis, but none of the additions that are still to be persisted: the
// next reader restores the count.
type Counter[K comparable] struct {
	*cachex.Cache[K, int64]
	spec    Spec[K]
	kind    *kind.Kind[K]
	rdb     redis.UniversalClient
	keep    any // milliseconds that a count is kept; "" is for ever
	batcher *combine.Combiner[*pendingAdd]
	buffers buffers[K]

	patience time.Duration // how long a restore waits for batches in flight
}

// Spec describes a counter. It is a value: New copies it and changes nothing.
type Spec[K comparable] struct {
	// Name is the name of the counter in stats and errors. Defaults to Key up
	// to its first placeholder.
	Name string

	// Key is the template of the Redis keys, like cachex.Spec.Key. Required,
	// unless KeyFunc is set.
	Key string

	// KeyFunc returns the Redis key, like cachex.Spec.KeyFunc. It cannot be
	// combined with Down, which needs the K. Defaults to nil.
	KeyFunc func(K) string

	// TTL is the time that a count stays in Redis after its last addition or
	// restoration, without jitter. In whole milliseconds, or cachex.Forever.
	// Required.
	TTL time.Duration

	// Up restores a count from the system of record: the sum of all persisted
	// additions. cachex.ErrNotFound, wrapped or not, counts as 0. The Counter
	// adds the additions that Down has not persisted yet, and each addition
	// made while Up runs, once. Up is called like cachex.Spec.Up. Required with
	// Down; otherwise defaults to nil: a missing count is 0.
	Up func(ctx context.Context, key K) (int64, error)

	// UpMany restores many counts, for GetMany and batches, like
	// cachex.Spec.UpMany. A key missing from the map counts as 0. Defaults to
	// nil: Up is called for each.
	UpMany func(ctx context.Context, keys []K) (map[K]int64, error)

	// UpCounts says that Up recounts a table that already has the event being
	// added: a view is inserted, then counted. So if an Add finds no count, it
	// adds nothing, and returns the result of a call of Up that begins after
	// the Add. An event is counted twice, until the next restoration, in one
	// case: it was inserted before the Up of another caller reads, and added
	// after the lease of that caller was granted. UpCounts cannot be combined
	// with Down. Defaults to false.
	UpCounts bool

	// Down persists additions, later and in batches: it adds the Deltas of a
	// Flush to the system of record. Pending additions are kept in Redis
	// without a TTL, written in the same step as the count. Any process with
	// such a Counter may call Down with them, so killing a process, at any
	// step, loses nothing. With a ledger.Ledger nothing is added twice either.
	// Without one, the batch that a killed process was persisting may be added
	// twice.
	//
	// If the error of Down refuses some ids permanently and has no other cause,
	// all others count as persisted: see ledger.Batch.Refused. After any other
	// error nothing counts as persisted, and the batch is retried. A key that
	// this release cannot parse, of a Spec with another Key or K, is left to
	// processes that can. Down must be safe for concurrent use. Defaults to
	// nil: counts exist in Redis alone.
	Down func(ctx context.Context, f Flush[K]) error

	// DownValues says that Down also writes the Values of a Flush: counts that
	// were set. Set and SetMany of a Counter with Down need it. With Deltas
	// alone, Down could only add the difference to the previous count in Redis,
	// and the database may have another count. If another process has set a
	// count, this process leaves it to processes with DownValues. DownValues
	// needs Down. Defaults to false: Set and SetMany return an error.
	DownValues bool

	// FlushEvery is the approximate time that an addition waits for Down. In
	// whole milliseconds, at least 10. Defaults to 1 s.
	FlushEvery time.Duration

	// WriteBehindOptions tune the calls of Down, like
	// cachex.Spec.WriteBehindOptions: Notify, MaxBatch, Timeout and so on.
	// Every is FlushEvery. Defaults to the defaults of writebehind.Options.
	WriteBehindOptions writebehind.Options

	// OnceTTL is the time that the opID of an AddOnce is remembered. In whole
	// milliseconds. Defaults to a day.
	OnceTTL time.Duration

	// NoCombining sends every Add and every read on its own. Defaults to false:
	// commands issued while others are in flight are batched.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads. Replicas do not affect Inc and Add. On a
	// Ring that may drop a shard, a count may fall back to an older one, and
	// AddOnce may count twice; with Down, New rejects such a Ring anyway.
	// Defaults to false.
	AllowStaleReads bool

	// UpTimeout, LeaseTTL, MaxLoads, MaxKeys and Observer are like those fields
	// of cachex.Spec.
	UpTimeout time.Duration
	LeaseTTL  time.Duration
	MaxLoads  int
	MaxKeys   int
	Observer  cachex.Observer
}

// Flush is the input of one call of Down. A key is either in Deltas or in
// Values.
type Flush[K comparable] struct {
	Deltas map[K]int64  // amounts to add, by key; they may be 0 or negative
	Values map[K]int64  // counts that were set, plus later additions; see Spec.DownValues
	Batch  ledger.Batch // identifies the flush, for Ledger.Once; it has the deltas by id
}

var (
	// ErrOutcomeUnknown reports that an Add was sent, but its reply was lost.
	// Redis may have carried it out, or may do so later. It was not sent again,
	// since it might count twice. If you need to retry, use AddOnce.
	ErrOutcomeUnknown = writebehind.ErrOutcomeUnknown

	// ErrOverflow reports that the count would leave int64. Nothing was added.
	ErrOverflow = writebehind.ErrOverflow
)

// New returns the counter that spec describes, or an error that names the wrong
// field. It does not call Redis. It does not close the client. A Counter with
// Down must be closed, which persists the pending additions.
func New[K comparable](rdb redis.UniversalClient, spec Spec[K]) (*Counter[K], error) {
	if spec.FlushEvery == 0 {
		spec.FlushEvery = time.Second
	}
	if spec.OnceTTL == 0 {
		spec.OnceTTL = 24 * time.Hour
	}
	if err := spec.validate(); err != nil {
		return nil, fmt.Errorf("cachex: new counter: %w", err)
	}
	c := &Counter[K]{spec: spec, kind: &kind.Kind[K]{}, rdb: rdb, patience: defaultPatience}
	inner := cachex.Spec[K, int64]{
		Name: spec.Name, Key: spec.Key, KeyFunc: spec.KeyFunc,
		TTL: spec.TTL, Jitter: cachex.NoJitter, // no two counts restart their TTL at the same times
		Codec:     counts[K]{codec.For[int64](), c.kind},
		UpTimeout: spec.UpTimeout, LeaseTTL: spec.LeaseTTL, MaxLoads: spec.MaxLoads, MaxKeys: spec.MaxKeys, Observer: spec.Observer,
		NoCombining: spec.NoCombining, AllowStaleReads: spec.AllowStaleReads,
	}
	if c.kind.Zero = spec.Up == nil; spec.Up != nil {
		inner.Up = c.restore
	}
	if spec.UpMany != nil {
		inner.UpMany = c.restoreMany
	}
	c.kind.Drain, c.kind.SetMany = c.drain, c.setMany
	if spec.Down != nil {
		inner.WriteBehind, inner.WriteBehindOptions = spec.FlushEvery, spec.WriteBehindOptions
		c.kind.Check = func(value []byte) error {
			if !spec.DownValues && bytes.HasPrefix(value, []byte("=")) {
				return errNoValues
			}
			return nil
		}
		c.kind.Persist = func(ctx context.Context, b ledger.Batch, deltas, values map[K]int64) error {
			return spec.Down(ctx, Flush[K]{Deltas: deltas, Values: values, Batch: b})
		}
	}
	c.keep, c.batcher = any(""), c.newBatcher()
	if spec.TTL != cachex.Forever {
		c.keep = spec.TTL.Milliseconds()
	}
	var err error
	if c.Cache, err = cachex.New(rdb, inner); err != nil {
		return nil, err
	}
	return c, nil
}

func (s Spec[K]) validate() error {
	switch {
	case s.Up == nil && s.UpMany != nil:
		return errors.New("Spec.UpMany needs Spec.Up, which Inc calls")
	case s.Down != nil && s.Up == nil:
		return errors.New("Spec.Down needs Spec.Up: a count that Redis lost would begin at 0 again")
	case s.UpCounts && s.Up == nil:
		return errors.New("Spec.UpCounts needs Spec.Up, which recounts")
	case s.UpCounts && s.Down != nil:
		return errors.New("Spec.UpCounts and Spec.Down are both set: either the source has the event before it is added, or Down persists it")
	case s.DownValues && s.Down == nil:
		return errors.New("Spec.DownValues needs Spec.Down, which writes them")
	case s.Down != nil && s.KeyFunc != nil:
		return errors.New("Spec.Down needs Spec.Key in place of Spec.KeyFunc: the flusher must parse the key")
	case s.Down != nil && strings.Contains(s.Key, "{{"):
		return errors.New("Spec.Down gives keys a hash tag of its own: write Spec.Key without {{…}}")
	case s.Down != nil && (s.FlushEvery < 10*time.Millisecond || s.FlushEvery%time.Millisecond != 0):
		return fmt.Errorf("Spec.FlushEvery is %v, must be whole milliseconds, at least 10ms", s.FlushEvery)
	case s.Down == nil && !reflect.ValueOf(s.WriteBehindOptions).IsZero():
		return errors.New("Spec.WriteBehindOptions needs Spec.Down")
	case s.OnceTTL < time.Millisecond || s.OnceTTL%time.Millisecond != 0:
		return fmt.Errorf("Spec.OnceTTL is %v, must be whole milliseconds, at least 1ms", s.OnceTTL)
	}
	return nil
}

// counts is the decimal codec of counts. It carries the kind to cachex.New.
type counts[K comparable] struct {
	codec.Codec[int64]
	k *kind.Kind[K]
}

// Kind is for package cachex.
func (c counts[K]) Kind() *kind.Kind[K] { return c.k }
