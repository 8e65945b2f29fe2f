package ledger

import (
	"fmt"
	"slices"
	"strings"

	"github.com/cachex-go/cachex/internal/errs"
)

// Batch is the content and the identity of one flush. Batches with equal
// Namespace, Bucket, Incarnation, N and Token are equal for ever.
type Batch struct {
	Namespace   string
	Bucket      int
	N           int64  // number of the batch in its incarnation, from 1
	Token       string // random
	Incarnation string // changes when Redis loses the bucket; each Redis has its own

	// Deltas are the amounts to add, by id, if counts are persisted; otherwise
	// nil.
	Deltas map[string]int64

	// Values are the values to write, by id, if values are persisted. If counts
	// are persisted, they are the totals, in decimal, of counts that were set:
	// an id has either a delta or a total. Only a counter makes totals.
	Values map[string][]byte

	// Unread are the ids of the batch that this process cannot decode, in
	// ascending order: they come from the template or codec of another release.
	// They are in neither map. Once records that they are not applied, so that
	// a process that can decode them may apply the whole batch. A ledger of
	// your own must record it too.
	Unread []string
}

// IDs returns the ids of the batch in ascending order. Writing rows in this
// order avoids deadlocks with other writers that do so.
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

// String returns the identity of the batch, and none of its content.
func (b Batch) String() string {
	return fmt.Sprintf("batch %d of %s:%d", b.N, b.Namespace, b.Bucket)
}

// Refused returns the ids of the batch that err refuses permanently, and
// reports whether all others are persisted. It collects every RefusedError in
// the tree of err, for example one made by errors.Join. It returns false if the
// tree also has another error, if the RefusedErrors name no id, or if they name
// an id outside the batch. The whole batch must then be persisted again.
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

// GoString is String, so that %#v does not show the content of the batch.
func (b Batch) GoString() string { return b.String() }

// RefusedError reports that a batch is persisted except for these ids, which
// the database refuses permanently. A function that persists batches returns it
// to have them put aside, so that the others need not wait for them. It may be
// wrapped, and joined with others of its type; see [Batch.Refused] for other
// errors in the tree.
type RefusedError struct {
	IDs []string
	Err error // the cause, or nil if unknown
}

// Error reports the number of refused ids, and names the first.
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

// AppliedError reports that a batch was applied before, by a process that could
// decode other ids of it. Like a RefusedError, it means that the batch is
// complete.
type AppliedError struct {
	Refused []string // ids that the database refused permanently
	Unread  []string // ids that were not applied
}

// Error reports how many ids were not applied.
func (e *AppliedError) Error() string {
	return fmt.Sprintf("already applied, except %d refused and %d unread ids", len(e.Refused), len(e.Unread))
}

// ConflictError reports that a batch was not applied because, according to the
// ledger, it is not the next one. Either its process is late, and another
// process has applied the batch under this or another number. Or Redis or the
// database has lost some of its history. Package writebehind finds out which,
// and continues.
type ConflictError struct {
	Batch Batch // the batch that was not applied
	Row   Row   // the row in the ledger
}

// Error reports the two numbers.
func (e *ConflictError) Error() string {
	return fmt.Sprintf("%v does not follow batch %d, the last one in the ledger", e.Batch, e.Row.N)
}

// Row is the record of the last applied batch of a bucket and incarnation. It
// is zero if no batch was applied.
type Row struct {
	N       int64
	Token   string
	Deltas  map[string]int64 // of the batch; empty if it had none
	Refused []string         // ids of the batch that were refused, and not applied
	Unread  []string         // ids of the batch that were not applied; see Batch.Unread
}

// String returns the number.
func (r Row) String() string { return fmt.Sprintf("batch %d", r.N) }

// GoString is String.
func (r Row) GoString() string { return r.String() }

// check returns an error if b is not a valid batch.
func (b Batch) check() error {
	switch {
	case b.Namespace == "":
		return fmt.Errorf("Batch.Namespace is empty: pass on the batch that Persist received")
	case len(b.Namespace) > maxText || strings.ContainsRune(b.Namespace, 0):
		return fmt.Errorf("Batch.Namespace has more than %d bytes, or a zero byte", maxText)
	case b.Bucket < 0:
		return fmt.Errorf("Batch.Bucket is %d, must not be negative", b.Bucket)
	case b.N < 1:
		return fmt.Errorf("Batch.N is %d: batches are counted from 1", b.N)
	case b.Token == "" || b.Incarnation == "" || len(b.Token) > maxText || len(b.Incarnation) > maxText:
		return fmt.Errorf("Batch.Token or Batch.Incarnation is empty, or has more than %d bytes", maxText)
	}
	return nil
}

// maxText limits the length of the names in the ledger, in bytes. MySQL indexes
// at most 3072 bytes, at four a character.
const maxText = 255
