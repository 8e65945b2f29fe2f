package writebehind

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxGlances is how often a look at one key after the other is tried while batches come
// and go.
const maxGlances = 5

var errTorn = errors.New("the slot moves, and batches came and went, time after time")

// lookApart returns what LookBatch would, while the slot of the bucket moves from one
// node of a Cluster to another one: Redis then refuses scripts of several keys unless one
// node has them all (TRYAGAIN). It looks at what is in flight, at what is pending, and
// again at what is in flight. If that is still the same, nothing has left what is pending
// meanwhile, and all is of one moment.
func (e *Engine) lookApart(ctx context.Context, bucket int, fields []any) (any, error) {
	ids := make([]string, len(fields))
	for i, field := range fields {
		ids[i] = field.(string) // of Field
	}
	keys, flying := e.Keys(bucket), append([]string{"#inc", "#n", "#a"}, ids...)
	for range maxGlances {
		before, err := e.values(ctx, keys.InFlight, flying)
		if err != nil {
			return nil, err
		}
		pending, err := e.values(ctx, keys.Pending, ids)
		if err != nil {
			return nil, err
		}
		after, err := e.values(ctx, keys.InFlight, flying)
		if err != nil {
			return nil, err
		}
		if !slices.Equal(before, after) {
			continue
		}
		reply := make([]any, 0, 5)
		for i, none := range []string{"", "0", "0"} {
			if after[i] == nil {
				after[i] = none
			}
			reply = append(reply, after[i])
		}
		return append(reply, pending, after[3:]), nil
	}
	return nil, errTorn
}

// values returns fields of a hash: texts, and nil for what is not there.
func (e *Engine) values(ctx context.Context, key string, fields []string) (values []any, err error) {
	if len(fields) == 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeoutCause(ctx, max(e.o.LeaseTTL, time.Second), errSilent)
	defer cancel()
	answer := make(chan []any, 1)
	if err := e.ask(ctx, func(ctx context.Context) error {
		values, err := e.rdb.HMGet(ctx, key, fields...).Result()
		answer <- values
		return err
	}); err != nil {
		return nil, err
	}
	values = <-answer
	if len(values) != len(fields) || slices.ContainsFunc(values, nonsense) {
		return nil, fmt.Errorf("HMGET of %d fields has an unexpected reply", len(fields))
	}
	return values, nil
}

// nonsense reports whether v is no value of a field: those are texts, or nil.
func nonsense(v any) bool {
	_, text := v.(string)
	return !text && v != nil
}
