package conformance

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/gate"
)

// A publicCall is one call that users make, on a client that does not work as it
// should.
type publicCall struct {
	name  string
	loads bool // it returns what Up returns, whatever Redis does
	make  func(t *testing.T, rdb redis.UniversalClient) (do, end func(context.Context) error)

	// right are the replies of the server after which nil is right: those that the
	// server gives if it has carried out the call, and what cannot be told from them.
	right []string
}

var (
	oneOrNone = []string{":0", ":1", "+1", "$1\r\n1"}
	aNil      = []string{"$-1", "*-1", "_"}
)

func isUp(v string, err error) error {
	if err == nil && v != "up" {
		return fmt.Errorf("%w: %q", errWrong, v)
	}
	return err
}

func areUp(vs map[int]string, err error) error {
	for id := 1; id <= 3 && err == nil; id++ {
		err = isUp(vs[id], nil)
	}
	return err
}

// errWrong is the error of a call that has returned no error, and what is wrong.
var errWrong = errors.New("a wrong value")

func onCache(change func(*cachex.Spec[int, string]), do func(context.Context, *cachex.Cache[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		spec := cachex.Spec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, LeaseTTL: time.Second,
			Up: func(context.Context, int) (string, error) { return "up", nil },
		}
		if change != nil {
			change(&spec)
		}
		c := cachex.Must(cachex.New(rdb, spec))
		return func(ctx context.Context) error { return do(ctx, c) }, c.Close
	}
}

func many(s *cachex.Spec[int, string]) {
	s.UpMany = func(_ context.Context, ids []int) (map[int]string, error) {
		vs := make(map[int]string)
		for _, id := range ids {
			vs[id] = "up"
		}
		return vs, nil
	}
}

func down(s *cachex.Spec[int, string]) {
	s.Down = func(context.Context, int, string) error { return nil }
}

func behind(s *cachex.Spec[int, string]) {
	down(s)
	s.WriteBehind = 10 * time.Millisecond
}

