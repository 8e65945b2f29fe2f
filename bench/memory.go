package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/report"
	"github.com/cachex-go/cachex/internal/redistest"
)

// memory measures the memory that entries take in Redis, as Redis reports it.
func memory(t testing.TB, o options) []report.Section {
	s := report.Section{
		Title: "memory",
		Note: fmt.Sprintf("Memory of an entry in Redis, by `used_memory` of `INFO`, with %d entries, values of the given size, and "+
			"keys such as `user:12345`. By hand means `SET … EX`. Packed means a cache with `Packed: 100`, by ranges "+
			"of its numbers, and, with `Expected`, by a hash.", o.entries),
		Head: []string{"bytes", "variant", "bytes an entry", "ratio", "keys", "wanted"},
	}
	server := redistest.Start(t, "--hash-max-listpack-entries", "256", "--hash-max-listpack-value", "256")
	rdb := server.Client(nil)
	for _, of := range []struct {
		size  int
		bound float64
	}{{40, 0.40}, {110, 0.55}} {
		size, bound := of.size, of.bound
		var plain float64
		for _, row := range []struct {
			name   string
			fill   func(d *values[[]byte])
			wanted bool
		}{
			{byHand, func(d *values[[]byte]) {
				chunks(t, d.n, func(ctx context.Context, from, to int64) error {
					_, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
						for id := from; id < to; id++ {
							p.Set(ctx, "user:"+strconv.FormatInt(id, 10), d.of(id), ttl)
						}
						return nil
					})
					return err
				})
			}, false},
			{ours, func(d *values[[]byte]) { d.cache(t, rdb, nil) }, false},
			{"cachex, packed by ranges", func(d *values[[]byte]) {
				d.cache(t, rdb, func(s *cachex.Spec[int64, []byte]) { s.Packed = 100 })
			}, true},
			{"cachex, packed by a hash", func(d *values[[]byte]) {
				d.cache(t, rdb, func(s *cachex.Spec[int64, []byte]) { s.Packed, s.Expected = 100, int(o.entries) })
			}, false},
		} {
			bytes, keys := perEntry(t, rdb, o.entries, func(n int64) {
				row.fill(&values[[]byte]{"user", n, func(int64) []byte { return make([]byte, size) }})
			})
			if plain == 0 {
				plain = bytes
			}
			ratio, wanted := bytes/plain, ""
			if row.wanted {
				want := "≤ " + times(bound)
				wanted = want + map[bool]string{true: ": yes", false: ": **no**"}[ratio <= bound]
				s.Verdicts = append(s.Verdicts, report.Verdict{
					Work: fmt.Sprintf("memory, values of %d bytes: %s", size, row.name), Versus: byHand,
					Want: want, Got: times(ratio), Reached: ratio <= bound,
				})
			}
			s.Rows = append(s.Rows, []string{
				strconv.Itoa(size), row.name, strconv.FormatFloat(bytes, 'f', 1, 64), times(ratio), grouped(float64(keys)), wanted,
			})
		}
	}
	return []report.Section{s}
}

var usedMemory = regexp.MustCompile(`used_memory:(\d+)`)

// perEntry returns the memory in bytes that each of n entries takes, and the
// number of keys, after fill has stored them.
func perEntry(t testing.TB, rdb *redis.Client, n int64, fill func(n int64)) (bytes float64, keys int64) {
	t.Helper()
	ctx := context.Background()
	used := func() (n int64) {
		info, err := rdb.Info(ctx, "memory").Result()
		if err == nil {
			n, err = strconv.ParseInt(usedMemory.FindStringSubmatch(info)[1], 10, 64)
		}
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	flush := func() {
		if err := rdb.FlushAll(ctx).Err(); err != nil {
			t.Fatal(err)
		}
	}
	flush()
	fill(1) // so that the server has its data on clients and scripts
	flush()
	before := used()
	fill(n)
	keys, err := rdb.DBSize(ctx).Result()
	if err != nil {
		t.Fatal(err)
	}
	return float64(used()-before) / float64(n), keys
}
