package counter

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	keys "github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// restore is the Up of the Cache. It stores the count itself, because pending
// additions must be added in the same step. The Cache then finds the count
// stored.
func (c *Counter[K]) restore(ctx context.Context, key K) (int64, error) {
	if own, _ := ctx.Value(ownKey{}).(*atomic.Bool); own != nil {
		own.Store(true)
		ctx = context.WithValue(ctx, ownKey{}, nil)
	}
	if err := hashable(key); err != nil {
		return 0, err
	}
	counts, err := c.restoreAll(ctx, []K{key}, func(ctx context.Context, keys []K) (map[K]int64, error) {
		n, err := c.up(ctx, keys[0])
		return map[K]int64{keys[0]: n}, err
	})
	return counts[key], err
}

// hashable returns nil if key can be the key of a map.
func hashable[K comparable](key K) error {
	if keys.Hides[K]() {
		return keys.Hashable(key)
	}
	return nil
}

// restoreMany is the UpMany of the Cache.
func (c *Counter[K]) restoreMany(ctx context.Context, keys []K) (map[K]int64, error) {
	return c.restoreAll(ctx, keys, c.spec.UpMany)
}

// up calls Spec.Up. A missing row is 0.
func (c *Counter[K]) up(ctx context.Context, key K) (int64, error) {
	n, err := c.spec.Up(ctx, key)
	if errors.Is(err, cachex.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// restoring is the restoration of one count.
type restoring[K comparable] struct {
	key      K
	rkey, id string
	lease    engine.Lease
	leased   bool // it has a lease
	seen     writebehind.Seen
	n        int64

	unsure bool // the batch in flight cannot be persisted: the source is assumed to lack it
	err    error
}

// maxLoads limits how often a count is loaded again because a batch was
// persisted during the load, which Up may or may not have seen. The last load
// is stored in any case. The count may then be wrong by that batch, until the
// next batch of its bucket is acknowledged.
const maxLoads = 5

// restoreAll loads counts by up, stores them, and returns the stored counts.
func (c *Counter[K]) restoreAll(ctx context.Context, keys []K, up func(context.Context, []K) (map[K]int64, error)) (map[K]int64, error) {
	left := make([]*restoring[K], len(keys))
	for i, key := range keys {
		r := &restoring[K]{key: key, rkey: c.Key(key)}
		r.id = untagged(r.rkey, c.kind.Engine != nil)
		r.lease, r.leased = engine.LeaseFromContext(ctx, r.rkey)
		left[i] = r
	}
	counts := make(map[K]int64, len(keys))
	var failed error
	for tries := 1; len(left) > 0; tries++ {
		last := tries >= maxLoads
		if err := c.readPending(ctx, left, !last); err != nil {
			return counts, err
		}
		began := time.Now()
		loaded, err := up(ctx, remaining(left))
		if err != nil {
			// A partial map, which UpMany may return, is valid for its keys.
			failed = err
			partial := left[:0]
			for _, r := range left {
				if _, ok := loaded[r.key]; ok && len(keys) > 1 {
					partial = append(partial, r)
				}
			}
			left = partial
		}
		for _, r := range left {
			r.n = loaded[r.key]
		}
		again := c.storeRestored(ctx, left, time.Since(began), last)
		for _, r := range left {
			if r.err != nil {
				failed = r.err
			} else {
				counts[r.key] = r.n
			}
		}
		for _, r := range again {
			delete(counts, r.key) // if the next try fails: the result of Up alone is not the count
		}
		left = again
	}
	return counts, failed
}

func remaining[K comparable](left []*restoring[K]) []K {
	keys := make([]K, len(left))
	for i, r := range left {
		keys[i] = r.key
	}
	return keys
}

// readPending notes the additions that the source may lack of each count,
// before the source is read. A batch in flight may or may not be in the source;
// readPending waits until it is persisted.
func (c *Counter[K]) readPending(ctx context.Context, left []*restoring[K], settle bool) error {
	e := c.kind.Engine
	if e == nil {
		return nil
	}
	e.Start()
	var leased []*restoring[K]
	for _, r := range left {
		if r.leased {
			leased = append(leased, r)
		}
	}
	if err := c.readSnapshots(ctx, leased); err != nil || !settle {
		for _, r := range leased {
			r.unsure = true
		}
		return err
	}
	inFlight := make(map[int][]*restoring[K]) // by bucket
	var all []*restoring[K]
	for _, r := range leased {
		r.unsure = false
		if r.seen.InFlight != nil {
			inFlight[r.seen.Bucket] = append(inFlight[r.seen.Bucket], r)
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil
	}
	c.awaitBatches(ctx, inFlight)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.readSnapshots(ctx, all)
}

// readSnapshots reads the pending additions of counts, in one round trip.
func (c *Counter[K]) readSnapshots(ctx context.Context, rs []*restoring[K]) error {
	ids := make([]string, len(rs))
	for i, r := range rs {
		ids[i] = r.id
	}
	seen, err := c.kind.Engine.LookMany(ctx, ids)
	if err != nil {
		return err
	}
	for i, r := range rs {
		r.seen = seen[i]
		r.unsure = r.unsure && seen[i].InFlight != nil
	}
	return nil
}

// defaultPatience is the time that a restore waits for batches in flight with
// its counts. A batch that takes longer probably fails again and again, so the
// source most likely lacks it. If the source has it, the count is wrong until
// the batch is acknowledged.
const defaultPatience = 2 * time.Second

// awaitBatches waits for the batches, concurrently, and marks the restorations
// whose batch is still in flight.
func (c *Counter[K]) awaitBatches(ctx context.Context, inFlight map[int][]*restoring[K]) {
	wait, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	var wg sync.WaitGroup // one for each bucket; they end with wait
	wg.Add(len(inFlight))
	for bucket, rs := range inFlight {
		ids := make([]string, len(rs))
		for i, r := range rs {
			ids[i] = r.id
		}
		guard.Go(guard.Client, func() error { return c.kind.Engine.Settle(wait, bucket, ids...) }, func(err error) {
			defer wg.Done()
			for _, r := range rs {
				r.unsure = r.unsure || err != nil
			}
		})
	}
	wg.Wait()
}

// storeRestored stores loaded counts under their leases, and returns the
// restorations that must load again. A count without a lease is only returned
// to the callers.
func (c *Counter[K]) storeRestored(ctx context.Context, all []*restoring[K], took time.Duration, last bool) (again []*restoring[K]) {
	var calls []*script.Call
	var sent, lost []*restoring[K]
	for _, r := range all {
		if r.leased {
			sent, calls = append(sent, r), append(calls, c.storeCall(r, took, last))
		}
	}
	engine.MarkStored(ctx) // callers that come after a later Add must see it
	c.kind.Send(ctx, calls...)
	for i, r := range sent {
		n, status, err := parseAdded(calls[i])
		switch {
		case errors.Is(err, ErrOverflow):
			r.err = err
		case err != nil:
			// The outcome is unknown. The Cache must not store the count, which
			// may lack later additions.
			cachex.NoStore(ctx)
			r.addPending()
		case status == "S":
			r.n = n
		case status == "C":
			again = append(again, r)
		case c.kind.Engine != nil:
			lost = append(lost, r)
		case c.spec.UpCounts:
			r.err = c.awaitSuccessor(ctx, r)
		}
	}
	return append(again, c.addUnstored(ctx, lost, last)...)
}

// addUnstored completes counts whose lease was lost, for the waiting callers:
// additions that were acknowledged before they asked must be included. It
// returns the restorations during which a batch came.
func (c *Counter[K]) addUnstored(ctx context.Context, lost []*restoring[K], last bool) (again []*restoring[K]) {
	if len(lost) == 0 {
		return nil
	}
	before := make([]writebehind.Seen, len(lost))
	for i, r := range lost {
		before[i] = r.seen
	}
	failed := c.readSnapshots(ctx, lost) != nil
	for i, r := range lost {
		if b := before[i]; failed || last || b.Incarnation == r.seen.Incarnation && b.Moment == r.seen.Moment && (b.InFlight == nil) == (r.seen.InFlight == nil) {
			r.addPending()
		} else {
			again = append(again, r)
		}
	}
	return again
}

// addPending adds the additions that the source lacks to the loaded count.
func (r *restoring[K]) addPending() {
	missing := []*string{r.seen.Pending}
	if r.unsure {
		missing = []*string{r.seen.InFlight, r.seen.Pending}
	}
	for _, text := range missing {
		if text == nil {
			continue
		}
		digits, set := strings.CutPrefix(*text, "=")
		n, _ := strconv.ParseInt(digits, 10, 64)
		if set { // a total
			r.n = n
			continue
		}
		total, ok := plus(r.n, n)
		if !ok {
			r.err = ErrOverflow
			return
		}
		r.n = total
	}
}

// storeCall returns the call of LandCount.
func (c *Counter[K]) storeCall(r *restoring[K], took time.Duration, last bool) *script.Call {
	was := ""
	if h, payload, ok := entry.Parse(r.rkey, r.lease.Entry); ok && h.State == entry.Value {
		was = string(payload)
	}
	trust, inFlight := "", "0"
	if r.unsure && r.seen.InFlight != nil {
		trust, inFlight = script.StillInFlight, *r.seen.InFlight
	}
	if last {
		trust = script.Whatever
	}
	call := &script.Call{Script: script.LandCount(c.kind.Engine != nil), Key: r.rkey, Args: []any{
		r.lease.Token[:], c.keep, time.Since(r.lease.Sent).Milliseconds(), entry.AppendCost(nil, took),
		strconv.FormatInt(r.n, 10), was, writebehind.Field(r.id), r.seen.Incarnation, r.seen.Moment, trust, inFlight,
	}}
	if c.kind.Engine != nil {
		keys := c.kind.Engine.Keys(r.seen.Bucket)
		call.More = []string{keys.Pending, keys.InFlight, keys.Unread, keys.Parked}
	}
	return call
}

// untagged returns the id of a Redis key: the key without the hash tag of
// write-behind.
func untagged(k string, behind bool) string {
	if !behind {
		return k
	}
	_, id, _ := strings.Cut(k, "}")
	return id
}
