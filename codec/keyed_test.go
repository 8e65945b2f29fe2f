package codec_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

func TestBindIgnoresTheKeyOfACodecWithoutOne(t *testing.T) {
	t.Parallel()
	k := codec.Bind(codec.String[string]())
	b, err := k.AppendKeyed([]byte("a"), "key", "b")
	require.NoError(t, err)
	require.Equal(t, "ab", string(b))
	var v string
	require.NoError(t, k.DecodeKeyed(b, "other key", &v))
	require.Equal(t, "ab", v)
	require.NoError(t, codec.Check[string](k))
	require.Equal(t, k, codec.Bind[string](k))
}

func TestWrappersHandTheKeyOn(t *testing.T) {
	t.Parallel()
	sealed := codec.Encrypt(codec.String[string](), codec.Key{Secret: make([]byte, 32)})
	same := func(s string) (string, error) { return s, nil }
	for name, c := range map[string]codec.Codec[string]{
		"Encrypt":  sealed,
		"Version":  codec.Version(sealed, 3),
		"Compress": codec.Compress(sealed, codec.Compression{}),
		"Map":      codec.Map(sealed, same, same),
		"all":      codec.Map(codec.Version(codec.Compress(sealed, codec.Compression{}), 1), same, same),
		"twice":    codec.Encrypt(sealed, codec.Key{ID: 1, Secret: make([]byte, 16)}),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			codectest.Run(t, c, "", "value")
			k := codec.Bind(c)
			src, err := k.AppendKeyed(nil, "users:1", "value")
			require.NoError(t, err)
			require.ErrorIs(t, k.DecodeKeyed(src, "users:2", new(string)), codec.ErrAuth)

			_, err = c.Append(nil, "value")
			require.ErrorIs(t, err, codec.ErrConfig)
			require.ErrorIs(t, err, codec.ErrEncode)
			require.ErrorContains(t, err, "Encrypt needs the Redis key")
			err = c.Decode(src, new(string))
			require.ErrorIs(t, err, codec.ErrConfig)
			require.ErrorIs(t, err, codec.ErrFormat)
		})
	}
}

func TestCheckGoesThroughWrappers(t *testing.T) {
	t.Parallel()
	same := func(c chan int) (chan int, error) { return c, nil }
	bad := codec.For[chan int]()
	for name, c := range map[string]codec.Codec[chan int]{
		"For":      bad,
		"Version":  codec.Version(bad, 1),
		"Compress": codec.Compress(bad, codec.Compression{}),
		"Map":      codec.Map(bad, same, same),
		"Encrypt":  codec.Encrypt(bad, codec.Key{Secret: make([]byte, 16)}),
		"Bind":     codec.Bind(bad),
	} {
		err := codec.Check(c)
		require.ErrorIs(t, err, codec.ErrConfig, name)
		require.EqualError(t, err, "codec: chan int cannot be encoded", name)
		_, err = codec.Bind(c).AppendKeyed(nil, "k", nil)
		require.ErrorIs(t, err, codec.ErrConfig, name)
		require.ErrorIs(t, err, codec.ErrEncode, name)
	}
}

func TestNilCodecIsAnErrorAndNotAPanic(t *testing.T) {
	t.Parallel()
	for _, c := range []codec.Codec[int]{
		codec.Bind[int](nil), codec.Version[int](nil, 1), codec.Compress[int](nil, codec.Compression{}),
		codec.Encrypt[int](nil, codec.Key{Secret: make([]byte, 16)}),
	} {
		require.ErrorIs(t, codec.Check(c), codec.ErrConfig)
		_, err := codec.Bind(c).AppendKeyed(nil, "k", 1)
		require.ErrorIs(t, err, codec.ErrConfig)
	}
	require.ErrorIs(t, codec.Check[int](nil), codec.ErrConfig)
}
