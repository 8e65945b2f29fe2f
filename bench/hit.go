package main

import (
	"testing"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/internal/redistest"
)

var crowds = []int{1, 8, 64, 256}

// hits reads one value that exists, of each size.
func hits(t testing.TB, o options) []measure.Work {
	server := redistest.Start(t, "--hash-max-listpack-entries", "256", "--hash-max-listpack-value", "256") // as in docs/packed.md
	users := &values[User]{"users", o.keys(many), user}
	w := hit(t, server, "hit", users, true)
	w.Note = "A present value, a struct of about 110 bytes, of 10,000 keys that are read evenly. By hand means " +
		"`rdb.Get(…).Bytes()` and `msgpack.Unmarshal`; rueidis decodes in the same way."
	w.Targets = []measure.Target{
		{Variant: ours, Goroutines: 1, Bound: 0.95},
		{Variant: ours, Goroutines: 1, What: measure.Allocs, Bound: 9},
		{Variant: ours, Goroutines: 64, Bound: 4},
		{Variant: ours, Goroutines: 64, What: measure.P99, Bound: 0.3},
		{Variant: ours, Goroutines: 256, Bound: 7},
		{Variant: ours, Goroutines: 256, Versus: auto, Bound: 2},
		{Variant: ours, Goroutines: 256, Versus: rueidisRaw, Bound: 3},
	}
	ends := hit(t, server, "hit, ctx that can end", users, false)
	ends.Ends = true
	ends.Note = "The same with a ctx that can end, like the ctx of a request, one for each goroutine. A caller that " +
		"shares a round trip must be able to leave it then."
	kilo := hit(t, server, "hit, 1 KB", &values[Text]{"texts", o.keys(many), text(1 << 10)}, false)
	kilo.Note = "A struct with a string of 1 KB."
	large := hit(t, server, "hit, 64 KB", &values[Text]{"books", o.keys(1000), text(64 << 10)}, false)
	large.Note = "A struct with a string of 64 KB, of one of 1,000 keys."
	return []measure.Work{w, ends, kilo, large}
}

// hit reads values of d. Every library has its own clients, with the library's
// default options. The clients of go-redis all have the same number of
// connections.
func hit[V any](t testing.TB, server *redistest.Server, name string, d *values[V], all bool) measure.Work {
	d.store(t, server.Client(nil))
	w := measure.Work{Name: name, Goroutines: crowds, Base: readByHand(byHand, d, server.Client(nil))}
	w.Variants = []measure.Variant{
		readCache(ours, d, d.cache(t, server.Client(nil), nil)),
		readByHand(auto, d, autoPipeline(t, server.Client(nil))),
		readRueidis(rueidisRaw, d, newRueidis(t, 0, server.Addr())),
	}
	if all {
		w.Variants = append(w.Variants,
			readRueidis(rueidis20, d, newRueidis(t, 20*time.Microsecond, server.Addr())),
			readGRCache(t, d, server.Client(nil)),
			readCache("cachex, packed", d, d.cache(t, server.Client(nil), func(s *cachex.Spec[int64, V]) { s.Packed = 100 })))
	}
	return w
}

// cluster does the same on a Redis Cluster.
func cluster(t testing.TB, o options) []measure.Work {
	c := redistest.StartCluster(t, 3)
	d := &values[User]{"users", o.keys(many), user}
	d.store(t, c.Client(nil))
	return []measure.Work{{
		Name: "hit on Cluster", Goroutines: crowds,
		Note: "A hit as above, on a Redis Cluster of three masters. All four processes share the machine.",
		Base: readByHand(byHand, d, c.Client(nil)),
		Variants: []measure.Variant{
			readCache(ours, d, d.cache(t, c.Client(nil), nil)),
			readByHand(auto, d, autoPipeline(t, c.Client(nil))),
			readRueidis(rueidisRaw, d, newRueidis(t, 0, c.Addrs()...)),
		},
		Targets: []measure.Target{
			{Variant: ours, Goroutines: 64, Bound: 3},
			{Variant: ours, Goroutines: 256, Bound: 5},
		},
	}}
}
