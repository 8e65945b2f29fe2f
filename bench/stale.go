package main

import (
	"context"
	"testing"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

// stale reads values that go stale all the time.
func stale(t testing.TB, _ options) []measure.Work {
	const load = 5 * time.Millisecond
	server := redistest.Start(t)
	d := &values[User]{"users", 100, user}
	rdb := server.Client(nil)
	d.store(t, rdb)
	short := func(name string, swr time.Duration) measure.Variant {
		c := d.cache(t, server.Client(nil), func(s *cachex.Spec[int64, User]) {
			s.Key, s.TTL, s.StaleWhileRevalidate = name+":{id}", 100*time.Millisecond, swr
			s.Up = func(_ context.Context, id int64) (User, error) {
				time.Sleep(load)
				return user(id), nil
			}
		})
		return readCache(ours+", "+name, d, c)
	}
	return []measure.Work{{
		Name: "stale-while-revalidate", Goroutines: []int{1, 64},
		Note: "One of 100 values that are fresh for 100 ms and take 5 ms to load: with StaleWhileRevalidate no reader " +
			"waits for a load, and without it readers do. By hand means a hit of values that do not expire.",
		Base: readByHand(byHand, d, rdb),
		Variants: []measure.Variant{
			readCache("cachex, values that do not expire", d, d.cache(t, server.Client(nil), nil)),
			short("StaleWhileRevalidate", ttl),
			short("without it", 0),
		},
	}}
}
