package main

import (
	"context"
	"testing"

	"github.com/go-redis/cache/v9"
	"github.com/redis/rueidis"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

// writes stores one value over an existing one.
func writes(t testing.TB, o options) []measure.Work {
	server := redistest.Start(t)
	d := &values[User]{"users", o.keys(many), user}
	rdb, ap := server.Client(nil), autoPipeline(t, server.Client(nil))
	d.store(t, rdb)
	users := d.cache(t, server.Client(nil), nil)
	lasting := d.cache(t, server.Client(nil), func(s *cachex.Spec[int64, User]) { s.StaleWhileRevalidate = ttl })
	ru := newRueidis(t, 0, server.Addr())
	grc := storeGRCache(t, d, server.Client(nil))
	return []measure.Work{{
		Name: "Set", Goroutines: []int{1, 64},
		Note: "Storing a struct of about 110 bytes with a TTL, over a present one. By hand means `msgpack.Marshal` and " +
			"`SET … EX`. A `Set` of cachex also fences loads in flight; if the value is kept when stale, it is a " +
			"script.",
		Base: measure.Variant{Name: byHand, Call: func(ctx context.Context) error {
			id := d.one()
			b, err := msgpack.Marshal(d.of(id))
			if err != nil {
				return err
			}
			return rdb.Set(ctx, d.key(id), b, ttl).Err()
		}},
		Variants: []measure.Variant{
			{Name: ours, Call: func(ctx context.Context) error {
				id := d.one()
				return users.Set(ctx, id, d.of(id))
			}},
			{Name: "cachex, kept when stale", Call: func(ctx context.Context) error {
				id := d.one()
				return lasting.Set(ctx, id, d.of(id))
			}},
			{Name: auto, Call: func(ctx context.Context) error {
				id := d.one()
				b, err := msgpack.Marshal(d.of(id))
				if err != nil {
					return err
				}
				return ap.Set(ctx, d.key(id), b, ttl).Err()
			}},
			{Name: rueidisRaw, Call: func(ctx context.Context) error {
				id := d.one()
				b, err := msgpack.Marshal(d.of(id))
				if err != nil {
					return err
				}
				return ru.Do(ctx, ru.B().Set().Key(d.key(id)).Value(rueidis.BinaryString(b)).Ex(ttl).Build()).Error()
			}},
			{Name: grCache, Call: func(ctx context.Context) error {
				id := d.one()
				return grc.Set(&cache.Item{Ctx: ctx, Key: grKey(d, id), Value: d.of(id), TTL: ttl})
			}},
		},
	}}
}
