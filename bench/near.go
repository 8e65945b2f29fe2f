package main

import (
	"context"
	"errors"
	"testing"

	"github.com/maypok86/otter/v2"
	"github.com/viccon/sturdyc"

	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

// inProcess reads one existing value, with libraries that keep values in the
// process.
func inProcess(t testing.TB, o options) []measure.Work {
	server := redistest.Start(t)
	d := &values[User]{"users", o.keys(many), user}
	d.store(t, server.Client(nil))
	const most = 2 * many // so that no entry is evicted

	ot := otter.Must(&otter.Options[int64, User]{
		MaximumSize: most, ExpiryCalculator: otter.ExpiryWriting[int64, User](ttl),
	})
	t.Cleanup(func() { ot.StopAllGoroutines() })
	load := otter.LoaderFunc[int64, User](func(_ context.Context, id int64) (User, error) { return user(id), nil })

	st := sturdyc.New[User](most, 64, ttl, 10)
	fetch := func(id int64) sturdyc.FetchFn[User] {
		return func(context.Context) (User, error) { return user(id), nil }
	}
	ru := newRueidis(t, 0, server.Addr())
	fromRueidis := func(ctx context.Context, id int64) error {
		_, err := decode[User](ru.DoCache(ctx, ru.B().Get().Key(d.key(id)).Cache(), ttl).AsBytes())
		return err
	}
	// All keys that are read exist.
	chunks(t, d.n, func(ctx context.Context, from, to int64) error {
		for id := from; id < to; id++ {
			_, err := ot.Get(ctx, id, load)
			_, more := st.GetOrFetch(ctx, d.key(id), fetch(id))
			if err := errors.Join(err, more, fromRueidis(ctx, id)); err != nil {
				return err
			}
		}
		return nil
	})
	return []measure.Work{{
		Name: "in the process", Goroutines: []int{1, 64},
		Note: "A hit as above, by libraries that keep values in the memory of each process. cachex has no near cache " +
			"yet, and asks Redis each time. A hit in the process is hundreds of times faster. It may be as old as its " +
			"TTL (otter, sturdyc), or is invalidated by Redis (rueidis). otter and sturdyc keep decoded values; " +
			"rueidis decodes its bytes at each hit.",
		Base: readCache("cachex, from Redis", d, d.cache(t, server.Client(nil), nil)),
		Variants: []measure.Variant{
			{Name: "otter", Burst: 64, Call: func(ctx context.Context) error {
				_, err := ot.Get(ctx, d.one(), load)
				return err
			}},
			{Name: "sturdyc", Burst: 64, Call: func(ctx context.Context) error {
				id := d.one()
				_, err := st.GetOrFetch(ctx, d.key(id), fetch(id))
				return err
			}},
			{Name: "rueidis DoCache", Burst: 64, Call: func(ctx context.Context) error { return fromRueidis(ctx, d.one()) }},
		},
	}}
}
