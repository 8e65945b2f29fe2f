package codec_test

import (
	"bytes"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

// text returns n bytes that compress about as well as text.
func text(n int) string {
	words := []string{"the ", "quick ", "brown ", "fox ", "jumps ", "over ", "lazy ", "dogs, "}
	r := rand.New(rand.NewPCG(3, 4))
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[r.IntN(len(words))])
	}
	return b.String()[:n]
}

func noise(n int) string {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(5, 6))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return string(b)
}

func TestCompressRoundTrips(t *testing.T) {
	t.Parallel()
	for _, a := range []codec.Algorithm{codec.S2, codec.Zstd} {
		for _, threshold := range []int{0, 1} {
			c := codec.Compress(codec.For[string](), codec.Compression{Algorithm: a, Threshold: threshold})
			codectest.Run(t, c, "", "a", text(255), text(256), text(3000), noise(2000), strings.Repeat("\x00", 50_000))
		}
	}
	codectest.Run(t, codec.Compress(codec.For[everything](), codec.Compression{Threshold: 1}), full())
}

func TestCompressStoresTheFewestBytes(t *testing.T) {
	t.Parallel()
	for _, a := range []codec.Algorithm{codec.S2, codec.Zstd} {
		c := codec.Compress(codec.For[string](), codec.Compression{Algorithm: a})
		for _, tt := range []struct {
			value      string
			compressed bool
		}{
			{text(255), false}, // below the threshold
			{text(256), true},
			{noise(5000), false},
			{strings.Repeat("\x00", 1<<20), true},
			{strings.Repeat("\x00", 1<<20+1), false}, // compresses too well to be believed
			{text(2 << 20), true},
		} {
			src, err := c.Append(nil, tt.value)
			require.NoError(t, err)
			if tt.compressed {
				require.Equal(t, byte(a), src[0])
				require.Less(t, len(src), len(tt.value))
			} else {
				require.Equal(t, "\x00"+tt.value, string(src))
			}
			var v string
			require.NoError(t, c.Decode(src, &v))
			require.Equal(t, tt.value, v)
		}
	}
}

func TestCompressDecodesEitherAlgorithm(t *testing.T) {
	t.Parallel()
	with := func(a codec.Algorithm) codec.Codec[string] {
		return codec.Compress(codec.For[string](), codec.Compression{Algorithm: a, Threshold: 1})
	}
	for _, writer := range []codec.Algorithm{codec.S2, codec.Zstd} {
		src, err := with(writer).Append(nil, text(1000))
		require.NoError(t, err)
		for _, reader := range []codec.Algorithm{codec.S2, codec.Zstd} {
			var v string
			require.NoError(t, with(reader).Decode(src, &v))
			require.Equal(t, text(1000), v)
		}
	}
}

func TestCompressRefusesHostileBytes(t *testing.T) {
	t.Parallel()
	frame := zstdFrame(t, []byte(text(1000)))
	block := string(s2.Encode(nil, []byte(text(1000))))
	c := codec.Compress(codec.For[string](), codec.Compression{})
	refuses(t, c,
		"", "\x01", "\x02", "\x03", "\xff", "\x01\x80", "\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f", "\x01"+block[:len(block)-1], "\x01\x05"+block[2:],
		"\x01"+block+"\x00", "\x02"+frame[:len(frame)-1], "\x02"+frame+"\x00", "\x02"+frame+frame, "\x02\x28\xb5\x2f\xfd",
		"\x02\x50\x2a\x4d\x18\x00\x00\x00\x00",                     // a skippable frame
		"\x02\x28\xb5\x2f\xfd\x00\x00\x01\x00\x00",                 // that does not state its size
		"\x02\x28\xb5\x2f\xfd\x60\xff\xff\x01\x00\x00",             // that states a wrong size
		"\x02\x28\xb5\x2f\xfd\x23\x01\x00\x00\x00\x01\x01\x00\x00", // with a dictionary
	)
	for _, bomb := range []string{
		"\x01\x80\x80\x80\x80\x04\x00\x00", // s2: 1 GiB
		"\x01\xff\xff\xff\x1f\x00\x00",     // s2: 64 MiB
		s2Bomb(),                           // 65 MiB of zeros, more than MaxSize
		zstdBomb(),                         // the same
		"\x02\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\x7f\x01\x00\x00", // zstd: 2^63
		"\x02\x28\xb5\x2f\xfd\xe0\xff\xff\xff\xff\xff\xff\xff\xff\x01\x00\x00", // zstd: 2^64-1
		"\x02\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x04\x01\x00\x00",                 // zstd: 64 MiB
	} {
		refuses(t, c, bomb)
		require.ErrorIs(t, c.Decode([]byte(bomb), new(string)), codec.ErrTooLarge, "%d bytes", len(bomb))
	}
}

