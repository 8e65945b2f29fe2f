package collection

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// rankWindow is the reply of script.Stand: adjacent members of a ranking, and
// the rank of the first. It is empty if the ranking does not have the member.
type rankWindow[M any] struct {
	members []Scored[M]
	first   int64
}

// readAround returns the members around the member with the bytes m.
func (r *Ranking[K, M]) readAround(ctx context.Context, k string, key K, m string, n int) (rankWindow[M], error) {
	return readOrLoad(ctx, &r.store, request[K, []Scored[M], rankWindow[M]]{
		rkey: k, key: key,
		read: func(ctx context.Context) (rankWindow[M], readState, error) {
			reply, err := script.Stand.Run(ctx, r.rdb, k, r.up != nil, m, n)
			if err != nil {
				return rankWindow[M]{}, readState{}, err
			}
			return r.parseAround(k, reply)
		},
		extract: func(all []Scored[M]) (rankWindow[M], error) {
			for i, s := range all {
				b, err := r.members.encodeOne(k, s.Member)
				if err != nil {
					return rankWindow[M]{}, err
				}
				if b == m {
					from := max(i-n, 0)
					return rankWindow[M]{slices.Clone(all[from:min(i+n+1, len(all))]), int64(from + 1)}, nil
				}
			}
			return rankWindow[M]{}, nil
		},
	})
}

// parseAround parses the reply to script.Stand.
func (r *Ranking[K, M]) parseAround(k string, reply any) (st rankWindow[M], s readState, err error) {
	parts, _ := reply.([]any)
	if len(parts) != 4 {
		return st, s, errReply
	}
	switch parts[0] {
	case int64(0):
		return st, readState{}, nil
	case int64(-1):
		return st, readState{foreign: true}, nil
	}
	first, ok := parts[1].(int64)
	all, lists := parts[2].([]any)
	if parts[0] != int64(1) || !ok || !lists {
		return st, readState{}, errReply
	}
	st.first = first
	token, _ := parts[3].(string)
	members, s, err := r.members.decodeScored(k, all, token)
	for _, p := range members {
		st.members = append(st.members, Scored[M]{p.member, p.score})
	}
	return st, s, err
}

// parseTop parses the reply to ZREVRANGE.
func (r *Ranking[K, M]) parseTop(key string, reply redis.Cmder) ([]Scored[M], readState, error) {
	all, err := reply.(*redis.ZSliceCmd).Result()
	if err != nil || len(all) == 0 {
		return nil, readState{}, err
	}
	first, _ := all[0].Member.(string)
	h := parseHead(first)
	if !h.complete(r.up != nil) {
		return nil, readState{foreign: h.state == 0}, nil
	}
	top := make([]Scored[M], 0, len(all)-1)
	for _, z := range all[1:] {
		b, _ := z.Member.(string)
		m, err := r.members.decode(key, b)
		if err != nil {
			return nil, readState{foreign: true, token: h.token, err: err}, nil
		}
		top = append(top, Scored[M]{m, z.Score})
	}
	return top, readState{complete: true}, nil
}
