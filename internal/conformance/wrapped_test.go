package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/redistest"
)

// tracing is what tracing wrappers are, and tagged one that cannot be compared.
type (
	tracing struct{ redis.UniversalClient }
	tagged  struct {
		redis.UniversalClient
		tags any
	}
)

// TestWrapped_ClientWaitsForALoadElsewhere has a load be waited for through clients of
// which the type says nothing. On a Ring a subscription to no channel panics.
func TestWrapped_ClientWaitsForALoadElsewhere(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	ring := func() redis.UniversalClient {
		r := redis.NewRing(&redis.RingOptions{Addrs: map[string]string{"one": server.Addr()}, HeartbeatFrequency: cachex.Forever})
		t.Cleanup(func() { _ = r.Close() })
		return r
	}
	for name, client := range map[string]func() redis.UniversalClient{
		"a Ring":                  func() redis.UniversalClient { return tracing{ring()} },
		"a pointer to one":        func() redis.UniversalClient { return &tracing{ring()} },
		"what cannot be compared": func() redis.UniversalClient { return tagged{ring(), []string{"a"}} },
		"a client":                func() redis.UniversalClient { return tagged{server.Client(nil), []string{"a"}} },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun, load := make(chan struct{}), make(chan string)
			spec := cachex.Spec[int, string]{Key: "wrapped " + name + ":{id}", TTL: time.Minute, LeaseTTL: hour, Up: func(context.Context, int) (string, error) {
				close(begun)
				return <-load, nil
			}}
			spec.AllowStaleReads = true // a wrapper hides that the Ring drops no shard
			a, b := cachex.Must(cachex.New(client(), spec)), cachex.Must(cachex.New(client(), spec))
			values := make(chan string, 2)
			get := func(c *cachex.Cache[int, string]) {
				v, err := c.Get(t.Context(), 1)
				if err != nil {
					v = err.Error()
				}
				values <- v
			}
			go get(a)
			<-begun
			go get(b)
			require.Eventually(t, func() bool { return b.Stats().Waits == 1 }, patience, time.Millisecond)
			load <- "up"
			require.Equal(t, "up", <-values)
			require.Equal(t, "up", <-values)
			require.NoError(t, a.Close(t.Context()))
			require.NoError(t, b.Close(t.Context()))
		})
	}
}

// TestUnhashable_KeyIsAnErrorOfThatKey holds that a key which cannot be that of a map
// does not panic where a map is returned. Get works.
func TestUnhashable_KeyIsAnErrorOfThatKey(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	bad := any([]string{"a"})
	c := cachex.Must(cachex.New(rdb, cachex.Spec[any, string]{
		TTL: time.Minute, KeyFunc: func(k any) string { return fmt.Sprint("k:", k) },
		Up: func(context.Context, any) (string, error) { return "up", nil },
	}))
	ctx := t.Context()
	v, err := c.Get(ctx, bad)
	require.NoError(t, err)
	require.Equal(t, "up", v)
	require.NoError(t, c.Set(ctx, bad, "set"))
	require.NoError(t, c.Expire(ctx, bad, 1))
	require.NoError(t, c.Delete(ctx, bad, 1))

	values, err := c.GetMany(ctx, []any{1, bad, "two"})
	require.ErrorIs(t, err, key.ErrUnhashable)
	require.Equal(t, map[any]string{1: "up", "two": "up"}, values)
	values, err = c.LookupMany(ctx, []any{1, bad, "two"})
	require.ErrorIs(t, err, key.ErrUnhashable)
	require.Equal(t, map[any]string{1: "up", "two": "up"}, values)

	var b batch.Batch
	one, none := batch.Get(&b, c, any(1)), batch.Get(&b, c, bad)
	again := batch.Get(&b, c, bad)
	all := batch.GetMany(&b, c, []any{1, bad, "two"})
	require.NoError(t, b.Run(ctx))
	v, err = one.Get()
	require.NoError(t, err)
	require.Equal(t, "up", v)
	for _, v := range []*batch.Value[string]{none, again} {
		_, err = v.Get()
		require.ErrorIs(t, err, key.ErrUnhashable)
	}
	values, err = all.Get()
	require.ErrorIs(t, err, key.ErrUnhashable)
	require.Equal(t, map[any]string{1: "up", "two": "up"}, values)
	require.NoError(t, c.Close(ctx))

	n := cachex.Must(counter.New(rdb, counter.Spec[any]{
		TTL: cachex.Forever, KeyFunc: func(k any) string { return fmt.Sprint("n:", k) },
		Up: func(context.Context, any) (int64, error) { return 7, nil },
	}))
	_, err = n.Inc(ctx, bad)
	require.ErrorIs(t, err, key.ErrUnhashable)
	buffer, err := counter.NewBuffer(n, counter.BufferOptions{})
	require.NoError(t, err)
	require.ErrorIs(t, buffer.Inc(bad), key.ErrUnhashable)
	require.NoError(t, buffer.Inc(1), "and it holds no lock")
	require.NoError(t, n.Close(ctx))
}

// TestUnhashable_KeyIsAnErrorWhereUpManyReturnsAMap is that for a cache that has
// nothing else.
func TestUnhashable_KeyIsAnErrorWhereUpManyReturnsAMap(t *testing.T) {
	t.Parallel()
	c := cachex.Must(cachex.New(redistest.StartEmbedded(t).Client(nil), cachex.Spec[any, string]{
		TTL: time.Minute, KeyFunc: func(k any) string { return fmt.Sprint("k:", k) },
		UpMany: func(context.Context, []any) (map[any]string, error) { return nil, nil },
	}))
	_, err := c.Get(t.Context(), []string{"a"})
	require.ErrorIs(t, err, key.ErrUnhashable)
	require.ErrorIs(t, c.RefreshEvery(t.Context(), time.Second, []string{"a"}), key.ErrUnhashable)
	require.NoError(t, c.Close(t.Context()))
}
