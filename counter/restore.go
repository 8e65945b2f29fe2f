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
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
	keys "github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/writebehind"
)

// restore is Up of the Cache. It stores the count by itself, for what Up does not know
// of is to be added in the same step; the Cache then finds that it is stored.
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

// restoreMany is UpMany of the Cache.
func (c *Counter[K]) restoreMany(ctx context.Context, keys []K) (map[K]int64, error) {
	return c.restoreAll(ctx, keys, c.spec.UpMany)
}

// up is Up, where no row is 0.
func (c *Counter[K]) up(ctx context.Context, key K) (int64, error) {
	n, err := c.spec.Up(ctx, key)
	if errors.Is(err, cachex.ErrNotFound) {
		return 0, nil
	}
	return n, err
}

// A restoring is one count that is being restored.
type restoring[K comparable] struct {
	key   K
	k, id string
	lease loader.Lease
	has   bool // it has a lease
	seen  writebehind.Seen
	n     int64

	unsure bool // persisting what is in flight fails: the source is taken not to have it
	err    error
}

// maxLoads is how often a count is loaded anew since a batch was persisted meanwhile,
// of which nobody knows whether Up has seen it. The last time it is stored as it is, and
// may be wrong by that batch, until the next batch of its bucket is acknowledged.
const maxLoads = 5

