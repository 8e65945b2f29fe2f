package codec_test

import (
	"math"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

// everything has a field of each kind that MessagePack supports.
type everything struct {
	Base
	*More
	Bool    bool
	Int     int
	I8      int8
	I16     int16
	I32     int32
	I64     int64
	Uint    uint
	U8      uint8
	U16     uint16
	U32     uint32
	U64     uint64
	F32     float32
	F64     float64
	String  string
	Named   name
	Bytes   []byte
	Hash    [20]byte
	Strings []string
	Ints    []int32
	Array   [3]int16
	Nested  []inner
	Ptr     *inner
	PtrPtr  **int
	Map     map[string]string
	Flags   map[string]bool
	ByInt   map[int16]inner
	ByKey   map[pair]uint8
	Time    time.Time
	Took    time.Duration
	Addr    netip.Addr
	Big     *big.Int
	Custom  custom
	Tagged  int8     `msgpack:"t,alias:old"`
	Skipped chan int `msgpack:"-"`
	Empty   struct{}
	Omitted uint16 `msgpack:",omitempty"`
	hidden  func()
}

type Base struct{ BaseID uint32 }

type More struct{ Extra int8 }

type inner struct {
	A int8
	B *inner
}

type pair struct{ X, Y int8 }

// custom encodes itself as an array.
type custom struct{ x, y int }

func (c custom) EncodeMsgpack(e *msgpack.Encoder) error {
	if err := e.EncodeArrayLen(2); err != nil {
		return err
	}
	return e.EncodeMulti(c.x, c.y)
}

func (c *custom) DecodeMsgpack(d *msgpack.Decoder) error {
	n, err := d.DecodeArrayLen()
	if err != nil || n != 2 {
		return err
	}
	return d.DecodeMulti(&c.x, &c.y)
}

func full() everything {
	seven := 7
	p := &seven
	return everything{
		Base: Base{math.MaxUint32}, More: &More{-128},
		Bool: true, Int: math.MinInt, I8: -128, I16: math.MinInt16, I32: math.MinInt32, I64: math.MinInt64,
		Uint: math.MaxUint, U8: 255, U16: math.MaxUint16, U32: math.MaxUint32, U64: math.MaxUint64,
		F32: 1.5, F64: math.Inf(-1), String: "s", Named: "n", Bytes: []byte{0}, Hash: [20]byte{1, 2},
		Strings: []string{"", "x"}, Ints: []int32{1, math.MaxInt32}, Array: [3]int16{1, -2, 3},
		Nested: []inner{{A: 1}, {B: &inner{A: 127}}}, Ptr: &inner{B: &inner{}}, PtrPtr: &p,
		Map: map[string]string{"a": "b"}, Flags: map[string]bool{"t": true},
		ByInt: map[int16]inner{-300: {A: 3}}, ByKey: map[pair]uint8{{1, 2}: 200},
		Time: time.Unix(1e9, 5).UTC(), Took: time.Hour, Addr: netip.MustParseAddr("::1"), Big: big.NewInt(-9),
		Custom: custom{1, 2}, Tagged: -5, Omitted: 1,
	}
}

func TestMessagePackRoundTripsEveryKind(t *testing.T) {
	t.Parallel()
	empty := everything{
		Bytes: []byte{}, Strings: []string{}, Ints: []int32{}, Nested: []inner{}, Map: map[string]string{},
		Flags: map[string]bool{}, ByInt: map[int16]inner{}, ByKey: map[pair]uint8{}, More: &More{},
	}
	codectest.Run(t, codec.MessagePack[everything](), full(), empty)
	v := full()
	codectest.Run(t, codec.For[*everything](), nil, &v)
}

func TestMessagePackRoundTripsAtTheTop(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.For[bool](), true, false)
	codectest.Run(t, codec.For[float32](), 0, 1.5, float32(math.Inf(1)))
	codectest.Run(t, codec.For[float64](), 0, -1.5)
	codectest.Run(t, codec.MessagePack[int8](), 0, -128, 127)
	codectest.Run(t, codec.MessagePack[uint64](), 0, math.MaxUint64)
	codectest.Run(t, codec.MessagePack[string](), "", "s")
	codectest.Run(t, codec.MessagePack[[]byte](), nil, []byte{}, []byte("s"))
	codectest.Run(t, codec.For[[]string](), nil, []string{}, []string{"a"})
	codectest.Run(t, codec.For[map[string]string](), nil, map[string]string{}, map[string]string{"a": "b"})
	codectest.Run(t, codec.For[[]inner](), nil, []inner{}, []inner{{A: 1}})
	codectest.Run(t, codec.For[[3]int8](), [3]int8{}, [3]int8{1, 2, 3})
	codectest.Run(t, codec.For[[4]byte](), [4]byte{}, [4]byte{1, 2, 3})
	codectest.Run(t, codec.For[struct{}](), struct{}{})
	codectest.Run(t, codec.For[*int](), nil, new(int))
	codectest.Run(t, codec.For[time.Time](), time.Time{}, time.Unix(1, 2).UTC(), time.Unix(-1e11, 0).UTC())
	codectest.Run(t, codec.For[custom](), custom{}, custom{-1, 1})
	codectest.Run(t, codec.For[*custom](), nil, &custom{-1, 1})
	codectest.Run(t, codec.For[netip.Addr](), netip.Addr{}, netip.MustParseAddr("1.2.3.4"))
	codectest.Run(t, codec.For[msgpack.RawMessage](), msgpack.RawMessage{}, msgpack.RawMessage{0x91, 0xc0})
	codectest.Run(t, codec.For[any](), []any{nil, true, "s", int64(5), uint64(5), int8(5), 1.5, []any{}, map[string]any{"a": []any{int64(7)}}}...)
	codectest.Run(t, codec.For[map[string]any](), nil, map[string]any{"a": map[string]any{}, "b": nil})
}

