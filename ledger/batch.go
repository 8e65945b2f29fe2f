package ledger

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cachex-go/cachex/internal/errs"
)

// A Batch is what one flush persists, and what identifies it. For ever, all that have
// the same Namespace, Bucket, Incarnation, N and Token are the same.
type Batch struct {
	Namespace   string
	Bucket      int
	N           int64  // counts the batches of the incarnation, from 1
	Token       string // random
	Incarnation string // another one after Redis has lost the bucket, and in each Redis

	// Deltas are what to add, by id, where counts are persisted; else nil.
	Deltas map[string]int64

	// Values are what to write, by id, where values are persisted. Where counts are,
	// they are the totals, in decimal, of counts that were set: an id has a delta or a
	// total. Only a counter makes totals.
	Values map[string][]byte

	// Unread are the ids of the batch that this process cannot read, in ascending
	// order: of a template or a codec of another release. They are in neither map.
	// Once records that they are not applied, for the same batch may be applied whole
	// by a process that can read them. A ledger of your own must record it too.
	Unread []string
}

// IDs returns the ids of the batch in ascending order. Whoever writes rows in this
// order does not wait in a circle with others who do.
func (b Batch) IDs() []string {
	ids := make([]string, 0, len(b.Deltas)+len(b.Values))
	for id := range b.Deltas {
		ids = append(ids, id)
	}
	for id := range b.Values {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return ids
}

// String returns what identifies the batch, and nothing of what is in it.
func (b Batch) String() string {
	return fmt.Sprintf("batch %d of %s:%d", b.N, b.Namespace, b.Bucket)
}

// Refused returns the ids of the batch that err refuses for good, and reports whether
// all others are persisted. It collects every RefusedError in the tree of err, as
// errors.Join makes one. It returns false if the tree has another error beside them, if
// they name no id, or one that is not in the batch: then the batch as a whole must be
// persisted again.
func (b Batch) Refused(err error) (ids []string, ok bool) {
	found, beside := errs.Find[*RefusedError](err)
	if beside {
		return nil, false
	}
	for _, refused := range found {
		for _, id := range refused.IDs {
			_, isDelta := b.Deltas[id]
			_, isValue := b.Values[id]
			if !isDelta && !isValue {
				return nil, false
			}
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), len(ids) > 0
}

// GoString is String, lest %#v shows what is in the batch.
func (b Batch) GoString() string { return b.String() }

// A RefusedError says that all of a batch is persisted but these ids, which the
// database refuses for good. A function that persists batches returns it to have them
// put aside, so that the others need not wait for them. It may be wrapped, and joined
// with others of its type; see [Batch.Refused] for what else the error may have in it.
type RefusedError struct {
	IDs []string
	Err error // why, if it is known
}

// Error tells how many ids were refused, and of one that it was.
func (e *RefusedError) Error() string {
	text := fmt.Sprintf("%d ids refused", len(e.IDs))
	if len(e.IDs) > 0 {
		text += fmt.Sprintf(", %q among them", e.IDs[0])
	}
	if e.Err != nil {
		text += ": " + e.Err.Error()
	}
	return text
}

// Unwrap returns Err.
func (e *RefusedError) Unwrap() error { return e.Err }

// An AppliedError says that a batch was applied before, by a process that could read
// other ids of it. Like a RefusedError, it says that the batch is done with.
type AppliedError struct {
	Refused []string // ids that the database refused for good
	Unread  []string // ids that were not applied
}

// Error tells how many ids were not applied.
func (e *AppliedError) Error() string {
	return fmt.Sprintf("applied before, but for %d ids that were refused and %d that were not read", len(e.Refused), len(e.Unread))
}

// A ConflictError says that a batch was not applied, since it is not the one that comes
// next according to the ledger. Either its process is late, and another one has applied
// it under this or another number, or Redis or the database has lost some of its history.
// Package writebehind finds out which, and goes on.
type ConflictError struct {
	Batch Batch // that was not applied
	Row   Row   // what the ledger says
}

// Error tells the two numbers.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v does not follow batch %d, which the ledger has", e.Batch, e.Row.N)
}

// A Row is what the ledger says of the last batch of a bucket and incarnation that was
// applied. It is zero if there is none.
type Row struct {
	N       int64
	Token   string
	Deltas  map[string]int64 // of the batch, if it had any
	Refused []string         // ids of the batch that were refused, and not applied
	Unread  []string         // ids of the batch that were not applied; see Batch.Unread
}

// String tells the number.
func (r Row) String() string { return fmt.Sprintf("batch %d", r.N) }

// GoString is String.
func (r Row) GoString() string { return r.String() }

// check returns an error if b cannot be a batch.
func (b Batch) check() error {
	switch {
	case b.Namespace == "":
		return fmt.Errorf("Batch.Namespace is empty: hand on the batch that Persist was given")
	case len(b.Namespace) > maxText || strings.ContainsRune(b.Namespace, 0):
		return fmt.Errorf("Batch.Namespace has more than %d bytes, or one of 0", maxText)
	case b.Bucket < 0:
		return fmt.Errorf("Batch.Bucket is %d, must not be negative", b.Bucket)
	case b.N < 1:
		return fmt.Errorf("Batch.N is %d: batches are counted from 1", b.N)
	case b.Token == "" || b.Incarnation == "" || len(b.Token) > maxText || len(b.Incarnation) > maxText:
		return fmt.Errorf("Batch.Token or Batch.Incarnation is empty, or has more than %d bytes", maxText)
	}
	return nil
}

// maxText is how many bytes the names in the ledger have at most. MySQL indexes no more
// than 3072, at four a character.
const maxText = 255
