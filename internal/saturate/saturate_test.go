package saturate_test

import (
	"math"
	"math/big"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/saturate"
)

func TestMul_IsExactOrTheNearestThereIs(t *testing.T) {
	t.Parallel()
	numbers := []int64{0, 1, -1, 2, 3, 1 << 31, 1 << 32, math.MaxInt64, math.MinInt64, math.MaxInt64 / 2, math.MinInt64 + 1}
	for range 200 {
		numbers = append(numbers, int64(rand.Uint64()>>rand.IntN(64)))
	}
	clamped := func(n *big.Int) time.Duration {
		switch {
		case n.IsInt64():
			return time.Duration(n.Int64())
		case n.Sign() < 0:
			return math.MinInt64
		}
		return math.MaxInt64
	}
	for _, a := range numbers {
		for _, b := range numbers {
			want := clamped(new(big.Int).Mul(big.NewInt(a), big.NewInt(b)))
			require.Equal(t, want, saturate.Mul(time.Duration(a), b), "%d * %d", a, b)
		}
		for n := range int64(70) {
			want := clamped(new(big.Int).Lsh(big.NewInt(a), uint(n)))
			require.Equal(t, want, saturate.Double(time.Duration(a), n), "%d << %d", a, n)
		}
		require.Equal(t, time.Duration(a), saturate.Double(time.Duration(a), -1))
	}
	require.Equal(t, 3*time.Millisecond, saturate.Millis(3))
}
