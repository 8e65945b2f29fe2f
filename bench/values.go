package main

import (
	"context"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex"
)

// User is a value of about 110 bytes as MessagePack.
type User struct {
	ID        int64
	Name      string
	Email     string
	City      string
	CreatedAt int64
	Tags      []string
	Score     float64
	Active    bool
}

func user(id int64) User {
	return User{
		ID: id, Name: "Ada Lovelace", Email: "ada@example.com", City: "London",
		CreatedAt: 1_700_000_000_000, Tags: []string{"admin", "beta"}, Score: 0.75, Active: true,
	}
}

// Text is a value of a given size.
type Text struct {
	ID   int64
	Body string
}

func text(size int) func(id int64) Text {
	var b strings.Builder
	for range size {
		b.WriteByte(byte('a' + rand.IntN(26)))
	}
	return func(id int64) Text { return Text{id, b.String()} }
}

// ttl is so long that no entry expires.
const ttl = time.Hour

// many is the number of keys of works with small values. They are read evenly.
const many = 10_000

// values holds the values of the keys 0 to n-1. All variants that use a client
// alone read the same bytes. Each library that stores values has its own form
// of them.
type values[V any] struct {
	name string
	n    int64
	of   func(id int64) V
}

// key builds a key as a user does by hand.
func (d *values[V]) key(id int64) string { return "raw:" + d.name + ":" + strconv.FormatInt(id, 10) }

// one returns one of the keys.
func (d *values[V]) one() int64 { return rand.Int64N(d.n) }

// some returns n different keys.
func (d *values[V]) some(n int) []int64 {
	ids := make([]int64, n)
	first, step := d.one(), d.n/int64(n)
	for i := range ids {
		ids[i] = (first + int64(i)*step) % d.n
	}
	return ids
}

// decode decodes as a user does, into a new value.
func decode[V any](b []byte, err error) (v V, _ error) {
	if err != nil {
		return v, err
	}
	return v, msgpack.Unmarshal(b, &v)
}

// store stores the values as a user would, as MessagePack with a TTL.
func (d *values[V]) store(t testing.TB, rdb redis.UniversalClient) {
	t.Helper()
	chunks(t, d.n, func(ctx context.Context, from, to int64) error {
		_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for id := from; id < to; id++ {
				b, err := msgpack.Marshal(d.of(id))
				if err != nil {
					return err
				}
				p.Set(ctx, d.key(id), b, ttl)
			}
			return nil
		})
		return err
	})
}

// cache returns a cache that holds all values. If change is not nil, it is
// applied to the Spec.
func (d *values[V]) cache(t testing.TB, rdb redis.UniversalClient, change func(*cachex.Spec[int64, V])) *cachex.Cache[int64, V] {
	t.Helper()
	spec := cachex.Spec[int64, V]{
		Key: d.name + ":{id}", TTL: ttl,
		Up: func(_ context.Context, id int64) (V, error) { return d.of(id), nil },
	}
	if change != nil {
		change(&spec)
	}
	c := cachex.Must(cachex.New(rdb, spec))
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	chunks(t, d.n, func(ctx context.Context, from, to int64) error {
		all := make(map[int64]V)
		for id := from; id < to; id++ {
			all[id] = d.of(id)
		}
		return c.SetMany(ctx, all)
	})
	return c
}

// chunks calls f for parts of 0 to n.
func chunks(t testing.TB, n int64, f func(ctx context.Context, from, to int64) error) {
	t.Helper()
	const chunk = 200
	for from := int64(0); from < n; from += chunk {
		if err := f(context.Background(), from, min(from+chunk, n)); err != nil {
			t.Fatal(err)
		}
	}
}
