package client_test

import (
	"runtime"
	"testing"
	"time"
	"weak"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
}

type part struct {
	rdb   redis.UniversalClient
	users int
}

func TestShared_HoldsOneForEachClientWhileItHasUsers(t *testing.T) {
	t.Parallel()
	var all client.Shared[part]
	get := func(rdb redis.UniversalClient) *part {
		return all.For(rdb, func() *part { return &part{rdb: rdb} }, func(p *part) { p.users++ })
	}
	drop := func(p *part) bool {
		return all.Release(p.rdb, p, func() bool { p.users--; return p.users == 0 })
	}
	rdb, other := redis.NewClient(&redis.Options{}), redis.NewClient(&redis.Options{})
	defer func() { _, _ = rdb.Close(), other.Close() }()
	a := get(rdb)
	require.Same(t, a, get(rdb))
	require.NotSame(t, a, get(other))
	require.False(t, drop(a))
	require.Same(t, a, get(rdb))
	require.False(t, drop(a))
	require.True(t, drop(a))
	b := get(rdb)
	require.NotSame(t, a, b)
	require.Equal(t, 1, b.users)
}

func TestShared_LetsGoOfAClientThatNoUserHolds(t *testing.T) {
	t.Parallel()
	var all client.Shared[part]
	rdb := redis.NewClient(&redis.Options{})
	gone := weak.Make(rdb)
	p := all.For(rdb, func() *part { return &part{rdb: rdb} }, nil)
	_ = rdb.Close()
	runtime.GC()
	require.NotNil(t, gone.Value())
	runtime.KeepAlive(p)
	require.Eventually(t, func() bool { runtime.GC(); return gone.Value() == nil }, redistest.Patience, time.Millisecond)
}
