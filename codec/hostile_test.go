package codec_test

import (
	"bytes"
	"fmt"
	"math"
	"reflect"
	"runtime"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
)

func TestMessagePackRefusesBytesThatAreNotOneValue(t *testing.T) {
	t.Parallel()
	for _, src := range []string{
		"", "\xc1", "\x91\xc1", // nothing, and the reserved code
		"\xdd\xff\xff\xff\xff", "\xdf\xff\xff\xff\xff", "\xdc\xff\xff", "\xde\xff\xff", "\x9f", "\x8f", "\x82\xa1a", // declares more than follows
		"\xc6\x1d\xcd\x65\x00", "\xc6\xff\xff\xff\xff", "\xdb\xff\xff\xff\xff", "\xc4\x01", "\xc5\x00\x01", "\xd9\x01", "\xda\x00\x01", "\xa1",
		"\xc7\x01\xff", "\xc8\x00\x01\xff", "\xc9\xff\xff\xff\xff\xff", "\xd4\xff", "\xd6\xff\x00\x00\x00", "\xd8\xff",
		"\xc4", "\xc5\x00", "\xc6\x00", "\xc7", "\xc8\x00", "\xc9\x00", "\xd9", "\xda", "\xdb", "\xdc\x00", "\xdd", "\xde", "\xdf\x00", // truncated in a length
		"\xca\x00", "\xcb\x00", "\xcc", "\xcd\x00", "\xce\x00", "\xcf\x00", "\xd0", "\xd1\x00", "\xd2\x00", "\xd3\x00", // truncated in a number
		"\x01\x01", "\xc0\xc0", "\x90\x00", "\x80\x80", // bytes after the value
	} {
		refuses(t, codec.MessagePack[any](), src)
		refuses(t, codec.MessagePack[user](), src)
		refuses(t, codec.MessagePack[[]*inner](), src)
		refuses(t, codec.For[generated](), src)
	}
}

func TestMessagePackRefusesNesting(t *testing.T) {
	t.Parallel()
	for _, src := range [][]byte{
		bytes.Repeat([]byte{0x91}, 2<<20),
		append(bytes.Repeat([]byte{0x91}, 600), 0xc0),
		append(bytes.Repeat([]byte("\x81\xa0"), 600), 0xc0),
		append(bytes.Repeat([]byte("\x81\xa1B"), 600), 0xc0),
		append([]byte("\x81\xa4gone"), bytes.Repeat([]byte{0x91}, 6<<20)...), // in a field that is skipped
	} {
		refuses(t, codec.MessagePack[any](), string(src))
		refuses(t, codec.MessagePack[inner](), string(src))
		refuses(t, codec.For[generated](), string(src))
	}
	src := append(bytes.Repeat([]byte{0x91}, 600), 0xc0)
	require.ErrorIs(t, codec.MessagePack[any]().Decode(src, new(any)), codec.ErrTooLarge)
	src = append(bytes.Repeat([]byte{0x91}, 512), 0xc0)
	require.NoError(t, codec.MessagePack[any]().Decode(src, new(any)))
}

func TestMessagePackRefusesNilAtTheTop(t *testing.T) {
	t.Parallel()
	refuses(t, codec.MessagePack[user](), "\xc0")
	refuses(t, codec.MessagePack[int](), "\xc0")
	refuses(t, codec.MessagePack[string](), "\xc0")
	refuses(t, codec.MessagePack[time.Time](), "\xc0")
	refuses(t, codec.MessagePack[[4]byte](), "\xc0")
	refuses(t, codec.For[generated](), "\xc0")
	refuses(t, codec.MessagePack[user](), "\x90", "\x91\x01")
}

