package redistest

import (
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

func TestNetwork_CutsTheSidesApartAndNotTheTest(t *testing.T) {
	t.Parallel()
	InNetwork(t, func(t *testing.T, n *Network) {
		var servers [2]*Server
		for i, on := range n.sides {
			servers[i] = startOn(t, on, nil)
		}
		ctx, rdb := t.Context(), servers[0].Client(func(o *redis.Options) { o.ReadTimeout = Patience })
		// COPY makes the server dial the other one.
		migrate := func(timeout time.Duration) string {
			require.NoError(t, rdb.Set(ctx, "a", "1", 0).Err())
			return rdb.Do(ctx, "migrate", servers[1].side.host, servers[1].port, "a", 0, timeout.Milliseconds(), "replace").String()
		}
		require.Contains(t, migrate(Patience), "OK")
		n.Cut()
		require.Contains(t, migrate(time.Second), "IOERR")
		for _, s := range servers {
			require.NoError(t, s.Client(nil).Ping(ctx).Err())
		}
		n.Mend()
		require.Eventually(t, func() bool { return strings.Contains(migrate(time.Second), "OK") }, Patience, 10*time.Millisecond)
	})
}

func TestSentinels_ElectAMasterBesideOneThatIsCutOff(t *testing.T) {
	t.Parallel()
	InNetwork(t, func(t *testing.T, n *Network) {
		s := StartSentinels(n)
		old := s.Master()
		require.Same(t, n.sides[0], old.side)
		n.Cut()
		s.AwaitMaster(old)
		addr, err := s.ask(0).GetMasterAddrByName(t.Context(), MasterName).Result()
		require.NoError(t, err)
		require.Equal(t, old.side.host, addr[0], "the Sentinel on its side has heard of nothing")
		n.Mend()
		require.Eventually(t, func() bool {
			addr, err := s.ask(0).GetMasterAddrByName(t.Context(), MasterName).Result()
			return err == nil && addr[0] != old.side.host
		}, Patience, 10*time.Millisecond)
	})
}
