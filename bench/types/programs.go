package main

import (
	"fmt"
	"strings"
	"time"
)

// library is a library that caches values in a program.
type library struct {
	name string
	head string // the program, up to its types
	each string // the code for each type; %[1]d is its number
}

// The programs use each type as a program uses a cache: they make the cache,
// load a value, load several, set one and delete one.
var libraries = []library{
	{name: "cachex", head: `
import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
)

var rdb redis.UniversalClient = redis.NewClient(&redis.Options{})
`, each: `
func use%[1]d(ctx context.Context) {
	c, err := cachex.New(rdb, cachex.Spec[int64, T%[1]d]{
		Key: "t%[1]d:{id}",
		TTL: time.Minute,
		Up:  func(_ context.Context, id int64) (T%[1]d, error) { return T%[1]d{ID: id}, nil },
	})
	check(err)
	v, err := c.Get(ctx, 1)
	check(err)
	_, err = c.GetMany(ctx, []int64{1, 2})
	check(err)
	check(c.Set(ctx, 1, v))
	check(c.Delete(ctx, 1))
	check(c.Close(ctx))
}
`},
	{name: "go-redis/cache", head: `
import (
	"context"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/redis/go-redis/v9"
)

var c = cache.New(&cache.Options{Redis: redis.NewClient(&redis.Options{})})
`, each: `
func use%[1]d(ctx context.Context) {
	var v T%[1]d
	check(c.Once(&cache.Item{
		Ctx: ctx, Key: "t%[1]d:1", TTL: time.Minute, Value: &v,
		Do: func(*cache.Item) (any, error) { return &T%[1]d{ID: 1}, nil },
	}))
	check(c.Get(ctx, "t%[1]d:2", &v))
	check(c.Set(&cache.Item{Ctx: ctx, Key: "t%[1]d:1", TTL: time.Minute, Value: &v}))
	check(c.Delete(ctx, "t%[1]d:1"))
}
`},
	{name: "otter", head: `
import (
	"context"
	"time"

	"github.com/maypok86/otter/v2"
)
`, each: `
func use%[1]d(ctx context.Context) {
	c, err := otter.New(&otter.Options[int64, T%[1]d]{
		MaximumSize: 1000, ExpiryCalculator: otter.ExpiryWriting[int64, T%[1]d](time.Minute),
	})
	check(err)
	v, err := c.Get(ctx, 1, otter.LoaderFunc[int64, T%[1]d](func(_ context.Context, id int64) (T%[1]d, error) {
		return T%[1]d{ID: id}, nil
	}))
	check(err)
	_, err = c.BulkGet(ctx, []int64{1, 2}, otter.BulkLoaderFunc[int64, T%[1]d](func(_ context.Context, ids []int64) (map[int64]T%[1]d, error) {
		return map[int64]T%[1]d{}, nil
	}))
	check(err)
	c.Set(1, v)
	c.Invalidate(1)
}
`},
}

// The types have different fields, so that they do not share code compiled for
// one shape.
const common = `
type T%[1]d struct {
	ID      int64
	Name    string
	Field%[1]d [%[1]d]int32
	Tags    []string
}
`

// program returns the source of a program with so many types. Each source is
// unique, so the compiler has not compiled it before.
func (l library) program(types int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "// Made at %v.\npackage main\n%s", time.Now().UnixNano(), l.head)
	b.WriteString("\nfunc check(err error) {\n\tif err != nil {\n\t\tpanic(err)\n\t}\n}\n")
	calls := ""
	for i := 1; i <= types; i++ {
		fmt.Fprintf(&b, common+l.each, i)
		calls += fmt.Sprintf("\tuse%d(ctx)\n", i)
	}
	fmt.Fprintf(&b, "\nfunc main() {\n\tctx := context.Background()\n%s}\n", calls)
	return b.String()
}