// restoreAll loads counts by up and stores them, and returns what they are then.
func (c *Counter[K]) restoreAll(ctx context.Context, keys []K, up func(context.Context, []K) (map[K]int64, error)) (map[K]int64, error) {
	left := make([]*restoring[K], len(keys))
	for i, key := range keys {
		r := &restoring[K]{key: key, k: c.Key(key)}
		r.id = untagged(r.k, c.kind.Engine != nil)
		r.lease, r.has = loader.LeaseOf(ctx, r.k)
		left[i] = r
	}
	counts := make(map[K]int64, len(keys))
	var failed error
	for tries := 1; len(left) > 0; tries++ {
		last := tries >= maxLoads
		if err := c.look(ctx, left, !last); err != nil {
			return counts, err
		}
		began := time.Now()
		loaded, err := up(ctx, remaining(left))
		if err != nil {
			// A map that is right for some, as that of UpMany may be.
			failed = err
			some := left[:0]
			for _, r := range left {
				if _, ok := loaded[r.key]; ok && len(keys) > 1 {
					some = append(some, r)
				}
			}
			left = some
		}
		for _, r := range left {
			r.n = loaded[r.key]
		}
		again := c.land(ctx, left, time.Since(began), last)
		for _, r := range left {
			if r.err != nil {
				failed = r.err
			} else {
				counts[r.key] = r.n
			}
		}
		for _, r := range again {
			delete(counts, r.key) // should the next try fail: what Up said alone is not the count
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

// look notes what the source may lack of each count, before it is asked. Of what is in
// flight nobody knows whether the source has it; then look waits until it has.
func (c *Counter[K]) look(ctx context.Context, left []*restoring[K], settle bool) error {
	e := c.kind.Engine
	if e == nil {
		return nil
	}
	e.Start()
	var leased []*restoring[K]
	for _, r := range left {
		if r.has {
			leased = append(leased, r)
		}
	}
	if err := c.see(ctx, leased); err != nil || !settle {
		for _, r := range leased {
			r.unsure = true
		}
		return err
	}
	flying := make(map[int][]*restoring[K]) // by bucket
	var all []*restoring[K]
	for _, r := range leased {
		r.unsure = false
		if r.seen.InFlight != nil {
			flying[r.seen.Bucket] = append(flying[r.seen.Bucket], r)
			all = append(all, r)
		}
	}
	if len(all) == 0 {
		return nil
	}
	c.settle(ctx, flying)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return c.see(ctx, all)
}

// see looks at counts, in one round trip.
func (c *Counter[K]) see(ctx context.Context, rs []*restoring[K]) error {
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

// defaultPatience is how long a restore waits for batches that have the counts to be
// persisted. If that takes longer it fails again and again, and so, most likely, the
// source does not have them. If it has, the count is wrong until the batch is acknowledged.
const defaultPatience = 2 * time.Second

// settle waits for the batches, all at once, and marks those of which it is unsure.
func (c *Counter[K]) settle(ctx context.Context, flying map[int][]*restoring[K]) {
	wait, cancel := context.WithTimeout(ctx, c.patience)
	defer cancel()
	var wg sync.WaitGroup // one for each bucket; they end with wait
	wg.Add(len(flying))
	for bucket, rs := range flying {
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

// land stores what was loaded, under the leases, and returns what is to be loaded
// again. What has no lease is returned to the callers and no more.
func (c *Counter[K]) land(ctx context.Context, all []*restoring[K], took time.Duration, last bool) (again []*restoring[K]) {
	var calls []*script.Call
	var sent, lost []*restoring[K]
	for _, r := range all {
		if r.has {
			sent, calls = append(sent, r), append(calls, c.landing(r, took, last))
		}
	}
	loader.Storing(ctx) // who comes after an Add that comes after this has to see it
	c.kind.Send(ctx, calls...)
	for i, r := range sent {
		n, kind, err := added(calls[i])
		switch {
		case errors.Is(err, ErrOverflow):
			r.err = err
		case err != nil:
			// Nobody knows whether it is stored. The Cache is not to store it without
			// what has come since.
			cachex.NoStore(ctx)
			r.pend()
		case kind == "S":
			r.n = n
		case kind == "C":
			again = append(again, r)
		case c.kind.Engine != nil:
			lost = append(lost, r)
		case c.spec.UpCounts:
			r.err = c.overtaken(ctx, r)
		}
	}
	return append(again, c.unstored(ctx, lost, last)...)
}

// unstored makes the counts right of those whose lease was lost, for the callers who
// wait: what was acknowledged before they asked is to be in them. It returns those of
// which a batch came meanwhile.
func (c *Counter[K]) unstored(ctx context.Context, lost []*restoring[K], last bool) (again []*restoring[K]) {
	if len(lost) == 0 {
		return nil
	}
	before := make([]writebehind.Seen, len(lost))
	for i, r := range lost {
		before[i] = r.seen
	}
	failed := c.see(ctx, lost) != nil
	for i, r := range lost {
		if b := before[i]; failed || last || b.Incarnation == r.seen.Incarnation && b.Moment == r.seen.Moment && (b.InFlight == nil) == (r.seen.InFlight == nil) {
			r.pend()
		} else {
			again = append(again, r)
		}
	}
	return again
}

// pend adds to what was loaded what the source lacks.
func (r *restoring[K]) pend() {
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

// landing returns the call of LandCount.
func (c *Counter[K]) landing(r *restoring[K], took time.Duration, last bool) *script.Call {
	was := ""
	if h, payload, ok := entry.Parse(r.k, r.lease.Entry); ok && h.State == entry.Value {
		was = string(payload)
	}
	trust, flying := "", "0"
	if r.unsure && r.seen.InFlight != nil {
		trust, flying = script.StillInFlight, *r.seen.InFlight
	}
	if last {
		trust = script.Whatever
	}
	call := &script.Call{Script: script.LandCount(c.kind.Engine != nil), Key: r.k, Args: []any{
		r.lease.Token[:], c.keep, time.Since(r.lease.Sent).Milliseconds(), entry.AppendCost(nil, took),
		strconv.FormatInt(r.n, 10), was, writebehind.Field(r.id), r.seen.Incarnation, r.seen.Moment, trust, flying,
	}}
	if c.kind.Engine != nil {
		keys := c.kind.Engine.Keys(r.seen.Bucket)
		call.More = []string{keys.Pending, keys.InFlight, keys.Unread, keys.Parked}
	}
	return call
}

// untagged returns the id of a key in Redis: the key, without the hash tag of
// write-behind.
func untagged(k string, behind bool) string {
	if !behind {
		return k
	}
	_, id, _ := strings.Cut(k, "}")
	return id
}
