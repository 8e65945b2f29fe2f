package counter

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/entry"
)

// With UpCounts, each waiter of a load is told that its event is counted. If
// another process has taken the lease meanwhile, to count again, that becomes
// true when it stores its result, since its load began later. But it may fail
// or die. Then the old count remains, which lacks the event. Loading again at
// once would take that lease in turn, and so on.

// pollInterval is the time between two looks at the successor's count.
const pollInterval = 10 * time.Millisecond

// awaitSuccessor returns when the count in Redis includes the load of r, whose
// lease was lost, or when the count is missing: the next restoration then
// includes it. If the holders of later leases store nothing, it deletes the old
// count.
func (c *Counter[K]) awaitSuccessor(ctx context.Context, r *restoring[K]) error {
	was, _, ok := entry.Parse(r.rkey, r.lease.Entry)
	if !ok || was.State != entry.Value {
		return nil // any present count was stored later
	}
	patience := cmp.Or(c.spec.LeaseTTL, defaults.LeaseTTL())
	var till int64 // the expiry of their lease, which changed at the time seen
	var seen time.Time
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		text, err := c.rdb.Get(ctx, r.rkey).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		h, _, ok := entry.Parse(r.rkey, text)
		if !ok || h.State != entry.Value || h.Born != was.Born {
			return nil
		}
		leased := h.Till != 0 && h.Token != (entry.Token{})
		if h.Till != till {
			till, seen = h.Till, time.Now() // the holder is alive
		}
		// It uses the local clock, since the server's may differ.
		if !leased || time.Since(seen) > patience {
			return c.rdb.Unlink(ctx, r.rkey).Err()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
