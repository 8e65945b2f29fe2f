package writebehind

import (
	"cmp"
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
// node has them all (TRYAGAIN). It looks at what is in flight and what was not read, at
// what is pending, and again at the former. If that is still the same, nothing has left
// what is pending or come to it meanwhile but by a write, and all is of one moment.
func (e *Engine) lookApart(ctx context.Context, bucket int, fields []any) (any, error) {
	ids := make([]string, len(fields))
	for i, field := range fields {
		ids[i] = field.(string) // of Field
	}
	for range maxGlances {
		before, err := e.glimpse(ctx, bucket, ids)
		if err != nil {
			return nil, err
		}
		pending, err := e.values(ctx, e.Keys(bucket).Pending, ids)
		if err != nil {
			return nil, err
		}
		after, err := e.glimpse(ctx, bucket, ids)
		if err != nil {
			return nil, err
		}
		if !slices.EqualFunc(before, after, slices.Equal) {
			continue
		}
		flying, unread := after[0], after[1]
		inc, _ := flying[0].(string)
		n, _ := flying[1].(string)
		token, _ := flying[3].(string)
		acked, _ := flying[2].(string)
		n, acked = cmp.Or(n, "0"), cmp.Or(acked, "0")
		return []any{inc, n + ":" + token, n, acked, pending, flying[4:], unread[1:], after[2]}, nil
	}
	return nil, errTorn
}

// glimpse returns what is in flight, what was not read, and what is parked: some fields
// and those of ids.
func (e *Engine) glimpse(ctx context.Context, bucket int, ids []string) ([][]any, error) {
	keys := e.Keys(bucket)
	flying, err := e.values(ctx, keys.InFlight, append([]string{"#inc", "#n", "#a", "#tok"}, ids...))
	if err != nil {
		return nil, err
	}
	unread, err := e.values(ctx, keys.Unread, append([]string{"#v"}, ids...))
	if err != nil {
		return nil, err
	}
	parked, err := e.values(ctx, keys.Parked, ids)
	if err != nil {
		return nil, err
	}
	return [][]any{flying, unread, parked}, nil
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
