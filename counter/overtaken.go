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

// With UpCounts, whoever waits for a load is told that its event is counted. If somebody
// else has taken the lease away meanwhile, to count anew, that is true as soon as they
// have stored what they counted, since they began later. But they may fail or die, and
// then the count stays that was there before any of that, and which lacks the event. To
// load again at once would be to take their lease away in turn, and so on.

// glance is how often to look whether they have come to an end.
const glance = 10 * time.Millisecond

// overtaken returns as soon as the count in Redis has what was loaded under the lease of
// r, which was lost, or is not there: who restores it then has it too. If those who have
// taken the lease store nothing, it deletes the count that was there before.
func (c *Counter[K]) overtaken(ctx context.Context, r *restoring[K]) error {
	was, _, ok := entry.Parse(r.k, r.lease.Entry)
	if !ok || was.State != entry.Value {
		return nil // any count that is there now was stored later
	}
	patience := cmp.Or(c.spec.LeaseTTL, defaults.LeaseTTL())
	var till int64 // of their lease, as it was at the time seen
	var seen time.Time
	tick := time.NewTicker(glance)
	defer tick.Stop()
	for {
		text, err := c.rdb.Get(ctx, r.k).Bytes()
		if err != nil && !errors.Is(err, redis.Nil) {
			return err
		}
		h, _, ok := entry.Parse(r.k, text)
		if !ok || h.State != entry.Value || h.Born != was.Born {
			return nil
		}
		leased := h.Till != 0 && h.Token != (entry.Token{})
		if h.Till != till {
			till, seen = h.Till, time.Now() // they live
		}
		// By our own clock, for that of the server may be another one.
		if !leased || time.Since(seen) > patience {
			return c.rdb.Unlink(ctx, r.k).Err()
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
