package main

import (
	"context"
	"fmt"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

// pages reads 100 existing values of five types.
func pages(t testing.TB, o options) []measure.Work {
	server := redistest.Start(t)
	rdb, other := server.Client(nil), server.Client(nil)
	n := o.keys(many)
	users := newPart(t, rdb, other, &values[User]{"users", n, user})
	titles := newPart(t, rdb, other, &values[string]{"titles", n, func(id int64) string { return fmt.Sprint("Gopher ", id) }})
	views := newPart(t, rdb, other, &values[int64]{"views", n, func(id int64) int64 { return 1000 * id }})
	tags := newPart(t, rdb, other, &values[[]string]{"tags", n, func(int64) []string { return []string{"go", "redis", "remote"} }})
	icons := newPart(t, rdb, other, &values[[]byte]{"icons", n, func(int64) []byte { return make([]byte, 200) }})
	parts := []part{users, titles, views, tags, icons}
	const each = 20
	return []measure.Work{{
		Name: "mixed batch of 100", Goroutines: []int{1, 8},
		Note: "20 present values of each of five types (structs, strings, numbers, slices of strings, 200 bytes), into " +
			"a map for each type. By hand means one pipeline of 100 `GET`s and `msgpack.Unmarshal` of each reply.",
		Base: measure.Variant{Name: byHand, Call: func(ctx context.Context) error {
			p := rdb.Pipeline()
			var decode [5]func() error
			for i, part := range parts {
				decode[i] = part.queue(ctx, p, each)
			}
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
			for _, d := range decode {
				if err := d(); err != nil {
					return err
				}
			}
			return nil
		}},
		Variants: []measure.Variant{
			{Name: "cachex, GetMany of each type", Call: read(parts, func(p part, b *batch.Batch) func() error { return p.getMany(b, each) })},
			{Name: "cachex, Get of each key", Call: read(parts, func(p part, b *batch.Batch) func() error { return p.get(b, each) })},
		},
		Targets: []measure.Target{
			{Variant: "cachex, GetMany of each type", Goroutines: 1, Bound: 1},
			{Variant: "cachex, GetMany of each type", Goroutines: 8, Bound: 1},
		},
	}}
}

// part is the values of one type of a page. Each method queues some reads, and
// returns a function that checks the answers.
type part interface {
	queue(ctx context.Context, p redis.Pipeliner, n int) func() error
	getMany(b *batch.Batch, n int) func() error
	get(b *batch.Batch, n int) func() error
}

type typed[V any] struct {
	*values[V]
	c *cachex.Cache[int64, V]
}

func newPart[V any](t testing.TB, rdb, other *redis.Client, d *values[V]) part {
	d.store(t, rdb)
	return typed[V]{d, d.cache(t, other, nil)}
}

func (p typed[V]) queue(ctx context.Context, pipe redis.Pipeliner, n int) func() error {
	ids := p.some(n)
	cmds := queue(ctx, pipe, p.values, ids)
	return func() error {
		_, err := answers(p.values, ids, cmds)
		return err
	}
}

func (p typed[V]) getMany(b *batch.Batch, n int) func() error {
	v := batch.GetMany(b, p.c, p.some(n))
	return func() error {
		got, err := v.Get()
		return all(got, n, err)
	}
}

func (p typed[V]) get(b *batch.Batch, n int) func() error {
	vs := make([]*batch.Value[V], n)
	for i, id := range p.some(n) {
		vs[i] = batch.Get(b, p.c, id)
	}
	return func() error {
		for _, v := range vs {
			if _, err := v.Get(); err != nil {
				return err
			}
		}
		return nil
	}
}

// read returns a Call that reads a page with a Batch.
func read(parts []part, ask func(part, *batch.Batch) func() error) measure.Call {
	return func(ctx context.Context) error {
		var b batch.Batch
		var look [5]func() error
		for i, part := range parts {
			look[i] = ask(part, &b)
		}
		if err := b.Run(ctx); err != nil {
			return err
		}
		for _, l := range look {
			if err := l(); err != nil {
				return err
			}
		}
		return nil
	}
}

// queue queues the GETs of ids.
func queue[V any](ctx context.Context, p redis.Pipeliner, d *values[V], ids []int64) []*redis.StringCmd {
	cmds := make([]*redis.StringCmd, len(ids))
	for i, id := range ids {
		cmds[i] = p.Get(ctx, d.key(id))
	}
	return cmds
}

// answers decodes the replies into a map.
func answers[V any](_ *values[V], ids []int64, cmds []*redis.StringCmd) (map[int64]V, error) {
	got := make(map[int64]V, len(ids))
	for i, id := range ids {
		v, err := decode[V](cmds[i].Bytes())
		if err != nil {
			return nil, err
		}
		got[id] = v
	}
	return got, nil
}
