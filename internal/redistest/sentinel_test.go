package redistest

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestASentinelGivesTheMastersPlaceToTheReplica(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	ctx, rdb := t.Context(), s.Client(nil)
	require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
	master, replica := s.Master(), s.Replica()
	require.NotEqual(t, master.Addr(), replica.Addr())
	require.EqualValues(t, 1, rdb.Wait(ctx, 1, Patience).Val(), "the replica has it")

	master.Kill()
	s.AwaitMaster(master)
	require.Same(t, replica, s.Master())
	require.Same(t, master, s.Replica())
	require.Eventually(t, func() bool { return rdb.Get(ctx, "a").Val() == "1" }, Patience, 10*time.Millisecond)
}

func TestASentinelFailsOverOnDemand(t *testing.T) {
	t.Parallel()
	s := StartSentinel(t)
	before := s.Master()
	s.Failover()
	require.NotSame(t, before, s.Master())
	require.Eventually(t, func() bool {
		return s.Client(&redis.FailoverOptions{MaxRetries: -1}).Set(t.Context(), "a", "1", 0).Err() == nil
	}, Patience, 10*time.Millisecond)
}
