package codec_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

var errMap = errors.New("too old")

// picky is a Map whose functions fail on some values.
var picky = codec.Map(codec.Int[int64](),
	func(t time.Time) (int64, error) {
		switch {
		case t.IsZero():
			return 0, errMap
		case t.Unix() == 13:
			panic(errMap)
		}
		return t.Unix(), nil
	},
	func(s int64) (time.Time, error) {
		switch s {
		case 1:
			return time.Unix(1, 0), errMap
		case 2:
			panic("no")
		}
		return time.Unix(s, 0), nil
	})

func TestMapRoundTrips(t *testing.T) {
	t.Parallel()
	codectest.Run(t, picky, time.Unix(0, 0), time.Unix(1e9, 0), time.Unix(-1e9, 0))
}

func TestMapReturnsErrorsAndPanicsOfItsFunctions(t *testing.T) {
	t.Parallel()
	for _, v := range []time.Time{{}, time.Unix(13, 0)} {
		out, err := picky.Append([]byte("dst"), v)
		require.ErrorIs(t, err, codec.ErrEncode)
		require.ErrorIs(t, err, errMap)
		require.Equal(t, "dst", string(out))
	}
	refuses(t, picky, "1", "2", "x", "")
	err := picky.Decode([]byte("1"), new(time.Time))
	require.ErrorIs(t, err, errMap)
	require.EqualError(t, err, "codec: Map: too old")
}

func TestMapWantsBothFunctions(t *testing.T) {
	t.Parallel()
	c := codec.Map[string, int64](codec.Int[int64](), nil, func(int64) (string, error) { return "", nil })
	require.ErrorIs(t, codec.Check(c), codec.ErrConfig)
	_, err := c.Append(nil, "")
	require.ErrorIs(t, err, codec.ErrConfig)
	require.ErrorIs(t, err, codec.ErrEncode)
	require.ErrorIs(t, c.Decode(nil, new(string)), codec.ErrFormat)
}
