package codec_test

import (
	"bytes"
	"errors"
	"math/big"
	"net/url"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

// These types are registered with msgpack, which the types themselves do not
// show.
type (
	cents int64              // by a function that treats 0 as msgpack does
	point struct{ X, Y int } // as an extension
	grade uint16             // decoded by a function
	sums  struct {
		N int8 `msgpack:",omitempty"`
	}
	bills   []sums
	version int
	moment  *time.Time
)

func (v version) IsZero() bool { return v == 1 }

func init() {
	msgpack.Register(cents(0), func(e *msgpack.Encoder, v reflect.Value) error { return e.EncodeInt(v.Int() * 100) },
		func(d *msgpack.Decoder, v reflect.Value) error {
			n, err := d.DecodeInt64()
			v.SetInt(n / 100)
			return err
		})
	msgpack.Register(sums{}, func(e *msgpack.Encoder, v reflect.Value) error { return e.EncodeInt(v.Field(0).Int() * 100) },
		func(d *msgpack.Decoder, v reflect.Value) error {
			n, err := d.DecodeInt64()
			v.Field(0).SetInt(n / 100)
			return err
		})
	msgpack.Register(bills{}, func(e *msgpack.Encoder, v reflect.Value) error {
		if v.IsNil() {
			return e.EncodeNil()
		}
		return e.EncodeInt(v.Index(0).Field(0).Int() * 100)
	}, func(d *msgpack.Decoder, v reflect.Value) error {
		n, err := d.DecodeInt64()
		v.Set(reflect.ValueOf(bills{{int8(n / 100)}}))
		return err
	})
	msgpack.RegisterExtEncoder(43, point{}, func(_ *msgpack.Encoder, v reflect.Value) ([]byte, error) {
		return []byte{byte(v.Field(0).Int()), byte(v.Field(1).Int())}, nil
	})
	msgpack.RegisterExtDecoder(43, point{}, func(d *msgpack.Decoder, v reflect.Value, n int) error {
		b := make([]byte, n)
		if n != 2 {
			return errors.New("not a point")
		}
		err := d.ReadFull(b)
		v.Set(reflect.ValueOf(point{int(b[0]), int(b[1])}))
		return err
	})
	msgpack.Register(grade(0), nil, func(d *msgpack.Decoder, v reflect.Value) error {
		n, err := d.DecodeUint8()
		v.SetUint(uint64(n) * 2)
		return err
	})
}

func TestProgram_LeavesToMsgpackTypesRegisteredWithIt(t *testing.T) {
	t.Parallel()
	for name, leaf := range map[string]bool{
		"own methods":          !codec.Compiled[custom](),
		"registered":           !codec.Compiled[cents](),
		"registered extension": !codec.Compiled[point](),
		"registered decoder":   !codec.Compiled[grade](),
		"too large":            !codec.Compiled[[1<<20 + 1]byte](),
	} {
		require.True(t, leaf, name)
	}
	for name, compiled := range map[string]bool{
		"registered within":    codec.Compiled[map[string][]*cents](),
		"extension within":     codec.Compiled[struct{ P point }](),
		"a registered decoder": codec.Compiled[[]grade](),
	} {
		require.True(t, compiled, name)
	}
	// Such types still work.
	codectest.Run(t, codec.For[[]cents](), nil, []cents{0, 5})
	codectest.Run(t, codec.For[struct{ P *point }](), struct{ P *point }{}, struct{ P *point }{&point{1, 2}})
	codectest.Run(t, codec.For[map[string]any](), map[string]any{"p": point{1, 2}})
	var v []grade
	require.NoError(t, codec.For[[]grade]().Decode([]byte("\x91\x05"), &v))
	require.Equal(t, []grade{10}, v)
}

// If msgpack can encode a type only in part, a comparison of the whole type
// does not show its registered parts.
func TestMessagePack_LeavesRegisteredTypesToMsgpackBesideWhatItCannotEncode(t *testing.T) {
	t.Parallel()
	page, sum := url.URL{Path: "/p"}, *big.NewInt(7)
	for _, v := range []any{
		map[url.URL]cents{page: 48}, // a key with methods on its pointer
		[1][]map[url.URL][1]cents{{{page: {48}}}},
		map[string]struct { // an element with methods on its pointer
			N big.Int
			C cents
		}{"a": {sum, 48}},
		struct {
			M map[string]big.Int
			C cents
		}{map[string]big.Int{"a": sum}, 48},
		struct {
			G grading // does not decode its zero value
			C cents
		}{1, 48},
		struct {
			Long [10_001]int8 // more than is compared
			C    cents
		}{C: 48},
		sums{48}, // msgpack omits a field by another rule
		map[string]*sums{"a": {48}},
		bills{{48}},
		struct {
			M map[url.URL]int8
			C cents
			P *point
		}{map[url.URL]int8{page: 1}, 48, &point{1, 2}},
	} {
		t.Run(reflect.TypeOf(v).String(), func(t *testing.T) {
			t.Parallel()
			p := reflect.New(reflect.TypeOf(v))
			p.Elem().Set(reflect.ValueOf(v))
			c, err := codec.MessagePackOf(p.Type().Elem())
			require.NoError(t, err)
			src, err := c.Append(p)
			require.NoError(t, err)
			require.Contains(t, string(src), "\xcd\x12\xc0", "4800 cents, as msgpack writes them")
			got, err := c.Decode(src)
			wantSame(t, "Decode", p.Elem(), got, src, err)
			got, err = c.DecodeByLibrary(src)
			wantSame(t, "msgpack", p.Elem(), got, src, err)
		})
	}
}

var someTime = time.Unix(1, 0)

// Only msgpack decodes these bytes, each for another reason.
func TestProgramsLeaveToMsgpackWhatTheyAreNotSureOf(t *testing.T) {
	t.Parallel()
	type event struct {
		At    time.Time
		N     int `msgpack:"n,alias:m"`
		In    inner
		Items []inner
		Base
	}
	all := newTwin[event](t)
	for _, src := range []string{
		"\x82\xa1n\x01\xa1n\x02",                              // twice
		"\x82\xa2In\x81\xa1A\x01\xa2In\x81\xa1B\xc0",          // twice, and merged
		"\x82\xa5Items\x92\x81\xa1A\x01\xc0\xa5Items\x91\x80", // twice, and merged
		"\x81\xa1m\x05",                          // by an alias
		"\x81\xa4Base\x81\xa6BaseID\x05",         // embedded under its name
		"\x81\xa2In\x92\x01\xc0",                 // as an array
		"\x81\xa2In\x90",                         // as an empty array
		"\x81\xa2At\xc7\x04\xff\x00\x00\x00\x01", // in a form that no encoder writes
		"\x81\xc0\x01",                           // a nil name
	} {
		_, ok := codec.ReadByProgram(codec.MessagePack[event](), []byte(src))
		require.False(t, ok, "%q", src)
		require.NoError(t, codec.MessagePack[event]().Decode([]byte(src), new(event)), "%q", src)
		all.decode(t, []byte(src))
	}
	for _, src := range []string{
		"\x85\xa2In\xc0\xa5Items\xc0\xa1n\xc0\xa6BaseID\xc0\xa4gone\x93\x01\xc7\x01\x05\x00\x81\x01\x02", // nil values and removed fields
		"\x83\xa6BaseID\x05\xa1n\xd3\x00\x00\x00\x00\x00\x00\x00\x05\xc4\x02In\xde\x00\x00",              // in another order, with long forms
	} {
		_, ok := codec.ReadByProgram(codec.MessagePack[event](), []byte(src))
		require.True(t, ok, "%q", src)
		all.decode(t, []byte(src))
	}
}

func TestProgramsBoundDepth(t *testing.T) {
	t.Parallel()
	for depth, want := range map[int]bool{511: true, 512: true, 513: false, 2_000_000: false} {
		src := append(bytes.Repeat([]byte{0x91}, depth-1), 0x90)
		_, ok := codec.ReadByProgram(codec.MessagePack[selfSlice](), src)
		require.Equal(t, want, ok, "slices %d deep", depth)
		src = append(append([]byte{0x81, 0xa1, 'x'}, bytes.Repeat([]byte{0x91}, depth-2)...), 0x90)
		_, ok = codec.ReadByProgram(codec.MessagePack[struct{}](), src)
		require.Equal(t, want, ok, "skipped %d deep", depth)
		src = append(bytes.Repeat([]byte("\x81\xa1a"), depth-1), 0x80)
		_, ok = codec.ReadByProgram(codec.MessagePack[selfMap](), src)
		require.Equal(t, want, ok, "maps %d deep", depth)
		src = append(bytes.Repeat([]byte("\x81\xa1B"), depth-1), 0x80)
		_, ok = codec.ReadByProgram(codec.MessagePack[inner](), src)
		require.Equal(t, want, ok, "structs %d deep", depth)
	}
}

// The test is not parallel, since it measures allocations of the process.
func TestMemoryOfBothAttemptsIsBoundedTogether(t *testing.T) {
	const n = 100 // 64 KiB each: 6.4 MB, above the limit of 4 MiB
	elements := strings.Repeat("\x80", n/3) + "\x81\xa4Room\xcb" + strings.Repeat("\x00", 8)
	for _, src := range []string{
		"\xdc\x00" + string([]byte{n/3 + 1}) + elements,
		"\xdc\x00" + string([]byte{n}) + strings.Repeat("\x80", n),
		// This is seven times as much as one slice may take, one after the
		// other.
		"\x98" + strings.Repeat("\xdc\x00\x1c"+strings.Repeat("\x80", 28), 7) + "\x91\x90",
	} {
		within(t, codec.MessagePack[[]spacious](), []byte(src), "slices of large structs")
		within(t, codec.MessagePack[[][]spacious](), []byte(src), "slices of slices of large structs")
		within(t, codec.MessagePack[[]*spacious](), []byte(src), "pointers to large structs")
	}
}

// The test is not parallel, since it measures the memory of the process.
func TestWhoKeepsOneStringOfAValueKeepsAKilobyteAtMost(t *testing.T) {
	src, err := codec.For[[]string]().Append(nil, slices.Repeat([]string{strings.Repeat("x", 100)}, 100))
	require.NoError(t, err)
	held := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	const values = 2000 // of 10 kB
	kept, c := make([]string, values), codec.For[[]string]()
	before := held()
	for i := range kept {
		var v []string
		require.NoError(t, c.Decode(src, &v))
		kept[i] = v[50]
	}
	require.Less(t, held()-before, values*1024+1<<20)
	runtime.KeepAlive(kept)
}

func TestProgramsRefuseToEncodeMoreThanRedisHolds(t *testing.T) {
	t.Parallel()
	// There is space for ten more bytes. The bytes before it are never written,
	// so they take no memory.
	const limit = 512 << 20
	dst := make([]byte, limit-10, limit+1000)
	fits := func(want bool, out []byte, err error) {
		t.Helper()
		if want {
			require.NoError(t, err)
			require.Len(t, out, limit)
			return
		}
		require.ErrorIs(t, err, codec.ErrTooLarge)
		require.ErrorIs(t, err, codec.ErrEncode)
		require.Len(t, out, limit-10)
	}
	for n, want := range map[int]bool{0: true, 1: false, 500: false} {
		out, err := codec.MessagePack[string]().Append(dst, strings.Repeat("x", 9+n))
		fits(want, out, err)
		out, err = codec.MessagePack[[]byte]().Append(dst, make([]byte, 8+n))
		fits(want, out, err)
		out, err = codec.MessagePack[[]bool]().Append(dst, make([]bool, 9+n))
		fits(want, out, err)
		out, err = codec.MessagePack[[]int]().Append(dst, append(make([]int, 8+n), 1))
		fits(want, out, err)
	}
	out, err := codec.MessagePack[[8]byte]().Append(dst, [8]byte{})
	fits(true, out, err)
	out, err = codec.MessagePack[[9]byte]().Append(dst, [9]byte{})
	fits(false, out, err)
	out, err = codec.MessagePack[float64]().Append(dst[:limit-9], 1)
	require.NoError(t, err)
	require.Len(t, out, limit)
	out, err = codec.MessagePack[map[string]float64]().Append(dst, map[string]float64{"": 1})
	fits(false, out, err)
}