// publicCalls are the calls that reach Redis.
var publicCalls = []publicCall{
	{name: "Get", loads: true, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return isUp(c.Get(ctx, 1)) })},
	{name: "Get, packed", loads: true, make: onCache(func(s *cachex.Spec[int, string]) { s.Packed = 16 }, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return isUp(c.Get(ctx, 1))
	})},
	{name: "Get, not combined", loads: true, make: onCache(func(s *cachex.Spec[int, string]) { s.NoCombining = true }, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return isUp(c.Get(ctx, 1))
	})},
	{name: "Get, stale", loads: true, make: onCache(func(s *cachex.Spec[int, string]) {
		s.StaleWhileRevalidate, s.StaleIfError, s.SoftTimeout = time.Minute, time.Minute, time.Second
	}, func(ctx context.Context, c *cachex.Cache[int, string]) error { return isUp(c.Get(ctx, 1)) })},
	{name: "Get without Up", make: onCache(func(s *cachex.Spec[int, string]) { s.Up = nil }, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return isUp(c.Get(ctx, 1))
	})},
	{name: "GetMany", loads: true, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return areUp(c.GetMany(ctx, []int{1, 2, 3}))
	})},
	{name: "GetMany by UpMany", loads: true, make: onCache(many, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return areUp(c.GetMany(ctx, []int{1, 2, 3}))
	})},
	{name: "Lookup", make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		_, ok, err := c.Lookup(ctx, 1)
		if ok {
			return errWrong
		}
		return err // nil: what cannot be used is nothing
	})},
	{name: "Refresh", loads: true, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return isUp(c.Refresh(ctx, 1)) })},
	{name: "Set", right: append(aNil, oneOrNone...), make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Set(ctx, 1, "v") })},
	{name: "Set by a script", right: oneOrNone, make: onCache(func(s *cachex.Spec[int, string]) { s.StaleIfError = time.Minute }, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return c.Set(ctx, 1, "v")
	})},
	{name: "SetMany", right: append(aNil, oneOrNone...), make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		return c.SetMany(ctx, map[int]string{1: "v", 2: "v"})
	})},
	{name: "Set with Down", right: oneOrNone, make: onCache(down, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Set(ctx, 1, "v") })},
	{name: "Set behind", right: []string{":1"}, make: onCache(behind, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Set(ctx, 1, "v") })},
	{name: "Flush", make: onCache(behind, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Flush(ctx) })},
	{name: "Delete", right: oneOrNone, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Delete(ctx, 1) })},
	{name: "Delete several", right: oneOrNone, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Delete(ctx, 1, 2, 3) })},
	{name: "Expire", right: oneOrNone, make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error { return c.Expire(ctx, 1, 2) })},
	{name: "Clear", make: onCache(nil, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		_, err := c.Clear(cachex.WithProgress(ctx, func(cachex.Progress) {}))
		return err
	})},
	{name: "batch", loads: true, make: onCache(many, func(ctx context.Context, c *cachex.Cache[int, string]) error {
		var b batch.Batch
		v := batch.Get(&b, c, 1)
		if err := b.Run(ctx); err != nil {
			return err
		}
		return isUp(v.Get())
	})},
	{name: "Inc", make: onCounter(counter.Spec[int]{}, func(ctx context.Context, c *counter.Counter[int]) error { _, err := c.Inc(ctx, 1); return err })},
	{name: "Inc, not combined", make: onCounter(counter.Spec[int]{NoCombining: true}, func(ctx context.Context, c *counter.Counter[int]) error { _, err := c.Inc(ctx, 1); return err })},
	{name: "AddOnce", make: onCounter(counter.Spec[int]{}, func(ctx context.Context, c *counter.Counter[int]) error {
		_, err := c.AddOnce(ctx, 1, 1, "op")
		return err
	})},
	{name: "Inc with Down", make: onCounter(countDown, func(ctx context.Context, c *counter.Counter[int]) error { _, err := c.Inc(ctx, 1); return err })},
	{name: "Flush of a buffer", make: onCounter(counter.Spec[int]{}, func(ctx context.Context, c *counter.Counter[int]) error {
		b, err := counter.NewBuffer(c, counter.BufferOptions{Every: time.Hour})
		if err == nil {
			err = errors.Join(b.Inc(1), b.Inc(2))
		}
		if err == nil {
			err = b.Flush(ctx)
		}
		return err
	})},
	{name: "Try", right: []string{}, make: onGate(func(ctx context.Context, g *gate.Gate[int]) error { _, _, err := g.Try(ctx, 1); return err })},
	{name: "Do", make: onGate(func(ctx context.Context, g *gate.Gate[int]) error {
		return g.Do(ctx, 1, func(context.Context) error { return nil })
	})},
	{name: "Reset", right: []string{":0", ":1"}, make: onGate(func(ctx context.Context, g *gate.Gate[int]) error { return g.Reset(ctx, 1) })},
	{name: "Recent.Push", right: []string{":0", ":1", ":2"}, make: onRecent(func(ctx context.Context, r *collection.Recent[int, string]) error { return r.Push(ctx, 1, "e") })},
	{name: "Recent.Get", make: onRecent(func(ctx context.Context, r *collection.Recent[int, string]) error { return oneUp(r.Get(ctx, 1)) })},
	{name: "Recent.Remove", right: []string{":0", ":1", ":2", ":9223372036854775807"}, make: onRecent(func(ctx context.Context, r *collection.Recent[int, string]) error {
		return r.Remove(ctx, 1, "e")
	})},
	{name: "Recent.Delete", right: oneOrNone, make: onRecent(func(ctx context.Context, r *collection.Recent[int, string]) error { return r.Delete(ctx, 1) })},
	{name: "Ranking.Add", make: onRanking(func(ctx context.Context, r *collection.Ranking[int, string]) error {
		_, err := r.Add(ctx, 1, "m", 1)
		return err
	})},
	{name: "Ranking.Set", make: onRanking(func(ctx context.Context, r *collection.Ranking[int, string]) error { return r.Set(ctx, 1, "m", 1) })},
	{name: "Ranking.Get", make: onRanking(func(ctx context.Context, r *collection.Ranking[int, string]) error {
		_, err := r.Get(ctx, 1)
		return err
	})},
	{name: "Ranking.Rank", make: onRanking(func(ctx context.Context, r *collection.Ranking[int, string]) error {
		_, _, err := r.Rank(ctx, 1, "up")
		return err
	})},
	{name: "Set.Add", right: []string{":0", ":1"}, make: onSet(func(ctx context.Context, s *collection.Set[int, string]) error {
		_, err := s.Add(ctx, 1, "m")
		return err
	})},
	{name: "Set.Has", make: onSet(func(ctx context.Context, s *collection.Set[int, string]) error {
		_, err := s.Has(ctx, 1, "up")
		return err
	})},
	{name: "Set.Get", make: onSet(func(ctx context.Context, s *collection.Set[int, string]) error { return oneUp(s.Get(ctx, 1)) })},
	{name: "Feed.Post", make: onFeed(func(ctx context.Context, f *collection.Feed[int, string]) error { return f.Post(ctx, "e", 1, 2) })},
	{name: "Feed.Remove", right: []string{":0", ":1"}, make: onFeed(func(ctx context.Context, f *collection.Feed[int, string]) error { return f.Remove(ctx, "e", 1, 2) })},
	{name: "Feed.Get", make: onFeed(func(ctx context.Context, f *collection.Feed[int, string]) error { return oneUp(f.Get(ctx, 1)) })},
	{name: "Feed.GetPage", make: onFeed(func(ctx context.Context, f *collection.Feed[int, string]) error {
		page, _, err := f.GetPage(ctx, 1, "", 10, f.Timeline(2))
		return oneUp(page, err)
	})},
	{name: "Trending.Add", make: onTrending(func(ctx context.Context, tr *collection.Trending[int, string]) error {
		_, err := tr.Add(ctx, 1, "m", 1)
		return err
	})},
	{name: "Trending.Get", make: onTrending(func(ctx context.Context, tr *collection.Trending[int, string]) error {
		_, err := tr.Get(ctx, 1)
		return err
	})},
}

