package counter

import "time"

// SetPatience changes how long a restore waits for batches in flight. A busy machine may
// need more than two seconds to persist one, and a test that counts would then fail. It
// must be called before c is used.
func (c *Counter[K]) SetPatience(d time.Duration) { c.patience = d }
