package cachex_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/cachex-go/cachex"
)

// The values that are missing are loaded together, by one query.
func ExampleCache_GetMany() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	table := map[int]string{1: "Gopher", 2: "Crab", 3: "Camel"}
	titles := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
		Key: "jobs:{id}:title",
		TTL: time.Minute,
		UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
			fmt.Println("SELECT … WHERE id IN", slices.Sorted(slices.Values(ids)))
			found := make(map[int]string)
			for _, id := range ids {
				if title, ok := table[id]; ok {
					found[id] = title
				}
			}
			return found, nil
		},
	}))
	fmt.Println(titles.GetMany(ctx, []int{1, 2}))
	fmt.Println(titles.GetMany(ctx, []int{1, 2, 3, 9})) // there is no job 9
	fmt.Println(titles.LookupMany(ctx, []int{2, 3, 9}))
	fmt.Println(titles.Get(ctx, 3))
	// Output:
	// SELECT … WHERE id IN [1 2]
	// map[1:Gopher 2:Crab] <nil>
	// SELECT … WHERE id IN [3 9]
	// map[1:Gopher 2:Crab 3:Camel] <nil>
	// map[2:Crab 3:Camel] <nil>
	// Camel <nil>
}

// Set writes to the database first, and then to Redis. If the database fails, what
// was in Redis is not believed any more.
func ExampleCache_Set() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	table, full := map[int]string{}, false
	names := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
		Key: "users:{id}:name",
		TTL: time.Minute,
		Up: func(_ context.Context, id int) (string, error) {
			fmt.Println("Read the table.")
			return table[id], nil
		},
		Down: func(_ context.Context, id int, name string) error {
			if full {
				return errors.New("disk full")
			}
			table[id] = name
			return nil
		},
	}))
	fmt.Println(names.Set(ctx, 42, "Ada"))
	fmt.Println(names.Get(ctx, 42)) // from Redis

	full = true
	fmt.Println(names.Set(ctx, 42, "Ada Lovelace"))
	fmt.Println(names.Get(ctx, 42))
	// Output:
	// <nil>
	// Ada <nil>
	// cachex: set users:42:name: Spec.Down: disk full
	// Read the table.
	// Ada <nil>
}
