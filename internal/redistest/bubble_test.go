package redistest

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestKeysInABubbleExpireByItsClock(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		require.NoError(t, rdb.Set(ctx, "a", "v", time.Hour).Err())
		time.Sleep(time.Hour - time.Millisecond)
		require.Equal(t, time.Millisecond, rdb.PTTL(ctx, "a").Val())
		got, err := endOfKey.Run(ctx, rdb, []string{"a"}).Int64Slice()
		require.NoError(t, err)
		now := time.Now().UnixMilli()
		require.Equal(t, []int64{now, now + 1, now + 1}, got, "TIME agrees")
		time.Sleep(time.Millisecond)
		require.ErrorIs(t, rdb.Get(ctx, "a").Err(), redis.Nil)
	})
}

func TestLongPipelinesInABubbleAreAnswered(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		began := time.Now()
		cmds, err := rdb.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range 2000 {
				p.Set(ctx, "a", strings.Repeat("v", 1000), 0)
				p.Get(ctx, "a")
			}
			return nil
		})
		require.NoError(t, err)
		require.Len(t, cmds, 4000)
		require.Len(t, cmds[3999].(*redis.StringCmd).Val(), 1000)
		require.Zero(t, time.Since(began))
	})
}

func TestClientsInABubbleShareItsServer(t *testing.T) {
	t.Parallel()
	Bubble(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		other := redis.NewClient(rdb.Options())
		defer func() { _ = other.Close() }()
		sub := other.Subscribe(ctx, "news")
		defer func() { _ = sub.Close() }()
		_, err := sub.Receive(ctx)
		require.NoError(t, err)
		require.NoError(t, rdb.Publish(ctx, "news", "hello").Err())
		message, err := sub.ReceiveMessage(ctx)
		require.NoError(t, err)
		require.Equal(t, "hello", message.Payload)
	})
}

func TestCleanupsInABubbleStillHaveTheServer(t *testing.T) {
	t.Parallel()
	var options *redis.Options
	Bubble(t, func(t *testing.T, rdb *redis.Client) {
		options = rdb.Options()
		t.Cleanup(func() {
			late := redis.NewClient(options)
			require.NoError(t, late.Ping(context.Background()).Err())
			require.NoError(t, late.Close())
			require.NoError(t, rdb.Ping(context.Background()).Err())
		})
	})
	conn, err := options.Dialer(t.Context(), "tcp", "")
	require.NoError(t, err)
	_, err = conn.Read(make([]byte, 1))
	require.ErrorIs(t, err, io.EOF, "the server is gone")
	require.NoError(t, conn.Close())
}

// TestBubble_EndsWhileAClientStillDials covers a command whose context ends.
// Its dial goes on, and may end after the client and the server are closed.
func TestMemory_IsWaitedForInRealTimeAsLongAsOtherServers(t *testing.T) {
	t.Parallel()
	require.Equal(t, Patience, InMemory(t).Options().ReadTimeout)
	Bubble(t, func(t *testing.T, rdb *redis.Client) {
		require.Equal(t, 5*time.Second, rdb.Options().ReadTimeout)
	})
}

func TestBubble_EndsWhileAClientStillDials(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		closed := make(chan struct{})
		t.Cleanup(func() { close(closed) }) // runs after the cleanups of InMemory
		options := InMemory(t).Options()
		dial := options.Dialer
		options.Dialer = func(ctx context.Context, network, addr string) (net.Conn, error) {
			<-closed
			return dial(ctx, network, addr)
		}
		rdb := redis.NewClient(options)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, rdb.Ping(ctx).Err(), context.DeadlineExceeded)
		require.NoError(t, rdb.Close())
	})
}
