// Package kind is how a package above cachex makes a cache of another kind, a counter
// say, out of a Cache: its Codec carries a Kind to cachex.New. That keeps what a
// kind needs of the inside of a Cache out of the surface of package cachex, of which
// the methods are promoted to whatever embeds a Cache.
package kind

import (
	"context"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// A Kind is what a kind and its Cache know of each other.
type Kind[K comparable] struct {
	// Set by the kind, before cachex.New.

	// Zero says that a key without a value in Redis has the zero value: a read of the
	// Cache then returns that in place of ErrNotFound, and stores nothing. It is for a
	// Cache without Up, of which Redis is the system of record.
	Zero bool

	// Persist is told of what was added up, and of totals that were set, if
	// Spec.WriteBehind is set. The keys are those of the batch.
	Persist func(ctx context.Context, b ledger.Batch, deltas, totals map[K]int64) error

	// Check returns an error if Persist cannot be told of a delta, or of '=' and a total.
	Check func(value []byte) error

	// SetMany is what Set and SetMany do, if Spec.WriteBehind is set. It returns an error
	// for each.
	SetMany func(ctx context.Context, keys []K, values []int64) []error

	// Drain sends what the kind keeps in this process. Flush and Close call it first;
	// Close for good.
	Drain func(ctx context.Context, closing bool) error

	// Set by cachex.New.

	Enter  func(ctx context.Context, op string, key K) (*Call, error)
	Send   func(ctx context.Context, calls ...*script.Call) // as a load does: it leaves on ctx
	Spawn  guard.Spawn                                      // in a goroutine that Close waits for
	Fail   func(op, key string, err error) error            // the error of a call
	Engine *writebehind.Engine                              // nil: Spec.WriteBehind is not set
}

// A Call is one call on a kind, which the Close of its Cache waits for.
type Call struct {
	Ctx context.Context // as the Observer has it
	Key string          // in Redis
	ID  string          // of write-behind: the key without its tag
	End func(err error) error
}

// A Carrier is a codec that carries a Kind.
type Carrier[K comparable] interface{ Kind() *Kind[K] }
