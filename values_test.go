package cachex

import (
	"context"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

// setRefused checks that Set of v fails with an error of this text that does not
// show the value, and that a load that returns v is returned and not stored.
func setRefused[V any](t *testing.T, c codec.Codec[V], v V, want string, is error) {
	t.Helper()
	rdb := redistest.StartEmbedded(t).Client(nil)
	cache := newCache(t, rdb, Spec[int, V]{Key: "users:{id}", Codec: c, Up: func(context.Context, int) (V, error) { return v, nil }})
	err := cache.Set(t.Context(), 1, v)
	requireError(t, err, Error{Op: "set", Cache: "users", Key: "users:1"}, "cachex: set users:1: "+want)
	require.NotContains(t, err.Error(), "s3cret")
	if is != nil {
		require.ErrorIs(t, err, is)
	}
	_, err = cache.Get(t.Context(), 1)
	require.NoError(t, err, "the value is there, even if it cannot be stored")
	require.EqualValues(t, 1, cache.Stats().StoreFailures)
	require.Zero(t, rdb.Exists(t.Context(), "users:1").Val())
}

func TestSet_RefusesAValueThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	circle := &node{}
	circle.Next = circle
	str, secret := codec.String[string](), "s3cret"
	for name, check := range map[string]func(*testing.T){
		"NaN in JSON": func(t *testing.T) {
			setRefused(t, codec.JSON[float64](), math.NaN(), "codec: json: unsupported value: NaN", codec.ErrEncode)
		},
		// Both encoders would follow it until the stack is full, and that no recover catches.
		"a cycle": func(t *testing.T) {
			setRefused(t, nil, circle, "codec: nested deeper than 512, or in a cycle", codec.ErrTooLarge)
		},
		"a cycle in JSON": func(t *testing.T) {
			setRefused(t, codec.JSON[*node](), circle, "codec: json: unsupported value: encountered a cycle via *cachex.node", codec.ErrEncode)
		},
		"a cycle in an any": func(t *testing.T) {
			m := map[string]any{"name": secret}
			m["me"] = m
			setRefused[any](t, nil, m, "codec: nested deeper than 512, or in a cycle", codec.ErrTooLarge)
		},
		"a channel in an any": func(t *testing.T) {
			setRefused[any](t, nil, map[string]any{"c": make(chan int)}, "codec: chan int cannot be encoded", codec.ErrEncode)
		},
		"a method that panics with a string": func(t *testing.T) {
			setRefused(t, codec.JSON[rude](), rude{secret}, "codec: panic in a method of the value: string", codec.ErrEncode)
		},
		"a method that panics with an error": func(t *testing.T) {
			setRefused(t, nil, rude{secret}, "codec: panic in a method of the value: *errors.errorString", codec.ErrEncode)
		},
		"a method that fails": func(t *testing.T) {
			setRefused(t, codec.Text[textKey2](), "fail", "codec: text: *errors.errorString", io.ErrUnexpectedEOF)
		},
		"more bytes than are allowed": func(t *testing.T) {
			setRefused(t, codec.Compress(str, codec.Compression{MaxSize: 10}), strings.Repeat(secret, 10),
				"codec: Compress: more bytes than Compression.MaxSize", codec.ErrTooLarge)
		},
		// Not "load panicked", which nothing did.
		"a codec that panics": func(t *testing.T) {
			setRefused[string](t, badCodec{str}, secret, "codec panicked with a string", nil)
		},
		"a codec that fails": func(t *testing.T) {
			setRefused[string](t, badCodec{str}, "fail "+secret, "short write", io.ErrShortWrite)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t)
		})
	}
}

// textKey2 is textKey as a value: it can be read as well.
type textKey2 string

func (k textKey2) MarshalText() ([]byte, error)  { return textKey(k).MarshalText() }
func (k *textKey2) UnmarshalText(b []byte) error { *k = textKey2(b); return nil }

// Such a value is not stored: it could not be read back.
func TestSet_RefusesAValueWhoseDecodingPanics(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, oneWay]{Codec: codec.JSON[oneWay](), Up: func(context.Context, int) (oneWay, error) {
			return oneWay{"up"}, nil
		}})
		require.ErrorIs(t, c.Set(t.Context(), 1, oneWay{"set"}), codec.ErrEncode)
		for i := range 3 {
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, oneWay{"up"}, v)
			require.EqualValues(t, i+1, c.Stats().Loads)
			require.EqualValues(t, i+1, c.Stats().StoreFailures)
		}
	})
}

// Another program may have stored it.
func TestGet_PanicOnDecodingIsAMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := redistest.Key(t) + ":{id}"
		loads := 0
		c := newCache(t, rdb, Spec[int, oneWay]{Key: key, Codec: codec.JSON[oneWay](), Up: func(context.Context, int) (oneWay, error) {
			loads++
			return oneWay{"up"}, nil
		}})
		theirs := newCache(t, process(t, rdb), Spec[int, map[string]string]{Key: key, Codec: codec.JSON[map[string]string]()})
		for i := range 3 {
			require.NoError(t, theirs.Set(t.Context(), 1, map[string]string{"Name": "theirs"}))
			_, ok, err := c.Lookup(t.Context(), 1)
			require.NoError(t, err)
			require.False(t, ok)
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, oneWay{"up"}, v)
			require.Equal(t, i+1, loads)
		}
		require.EqualValues(t, 6, c.Stats().DecodeFailures)
	})
}

// roundTrip checks that v is a value like any other: a hit after Set, and after
// a load.
func roundTrip[V any](v V) func(*testing.T, *redis.Client) {
	return func(t *testing.T, rdb *redis.Client) {
		loads := 0
		c := newCache(t, rdb, Spec[string, V]{Up: func(context.Context, string) (V, error) { loads++; return v, nil }})
		require.NoError(t, c.Set(t.Context(), "set", v))
		for _, key := range []string{"set", "load", "load"} {
			got, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
		got, ok, err := c.Lookup(t.Context(), "load")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, v, got)
		require.Equal(t, 1, loads, "a value that was stored is a hit")
		require.Zero(t, c.Stats().DecodeFailures)
	}
}

func TestGet_ValueThatLooksEmptyIsAValue(t *testing.T) {
	t.Parallel()
	entry := "\xc1X\x01L\x00" + strings.Repeat("\x00", 35) // what a lease looks like
	for name, check := range map[string]func(*testing.T, *redis.Client){
		"the empty string":     roundTrip(""),
		"no bytes":             roundTrip([]byte{}),
		"the zero struct":      roundTrip(User{}),
		"a struct of nothing":  roundTrip(struct{}{}),
		"a nil pointer":        roundTrip((*User)(nil)),
		"a pointer to zero":    roundTrip(&User{}),
		"a nil map":            roundTrip(map[string]int(nil)),
		"an empty map":         roundTrip(map[string]int{}),
		"a nil any":            roundTrip[any](nil),
		"zero":                 roundTrip(0),
		"false":                roundTrip(false),
		"the least integer":    roundTrip(int64(math.MinInt64)),
		"the greatest integer": roundTrip(uint64(math.MaxUint64)),
		"NaN's neighbour":      roundTrip(math.Inf(-1)),
		"the zero time":        roundTrip(time.Time{}),
		"a star":               roundTrip("*"),           // what others store for "not found"
		"a lock of others":     roundTrip("rueidisid:x"), // what others take for a lock
		"null":                 roundTrip("null"),
		"one zero byte":        roundTrip([]byte{0}),
		"an entry":             roundTrip(entry),
		"not UTF-8":            roundTrip("\xff\xfe"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, check)
		})
	}
}