func TestMessagePackRefusesOtherTypes(t *testing.T) {
	t.Parallel()
	refuses(t, codec.MessagePack[user](), "\x01", "\xa1x", "\xca\x00\x00\x00\x00", "\x81\xa2ID\xa11", "\x81\xa4Name\x01", "\x81\x01\x01")
	refuses(t, codec.MessagePack[struct{ N int }](), "\x81\xa1N\xcb\x3f\xf0\x00\x00\x00\x00\x00\x00") // a float
	refuses(t, codec.MessagePack[[2]int](), "\x93\x01\x02\x03")
	refuses(t, codec.MessagePack[map[any]int](), "\x81\x90\x01", "\x81\x80\x01") // a slice and a map as a key: msgpack panics
	refuses(t, codec.MessagePack[any](), "\xd4\x63\x00")                         // an unregistered extension
}

// TestMessagePackRefusesAnExtensionInPlaceOfAMap has an extension in place of a
// map. msgpack skips only its header, and reads its content as the header of a
// map of 4 billion.
func TestMessagePackRefusesAnExtensionInPlaceOfAMap(t *testing.T) {
	t.Parallel()
	for _, ext := range []string{
		"\xc7\x05\x01\xdf\xff\xff\xff\xff", "\xd6\xff\xdf\xff\xff\xff", "\xd7\xff\xdf\xff\xff\xff\xff\x00\x00\x00",
		"\xc8\x00\x05\xdf\xff\xff\xff\xff\x00", "\xd8\xff\xdf\xff\xff\xff\xff" + strings.Repeat("\x00", 11),
	} {
		refuses(t, codec.MessagePack[map[string]any](), ext)
		refuses(t, codec.MessagePack[map[string]string](), ext)
		refuses(t, codec.MessagePack[map[string]bool](), ext)
		refuses(t, codec.MessagePack[map[int]int](), ext)
		refuses(t, codec.MessagePack[struct{ M map[string]any }](), "\x81\xa1M"+ext)
		refuses(t, codec.MessagePack[[]*map[string]any](), "\x91"+ext)
	}
	// In place of a time, an extension is right, even with maps around it.
	type event struct {
		At  time.Time
		Who map[string]any
	}
	want := event{time.Unix(5, 0xdf<<22).UTC(), map[string]any{}} // its nanoseconds begin with 0xdf
	src, err := codec.For[event]().Append(nil, want)
	require.NoError(t, err)
	var got event
	require.NoError(t, codec.For[event]().Decode(src, &got))
	require.Equal(t, want, got)
}

func TestMessagePackRefusesIntegersThatDoNotFit(t *testing.T) {
	t.Parallel()
	integerFits[int8](t, math.MinInt8, math.MaxInt8)
	integerFits[int16](t, math.MinInt16, math.MaxInt16)
	integerFits[int32](t, math.MinInt32, math.MaxInt32)
	integerFits[int64](t, math.MinInt64, math.MaxInt64)
	integerFits[int](t, math.MinInt, math.MaxInt)
	integerFits[uint8](t, 0, math.MaxUint8)
	integerFits[uint16](t, 0, math.MaxUint16)
	integerFits[uint32](t, 0, math.MaxUint32)
	integerFits[uint64](t, 0, math.MaxUint64)
	integerFits[uint](t, 0, math.MaxUint)
}

