package codec_test

import (
	"math"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

type (
	userID int64
	level  uint8
	name   string
	blob   []byte
)

func TestStringKeepsAnyBytes(t *testing.T) {
	t.Parallel()
	values := []string{"", "*", "\x00", "rueidisid:x", "\xff\xfe", "ключ", "null"}
	codectest.Run(t, codec.String[string](), values...)
	codectest.Run(t, codec.For[string](), values...)
	codectest.Run(t, codec.For[name](), "", "a", "\x00")
	for _, v := range values {
		b, err := codec.String[string]().Append(nil, v)
		require.NoError(t, err)
		require.Equal(t, v, string(b))
	}
}

func TestBytesKeepsAnyBytes(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.Bytes[[]byte](), []byte{}, []byte{0}, []byte("*"), make([]byte, 1000))
	codectest.Run(t, codec.Bytes[blob](), blob{}, blob("x"))
	codectest.Run(t, codec.For[[]byte](), []byte{}, []byte("x"))
	codectest.Run(t, codec.For[blob](), blob{}, blob("x"))
}

func TestBytesDecodesNoBytesToEmptyAndNotNil(t *testing.T) {
	t.Parallel()
	for _, src := range [][]byte{nil, {}} {
		var v []byte
		require.NoError(t, codec.Bytes[[]byte]().Decode(src, &v))
		require.Equal(t, []byte{}, v)
	}
}

func TestIntRoundTripsEveryKind(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.Int[int](), 0, 1, -1, math.MaxInt, math.MinInt)
	codectest.Run(t, codec.Int[int8](), 0, 127, -128)
	codectest.Run(t, codec.Int[int16](), 0, math.MaxInt16, math.MinInt16)
	codectest.Run(t, codec.Int[int32](), 0, math.MaxInt32, math.MinInt32)
	codectest.Run(t, codec.Int[int64](), 0, math.MaxInt64, math.MinInt64)
	codectest.Run(t, codec.Int[uint](), 0, math.MaxUint)
	codectest.Run(t, codec.Int[uint8](), 0, 255)
	codectest.Run(t, codec.Int[uint16](), 0, math.MaxUint16)
	codectest.Run(t, codec.Int[uint32](), 0, math.MaxUint32)
	codectest.Run(t, codec.Int[uint64](), 0, math.MaxUint64)
	codectest.Run(t, codec.Int[uintptr](), 0, math.MaxUint)
	codectest.Run(t, codec.For[userID](), 0, -7, math.MaxInt64)
	codectest.Run(t, codec.For[level](), 0, 255)
	codectest.Run(t, codec.For[uintptr](), 0, 7)
	codectest.Run(t, codec.For[time.Duration](), 0, time.Hour, -time.Second)
}

func TestIntDecodesOnlyWhatRedisWrites(t *testing.T) {
	t.Parallel()
	for _, src := range []string{
		"", " 1", "1 ", "+1", "-", "--1", "-0", "00", "007", "-07", "1e3", "0x10", "1_000", "1.0", "one", "١",
		"9223372036854775808", "-9223372036854775809", "18446744073709551616", "99999999999999999999999999",
	} {
		v := int64(7)
		require.ErrorIs(t, codec.Int[int64]().Decode([]byte(src), &v), codec.ErrFormat, "%q", src)
		require.Zero(t, v, "%q", src)
	}
}

func TestIntRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	refuses(t, codec.Int[int8](), "128", "-129", "300", "9223372036854775807")
	refuses(t, codec.Int[int16](), "32768", "-32769")
	refuses(t, codec.Int[int32](), "2147483648", "-2147483649")
	refuses(t, codec.Int[uint8](), "256", "-1")
	refuses(t, codec.Int[uint16](), "65536", "-1")
	refuses(t, codec.Int[uint32](), "4294967296", "-1")
	refuses(t, codec.Int[uint64](), "18446744073709551616", "-1")
	refuses(t, codec.For[level](), "256", "-1")
	refuses(t, codec.For[userID](), "9223372036854775808")
}

// refuses requires that c decodes none of srcs, with an ErrFormat and any other
// errors in is, and leaves the zero value.
func refuses[V any](t *testing.T, c codec.Codec[V], srcs ...string) {
	t.Helper()
	for _, src := range srcs {
		v := new(V)
		require.ErrorIs(t, c.Decode([]byte(src), v), codec.ErrFormat, "%T decodes %x", *v, src)
		require.Zero(t, *v)
	}
}
