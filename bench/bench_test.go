// Package bench measures cachex against what a user would otherwise write.
//
//	go test -v -run Table ./bench -rounds 9       one table of ratios
//	go test -run '^$' -bench . -benchmem ./bench  each by itself
//
// Ratios are of one run, since the machine is never the same twice: in each
// round every variant runs once, one after the other, and what is shown is the
// median of the rounds' ratios, with the least and the greatest. The first row
// pits the baseline against itself, and says how much of the rest is noise.
package bench

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

var (
	rounds = flag.Int("rounds", 1, "rounds of the table")
	length = flag.Duration("length", 50*time.Millisecond, "of one variant in one round")
)

func TestMain(m *testing.M) { redistest.Main(m) }

// A User is a value of about 110 bytes as MessagePack.
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

const keys = 10_000

func user(id int64) User {
	return User{
		ID: id, Name: "Ada Lovelace", Email: "ada@example.com", City: "London",
		CreatedAt: 1_700_000_000_000, Tags: []string{"admin", "beta"}, Score: 0.75, Active: true,
	}
}

// raw is what a user would write with go-redis alone.
func raw(ctx context.Context, rdb *redis.Client, id int64) (u User, err error) {
	b, err := rdb.Get(ctx, "raw:"+strconv.FormatInt(id, 10)).Bytes()
	if err != nil {
		return u, err
	}
	return u, msgpack.Unmarshal(b, &u)
}

// hits returns the variants of reading one value that is there.
func hits(t testing.TB) map[string]func() error {
	ctx := context.Background()
	rdb := redistest.Start(t).Client(nil)
	users := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{
		Key: "users:{id}", TTL: time.Hour,
		Up: func(_ context.Context, id int64) (User, error) { return user(id), nil },
	}))
	t.Cleanup(func() { _ = users.Close(ctx) })
	p := rdb.Pipeline()
	for id := range int64(keys) {
		b, err := msgpack.Marshal(user(id))
		if err != nil {
			t.Fatal(err)
		}
		p.Set(ctx, "raw:"+strconv.FormatInt(id, 10), b, time.Hour)
	}
	if _, err := p.Exec(ctx); err != nil {
		t.Fatal(err)
	}
	for id := range int64(keys) {
		if err := users.Set(ctx, id, user(id)); err != nil {
			t.Fatal(err)
		}
	}
	return map[string]func() error{
		"raw":    func() error { _, err := raw(ctx, rdb, rand.Int64N(keys)); return err },
		"cachex": func() error { _, err := users.Get(ctx, rand.Int64N(keys)); return err },
	}
}

func BenchmarkHit(b *testing.B) {
	for name, hit := range hits(b) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if err := hit(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// throughput returns how often a second g goroutines call f.
func throughput(t testing.TB, g int, f func() error) float64 {
	var n atomic.Int64
	var wg sync.WaitGroup
	began := time.Now()
	for range g {
		wg.Go(func() {
			for time.Since(began) < *length {
				if err := f(); err != nil {
					t.Error(err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	return float64(n.Load()) / time.Since(began).Seconds()
}

// TestTable prints the table. It asserts nothing but that every call succeeds.
func TestTable(t *testing.T) {
	hit := hits(t)
	t.Logf("%-12s %-10s %-10s %8s  %s", "work", "variant", "versus", "ratio", "least..greatest, calls a second of both")
	for _, g := range []int{1, 8, 64} {
		for _, variant := range []string{"raw", "cachex"} {
			var ratios, base, calls []float64
			for range *rounds {
				// The baseline on both sides, so that drift cancels out.
				before := throughput(t, g, hit["raw"])
				v := throughput(t, g, hit[variant])
				after := throughput(t, g, hit["raw"])
				ratios = append(ratios, v/((before+after)/2))
				base = append(base, (before+after)/2)
				calls = append(calls, v)
			}
			t.Logf("%-12s %-10s %-10s %7.2fx  %.2f..%.2f, %.0f and %.0f", fmt.Sprintf("hit, g=%d", g), variant, "raw",
				median(ratios), slices.Min(ratios), slices.Max(ratios), median(calls), median(base))
		}
	}
}

func median(xs []float64) float64 {
	xs = slices.Sorted(slices.Values(xs))
	return xs[len(xs)/2]
}