// integerFits decodes every integer around the limits of every width into an I.
// It uses each encoding that can hold the integer, and each position that an I
// can have.
func integerFits[I codec.Integer](t *testing.T, least int64, most uint64) {
	t.Helper()
	type base struct{ I I }
	type s struct {
		base
		A int64
		F I `msgpack:"f,alias:g"`
		P *[]I
	}
	type array struct {
		_msgpack struct{} `msgpack:",as_array"`
		I        I
	}
	for _, n := range edges() {
		fits := n.fits(least, most)
		for _, b := range n.encodings() {
			check := func(name string, err error) {
				t.Helper()
				if fits {
					require.NoError(t, err, "%s: %x into %T", name, b, I(0))
				} else {
					require.ErrorIs(t, err, codec.ErrFormat, "%s: %x into %T", name, b, I(0))
				}
			}
			check("top", decodes[I](b))
			check("pointer", decodes[**I](b))
			check("field", decodes[s]("\x82\xa1A\x01\xa1f"+b))
			check("field first", decodes[s]("\x82\xa1f"+b+"\xa1A\x01"))
			check("alias", decodes[s]("\x81\xa1g"+b))
			check("inlined", decodes[s]("\x81\xa1I"+b))
			check("embedded", decodes[s]("\x81\xa4base\x81\xa1I"+b))
			check("name as bytes", decodes[s]("\x81\xc4\x01f"+b))
			check("name as str8", decodes[s]("\x81\xd9\x01f"+b))
			if _, isByte := any(I(0)).(uint8); !isByte { // slices of bytes are strings
				check("slice", decodes[[]I]("\x92\x01"+b))
				check("array16", decodes[[]I]("\xdc\x00\x01"+b))
				check("array32", decodes[[]I]("\xdd\x00\x00\x00\x01"+b))
				check("array", decodes[[2]I]("\x92"+b+"\x01"))
				check("slice in a field", decodes[s]("\x81\xa1P\x91"+b))
			}
			check("map value", decodes[map[string]I]("\x81\xa1k"+b))
			check("map16", decodes[map[string]I]("\xde\x00\x01\xa1k"+b))
			check("map key", decodes[map[I]string]("\xdf\x00\x00\x00\x01"+b+"\xa1v"))
			check("struct as array", decodes[array]("\x91"+b))
			require.NoError(t, decodes[s]("\x82\xa4gone"+b+"\xa1f\x01"), "a field that is not there")
			require.NoError(t, decodes[struct{ X any }]("\x81\xa1X"+b))
		}
	}
}

func decodes[V any](src string) error {
	c, ok := decoders.Load(reflect.TypeFor[V]())
	if !ok { // making one for each of a hundred thousand calls would take longest
		c, _ = decoders.LoadOrStore(reflect.TypeFor[V](), codec.MessagePack[V]())
	}
	return c.(codec.Codec[V]).Decode([]byte(src), new(V))
}

var decoders sync.Map // reflect.Type to codec

// edge is an integer of 65 bits.
type edge struct {
	negative bool
	n        uint64 // two's complement if negative
}

func edges() (all []edge) {
	for _, n := range []uint64{
		0, 1, 127, 128, 255, 256, 300, 32767, 32768, 65535, 65536,
		1<<31 - 1, 1 << 31, 1<<32 - 1, 1 << 32, 1<<63 - 1, 1 << 63, 1<<64 - 1,
	} {
		all = append(all, edge{false, n})
		if n > 0 && n <= 1<<63 {
			all = append(all, edge{true, -n}, edge{true, max(-n-1, 1<<63)})
		}
	}
	return all
}

func (e edge) fits(least int64, most uint64) bool {
	if e.negative {
		return int64(e.n) >= least
	}
	return e.n <= most
}

func (e edge) encodings() (all []string) {
	be := func(bytes int) string {
		s := ""
		for i := bytes - 1; i >= 0; i-- {
			s += string([]byte{byte(e.n >> (8 * i))})
		}
		return s
	}
	s := int64(e.n)
	signed := e.negative || e.n <= math.MaxInt64
	for i, bytes := range []int{1, 2, 4, 8} {
		bits := 8 * bytes
		if !e.negative && (bits == 64 || e.n < 1<<bits) {
			all = append(all, string([]byte{byte(0xcc + i)})+be(bytes))
		}
		if signed && (bits == 64 || s >= -1<<(bits-1) && s < 1<<(bits-1)) {
			all = append(all, string([]byte{byte(0xd0 + i)})+be(bytes))
		}
	}
	if signed && s >= -32 && s < 128 {
		all = append(all, be(1))
	}
	return all
}

