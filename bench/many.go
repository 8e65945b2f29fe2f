package main

import (
	"context"
	"errors"
	"testing"

	"github.com/redis/rueidis"

	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

// hundreds reads 100 existing values of one type into a map.
func hundreds(t testing.TB, o options) []measure.Work {
	const n = 100
	server := redistest.Start(t)
	d := &values[User]{"users", o.keys(many), user}
	rdb := server.Client(nil)
	d.store(t, rdb)
	users := d.cache(t, server.Client(nil), nil)
	ru := newRueidis(t, 0, server.Addr())
	grc := storeGRCache(t, d, server.Client(nil))
	keys := func(ids []int64) []string {
		keys := make([]string, len(ids))
		for i, id := range ids {
			keys[i] = d.key(id)
		}
		return keys
	}
	return []measure.Work{{
		Name: "GetMany 100", Goroutines: []int{1, 16},
		Note: "100 present structs of about 110 bytes, of 10,000 keys, into a map. By hand means a pipeline of 100 " +
			"`GET`s and `msgpack.Unmarshal` of each reply; `MGET` is decoded likewise.",
		Base: measure.Variant{Name: byHand, Call: func(ctx context.Context) error {
			ids := d.some(n)
			p := rdb.Pipeline()
			cmds := queue(ctx, p, d, ids)
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
			_, err := answers(d, ids, cmds)
			return err
		}},
		Variants: []measure.Variant{
			{Name: ours, Call: func(ctx context.Context) error {
				got, err := users.GetMany(ctx, d.some(n))
				return all(got, n, err)
			}},
			{Name: "go-redis MGET by hand", Call: func(ctx context.Context) error {
				ids := d.some(n)
				found, err := rdb.MGet(ctx, keys(ids)...).Result()
				if err != nil {
					return err
				}
				got := make(map[int64]User, n)
				for i, one := range found {
					b, _ := one.(string)
					if got[ids[i]], err = decode[User]([]byte(b), nil); err != nil {
						return err
					}
				}
				return nil
			}},
			{Name: "rueidis.MGet", Call: func(ctx context.Context) error {
				ids := d.some(n)
				found, err := rueidis.MGet(ru, ctx, keys(ids))
				if err != nil {
					return err
				}
				got := make(map[int64]User, n)
				for _, id := range ids {
					one := found[d.key(id)]
					if got[id], err = decode[User](one.AsBytes()); err != nil {
						return err
					}
				}
				return nil
			}},
			{Name: "go-redis/cache, in a loop", Call: func(ctx context.Context) error {
				got := make(map[int64]User, n)
				for _, id := range d.some(n) {
					var u User
					if err := grc.Get(ctx, grKey(d, id), &u); err != nil {
						return err
					}
					got[id] = u
				}
				return nil
			}},
		},
		Targets: []measure.Target{
			{Variant: ours, Goroutines: 1, Bound: 1.6},
			{Variant: ours, Goroutines: 16, Bound: 2.4},
		},
	}}
}

var errMissing = errors.New("a value that is there was not found")

func all[K comparable, V any](got map[K]V, n int, err error) error {
	if err == nil && len(got) != n {
		return errMissing
	}
	return err
}
