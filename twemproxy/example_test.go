package twemproxy_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/twemproxy"
)

func Example() {
	proxy, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		panic(err)
	}
	defer proxy.Close()
	ctx := context.Background()

	rdb := twemproxy.NewClient(&redis.Options{Addr: proxy.Addr()})
	defer func() { _ = rdb.Close() }()
	users := cachex.Must(cachex.New(rdb, cachex.Spec[int64, string]{
		Key: "users:{id}", TTL: time.Minute,
		Up: func(context.Context, int64) (string, error) { return "ann", nil },
	}))
	fmt.Println(users.Get(ctx, 42))

	_, err = users.Clear(ctx)
	var refused *twemproxy.Error
	fmt.Println(errors.As(err, &refused), err)
	// Output:
	// ann <nil>
	// true cachex: clear users: Clear needs SCAN, which some proxies and ACLs refuse: ERR unknown command 'SCAN': twemproxy does not support it; it was not sent
}