func oneUp(all []string, err error) error {
	if err == nil && (len(all) != 1 || all[0] != "up") {
		return fmt.Errorf("%w: %q", errWrong, all)
	}
	return err
}

var countDown = counter.Spec[int]{Down: func(context.Context, counter.Flush[int]) error { return nil }, FlushEvery: 10 * time.Millisecond}

func onCounter(spec counter.Spec[int], do func(context.Context, *counter.Counter[int]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		spec := spec
		spec.Key, spec.TTL, spec.LeaseTTL = "nonsense:{id}", cachex.Forever, time.Second
		spec.Up = func(context.Context, int) (int64, error) { return 7, nil }
		c := cachex.Must(counter.New(rdb, spec))
		return func(ctx context.Context) error { return do(ctx, c) }, c.Close
	}
}

func onGate(do func(context.Context, *gate.Gate[int]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		g := cachex.Must(gate.New(rdb, gate.Spec[int]{Key: "nonsense:{id}", Every: time.Minute}))
		return func(ctx context.Context) error { return do(ctx, g) }, func(context.Context) error { return nil }
	}
}

func up(context.Context, int) ([]string, error) { return []string{"up"}, nil }

func onRecent(do func(context.Context, *collection.Recent[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		r := cachex.Must(collection.NewRecent(rdb, collection.RecentSpec[int, string]{Key: "nonsense:{id}", TTL: time.Minute, Len: 10, LeaseTTL: time.Second, Up: up}))
		return func(ctx context.Context) error { return do(ctx, r) }, r.Close
	}
}

func onRanking(do func(context.Context, *collection.Ranking[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		r := cachex.Must(collection.NewRanking(rdb, collection.RankingSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Top: 10, LeaseTTL: time.Second,
			Up: func(context.Context, int) ([]collection.Scored[string], error) {
				return []collection.Scored[string]{{Member: "up", Score: 1}}, nil
			},
		}))
		return func(ctx context.Context) error { return do(ctx, r) }, r.Close
	}
}

func onSet(do func(context.Context, *collection.Set[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		s := cachex.Must(collection.NewSet(rdb, collection.SetSpec[int, string]{Key: "nonsense:{id}", TTL: time.Minute, LeaseTTL: time.Second, Up: up}))
		return func(ctx context.Context) error { return do(ctx, s) }, s.Close
	}
}

func onFeed(do func(context.Context, *collection.Feed[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		f := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[int, string]{
			Key: "nonsense:{id}", TTL: time.Minute, Len: 10, LeaseTTL: time.Second, Up: up,
			Score: func(string) float64 { return 1 },
		}))
		return func(ctx context.Context) error { return do(ctx, f) }, f.Close
	}
}

func onTrending(do func(context.Context, *collection.Trending[int, string]) error) func(*testing.T, redis.UniversalClient) (do, end func(context.Context) error) {
	return func(t *testing.T, rdb redis.UniversalClient) (func(context.Context) error, func(context.Context) error) {
		t.Helper()
		tr := cachex.Must(collection.NewTrending(rdb, collection.TrendingSpec[int, string]{Key: "nonsense:{id}", Bucket: time.Minute, Buckets: 3, Top: 10}))
		return func(ctx context.Context) error { return do(ctx, tr) }, func(context.Context) error { return nil }
	}
}
