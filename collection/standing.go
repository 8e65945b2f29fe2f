package collection

import (
	"context"
	"slices"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// A standing is what script.Stand returns: members of a ranking that follow each
// other, and the rank of the first. None says that the member is not there.
type standing[M any] struct {
	members []Scored[M]
	first   int64
}

// stand tells where the member with the bytes m stands.
func (r *Ranking[K, M]) stand(ctx context.Context, k string, key K, m string, n int) (standing[M], error) {
	return find(ctx, &r.home, request[K, []Scored[M], standing[M]]{
		k: k, key: key,
		read: func(ctx context.Context) (standing[M], sight, error) {
			reply, err := script.Stand.Run(ctx, r.rdb, k, r.up != nil, m, n)
			if err != nil {
				return standing[M]{}, sight{}, err
			}
			return r.stood(k, reply)
		},
		from: func(all []Scored[M]) (standing[M], error) {
			for i, s := range all {
				b, err := r.members.one(k, s.Member)
				if err != nil {
					return standing[M]{}, err
				}
				if b == m {
					from := max(i-n, 0)
					return standing[M]{slices.Clone(all[from:min(i+n+1, len(all))]), int64(from + 1)}, nil
				}
			}
			return standing[M]{}, nil
		},
	})
}

// stood opens the reply to script.Stand.
func (r *Ranking[K, M]) stood(k string, reply any) (st standing[M], s sight, err error) {
	parts, _ := reply.([]any)
	if len(parts) != 4 {
		return st, s, errReply
	}
	switch parts[0] {
	case int64(0):
		return st, sight{}, nil
	case int64(-1):
		return st, sight{foreign: true}, nil
	}
	first, ok := parts[1].(int64)
	all, lists := parts[2].([]any)
	if parts[0] != int64(1) || !ok || !lists {
		return st, sight{}, errReply
	}
	st.first = first
	token, _ := parts[3].(string)
	members, s, err := r.members.placed(k, all, token)
	for _, p := range members {
		st.members = append(st.members, Scored[M]{p.member, p.score})
	}
	return st, s, err
}

// opened opens the reply to ZREVRANGE.
func (r *Ranking[K, M]) opened(key string, reply redis.Cmder) ([]Scored[M], sight, error) {
	all, err := reply.(*redis.ZSliceCmd).Result()
	if err != nil || len(all) == 0 {
		return nil, sight{}, err
	}
	first, _ := all[0].Member.(string)
	h := parseHead(first)
	if !h.whole(r.up != nil) {
		return nil, sight{foreign: h.state == 0}, nil
	}
	top := make([]Scored[M], 0, len(all)-1)
	for _, z := range all[1:] {
		b, _ := z.Member.(string)
		m, err := r.members.decode(key, b)
		if err != nil {
			return nil, sight{foreign: true, token: h.token, why: err}, nil
		}
		top = append(top, Scored[M]{m, z.Score})
	}
	return top, sight{whole: true}, nil
}
