package main

import (
	"context"
	"testing"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
	"github.com/redis/rueidis"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
)

// The names of the libraries in the tables.
const (
	byHand     = "go-redis by hand"
	ours       = "cachex"
	auto       = "go-redis AutoPipeline"
	grCache    = "go-redis/cache"
	rueidisRaw = "rueidis"
	rueidis20  = "rueidis, MaxFlushDelay 20 µs"
)

// readByHand is the code that a user writes with a client alone.
func readByHand[V any](name string, d *values[V], rdb redis.UniversalClient) measure.Variant {
	return measure.Variant{Name: name, Call: func(ctx context.Context) error {
		_, err := decode[V](rdb.Get(ctx, d.key(d.one())).Bytes())
		return err
	}}
}

func readCache[V any](name string, d *values[V], c *cachex.Cache[int64, V]) measure.Variant {
	return measure.Variant{Name: name, Call: func(ctx context.Context) error {
		_, err := c.Get(ctx, d.one())
		return err
	}}
}

// readGRCache uses go-redis/cache with its defaults, without a cache in the
// process.
func readGRCache[V any](t testing.TB, d *values[V], rdb *redis.Client) measure.Variant {
	c := storeGRCache(t, d, rdb)
	return measure.Variant{Name: grCache, Call: func(ctx context.Context) error {
		var v V
		return c.Get(ctx, grKey(d, d.one()), &v)
	}}
}

func storeGRCache[V any](t testing.TB, d *values[V], rdb *redis.Client) *cache.Cache {
	t.Helper()
	c := cache.New(&cache.Options{Redis: rdb})
	chunks(t, d.n, func(ctx context.Context, from, to int64) error {
		for id := from; id < to; id++ {
			if err := c.Set(&cache.Item{Ctx: ctx, Key: grKey(d, id), Value: d.of(id), TTL: ttl}); err != nil {
				return err
			}
		}
		return nil
	})
	return c
}

func grKey[V any](d *values[V], id int64) string { return "cache:" + d.key(id) }

func readRueidis[V any](name string, d *values[V], c rueidis.Client) measure.Variant {
	return measure.Variant{Name: name, Call: func(ctx context.Context) error {
		_, err := decode[V](c.Do(ctx, c.B().Get().Key(d.key(d.one())).Build()).AsBytes())
		return err
	}}
}

// autoPipeline returns the blocking interface of a client, with its defaults.
func autoPipeline(t testing.TB, rdb interface {
	AutoPipeline() (*redis.AutoPipeliner, error)
}) redis.UniversalClient {
	t.Helper()
	ap, err := rdb.AutoPipeline()
	if err != nil {
		t.Fatal(err)
	}
	return ap
}

func newRueidis(t testing.TB, delay time.Duration, addrs ...string) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: addrs, MaxFlushDelay: delay})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}
