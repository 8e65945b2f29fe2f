package redistest

import (
	"crypto/rand"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestATwemproxySpreadsKeysOverItsServers(t *testing.T) {
	t.Parallel()
	a, b := Start(t), Start(t)
	rdb := StartTwemproxy(t, 0, a.Addr(), b.Addr())
	const keys = 100
	for i := range keys {
		// Similar keys are neighbours to its hash, and may all go to one
		// server.
		require.NoError(t, rdb.Set(t.Context(), rand.Text(), i, 0).Err())
	}
	atA, atB := a.Client(nil).DBSize(t.Context()).Val(), b.Client(nil).DBSize(t.Context()).Val()
	require.EqualValues(t, keys, atA+atB)
	require.NotZero(t, atA)
	require.NotZero(t, atB)
}
