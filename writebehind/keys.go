package writebehind

import (
	"strconv"
	"strings"
)

// Keys holds the Redis keys of a bucket: hashes without a TTL, which only
// scripts write to. Their names are part of the layout in Redis. No key that a
// template renders ends in them, unless the template itself does.
type Keys struct {
	Pending  string // id → the delta or value to persist. Pass it as KEYS[1] of a script
	InFlight string // id → the delta or value being persisted, and the state of the bucket
	Refused  string // id → the delta or value that the database refused for good
	Unread   string // id → a delta or value that a process could not read and the database lacks
	Parked   string // batches that no process could read, and that the database may have
}

// Bucket returns the number of the bucket of an id: its 64-bit FNV-1a hash,
// modulo Buckets.
func (e *Engine) Bucket(id string) int {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return int(h % uint64(len(e.buckets)))
}

// Tag returns the hash tag of an id, braces included. If a script writes a
// user's key together with pending ids, that key must begin with the tag.
func (e *Engine) Tag(id string) string { return e.tag(e.Bucket(id)) }

// Keys returns the keys of a bucket.
func (e *Engine) Keys(bucket int) Keys {
	tag := e.tag(bucket)
	return Keys{
		Pending: tag + "%pending", InFlight: tag + "%inflight", Refused: tag + "%refused",
		Unread: tag + "%unread", Parked: tag + "%parked",
	}
}

// Field returns the hash field of an id. It is the id itself, or '=' and the id
// if the id begins with '#' or '='. Fields that begin with '#' are reserved for
// the engine.
func Field(id string) string {
	if strings.HasPrefix(id, "#") || strings.HasPrefix(id, "=") {
		return "=" + id
	}
	return id
}

// unfield undoes Field.
func unfield(field string) string { return strings.TrimPrefix(field, "=") }

// asideKey returns the key that holds pending ids while they are put aside.
func (e *Engine) asideKey(bucket int) string { return e.tag(bucket) + "%aside" }

func (e *Engine) tag(bucket int) string { return "{" + e.o.Name + ":" + strconv.Itoa(bucket) + "}" }

// turnKey returns the key that records which process has the turn to sweep.
func (e *Engine) turnKey() string { return "{" + e.o.Name + "}%turn" }

func (m Merge) arg() string {
	if m == Last {
		return "last"
	}
	return "sum"
}
