// Package counter counts in Redis, and loses nothing: a count that is missing is
// restored from the system of record, and what is counted is persisted there.
//
//	views := cachex.Must(counter.New(rdb, counter.Spec[int64]{
//		Key: "jobs:{job_id}:views", TTL: time.Hour, Up: db.Views, Down: db.AddViews,
//	}))
//	n, err := views.Inc(ctx, 7)
//
// A Counter is a cachex.Cache of int64, and has its methods: Get, GetMany and batches
// read counts, restored if need be.
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

// A Counter keeps counts, of type int64, by keys of type K. It is safe for concurrent
// use.
//
// It embeds a Cache, of which Get and the like restore a count that is missing. Set
// sets one; of a Counter with Down it needs Spec.DownValues. Delete takes away
// the count in Redis, and nothing of what is still to be persisted: the next reader
// restores it.
type Counter[K comparable] struct {
	*cachex.Cache[K, int64]
	spec    Spec[K]
	kind    *kind.Kind[K]
	rdb     redis.UniversalClient
	keep    any // milliseconds that a count is kept, "" forever
	adds    *combine.Combiner[*addition]
	buffers buffers[K]

	patience time.Duration // of a restore with batches in flight
}

// A Spec describes a counter. It is a value: New copies it and changes nothing.
type Spec[K comparable] struct {
	// Name is the name of the counter in stats and errors. Defaults to Key up to its
	// first placeholder.
	Name string

	// Key is the template of the keys in Redis, as cachex.Spec.Key. Required, unless
	// KeyFunc is set.
	Key string

	// KeyFunc returns the key in Redis, as cachex.Spec.KeyFunc. Not together with Down,
	// which has to be given the K. Defaults to nil.
	KeyFunc func(K) string

	// TTL is how long a count stays in Redis after it was last added to, or restored;
	// no jitter is taken off. In whole milliseconds, or cachex.Forever. Required.
	TTL time.Duration

	// Up restores a count from the system of record: what all that was persisted comes
	// to. cachex.ErrNotFound, perhaps wrapped, is 0. What is still to be persisted by
	// Down is added to it, and what is counted while it runs, once. What is said of
	// cachex.Spec.Up is true of it. Required with Down; else it defaults to nil: a
	// count that is missing is 0.
	Up func(ctx context.Context, key K) (int64, error)

	// UpMany restores many counts, for GetMany and batches, as cachex.Spec.UpMany. A
	// key that is not in the map counts 0. Defaults to nil: Up is called for each.
	UpMany func(ctx context.Context, keys []K) (map[K]int64, error)

	// UpCounts says that Up recounts a table that already has the event that is being
	// added: a view is inserted, then counted. So an Add that finds no count returns
	// what Up counts, of a call that begins after it, and adds nothing. An event that is
	// inserted before somebody else's Up reads, and added after their lease was granted,
	// is counted twice, until the count is restored again; no other is. Not together with Down.
	// Defaults to false.
	UpCounts bool

	// Down persists what was added, later and in batches: it adds the Deltas of a Flush
	// to the system of record. What is to be persisted is kept in Redis without a TTL,
	// written in the same step as the count, and any process that has such a Counter
	// calls Down with it, so a process that is killed, at whatever step, loses nothing.
	// With a ledger.Ledger, nothing is added twice either; without one, what a killed
	// process was persisting may be. An error that refuses some ids for good, and says
	// nothing else, says that all others are persisted: see ledger.Batch.Refused. Any
	// other says that nothing is, and that it is to be tried again. A key that this
	// release cannot read, of a Spec with another Key or K, is left to processes that
	// can. It must be safe for concurrent use. Defaults to nil:
	// counts live in Redis alone.
	Down func(ctx context.Context, f Flush[K]) error

	// DownValues says that Down also writes the Values of a Flush, which are counts that
	// were set. Set and SetMany of a Counter with Down need it: with the Deltas alone, Down
	// could only add the difference to what the count was in Redis, and the database may
	// have another count. If another process has set a count, this one leaves it to
	// processes that have DownValues. Not without Down. Defaults to false: Set and SetMany
	// return an error.
	DownValues bool

	// FlushEvery is how long what was added may wait for Down, about. In whole
	// milliseconds, at least 10. Defaults to 1 s.
	FlushEvery time.Duration

	// WriteBehindOptions tune how Down is called, as cachex.Spec.WriteBehindOptions:
	// Notify, MaxBatch, Timeout and so on. Every is FlushEvery. Defaults to its
	// defaults.
	WriteBehindOptions writebehind.Options

	// OnceTTL is how long the opID of an AddOnce is remembered. In whole milliseconds.
	// Defaults to a day.
	OnceTTL time.Duration

	// NoCombining has every Add and every read sent by itself. Defaults to false: those
	// that come while a few are under way leave together.
	NoCombining bool

	// AllowStaleReads accepts a client whose reads may be stale, like the field of cachex.Spec.
	// Replicas do not affect Inc and Add. On a Ring that may drop a shard, a count may
	// fall back to an older one, and AddOnce may count twice; with Down, New refuses
	// such a Ring nevertheless. Defaults to false.
	AllowStaleReads bool

	// UpTimeout, LeaseTTL, MaxLoads, MaxKeys and Observer are as those of cachex.Spec.
	UpTimeout time.Duration
	LeaseTTL  time.Duration
	MaxLoads  int
	MaxKeys   int
	Observer  cachex.Observer
}

// A Flush is what one call of Down has to persist. A key is in Deltas or in Values.
type Flush[K comparable] struct {
	Deltas map[K]int64  // what to add, by key; it may be 0 or negative
	Values map[K]int64  // counts that were set, and what was added since; see Spec.DownValues
	Batch  ledger.Batch // identifies the flush, for Ledger.Once; with the deltas by id
}

var (
	// ErrOutcomeUnknown says that an Add was sent and not answered: it may have been
	// carried out, or be carried out yet. It was not sent again, since it might then
	// count twice; AddOnce is for those who want to.
	ErrOutcomeUnknown = writebehind.ErrOutcomeUnknown

	// ErrOverflow says that the count would leave int64. Nothing was added.
	ErrOverflow = writebehind.ErrOverflow
)

// New returns the counter that spec describes, or an error that names the field that
// is wrong. It makes no call to Redis. The client stays the caller's. A Counter with
// Down must be closed, which persists what is left.
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
		TTL: spec.TTL, Jitter: cachex.NoJitter, // a TTL that slides needs none: no two counts are used alike
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
	c.keep, c.adds = any(""), c.together()
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
		return errors.New("Spec.Down needs Spec.Up: a count that has left Redis would begin at 0 again")
	case s.UpCounts && s.Up == nil:
		return errors.New("Spec.UpCounts needs Spec.Up, which recounts")
	case s.UpCounts && s.Down != nil:
		return errors.New("Spec.UpCounts and Spec.Down are both set: either the source has the event before it is added, or Down persists it")
	case s.DownValues && s.Down == nil:
		return errors.New("Spec.DownValues needs Spec.Down, which writes them")
	case s.Down != nil && s.KeyFunc != nil:
		return errors.New("Spec.Down needs Spec.Key in place of Spec.KeyFunc: whoever persists has to tell the key from its text")
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

// counts is the codec of counts, decimal. It carries the kind to cachex.New.
type counts[K comparable] struct {
	codec.Codec[int64]
	k *kind.Kind[K]
}

// Kind is for package cachex.
func (c counts[K]) Kind() *kind.Kind[K] { return c.k }
