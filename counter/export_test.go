package counter

import "time"

// SetPatience sets the time that a restore waits for batches in flight. A busy
// machine may need more than two seconds to persist one, and the counts of a
// test would then be wrong. It must be called before c is used.
func (c *Counter[K]) SetPatience(d time.Duration) { c.patience = d }
