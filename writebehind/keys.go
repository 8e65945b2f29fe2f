package writebehind

import (
	"strconv"
	"strings"
)

// Keys are the keys of a bucket in Redis: hashes without a TTL, which only scripts
// write to. Their names are part of how things lie in Redis. No key that a template
// renders ends so, unless the template itself does.
type Keys struct {
	Pending  string // id → what is to be persisted. Let it be KEYS[1] of a script
	InFlight string // id → what is being persisted, and what is known of the bucket
	Refused  string // id → what the database refused for good
	Unread   string // id → what a process could not read, and the database has not
	Parked   string // batches that no process could read, and the database may have
}

// Bucket returns the number of the bucket of an id: its 64-bit FNV-1a hash, modulo
// Buckets.
func (e *Engine) Bucket(id string) int {
	h := uint64(14695981039346656037)
	for i := range len(id) {
		h = (h ^ uint64(id[i])) * 1099511628211
	}
	return int(h % uint64(len(e.buckets)))
}

// Tag returns the hash tag of an id, braces included. A key of the user that a script
// writes together with what is pending begins with it.
func (e *Engine) Tag(id string) string { return e.tag(e.Bucket(id)) }

// Keys returns the keys of a bucket.
func (e *Engine) Keys(bucket int) Keys {
	tag := e.tag(bucket)
	return Keys{
		Pending: tag + "%pending", InFlight: tag + "%inflight", Refused: tag + "%refused",
		Unread: tag + "%unread", Parked: tag + "%parked",
	}
}

// Field returns the field of the hashes that stands for an id: the id itself, or '='
// and the id if that begins with '#' or '='. Fields that begin with '#' are the
// engine's own.
func Field(id string) string {
	if strings.HasPrefix(id, "#") || strings.HasPrefix(id, "=") {
		return "=" + id
	}
	return id
}

// unfield undoes Field.
func unfield(field string) string { return strings.TrimPrefix(field, "=") }

// asideKey holds what was pending while it is put aside.
func (e *Engine) asideKey(bucket int) string { return e.tag(bucket) + "%aside" }

func (e *Engine) tag(bucket int) string { return "{" + e.o.Name + ":" + strconv.Itoa(bucket) + "}" }

// turnKey is where it stands whose turn it is to sweep.
func (e *Engine) turnKey() string { return "{" + e.o.Name + "}%turn" }

func (m Merge) arg() string {
	if m == Last {
		return "last"
	}
	return "sum"
}
