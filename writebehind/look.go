package writebehind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// Look says what the database may lack of some ids, at one moment.
type Look struct {
	// Incarnation and Moment identify the moment. A script that gets them can
	// find out, by behind_unchanged, whether the database may have got
	// something of an id since.
	Incarnation, Moment string

	// Pending and InFlight have an element for each requested id: its delta or
	// value, or nil if it has none. The database lacks the pending ones, and
	// may lack those in flight.
	Pending, InFlight []*string
}

// maxLook is how many ids one script reads: Lua has no room for more arguments.
const maxLook = 1000

// Look returns the deltas or values of ids that the database may lack. All ids
// must be of one bucket, and at most 1000. It waits for no flush and changes
// nothing.
func (e *Engine) Look(ctx context.Context, bucket int, ids ...string) (Look, error) {
	err := e.open(ctx)
	var l Look
	if err == nil {
		l, err = e.look(ctx, bucket, ids)
	}
	if err != nil {
		return Look{}, fmt.Errorf("cachex: look %s: %w", printable(e.tag(bucket)), err)
	}
	return l, nil
}

// Settle returns when none of ids is in flight. All ids must be of one bucket.
// Without ids, it returns when nothing of the bucket is in flight. If no
// process persists the batch and the batch is not in its back-off, this process
// persists it. Otherwise Settle waits for as long as ctx lasts. The next batch
// may be taken at any time after Settle returns.
func (e *Engine) Settle(ctx context.Context, bucket int, ids ...string) error {
	err := e.open(ctx)
	if err == nil {
		e.Start()
		err = e.settle(ctx, bucket, ids)
	}
	if err != nil {
		return fmt.Errorf("cachex: settle %s: %w", printable(e.tag(bucket)), err)
	}
	return nil
}

func (e *Engine) settle(ctx context.Context, bucket int, ids []string) error {
	for {
		settled, due, err := e.settled(ctx, bucket, ids)
		if err != nil || settled {
			return err
		}
		if due {
			e.mu.Lock()
			kick := e.kick
			e.mu.Unlock()
			if kick == nil { // Close came before Start
				return ErrClosed
			}
			kick(bucket)
		}
		pause := time.NewTimer(glance)
		select {
		case <-pause.C:
		case <-ctx.Done():
			pause.Stop()
			return context.Cause(ctx)
		}
	}
}

// settled reports whether none of ids is in flight. If one is, it reports
// whether this process has to persist the batch.
func (e *Engine) settled(ctx context.Context, bucket int, ids []string) (settled, due bool, err error) {
	if len(ids) > 0 {
		l, err := e.look(ctx, bucket, ids)
		if err != nil || !slices.ContainsFunc(l.InFlight, func(v *string) bool { return v != nil }) {
			return err == nil, false, err
		}
	}
	if err := e.inRange(bucket); err != nil {
		return false, false, err
	}
	f := e.finding(bucket, read(e.call(ctx, script.SurveyBatch, bucket, "")))
	if f.err != nil {
		return false, false, f.err
	}
	// An id may also be in a parked batch.
	return len(ids) == 0 && f.inFlight == 0, f.inFlight > 0 && f.due(e.me) || f.inFlight == 0 && f.unread > 0, nil
}

func (e *Engine) inRange(bucket int) error {
	if bucket < 0 || bucket >= len(e.buckets) {
		return fmt.Errorf("bucket is %d, must be from 0 to %d", bucket, len(e.buckets)-1)
	}
	return nil
}

func (e *Engine) look(ctx context.Context, bucket int, ids []string) (Look, error) {
	if err := e.inRange(bucket); err != nil {
		return Look{}, err
	}
	if len(ids) > maxLook {
		return Look{}, fmt.Errorf("%d ids, must be at most %d", len(ids), maxLook)
	}
	args := make([]any, len(ids))
	for i, id := range ids {
		args[i] = Field(id)
	}
	v, err := e.call(ctx, script.LookBatch, bucket, args...)
	if redis.IsTryAgainError(err) {
		v, err = e.lookApart(ctx, bucket, args)
	}
	r := read(v, err)
	l := Look{Incarnation: r.text(), Moment: r.text()}
	_, _ = r.text(), r.text() // the numbers of the last batch taken and of the last one acknowledged
	l.Pending, l.InFlight = e.merged(r, len(ids))
	return l, r.err
}

// merged reads the rest of a reply of LookBatch: what the database lacks of n
// ids, and what it may lack.
func (e *Engine) merged(r *reply, n int) (pending, inFlight []*string) {
	pending, inFlight = optional(r.list(), n), optional(r.list(), n)
	unread, parked := optional(r.list(), n), optional(r.list(), n)
	for i := range n {
		if parked[i] != nil {
			batches, ok := parkedOf(*parked[i])
			if !ok && r.err == nil {
				r.err = errParked
			}
			for _, batch := range slices.Backward(batches) {
				inFlight[i] = e.mergeOne(r, inFlight[i], &batch.value)
			}
		}
		if e.o.Merge == Sum || inFlight[i] == nil {
			if inFlight[i] != nil && unread[i] != nil && isTotal(*unread[i]) {
				unread[i] = e.mergeOne(r, inFlight[i], unread[i]) // this total includes the batch in flight, persisted or not
			}
			pending[i] = e.mergeOne(r, pending[i], unread[i])
		}
	}
	return pending, inFlight
}

// parkedValue is the delta or value that a parked batch has of an id.
type parkedValue struct{ token, value string }

var errParked = errors.New("what is parked of an id has an unexpected form")

// parkedOf reads an element of Keys.Parked, in which the oldest batch comes
// first.
func parkedOf(text string) (all []parkedValue, ok bool) {
	for text != "" {
		token, rest, _ := strings.Cut(text, " ")
		digits, rest, ok := strings.Cut(rest, ":")
		n, err := strconv.Atoi(digits)
		if !ok || err != nil || n < 0 || n > len(rest) {
			return nil, false
		}
		all, text = append(all, parkedValue{token, rest[:n]}), rest[n:]
	}
	return all, true
}

// mergeOne merges a value with an older one.
func (e *Engine) mergeOne(r *reply, v, older *string) *string {
	if older == nil || v != nil && e.o.Merge == Last {
		return v
	}
	if v == nil {
		return older
	}
	if isTotal(*v) {
		return v
	}
	digits, set := strings.CutPrefix(*older, "=")
	one, _ := strconv.ParseInt(*v, 10, 64) // text that is not a number is put aside when it is taken
	two, _ := strconv.ParseInt(digits, 10, 64)
	sum := one + two
	if (sum > one) != (two > 0) && two != 0 && r.err == nil {
		r.err = ErrOverflow
	}
	text := strconv.FormatInt(sum, 10)
	if set {
		text = "=" + text
	}
	return &text
}

// isTotal reports whether a text of a Sum is a count that was set, not a delta.
func isTotal(text string) bool { return strings.HasPrefix(text, "=") }

// optional returns n texts, with nil where list has no text.
func optional(list []any, n int) []*string {
	texts := make([]*string, n)
	for i := range min(n, len(list)) {
		if text, ok := list[i].(string); ok {
			texts[i] = &text
		}
	}
	return texts
}
