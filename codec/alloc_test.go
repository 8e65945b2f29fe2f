package codec_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
)

// plain has no field that msgpack boxes, as it boxes times and slices of
// strings.
type plain struct {
	ID     int64
	Name   string
	Email  string
	Score  float64
	Active bool
	Age    uint8
	Data   []byte
}

var somePlain = plain{1 << 40, "Ada Lovelace", "ada@example.com", 0.5, true, 36, []byte("data")}

// These tests are not parallel, since they count allocations of the process.

func TestAppendIntoEnoughRoomDoesNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops what it is given, at random")
	}
	dst := make([]byte, 0, 8<<10)
	allocates(t, 0, codec.Int[int64](), 1<<40, dst)
	allocates(t, 0, codec.For[userID](), 1<<40, dst)
	allocates(t, 0, codec.String[string](), "value", dst)
	allocates(t, 0, codec.For[name](), "value", dst)
	allocates(t, 0, codec.Bytes[[]byte](), []byte("value"), dst)
	allocates(t, 0, codec.MessagePack[plain](), somePlain, dst)
	allocates(t, 0, codec.MessagePack[*plain](), &somePlain, dst)
	allocates(t, 0, codec.MessagePack[user](), someUser(), dst)
	allocates(t, 0, codec.MessagePack[[]*user](), []*user{{}, {}}, dst)
	allocates(t, 0, codec.MessagePack[map[string]user](), map[string]user{"a": someUser(), "b": {}}, dst)
	allocates(t, 0, codec.JSON[plain](), somePlain, dst)
	allocates(t, 0, codec.For[generated](), generated{ID: 1}, dst)
	allocates(t, 0, codec.Version(codec.MessagePack[plain](), 1), somePlain, dst)
	allocates(t, 0, codec.Compress(codec.MessagePack[plain](), codec.Compression{}), somePlain, dst)
	allocates(t, 0, codec.Compress(codec.String[string](), codec.Compression{}), text(2000), dst)
	allocates(t, 0, codec.Encrypt(codec.MessagePack[plain](), codec.Key{Secret: make([]byte, 32)}), somePlain, dst)
}

func allocates[V any](t *testing.T, want float64, c codec.Codec[V], v V, dst []byte) {
	t.Helper()
	k := codec.Bind(c)
	require.Equal(t, want, testing.AllocsPerRun(100, func() {
		if _, err := k.AppendKeyed(dst, "key", v); err != nil {
			t.Error(err)
		}
	}), "%T", c)
}

func TestDecodeAllocatesOnlyWhatTheValueHolds(t *testing.T) {
	if raceEnabled {
		t.Skip("under the race detector sync.Pool drops what it is given, at random")
	}
	const parts = 2 // one for both strings, and one for the bytes
	decodeAllocates(t, 0, codec.Int[int64](), 1<<40)
	decodeAllocates(t, 1, codec.String[string](), "value of some length")
	decodeAllocates(t, 1, codec.Bytes[[]byte](), []byte("value"))
	decodeAllocates(t, parts, codec.MessagePack[plain](), somePlain)
	decodeAllocates(t, 2, codec.MessagePack[user](), someUser())                                    // one for all strings, and the slice
	decodeAllocates(t, 3, codec.MessagePack[*user](), &user{Name: "Ada", Roles: []string{"admin"}}) // and the user
	decodeAllocates(t, parts, codec.Version(codec.MessagePack[plain](), 1), somePlain)
	decodeAllocates(t, parts, codec.Compress(codec.MessagePack[plain](), codec.Compression{Threshold: 1}), somePlain)
	decodeAllocates(t, parts, codec.Encrypt(codec.MessagePack[plain](), codec.Key{Secret: make([]byte, 32)}), somePlain)

	src, err := codec.MessagePack[plain]().Append(nil, somePlain)
	require.NoError(t, err)
	var v plain
	require.Less(t, float64(parts), testing.AllocsPerRun(100, func() {
		v = plain{}
		if err := msgpack.Unmarshal(src, &v); err != nil {
			t.Error(err)
		}
	}), "msgpack.Unmarshal")
}

func decodeAllocates[V any](t *testing.T, want float64, c codec.Codec[V], v V) {
	t.Helper()
	k := codec.Bind(c)
	src, err := k.AppendKeyed(nil, "key", v)
	require.NoError(t, err)
	require.Equal(t, want, testing.AllocsPerRun(100, func() {
		if err := k.DecodeKeyed(src, "key", &v); err != nil {
			t.Error(err)
		}
	}), "%T", c)
}
