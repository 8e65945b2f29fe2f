package sentinel_test

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/sentinel"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

func TestMain(m *testing.M) {
	redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
}

func client(t *testing.T, s *redistest.Sentinel) *redis.Client {
	t.Helper()
	rdb, err := sentinel.NewClient(&redis.FailoverOptions{MasterName: redistest.MasterName, SentinelAddrs: s.Addrs()})
	require.NoError(t, err)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestNewClient_RefusesWhatItCannotDo(t *testing.T) {
	t.Parallel()
	some := []string{"127.0.0.1:1"}
	for text, o := range map[string]*redis.FailoverOptions{
		"the options are nil":                nil,
		"MasterName is required":             {SentinelAddrs: some},
		"SentinelAddrs is required":          {MasterName: "a"},
		"ReplicaOnly reads from replicas":    {MasterName: "a", SentinelAddrs: some, ReplicaOnly: true},
		"RouteByLatency reads from replicas": {MasterName: "a", SentinelAddrs: some, RouteByLatency: true},
		"RouteRandomly reads from replicas":  {MasterName: "a", SentinelAddrs: some, RouteRandomly: true},
	} {
		_, err := sentinel.NewClient(o)
		require.EqualError(t, err, "cachex: new sentinel client: "+text)
	}
}

func TestNewClient_SendsNothingWithoutAMajority(t *testing.T) {
	t.Parallel()
	rdb, err := sentinel.NewClient(&redis.FailoverOptions{MasterName: "a", SentinelAddrs: []string{"127.0.0.1:1"}, DialerRetries: 1, MaxRetries: -1})
	require.NoError(t, err)
	defer func() { require.NoError(t, rdb.Close()) }()
	require.ErrorIs(t, rdb.Get(t.Context(), "a").Err(), sentinel.ErrMaster)
}

func TestNewClient_FollowsAMasterThatIsKilled(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	ctx, rdb := t.Context(), client(t, s)
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	master := s.Master()
	require.EqualValues(t, 1, master.Client(nil).Wait(ctx, 1, patience).Val(), "the replica has it")
	sub := rdb.Subscribe(ctx, "channel")
	defer func() { require.NoError(t, sub.Close()) }()
	messages := sub.Channel(redis.WithChannelHealthCheckInterval(100 * time.Millisecond))

	master.Kill()
	s.AwaitMaster(master)
	require.Eventually(t, func() bool { return rdb.Get(ctx, "a").Val() == "1" }, patience, 10*time.Millisecond)
	var got *redis.Message
	require.Eventually(t, func() bool { // a message may be lost with the connection to the old master
		_ = rdb.Publish(ctx, "channel", "hello").Err()
		select {
		case got = <-messages:
		default:
		}
		return got != nil
	}, patience, 10*time.Millisecond)
	require.Equal(t, "hello", got.Payload)
}

// After a failover, a master that lives still takes commands for some seconds.
func TestNewClient_LeavesAMasterThatLives(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	s.Keep(true)
	ctx, rdb := t.Context(), client(t, s)
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	old := s.Master()
	s.Failover()
	require.Eventually(t, func() bool {
		return rdb.Set(ctx, "a", "2", 0).Err() == nil && s.Master().Client(nil).Get(ctx, "a").Val() == "2"
	},
		patience, 10*time.Millisecond)
	require.NotSame(t, old, s.Master())
}

func TestNewClient_LeavesNothingBehindWhenItIsClosed(t *testing.T) {
	t.Parallel()
	s := redistest.StartSentinel(t)
	direct := redis.NewClient(&redis.Options{Addr: s.Addrs()[0], ClientName: "direct"})
	t.Cleanup(func() { _ = direct.Close() })
	asked := func() int {
		list, err := direct.ClientList(context.Background()).Result()
		require.NoError(t, err)
		return strings.Count(list, "name=asks ")
	}
	rdb, err := sentinel.NewClient(&redis.FailoverOptions{MasterName: redistest.MasterName, SentinelAddrs: s.Addrs(), ClientName: "asks"})
	require.NoError(t, err)
	require.Zero(t, asked())
	require.NoError(t, rdb.Set(t.Context(), "a", "1", 0).Err())
	require.Eventually(t, func() bool { return asked() == 1 }, patience, 10*time.Millisecond) // again after a late answer
	require.NoError(t, rdb.Close())
	require.Eventually(t, func() bool { return asked() == 0 }, patience, 10*time.Millisecond)
}

// The old master and one Sentinel are cut off from the others; the clients
// reach all. A client that listens to that Sentinel reads deleted values until
// the cut ends.
func TestNewClient_LeavesAMasterThatIsCutOff(t *testing.T) {
	t.Parallel()
	redistest.InNetwork(t, func(t *testing.T, n *redistest.Network) {
		s := redistest.StartSentinels(n)
		ctx, old := t.Context(), s.Master()
		reader, writer := client(t, s), client(t, s)
		plain := s.Client(&redis.FailoverOptions{SentinelAddrs: s.Addrs()[:1]})
		require.NoError(t, writer.Set(ctx, "a", "old", 0).Err())
		require.EqualValues(t, 2, old.Client(nil).Wait(ctx, 2, patience).Val(), "the replicas have it")
		require.Equal(t, "old", reader.Get(ctx, "a").Val())
		require.Equal(t, "old", plain.Get(ctx, "a").Val())

		n.Cut()
		s.AwaitMaster(old)
		// The old master takes writes until it misses its replicas, and these
		// writes are lost.
		now := s.Master().Client(nil)
		require.Eventually(t, func() bool { return writer.Set(ctx, "b", "1", 0).Err() == nil && now.Exists(ctx, "b").Val() == 1 },
			patience, 10*time.Millisecond, "the writer does not find the new master")
		require.NoError(t, writer.Del(ctx, "a").Err())
		deleted := time.Now()
		stale, after := 0, 0
		for after < 200 {
			began := time.Now()
			v, err := reader.Get(ctx, "a").Result()
			late := began.Sub(deleted) > sentinel.MaxLag
			switch {
			case err == nil:
				require.Equal(t, "old", v)
				require.False(t, late, "a read that began %v after the deletion returned the old value", began.Sub(deleted))
				stale++
			case late:
				after++
			}
			require.Less(t, began.Sub(deleted), patience)
		}
		require.Eventually(t, func() bool { return reader.Get(ctx, "a").Err() == redis.Nil }, patience, time.Millisecond, "it finds the new master")
		require.Equal(t, "old", plain.Get(ctx, "a").Val(), "a client of go-redis is as stale as ever, so the package is of use")
		t.Logf("%d reads within MaxLag returned the old value", stale)

		n.Mend()
		require.Eventually(t, func() bool { return plain.Get(ctx, "a").Err() == redis.Nil }, patience, 10*time.Millisecond)
	})
}
