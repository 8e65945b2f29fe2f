package codec_test

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

// sealing has the additional methods of a codec that authenticates, as Keyed
// documents.
type sealing interface {
	Authenticates() bool
	AppendNone(dst []byte, key string) ([]byte, error)
	DecodeNone(src []byte, key string) error
}

func TestEncrypt_SealsAnAbsenceThroughWrappers(t *testing.T) {
	t.Parallel()
	str := codec.String[string]()
	sealed := codec.Encrypt(str, codec.Key{ID: 1, Secret: make([]byte, 16)})
	same := func(s string) (string, error) { return s, nil }
	for name, c := range map[string]codec.Codec[string]{
		"Encrypt":  sealed,
		"Version":  codec.Version(sealed, 3),
		"Compress": codec.Compress(sealed, codec.Compression{}),
		"Map":      codec.Map(codec.Version(sealed, 1), same, same),
		"Bind":     codec.Bind(sealed),
	} {
		s, ok := c.(sealing)
		require.True(t, ok && s.Authenticates(), name)
		b, err := s.AppendNone([]byte("before"), "users:1")
		require.NoError(t, err, name)
		require.True(t, bytes.HasPrefix(b, []byte("before")), name)
		b = b[len("before"):]
		require.NoError(t, s.DecodeNone(b, "users:1"), name)
		require.ErrorIs(t, s.DecodeNone(b, "users:2"), codec.ErrAuth, name)
		for i := range len(b) * 8 {
			forged := bytes.Clone(b)
			forged[i/8] ^= 1 << (i % 8)
			require.Error(t, s.DecodeNone(forged, "users:1"), name)
			require.Error(t, s.DecodeNone(forged[:i/8], "users:1"), name)
		}
		// A value does not pass for an absence, nor an absence for a value.
		var v string
		require.Error(t, codec.Bind(c).DecodeKeyed(b, "users:1", &v), name)
		empty, err := codec.Bind(sealed).AppendKeyed(nil, "users:1", "")
		require.NoError(t, err)
		require.Error(t, s.DecodeNone(empty, "users:1"), name)
		_, err = s.AppendNone(nil, "")
		require.ErrorIs(t, err, codec.ErrConfig, name)
		require.Error(t, s.DecodeNone(b, ""), name)
	}
	for name, c := range map[string]codec.Codec[string]{"Version": codec.Version(str, 3), "Map": codec.Map(str, same, same)} {
		s, ok := c.(sealing)
		require.False(t, ok && s.Authenticates(), name)
	}
}
