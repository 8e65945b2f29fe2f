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

// Inc adds 1 to the count of key and returns the new count. It is Add.
func (c *Counter[K]) Inc(ctx context.Context, key K) (int64, error) { return c.Add(ctx, key, 1) }

// Add adds delta, which may be negative, to the count of key and returns the new count;
// no two calls return the same one of the counts that a key goes through. What several
// goroutines add while a few round trips are under way leaves together in the next. A count that
// is missing is restored first, once for the whole fleet, and Add waits for that. Its
// TTL begins anew.
//
// The error is a *cachex.Error. After ErrOverflow, one of Up, or one of Redis, which
// did not get or refused it, nothing was added. ErrOutcomeUnknown says that Redis may
// have added it: Add is not sent twice. So it is with the end of ctx while Redis is
// asked.
func (c *Counter[K]) Add(ctx context.Context, key K, delta int64) (int64, error) {
	return c.call(ctx, cachex.OpAdd, key, delta, "")
}

// AddOnce is Add for a caller who may try again: of the calls with the same key and
// opID, in any process, one adds, and the others return what the count was then. opID
// is remembered for Spec.OnceTTL. After any error but ErrOverflow it is safe to call it
// again.
//
// With UpCounts a count that is missing is not added to, and the opID not remembered.
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
	a := adding{key: call.Key, id: call.ID, delta: decimal(delta)}
	if op == cachex.OpAddOnce {
		if a.op, err = operation(call.Key, opID); err != nil {
			return 0, err
		}
	}
	return c.add(call.Ctx, key, a, delta)
}

// maxRestores is how often an Add restores a count that is gone again when it comes to
// add to it. Its TTL is shorter than the way to Redis then, or somebody deletes it all
// the time.
const maxRestores = 10

// add adds, restoring the count if need be.
func (c *Counter[K]) add(ctx context.Context, key K, a adding, by int64) (int64, error) {
	for range maxRestores {
		switch n, kind, err := c.send(ctx, a, by); {
		case err != nil:
			return 0, err
		case kind == "M":
			n, counted, err := c.restored(ctx, key)
			if err != nil || counted {
				return n, err
			}
		default:
			return n, nil
		}
	}
	return 0, errGone
}

// whereMissing tells the script what a count is that is not there.
func (c *Counter[K]) whereMissing() string {
	if c.spec.Up == nil {
		return "1"
	}
	return "0"
}

// restored restores a count that an Add has not found. It reports whether that counts
// what is to be added.
func (c *Counter[K]) restored(ctx context.Context, key K) (n int64, counted bool, err error) {
	if !c.spec.UpCounts {
		_, err = c.Get(ctx, key)
		return 0, false, cause(err)
	}
	// Up counts the event if it begins after the call of Add, and so it does if it is
	// our own. Else another one has to count it: when the first is over, for to take
	// its lease away would be to begin anew as long as events come in.
	own := new(atomic.Bool)
	n, err = c.Get(context.WithValue(ctx, ownKey{}, own), key)
	if err == nil && !own.Load() {
		n, err = c.Refresh(ctx, key)
	}
	return n, true, cause(err)
}

// ownKey is the key of the *atomic.Bool that a load sets, if its flight began with the
// call that asks.
type ownKey struct{}

// cause returns what err, of the Cache, wraps: the error of an Add says so itself.
func cause(err error) error {
	if e, ok := errors.AsType[*cachex.Error](err); ok {
		return e.Err
	}
	return err
}

// An adding is what is to be added.
type adding struct {
	key, id string // in Redis, and in the buckets of write-behind
	delta   string
	op      string // the key of the operation; "": an Add
}

// adding returns the call that adds.
func (c *Counter[K]) adding(a adding, missing string) *script.Call {
	behind, once := c.kind.Engine != nil, a.op != ""
	call := &script.Call{
		Script: script.AddCount(behind, once), Key: a.key,
		Args: append(make([]any, 0, 6), a.delta, c.keep, missing, "", ""),
		Once: once && c.spec.UpCounts, // a count that is missing has not the operation
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

// added returns what came of the call of an adding.
func added(call *script.Call) (n int64, kind string, err error) {
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
	switch kind = text(0); kind {
	case "A", "D", "S":
		if n, err = strconv.ParseInt(text(1), 10, 64); err != nil {
			return 0, "", unknown(errReply)
		}
	case "M", "P", "F", "C":
	case "O":
		return 0, "", ErrOverflow
	default: // of a broken proxy, say: what Redis has done, nobody knows
		return 0, "", unknown(errReply)
	}
	return n, kind, nil
}

// unknown returns err as that of an Add that may have been carried out, or may be yet.
func unknown(err error) error { return fmt.Errorf("%w: %w", ErrOutcomeUnknown, err) }

func decimal(n int64) string { return strconv.FormatInt(n, 10) }

// operation returns the key of an operation, which a Cluster keeps where the count is.
func operation(key, opID string) (string, error) {
	switch {
	case opID == "":
		return "", errors.New("opID is empty")
	case len(opID) > maxOpID:
		return "", fmt.Errorf("opID has %d bytes, must have at most %d", len(opID), maxOpID)
	}
	beside, err := keys.Beside(key)
	if err != nil {
		return "", err
	}
	return beside + ":%op:" + opID, nil
}

const maxOpID = 255

var (
	errGone  = errors.New("the count was restored, and was gone again, time after time")
	errReply = errors.New("Redis gave an unexpected reply")
)
