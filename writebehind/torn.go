package writebehind

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"
)

// maxGlances is how often lookApart and ack try while batches come and go.
const maxGlances = 5

var errTorn = errors.New("the slot moves, and batches came and went, time after time")

// lookApart returns the reply of LookBatch while the slot of the bucket moves
// from one node of a Cluster to another. Redis then refuses a script of several
// keys unless one node has them all (TRYAGAIN).
//
// lookApart reads the ids in flight, the unread ids and the parked ids, then
// the pending ids, and then the former again. If the former are unchanged, only
// a write can have changed the pending ids meanwhile. So all of them are of one
// moment.
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

// glimpse returns fields of three hashes: in flight, unread, and parked. It
// reads the fields of ids, and some fields of the engine.
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

// values returns fields of a hash: their texts, and nil for an absent field.
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

// nonsense reports whether v cannot be the value of a field, which is a text or
// nil.
func nonsense(v any) bool {
	_, text := v.(string)
	return !text && v != nil
}
