package codec_test

import (
	"encoding/json"
	"math"
	"math/big"
	"net/netip"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

// comes appends v, decodes the bytes and returns the result.
func comes[V any](t *testing.T, v V) (got V) {
	t.Helper()
	c := codec.For[V]()
	require.NoError(t, codec.Check(c))
	src, err := c.Append(nil, v)
	require.NoError(t, err)
	require.NoError(t, c.Decode(src, &got))
	return got
}

func TestMessagePack_OmitEmptyLeavesOutWhatIsZeroAndNothingElse(t *testing.T) {
	t.Parallel()
	type host struct {
		Addr  netip.Addr     `msgpack:"addr,omitempty"`
		Big   big.Int        `msgpack:",omitempty"`
		Own   custom         `msgpack:",omitempty"`
		Tags  []string       `msgpack:",omitempty"`
		Attrs map[string]int `msgpack:",omitempty"`
		Any   any            `msgpack:",omitempty"`
		At    *time.Time     `msgpack:",omitempty"`
		Ver   version        `msgpack:",omitempty"`
		F     float64        `msgpack:",omitempty"`
	}
	want := host{
		netip.MustParseAddr("10.0.0.1"), *big.NewInt(5), custom{1, 2}, []string{}, map[string]int{}, int8(0), &time.Time{}, 1, math.Copysign(0, -1),
	}
	got := comes(t, want)
	require.True(t, math.Signbit(got.F))
	require.Equal(t, want, got)

	src, err := codec.For[host]().Append(nil, host{})
	require.NoError(t, err)
	require.Equal(t, "\x80", string(src))
}

func TestMessagePack_MapsInAnAnyComeBackWithAnyKeys(t *testing.T) {
	t.Parallel()
	at := time.Unix(5, 0).UTC()
	for _, c := range []struct{ is, comes any }{
		{map[int]string{1: "a", 300: "b"}, map[any]any{int8(1): "a", uint16(300): "b"}},
		{map[any]any{"s": 1.5, true: nil, int64(7): "x"}, map[any]any{"s": 1.5, true: nil, int64(7): "x"}},
		{map[any]any{"only": "strings"}, map[string]any{"only": "strings"}},
		{map[time.Time]int64{at: 1}, map[any]any{at: int64(1)}},
		{map[float64]bool{1.5: true}, map[any]any{1.5: true}},
	} {
		for range 3 { // at each depth
			require.Equal(t, c.comes, comes(t, c.is))
			c.is, c.comes = map[string]any{"deeper": []any{c.is}}, map[string]any{"deeper": []any{c.comes}}
		}
	}
	for name, is := range map[string]any{
		"an array as a key":   map[[2]int]int{{1, 2}: 3},
		"a struct as a key":   map[pair]int{{1, 2}: 3},
		"bytes as a key":      map[[2]byte]int{{1, 2}: 3},
		"keys that are alike": map[any]any{int8(1): 1, int(1): 2},
	} {
		_, err := codec.For[any]().Append(nil, []any{is})
		require.ErrorIs(t, err, codec.ErrEncode, name)
	}
	_, err := codec.For[map[any]int]().Append(nil, map[any]int{1: 1})
	require.ErrorIs(t, err, codec.ErrEncode, "an int as a key comes back as an int8")
	require.Equal(t, map[any]int{int8(1): 1, "s": 2}, comes(t, map[any]int{int8(1): 1, "s": 2}))
}

func TestMessagePack_EmbeddedPointersComeBackAsTheyWere(t *testing.T) {
	t.Parallel()
	for _, want := range []Deeper{
		{}, {C: "c"}, {Outer: &Outer{}}, {Outer: &Outer{Inner: &Inner{}}}, {Outer: &Outer{B: &Lazy{}, Lazy: Lazy{L: []int8{}}}},
		{Outer: &Outer{Inner: &Inner{X: 1, At: time.Unix(1, 0).UTC()}}},
	} {
		require.Equal(t, want, comes(t, want))
	}
	require.ErrorContains(t, codec.Check(codec.For[struct {
		*ignored
		Blank
		A int
	}]()), "ignored")
	require.ErrorContains(t, codec.Check(codec.For[struct {
		*Blank
		A int
	}]()), "Blank")
	require.ErrorContains(t, codec.Check(codec.For[struct {
		_msgpack struct{} `msgpack:",as_array"`
		*Base
	}]()), "stored as an array")
}

// Blank has no field to store.
type Blank struct{ hidden int }

func TestMessagePack_TimesComeBackInUTC(t *testing.T) {
	t.Parallel()
	type event struct {
		At  time.Time
		Any any
		By  map[string]*time.Time
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	want := event{at, at, map[string]*time.Time{"x": &at}}
	east := at.In(time.FixedZone("", 7200))
	for _, v := range []event{want, {east, east, map[string]*time.Time{"x": &east}}} {
		got := comes(t, v)
		require.Equal(t, want, got)
		miss, err := json.Marshal(want)
		require.NoError(t, err)
		hit, err := json.Marshal(got)
		require.NoError(t, err)
		require.Equal(t, string(miss), string(hit))
	}
	// The same holds for bytes that are left to msgpack: a field occurs twice.
	var got struct {
		N  int
		At time.Time
	}
	require.NoError(t, codec.For[struct {
		N  int
		At time.Time
	}]().Decode([]byte("\x83\xa1N\x01\xa1N\x02\xa2At\xd6\xff\x00\x00\x00\x05"), &got))
	require.Equal(t, time.Unix(5, 0).UTC(), got.At)
}

func TestMessagePack_RefusesToStoreWhatWouldNotComeBack(t *testing.T) {
	t.Parallel()
	var none []int
	for name, err := range map[string]error{
		"a pointer to nil":                appendError(codec.For[struct{ P *[]int }](), struct{ P *[]int }{&none}),
		"a value that its type refuses":   appendError(codec.For[struct{ G grading }](), struct{ G grading }{0}),
		"in an any":                       appendError(codec.For[any](), any(noValue{})),
		"by generated methods":            appendError(codec.For[halfGenerated](), halfGenerated{}),
		"as text":                         appendError(codec.Text[grading](), 0),
		"as JSON":                         appendError(codec.JSON[struct{ G grading }](), struct{ G grading }{0}),
		"a key in another zone than UTC":  appendError(codec.For[map[time.Time]int](), map[time.Time]int{time.Unix(1, 0).In(time.FixedZone("", 60)): 1}),
		"two keys that are encoded alike": appendError(codec.For[map[vague]int](), map[vague]int{1: 1, 2: 2}),
	} {
		require.ErrorIs(t, err, codec.ErrEncode, name)
	}
	require.Equal(t, struct{ G grading }{3}, comes(t, struct{ G grading }{3}))
}

// vague has the same text for every value.
type vague int

func (vague) MarshalText() ([]byte, error)  { return []byte("?"), nil }
func (v *vague) UnmarshalText([]byte) error { return nil }

// halfGenerated does not decode the bytes that it makes.
type halfGenerated struct{}

func (halfGenerated) MarshalMsg(b []byte) ([]byte, error)  { return append(b, 1), nil }
func (*halfGenerated) UnmarshalMsg([]byte) ([]byte, error) { return nil, errBadText }

func TestCheck_RefusesWhatIsStoredByThePromotedMethodsOfOneField(t *testing.T) {
	t.Parallel()
	const want = "has the methods of an embedded field"
	require.ErrorContains(t, codec.Check(codec.For[embedsTime]()), want)
	require.ErrorContains(t, codec.Check(codec.For[[]*embedsTime]()), want)
	require.ErrorContains(t, codec.Check(codec.For[struct {
		big.Int
		N int
	}]()), want)
	require.ErrorContains(t, codec.Check(codec.JSON[embedsTime]()), want)
	require.NoError(t, codec.Check(codec.For[stamped]()))
}

func TestCheck_RefusesMapKeysThatWouldNotBeFound(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, codec.Check(codec.For[map[*int]int]()), "map[*int]int key")
	require.ErrorContains(t, codec.Check(codec.For[map[struct{ P *int }]int]()), "key.P")
	require.ErrorContains(t, codec.Check(codec.For[map[partly]int]()), "key.hidden")
	require.NoError(t, codec.Check(codec.For[map[netip.Addr]int]()))
}

func TestCheck_NotesFieldsThatOnlyJSONHides(t *testing.T) {
	t.Parallel()
	type account struct {
		Name     string `json:"name"`
		Password string `json:"-"`
	}
	for _, err := range []error{
		codec.Check(codec.For[account]()), codec.Check(codec.For[map[string][]*account]()), codec.Check(codec.Version(codec.For[account](), 2)),
	} {
		require.ErrorIs(t, err, codec.ErrNote)
		require.NotErrorIs(t, err, codec.ErrConfig)
		require.ErrorContains(t, err, ".Password has the tag")
	}
	type tagged struct {
		Name     string `json:"name" msgpack:"name"`
		Password string `json:"-"`
	}
	require.NoError(t, codec.Check(codec.For[tagged]()))
	require.NoError(t, codec.Check(codec.JSON[account]()))
}

func TestMessagePack_EqualMapsHaveEqualBytes(t *testing.T) {
	t.Parallel()
	m, other := map[string]int{}, map[string]int{}
	for i := range 100 {
		m[string(rune('a'+i))], other[string(rune('a'+99-i))] = i, 99-i
	}
	x, err := codec.For[map[string]int]().Append(nil, m)
	require.NoError(t, err)
	y, err := codec.For[map[string]int]().Append(nil, other)
	require.NoError(t, err)
	require.Equal(t, x, y)
}