func TestMessagePackRefusesIntegersThatAFloatWouldTakeForNegative(t *testing.T) {
	t.Parallel()
	refuses(t, codec.MessagePack[float64](), "\xcf\x80\x00\x00\x00\x00\x00\x00\x00")
	refuses(t, codec.MessagePack[[]float32](), "\x91\xcf\xff\xff\xff\xff\xff\xff\xff\xff")
	require.NoError(t, decodes[float64]("\xcf\x7f\x00\x00\x00\x00\x00\x00\x00"))
	require.NoError(t, decodes[float64]("\xff"))
}

// spacious has elements that are large in Go and one byte when empty.
type spacious struct {
	Room [8192]int64 `msgpack:",omitempty"`
}

// TestDecodeAllocatesNoMoreThanItSays is not parallel, since it measures
// allocations of the process.
func TestDecodeAllocatesNoMoreThanItSays(t *testing.T) {
	array := func(n int, each string) []byte {
		return append([]byte{0xdd, byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)}, strings.Repeat(each, n)...)
	}
	few, many := 2000, 100_000
	for _, n := range []int{few, many} {
		within(t, codec.MessagePack[any](), array(n, "\xc0"), "nils in any")
		within(t, codec.MessagePack[any](), array(n, "\x80"), "empty maps in any")
		within(t, codec.MessagePack[any](), array(n, "\x81\xa0\xc0"), "small maps in any")
		within(t, codec.MessagePack[any](), array(n, "\x91\xc0"), "small slices in any")
		within(t, codec.MessagePack[any](), array(n/100, strings.Repeat("\x81\xa0", 500)+"\xc0"), "nested maps in any")
		within(t, codec.MessagePack[any](), array(n, "\xa2xy"), "strings in any")
		within(t, codec.MessagePack[[]string](), array(n, "\xa0"), "empty strings")
		within(t, codec.MessagePack[[]inner](), array(n, "\xc0"), "nil structs")
		within(t, codec.MessagePack[[]*inner](), array(n, "\x80"), "pointers to empty structs")
		within(t, codec.MessagePack[[]map[string]string](), array(n, "\x81\xa0\xa0"), "small maps")
		within(t, codec.MessagePack[[]map[string]everything](), array(n, "\x81\xa0\x80"), "small maps of large structs")
		within(t, codec.MessagePack[[]everything](), array(n, "\x80"), "empty structs of 700 bytes")
		within(t, codec.MessagePack[[]spacious](), array(n, "\xc0"), "nil structs of 64 KiB")
		within(t, codec.MessagePack[[]spacious](), array(n, "\x80"), "empty structs of 64 KiB")
		within(t, codec.MessagePack[[]*spacious](), array(n, "\x80"), "pointers to empty structs of 64 KiB")
		within(t, codec.MessagePack[[][]spacious](), array(n, "\x91\x80"), "slices of one empty struct of 64 KiB")
		within(t, codec.MessagePack[map[int]spacious](), slices.Concat([]byte{0xdf, 0, byte(n >> 17), byte(n >> 9), byte(n >> 1)}, bytes.Repeat([]byte("\x01\x80"), n>>1)), "a map of large structs")
	}
	// The number of elements is the greatest that passes, to show that the
	// estimate is an upper bound.
	atMost(t, codec.MessagePack[[]everything](), func(n int) []byte { return array(n, "\x80") })
	atMost(t, codec.MessagePack[[]*everything](), func(n int) []byte { return array(n, "\x80") })
	atMost(t, codec.MessagePack[[]map[string]everything](), func(n int) []byte { return array(n, "\x81\xa0\x80") })
	atMost(t, codec.MessagePack[[]map[[64]byte][64]int8](), func(n int) []byte { return array(n, "\x81\xc4\x00\x90") })
	atMost(t, codec.MessagePack[[]map[[16]byte]spacious](), func(n int) []byte { return array(n, "\x81\xc4\x00\x80") })
	atMost(t, codec.MessagePack[[][]spacious](), func(n int) []byte { return array(n, "\x91\x80") })
	for _, src := range []string{"\xdd\xff\xff\xff\xff", "\xdd\x02\xfa\xf0\x80", "\xc6\x1d\xcd\x65\x00", "\xdf\xff\xff\xff\xff", "\xc9\xff\xff\xff\xff\x00"} {
		require.Less(t, allocatedBy(codec.MessagePack[any](), []byte(src)), 4096, "%x", src)
		require.Less(t, allocatedBy(codec.MessagePack[[]spacious](), []byte(src)), 4096, "%x", src)
		require.Less(t, allocatedBy(codec.For[generated](), []byte(src)), 4096, "%x", src)
	}
	nested := bytes.Repeat([]byte{0x91}, 2<<20)
	require.Less(t, allocatedBy(codec.MessagePack[any](), nested), 4096)
	require.Less(t, allocatedBy(codec.JSON[any](), []byte(strings.Repeat("[", 1<<20))), 4<<20)
}