// The bombs are 65 MiB of zeros, more than MaxSize.
var (
	s2Bomb   = sync.OnceValue(func() string { return "\x01" + string(s2.Encode(nil, make([]byte, 65<<20))) })
	zstdBomb = sync.OnceValue(func() string { return "\x02" + zstdFrame(nil, make([]byte, 65<<20)) })
)

func zstdFrame(t testing.TB, plain []byte) string {
	e, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	return string(e.EncodeAll(plain, nil))
}

// The test is not parallel, since it measures allocations of the process.
func TestCompressAllocatesLittleForFewBytes(t *testing.T) {
	c := codec.Compress(codec.Bytes[[]byte](), codec.Compression{})
	for _, warm := range []codec.Algorithm{codec.S2, codec.Zstd} {
		cc := codec.Compress(codec.Bytes[[]byte](), codec.Compression{Algorithm: warm, Threshold: 1})
		src, err := cc.Append(nil, make([]byte, 10_000))
		require.NoError(t, err)
		require.NoError(t, cc.Decode(src, new([]byte)))
	}
	for _, src := range []string{
		"\x01\x80\x80\x80\x80\x04\x00\x00",
		s2Bomb(),
		zstdBomb(),
		"\x02\x28\xb5\x2f\xfd\xa0\x00\x00\x00\x04\x01\x00\x00",
	} {
		require.Less(t, allocatedBy(c, []byte(src)), 64<<10, "%x", src[:8])
	}
	// The first is the most that few bytes may claim. The second is a frame
	// with a window of 8 MiB and more that claims to hold little.
	require.Less(t, allocatedBy(c, []byte("\x01\x80\x80\x40\x00\x00")), 2<<20)
	for window := byte(0); window < 31<<3; window += 8 {
		src := []byte{2, 0x28, 0xb5, 0x2f, 0xfd, 0x40, window, 0x00, 0x00, 0x01, 0x00, 0x00}
		require.Less(t, allocatedBy(c, src), 2<<20, "window %d", window)
	}
}

func TestCompressBoundsSizeBothWays(t *testing.T) {
	t.Parallel()
	small := codec.Compress(codec.For[string](), codec.Compression{MaxSize: 1000})
	codectest.Run(t, small, text(1000))
	out, err := small.Append([]byte("dst"), text(1001))
	require.ErrorIs(t, err, codec.ErrTooLarge)
	require.ErrorIs(t, err, codec.ErrEncode)
	require.Equal(t, "dst", string(out))

	large := codec.Compress(codec.For[string](), codec.Compression{MaxSize: 5000})
	for _, v := range []string{text(1001), noise(1001)} {
		src, err := large.Append(nil, v)
		require.NoError(t, err)
		refuses(t, small, string(src))
		require.ErrorIs(t, small.Decode(src, new(string)), codec.ErrTooLarge)
	}
}

func TestCompressChecksItsSettings(t *testing.T) {
	t.Parallel()
	for want, how := range map[string]codec.Compression{
		"Compression.Algorithm 3 is unknown":    {Algorithm: 3},
		"Compression.Threshold -1 is negative":  {Threshold: -1},
		"Compression.MaxSize -1 is not in":      {MaxSize: -1},
		"Compression.MaxSize 536870913 is not ": {MaxSize: 512<<20 + 1},
	} {
		err := codec.Check(codec.Compress(codec.For[string](), how))
		require.ErrorIs(t, err, codec.ErrConfig)
		require.ErrorContains(t, err, want)
	}
}

func TestCompressIsFineWithBytesOfItsOwnOutput(t *testing.T) {
	t.Parallel()
	// The inner codec's bytes begin like a tag, and the wrappers are nested.
	twice := codec.Compress(codec.Compress(codec.Bytes[[]byte](), codec.Compression{Threshold: 1}), codec.Compression{Algorithm: codec.Zstd, Threshold: 1})
	codectest.Run(t, twice, []byte{}, []byte{0}, []byte{1}, []byte{2}, bytes.Repeat([]byte{1, 2}, 500), slices.Concat([]byte(text(600)), []byte(noise(60))))
}
