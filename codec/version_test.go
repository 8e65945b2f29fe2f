package codec_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

func TestVersionRoundTrips(t *testing.T) {
	t.Parallel()
	for _, n := range []uint32{0, 1, 127, 128, math.MaxUint32} {
		codectest.Run(t, codec.Version(codec.For[string](), n), "", "value")
	}
}

func TestVersionRefusesOthers(t *testing.T) {
	t.Parallel()
	for _, stored := range []uint32{0, 1, 128, math.MaxUint32} {
		src, err := codec.Version(codec.For[string](), stored).Append(nil, "value")
		require.NoError(t, err)
		for _, want := range []uint32{0, 1, 2, 127, 128, 129, 16384, math.MaxUint32} {
			v := "before"
			err := codec.Version(codec.For[string](), want).Decode(src, &v)
			if stored == want {
				require.NoError(t, err)
				require.Equal(t, "value", v)
				continue
			}
			require.ErrorIs(t, err, codec.ErrVersion)
			require.ErrorIs(t, err, codec.ErrFormat)
			require.Zero(t, v)
		}
	}
}

func TestVersionRefusesBytesWithoutOne(t *testing.T) {
	t.Parallel()
	c := codec.Version(codec.For[string](), 1)
	refuses(t, c, "", "\x80", "\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x81\x00")
	require.NotErrorIs(t, c.Decode(nil, new(string)), codec.ErrVersion)
}
