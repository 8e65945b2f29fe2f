// Package kind lets a package above cachex make another kind of cache, such as
// a counter, from a Cache. The Codec of that Cache carries a Kind to
// cachex.New. A kind needs internals of a Cache. Package kind keeps these out
// of the surface of package cachex, whose methods are promoted to any type that
// embeds a Cache.
package kind

import (
	"context"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// Kind holds the functions and values that a kind and its Cache share.
type Kind[K comparable] struct {
	// Set by the kind, before cachex.New.

	// Zero says that a key without a value in Redis has the zero value. A read
	// of the Cache then returns that value in place of ErrNotFound, and stores
	// nothing. It is for a Cache without Up, whose system of record is Redis.
	Zero bool

	// If Spec.WriteBehind is set, Persist receives the sums of the deltas, and
	// the totals that were set. The keys are the keys of the batch.
	Persist func(ctx context.Context, b ledger.Batch, deltas, totals map[K]int64) error

	// Check returns an error if Persist cannot take a delta, or '=' and a
	// total.
	Check func(value []byte) error

	// If Spec.WriteBehind is set, SetMany does the work of Set and SetMany. It
	// returns an error for each key.
	SetMany func(ctx context.Context, keys []K, values []int64) []error

	// Drain sends the writes that the kind buffers in this process. Flush and
	// Close call it first; after the call of Close, the kind buffers nothing
	// more.
	Drain func(ctx context.Context, closing bool) error

	// Set by cachex.New.

	Enter  func(ctx context.Context, op string, key K) (*Call, error)
	Send   func(ctx context.Context, calls ...*script.Call) // as a load does: it leaves on ctx
	Spawn  guard.Spawn                                      // in a goroutine that Close waits for
	Fail   func(op, key string, err error) error            // the error of a call
	Engine *writebehind.Engine                              // nil if Spec.WriteBehind is not set
}

// Call is one call on a kind, which the Close of its Cache waits for.
type Call struct {
	Ctx context.Context // as the Observer has it
	Key string          // in Redis
	ID  string          // of write-behind: the key without its tag
	End func(err error) error
}

// Carrier is a codec that carries a Kind.
type Carrier[K comparable] interface{ Kind() *Kind[K] }
