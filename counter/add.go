package counter

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync/atomic"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/entry"
	keys "github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/writebehind"
)

// Inc adds 1 to the count of key and returns the new count. It is like Add with
// 1.
func (c *Counter[K]) Inc(ctx context.Context, key K) (int64, error) { return c.Add(ctx, key, 1) }

// Add adds delta, which may be negative, to the count of key and returns the
// new count. Every call returns a distinct count, in the order in which Redis
// adds them. If two round trips are in flight, further calls of this process
// are batched. A missing count is restored first, once for the whole fleet, and
// Add waits for that. Add restarts the TTL of the count.
//
// The error is a *cachex.Error. Nothing was added after ErrOverflow, after an
// error of Up, and after an error of Redis that means that the command was not
// received or was rejected. If the error is ErrOutcomeUnknown, Redis may have
// added delta: Add is not sent twice. The same holds if ctx ends after the
// command was sent.
func (c *Counter[K]) Add(ctx context.Context, key K, delta int64) (int64, error) {
	return c.call(ctx, cachex.OpAdd, key, delta, "")
}

// AddOnce is like Add, for callers that may retry. Of all calls with the same
// key and opID, in any process, exactly one adds; the others return the count
// that it returned. opID is remembered for Spec.OnceTTL. After any error except
// ErrOverflow it is safe to call it again.
//
// With UpCounts a missing count is not added to, and the opID is not
// remembered.
func (c *Counter[K]) AddOnce(ctx context.Context, key K, delta int64, opID string) (int64, error) {
	return c.call(ctx, cachex.OpAddOnce, key, delta, opID)
}

func (c *Counter[K]) call(ctx context.Context, op string, key K, delta int64, opID string) (n int64, err error) {
	call, err := c.kind.Enter(ctx, op, key)
	if err != nil {
		return 0, err
	}
	defer func() {
		if err = call.End(err); err != nil {
			n = 0
		}
	}()
	a := addRequest{key: call.Key, id: call.ID, delta: decimal(delta)}
	if op == cachex.OpAddOnce {
		if a.op, err = operation(call.Key, opID); err != nil {
			return 0, err
		}
	}
	return c.add(call.Ctx, key, a, delta)
}

// maxRestores limits how often an Add restores a count that is gone again
// before it is added to. The TTL is then shorter than a round trip to Redis, or
// another process keeps deleting the count.
const maxRestores = 10

// add adds, and restores the count if it is missing.
func (c *Counter[K]) add(ctx context.Context, key K, req addRequest, delta int64) (int64, error) {
	for range maxRestores {
		switch n, status, err := c.send(ctx, req, delta); {
		case err != nil:
			return 0, err
		case status == "M":
			n, counted, err := c.restoreMissing(ctx, key)
			if err != nil || counted {
				return n, err
			}
		default:
			return n, nil
		}
	}
	return 0, errGone
}

// onMissing tells the script the value of a missing count.
func (c *Counter[K]) onMissing() string {
	if c.spec.Up == nil {
		return "1"
	}
	return "0"
}

// restoreMissing restores a count that an Add has not found. It reports whether
// the restored count includes the addition.
func (c *Counter[K]) restoreMissing(ctx context.Context, key K) (n int64, counted bool, err error) {
	if !c.spec.UpCounts {
		_, err = c.Get(ctx, key)
		return 0, false, cause(err)
	}
	// Up counts the event if its load begins after the call of Add, so a load
	// that this call starts counts it. Otherwise another load must count it,
	// after the present one has ended: taking away the lease of the present one
	// would restart the load for as long as events come in.
	own := new(atomic.Bool)
	n, err = c.Get(context.WithValue(ctx, ownKey{}, own), key)
	if err == nil && !own.Load() {
		n, err = c.Refresh(ctx, key)
	}
	return n, true, cause(err)
}

// ownKey is the key of an *atomic.Bool, which a load sets if its flight began
// with the call.
type ownKey struct{}

// cause returns the cause of an error of the Cache. An Add reports the
// operation and the key itself.
func cause(err error) error {
	if e, ok := errors.AsType[*cachex.Error](err); ok {
		return e.Err
	}
	return err
}

// addRequest describes one addition.
type addRequest struct {
	key, id string // in Redis, and in the buckets of write-behind
	delta   string
	op      string // the key of the operation; "" for an Add
}

// addCall returns the call that adds.
func (c *Counter[K]) addCall(a addRequest, missing string) *script.Call {
	behind, once := c.kind.Engine != nil, a.op != ""
	call := &script.Call{
		Script: script.AddCount(behind, once), Key: a.key,
		Args: append(make([]any, 0, 6), a.delta, c.keep, missing, "", ""),
		Once: once && c.spec.UpCounts, // a missing count does not record the operation
	}
	if missing == "1" {
		token := entry.NewToken()
		call.Args[3] = token[:]
	}
	if behind {
		c.kind.Engine.Start()
		call.More = append(call.More, c.kind.Engine.Keys(c.kind.Engine.Bucket(a.id)).Pending)
		call.Args[4] = writebehind.Field(a.id)
	}
	if once {
		call.More, call.Args = append(call.More, a.op), append(call.Args, c.spec.OnceTTL.Milliseconds())
	}
	return call
}

// parseAdded returns the result of an addCall.
func parseAdded(call *script.Call) (n int64, status string, err error) {
	if call.Err != nil {
		return 0, "", writebehind.Outcome(call.Err)
	}
	parts, _ := call.Reply.([]any)
	text := func(i int) string {
		if i < len(parts) {
			s, _ := parts[i].(string)
			return s
		}
		return ""
	}
	switch status = text(0); status {
	case "A", "D", "S":
		if n, err = strconv.ParseInt(text(1), 10, 64); err != nil {
			return 0, "", unknown(errReply)
		}
	case "M", "P", "F", "C":
	case "O":
		return 0, "", ErrOverflow
	default: // for example of a broken proxy: the outcome is unknown
		return 0, "", unknown(errReply)
	}
	return n, status, nil
}

// unknown wraps err as the error of an Add that Redis may have carried out, or
// may do later.
func unknown(err error) error { return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err) }

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// operation returns the key of an operation, which a Cluster stores in the slot
// of the count.
func operation(key, opID string) (string, error) {
	switch {
	case opID == "":
		return "", errors.New("opID is empty")
	case len(opID) > maxOpID:
		return "", fmt.Errorf("opID has %d bytes, must have at most %d", len(opID), maxOpID)
	}
	prefix, err := keys.Beside(key)
	if err != nil {
		return "", err
	}
	return prefix + ":%op:" + opID, nil
}

const maxOpID = 255

var (
	errGone  = errors.New("the count was gone again after every restoration")
	errReply = errors.New("Redis gave an unexpected reply")
)