func TestMessagePackStoresIntegersInTheFewestBytesUnlessThereIsAny(t *testing.T) {
	t.Parallel()
	b, err := codec.MessagePack[struct{ ID int64 }]().Append(nil, struct{ ID int64 }{5})
	require.NoError(t, err)
	require.Equal(t, "\x81\xa2ID\x05", string(b))

	b, err = codec.MessagePack[any]().Append(nil, int64(5))
	require.NoError(t, err)
	require.Equal(t, "\xd3\x00\x00\x00\x00\x00\x00\x00\x05", string(b))
}

func TestMessagePackReadsOtherReleases(t *testing.T) {
	t.Parallel()
	type before struct {
		Name string
		Gone []string
		Size uint16
	}
	type after struct {
		Name string
		Size uint64
		New  *int
	}
	src, err := codec.For[before]().Append(nil, before{"n", []string{"x"}, 7})
	require.NoError(t, err)
	v := after{New: new(int)}
	require.NoError(t, codec.For[after]().Decode(src, &v))
	require.Equal(t, after{Name: "n", Size: 7}, v)
}

func TestMessagePackReadsWhatMsgpackWrites(t *testing.T) {
	t.Parallel()
	src, err := msgpack.Marshal(full())
	require.NoError(t, err)
	var v everything
	require.NoError(t, codec.For[everything]().Decode(src, &v))
	require.Equal(t, full(), v)

	src, err = codec.For[everything]().Append(nil, full())
	require.NoError(t, err)
	v = everything{}
	require.NoError(t, msgpack.Unmarshal(src, &v))
	v.Time = v.Time.UTC()
	require.Equal(t, full(), v)
}

func TestMessagePackTakesTheLastOfDuplicateKeys(t *testing.T) {
	t.Parallel()
	var v inner
	require.NoError(t, codec.For[inner]().Decode([]byte("\x82\xa1A\x01\xa1A\x02"), &v))
	require.Equal(t, inner{A: 2}, v)
	var m map[string]string
	require.NoError(t, codec.For[map[string]string]().Decode([]byte("\x82\xa1A\xa1x\xa1A\xa1y"), &m))
	require.Equal(t, map[string]string{"A": "y"}, m)
}

func TestMessagePackRefusesDuplicateKeysOfAny(t *testing.T) {
	t.Parallel()
	refuses(t, codec.For[struct{ A any }](), "\x82\xa1A\x01\xa1A\x02") // msgpack panics
}

func TestMessagePackRefusesToWriteWhatItWouldNotRead(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"two values":     appendError(codec.For[twoValues](), twoValues{}),
		"nothing":        appendError(codec.For[noValue](), noValue{}),
		"nested too far": appendError(codec.For[any](), deep(600)),
		"a chan in any":  appendError(codec.For[any](), any(make(chan int))),
	} {
		require.ErrorIs(t, err, codec.ErrEncode, name)
	}
	require.NoError(t, appendError(codec.For[any](), deep(512)))
	require.ErrorIs(t, appendError(codec.For[any](), deep(513)), codec.ErrTooLarge)
}

func appendError[V any](c codec.Codec[V], v V) error {
	_, err := c.Append(nil, v)
	return err
}

func deep(n int) (v any) {
	v = 1
	for range n {
		v = []any{v}
	}
	return v
}

type twoValues struct{}

func (twoValues) EncodeMsgpack(e *msgpack.Encoder) error  { return e.EncodeMulti(1, 2) }
func (*twoValues) DecodeMsgpack(d *msgpack.Decoder) error { return d.DecodeMulti(new(int), new(int)) }

type noValue struct{}

func (noValue) EncodeMsgpack(*msgpack.Encoder) error  { return nil }
func (*noValue) DecodeMsgpack(*msgpack.Decoder) error { return nil }
