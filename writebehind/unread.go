package writebehind

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// Two releases of a program may write to one namespace, and each may write
// values that the other one cannot read. A process that takes a batch persists
// the ids that it can read. In the same transaction, the ledger records the
// others as not applied, and the acknowledgement moves them to Keys.Unread.
// Every process looks there for ids that it can read, and makes them pending
// again.
//
// If a process can read nothing of a batch, it has no transaction that could
// record that. If no other process was given the batch, it cannot be persisted,
// and moves to Keys.Unread at once. Otherwise another process may have
// persisted it already, or a paused one may still do so. It then moves to
// Keys.Parked with its number and token, and the next batch gets the same
// number:
//
//   - The next batch is persisted. Then the ledger has passed the number, so
//     the parked batch was not persisted and never will be: it moves to
//     Keys.Unread.
//   - The ledger has the parked batch. Then the parked batch is finished, and
//     the next batch gets the next number.
//   - A process that can read the parked batch takes it again, unchanged. If
//     that process persists one value at a time and the batch has several, it
//     makes the values that it can read pending instead. A value may then be
//     persisted twice, but no older value follows it.
//
// Leaving such a batch in flight is tempting and wrong. If no process is left
// of the release that can read it, its bucket waits forever.

// readUnread reads the versions of Keys.Unread and Keys.Parked from a reply of
// TakeBatch.
func (t *take) readUnread(r *reply) {
	version, parked := r.text(), r.text()
	t.unread = unreadVersion(version, parked)
	t.parked = strings.Fields(parked)
}

// unreadVersion returns a version of both, or "" if both are empty.
func unreadVersion(unread, parked string) string {
	if unread == "" && parked == "" {
		return ""
	}
	return unread + "/" + parked
}

// live returns how many ids Persist gets.
func (t *take) live() int { return len(t.batch.Deltas) + len(t.batch.Values) }

// check removes from the batch the ids that this process cannot read, and
// returns the reason for one of them.
func (e *Engine) check(t *take) (unread error) {
	if e.o.Check == nil {
		return nil
	}
	for _, id := range t.batch.IDs() {
		value, isValue := t.batch.Values[id]
		switch {
		case !isValue:
			value = strconv.AppendInt(nil, t.batch.Deltas[id], 10)
		case e.o.Merge == Sum:
			value = append([]byte("="), value...)
		}
		if err := e.checkOne(id, value); err != nil {
			unread = fmt.Errorf("id %s: %w", printable(id), err)
			t.batch.Unread = append(t.batch.Unread, id)
			delete(t.batch.Values, id)
			delete(t.batch.Deltas, id)
		}
	}
	return unread
}

func (e *Engine) checkOne(id string, value []byte) (err error) {
	defer guard.Catch(guard.Named("Options.Check"), &err)
	return e.o.Check(id, value)
}

// mustPark reports whether Persist cannot get the batch. Either this process
// can read nothing of it, or a process with a larger MaxBatch has taken it and
// Persist accepts only one value.
func (e *Engine) mustPark(t *take) bool {
	return t.live() == 0 || e.o.Merge == Last && e.o.MaxBatch == 1 && t.live()+len(t.batch.Unread) > 1
}

// park moves a batch out of the way.
func (e *Engine) park(ctx context.Context, b int, t *take, unread error) (again bool, wait time.Duration, err error) {
	parked, err := e.call(context.WithoutCancel(ctx), script.ParkBatch, b, t.n, t.batch.Token, e.o.Merge.arg(), e.me)
	if err != nil {
		e.redisFailed(b, err)
		return false, 0, err
	}
	if parked == int64(1) {
		size := t.live() + len(t.batch.Unread) + len(t.garbage)
		e.counters.unread.Add(int64(size))
		if unread == nil {
			unread = errors.New("taken by a process with another MaxBatch")
		}
		e.notify(fmt.Errorf("cachex: flush %s: %d ids left to other processes: %w", printable(e.tag(b)), size, unread))
	} else {
		e.counters.stale.Add(1)
	}
	return true, 0, nil
}

// settleParked answers a conflict with a parked batch that the database has
// applied in place of this one. It reports whether that was the conflict.
func (e *Engine) settleParked(ctx context.Context, b int, t *take, conflict *ledger.ConflictError) (settled bool, err error) {
	row := conflict.Row
	if !slices.Contains(t.parked, row.Token) {
		return false, nil
	}
	args := []any{
		t.n, t.batch.Token, e.o.Merge.arg(), row.Token, strconv.FormatInt(row.N, 10), strconv.FormatInt(row.N+1, 10), rand.Text(),
		e.atOnce, len(row.Refused),
	}
	for _, id := range slices.Concat(row.Refused, row.Unread) {
		args = append(args, Field(id))
	}
	done, err := e.parts(ctx, script.SettleBatch, b, args...)
	if err != nil {
		e.redisFailed(b, err)
	} else if done != int64(1) {
		e.counters.stale.Add(1)
	}
	return true, err
}

