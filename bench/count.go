package main

import (
	"context"
	"math/rand/v2"
	"strconv"
	"testing"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// counts adds one to a count: always the same one, or one of many.
func counts(t testing.TB, o options) []measure.Work {
	server := redistest.Start(t)
	var works []measure.Work
	for _, row := range []struct {
		name string
		keys int64
	}{{"one key", 1}, {"10,000 keys", o.keys(many)}} {
		w := count(t, server, "Inc, "+row.name, func() int64 { return rand.Int64N(row.keys) })
		if row.keys == 1 { // with many keys, sending allocates more than adding up
			w.Targets = append(w.Targets, measure.Target{Variant: "cachex, Buffer.Inc", Goroutines: 64, What: measure.Allocs, Bound: 0.05})
		}
		works = append(works, w)
	}
	return works
}

func count(t testing.TB, server *redistest.Server, name string, pick func() int64) measure.Work {
	ctx := context.Background()
	rdb, ap, ru := server.Client(nil), autoPipeline(t, server.Client(nil)), newRueidis(t, 0, server.Addr())
	key := func() string { return "raw:" + strconv.FormatInt(pick(), 10) }
	newCounter := func(key string) *counter.Counter[int64] {
		c := cachex.Must(counter.New(server.Client(nil), counter.Spec[int64]{Key: key, TTL: ttl}))
		t.Cleanup(func() { _ = c.Close(ctx) })
		return c
	}
	exact, behind := newCounter("views:{id}"), newCounter("buffered:{id}")
	buffer := cachex.Must(counter.NewBuffer(behind, counter.BufferOptions{}))
	return measure.Work{
		Name: name, Goroutines: []int{1, 64},
		Note: "Adding one to a count with a TTL. By hand means `INCR` and `EXPIRE` in a pipeline. An `Inc` of cachex is " +
			"a script, which restores a missing count. A `Buffer` adds up in the process; its time ends when Redis " +
			"has the whole sum.",
		Base: measure.Variant{Name: byHand, Call: func(ctx context.Context) error {
			k := key()
			p := rdb.Pipeline()
			n := p.Incr(ctx, k)
			p.Expire(ctx, k, ttl)
			if _, err := p.Exec(ctx); err != nil {
				return err
			}
			return n.Err()
		}},
		Variants: []measure.Variant{
			{Name: "cachex, Inc", Call: func(ctx context.Context) error {
				_, err := exact.Inc(ctx, pick())
				return err
			}},
			{Name: "cachex, Buffer.Inc", Burst: 64, Settle: func() error { return buffer.Flush(ctx) },
				Call: func(context.Context) error { return buffer.Inc(pick()) }},
			{Name: "go-redis AutoPipeline, INCR alone", Call: func(ctx context.Context) error {
				return ap.Incr(ctx, key()).Err()
			}},
			{Name: "rueidis, INCR and EXPIRE", Call: func(ctx context.Context) error {
				k := key()
				for _, answer := range ru.DoMulti(ctx, ru.B().Incr().Key(k).Build(), ru.B().Expire().Key(k).Seconds(int64(ttl.Seconds())).Build()) {
					if err := answer.Error(); err != nil {
						return err
					}
				}
				return nil
			}},
		},
		Targets: []measure.Target{
			{Variant: "cachex, Inc", Goroutines: 64, Bound: 3.5},
			{Variant: "cachex, Buffer.Inc", Goroutines: 64, Bound: 400},
		},
	}
}
