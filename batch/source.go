package batch

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// A Source is what a Batch reads. Caches, counters and collections are Sources; so
// is any type with this method. It must be safe for concurrent use.
//
// Where it can be compared, as a pointer can, what a Batch asks of it is read at
// once.
type Source[K comparable, V any] interface {
	// BatchRead begins a read of keys, of which there is one at least, and no two are
	// the same. It does not call Redis, and does not wait. keys are not to be changed.
	//
	// Answer of what it returns calls got for every key, once: with its index in keys
	// and with its value, or with its error, which is cachex.ErrNotFound, perhaps
	// wrapped, if there is no value. It may call it earlier, from BatchRead on, and
	// from several goroutines. Of several answers for a key the first counts, and one
	// that comes after Answer has returned, or ctx has ended, does not.
	//
	// A source that panics, or has called got for some of the keys alone, leaves an
	// error to the others.
	BatchRead(ctx context.Context, keys []K, got func(i int, v V, err error)) Reading
}

// A Reading is one read of a Source, for one use. Run calls its methods in the order
// in which they are here, once.
type Reading interface {
	// Client returns the client that its commands are for, which must not be nil.
	// Readings with the same client share a round trip.
	Client() redis.UniversalClient

	// Ask queues on p the commands that read the keys: none, if it likes. It must not
	// execute them. It is good to have one command for each key, which touches that
	// key alone: then a Cluster, and a proxy, can spread them.
	Ask(ctx context.Context, p redis.Pipeliner)

	// Answer answers all keys, when the commands have been sent. If err is nil every
	// command has its own reply or error. Else they were not answered, may still be
	// under way, and must not be looked at: if it answers nothing, err is the error of
	// all keys.
	//
	// It may wait for something else, until ctx ends; Readings are answered side by
	// side.
	Answer(ctx context.Context, err error)
}