func within[V any](t *testing.T, c codec.Codec[V], src []byte, what string) {
	t.Helper()
	limit := max(4<<20, 256*len(src))
	got := allocatedBy(c, src)
	t.Logf("%s: %d bytes took %d, %.0f for each", what, len(src), got, float64(got)/float64(len(src)))
	require.LessOrEqual(t, got, limit+4096, fmt.Sprintf("%s: %d bytes", what, len(src)))
}

// atMost finds the greatest n for which c decodes src(n), and measures that
// decoding.
func atMost[V any](t *testing.T, c codec.Codec[V], src func(n int) []byte) {
	t.Helper()
	n := sort.Search(1<<16, func(n int) bool { return c.Decode(src(n), new(V)) != nil }) - 1
	require.ErrorIs(t, c.Decode(src(n+1), new(V)), codec.ErrTooLarge)
	within(t, c, src(n), fmt.Sprintf("%d elements of %T", n, *new(V)))
}

// allocatedBy returns the number of bytes that one Decode allocates, freed or
// not.
func allocatedBy[V any](c codec.Codec[V], src []byte) int {
	v := new(V)
	_ = c.Decode([]byte{0xc0}, v) // allocates everything that is made once
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_ = c.Decode(src, v)
	runtime.ReadMemStats(&after)
	return int(after.TotalAlloc - before.TotalAlloc)
}

// sparse takes 8 KiB, and one byte if it is empty.
type (
	sparse struct {
		A, B, C, D, E, F, G, H sparse8 `msgpack:",omitempty"`
	}
	sparse8 struct {
		A, B, C, D, E, F, G, H sparse64 `msgpack:",omitempty"`
	}
	sparse64 struct {
		A, B, C, D, E, F, G, H string `msgpack:",omitempty"`
	}
)

func TestMessagePackRefusesToWriteWhatWouldTakeTooMuchToRead(t *testing.T) {
	t.Parallel()
	c := codec.For[[]sparse]()
	_, err := c.Append(nil, make([]sparse, 1000))
	require.ErrorIs(t, err, codec.ErrTooLarge)
	require.ErrorIs(t, err, codec.ErrEncode)

	for _, want := range [][]sparse{make([]sparse, 100), {{A: sparse8{B: sparse64{C: "x"}}}}} {
		src, err := c.Append(nil, want)
		require.NoError(t, err)
		var got []sparse
		require.NoError(t, c.Decode(src, &got))
		require.Equal(t, want, got)
	}
}

// Bytes that were read before must not affect later reads.
func TestMessagePackForgetsBytesThatFailed(t *testing.T) {
	t.Parallel()
	c := codec.For[struct{ R msgpack.RawMessage }]()
	refuses(t, codec.MessagePack[struct{ T time.Time }](), "\x81\xa1T\xd4\x01\x00")
	for range 100 {
		src, err := c.Append(nil, struct{ R msgpack.RawMessage }{[]byte{0x91, 0x01}})
		require.NoError(t, err)
		var v struct{ R msgpack.RawMessage }
		require.NoError(t, c.Decode(src, &v))
		require.Equal(t, msgpack.RawMessage{0x91, 0x01}, v.R)
	}
}