// unseen reports whether a version of Keys.Unread may have ids that this
// process can read. That is so if this process has not checked that version, or
// not for some time: it may have got a key since.
func (e *Engine) unseen(b int, version string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	k := &e.buckets[b]
	return version != "" && (version != k.seen || time.Since(k.seenAt) > maxBackoff)
}

func (e *Engine) see(b int, version string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.buckets[b].seen, e.buckets[b].seenAt = version, time.Now()
}

// rescueNew makes the ids that this process can read pending again, unless it
// has checked them before. It reports whether it found any.
func (e *Engine) rescueNew(ctx context.Context, b int, t *take) (found bool, err error) {
	if !e.unseen(b, t.unread) {
		return false, nil
	}
	found, err = e.rescue(ctx, b, len(t.parked) > 0)
	if err != nil {
		e.redisFailed(b, err)
		return false, err
	}
	if !found {
		e.see(b, t.unread)
	}
	return found, nil
}

// rescue searches Keys.Unread, and also Keys.Parked if parked is true.
func (e *Engine) rescue(ctx context.Context, b int, parked bool) (found bool, err error) {
	err = e.walk(ctx, b, "U", func(page []any) error {
		var readable []any
		for field, value := range pairs(page) {
			if !strings.HasPrefix(field, "#") && e.readable(field, value) {
				readable = append(readable, field)
			}
		}
		return e.rescueAll(ctx, b, readable, &found)
	})
	if err != nil || !parked {
		return found, err
	}
	p := parkedBatches{e: e, ids: map[string]int{}, readable: map[string][]any{}}
	if err := e.walk(ctx, b, "L", p.add); err != nil {
		return found, err
	}
	if e.o.Merge == Last && e.o.MaxBatch == 1 { // Persist cannot get a batch of several ids
		var readable []any
		for token, fields := range p.readable {
			if p.ids[token] > 1 {
				readable = append(readable, fields...)
				delete(p.readable, token)
			}
		}
		if len(readable) > 0 {
			err = e.rescueAll(ctx, b, readable, &found)
			return found, err // found only after the call, which sets it
		}
	}
	for _, token := range slices.Backward(p.tokens) { // the newest, which waits for no other
		if len(p.readable[token]) > 0 {
			n, err := e.call(ctx, script.UnparkBatch, b, token, e.me, e.o.LeaseTTL.Milliseconds())
			return found || n == int64(1), err
		}
	}
	return found, nil
}

// walk calls do for each page of Keys.Unread, "U", or Keys.Parked, "L".
func (e *Engine) walk(ctx context.Context, b int, key string, do func(page []any) error) error {
	for cursor := "0"; ; {
		r := read(e.call(ctx, script.ListUnread, b, cursor, key))
		next, page := r.text(), r.list()
		if r.err != nil {
			return r.err
		}
		if err := do(page); err != nil {
			return err
		}
		switch next {
		case "0":
			return nil
		case cursor:
			return errCursor
		}
		cursor = next
	}
}

// rescueAll makes fields pending again, and sets found if it moved one.
func (e *Engine) rescueAll(ctx context.Context, b int, fields []any, found *bool) error {
	for some := range slices.Chunk(fields, maxAtOnce) {
		n, err := e.call(ctx, script.RescueUnread, b, append([]any{e.o.Merge.arg(), rand.Text()}, some...)...)
		if err != nil {
			return err
		}
		*found = *found || n != int64(0)
	}
	return nil
}

// parkedBatches is the content of Keys.Parked that a process finds.
type parkedBatches struct {
	e        *Engine
	tokens   []string         // the oldest first
	ids      map[string]int   // the size of a batch, by token; larger if HSCAN returns some ids twice
	readable map[string][]any // fields of RescueUnread of a batch, by token
}

// add adds a page.
func (p *parkedBatches) add(page []any) error {
	for id, text := range pairs(page) {
		switch {
		case id == "#p":
			p.tokens = strings.Fields(text)
			continue
		case strings.HasPrefix(id, "#"):
			continue
		}
		batches, ok := parkedOf(text)
		if !ok {
			return errParked
		}
		for _, batch := range batches {
			p.ids[batch.token]++
			if p.e.readable(id, batch.value) {
				p.readable[batch.token] = append(p.readable[batch.token], "#"+id)
			}
		}
	}
	return nil
}

// readable is check for one field.
func (e *Engine) readable(field, value string) bool {
	if e.o.Merge == Sum {
		if _, err := strconv.ParseInt(strings.TrimPrefix(value, "="), 10, 64); err != nil {
			return false
		}
	}
	return e.o.Check == nil || e.checkOne(unfield(field), []byte(value)) == nil
}
