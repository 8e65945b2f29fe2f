package batch

import (
	"context"

	"github.com/redis/go-redis/v9"
)

// Source is something that a Batch can read. Caches, counters and collections
// are Sources, and so is any type with this method. It must be safe for
// concurrent use.
//
// If a Source is comparable, as a pointer is, all reads of it in a Batch are
// combined into one call.
type Source[K comparable, V any] interface {
	// BatchRead begins a read of keys: at least one, and without duplicates. It
	// must not call Redis, wait, or change keys.
	//
	// Answer of the returned Reading calls got exactly once per key, with its
	// index in keys and its value or error. If there is no value, the error is
	// cachex.ErrNotFound, perhaps wrapped. got may be called earlier, from
	// BatchRead on, and from several goroutines. The first answer for a key
	// counts. Answers after Answer has returned, or after ctx has ended, are
	// ignored.
	//
	// If the source panics, or calls got for only some of the keys, the
	// remaining keys get an error.
	BatchRead(ctx context.Context, keys []K, got func(i int, v V, err error)) Reading
}

// Reading is one read of a Source, for one use. Run calls each method once, in
// the order of declaration.
type Reading interface {
	// Client returns the client for the commands, which must not be nil.
	// Readings with the same client share a round trip.
	Client() redis.UniversalClient

	// Ask queues the commands that read the keys on p. It may queue none, and
	// must not execute them. Prefer one command per key that touches only that
	// key, so that a Cluster or a proxy can distribute the commands.
	Ask(ctx context.Context, p redis.Pipeliner)

	// Answer answers all keys after the commands were sent. If err is nil,
	// every command has its own reply or error. Otherwise the commands have no
	// replies, may still be in flight, and must not be inspected. Keys that
	// Answer leaves without an answer then get err.
	//
	// Answer may wait for other work until ctx ends. Readings are answered
	// concurrently.
	Answer(ctx context.Context, err error)
}
