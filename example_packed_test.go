package cachex_test

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
)

// Many small values share hashes, which saves Redis a key for each. They are used as
// others are.
func ExampleSpec_packed() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	names := cachex.Must(cachex.New(rdb, cachex.Spec[int, string]{
		Key:    "users:{id}:name",
		TTL:    time.Hour,
		Packed: 100,
		Up:     func(_ context.Context, id int) (string, error) { return fmt.Sprint("Gopher ", id), nil },
	}))
	fmt.Println(names.GetMany(ctx, []int{4216, 4217, 4300}))
	fmt.Println(names.Key(4217))
	hashes, err := rdb.Keys(ctx, "*").Result()
	fmt.Println(len(hashes), "hashes", err)
	err = names.Delete(ctx, 4217)
	fmt.Println(err)
	fmt.Println(names.LookupMany(ctx, []int{4216, 4217, 4300}))
	// Output:
	// map[4216:Gopher 4216 4217:Gopher 4217 4300:Gopher 4300] <nil>
	// users:%~100:42:name 17
	// 2 hashes <nil>
	// <nil>
	// map[4216:Gopher 4216 4300:Gopher 4300] <nil>
}
