package circuit

import (
	"math/rand/v2"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestSlot_MatchesRedis(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, "--cluster-enabled", "yes").Client(nil)
	keys := []string{"", "a", "{a}b", "{}b", "a{b}c{d}", "a{b", "a}b{c}", "{{a}}", "{a", "}", "{", "a{}{b}", "{a}{b}", "123456789", "\xff\x00{\xfe}"}
	for range 2000 {
		b := make([]byte, rand.N(24))
		for i := range b {
			if b[i] = "{}ab"[rand.N(4)]; rand.N(2) == 0 {
				b[i] = byte(rand.N(256))
			}
		}
		keys = append(keys, string(b))
	}
	cmds, err := rdb.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
		for _, key := range keys {
			pipe.ClusterKeySlot(t.Context(), key)
		}
		return nil
	})
	require.NoError(t, err)
	for i, key := range keys {
		require.EqualValues(t, cmds[i].(*redis.IntCmd).Val(), slot(key), "%q", key)
	}
}
