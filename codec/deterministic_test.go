package codec_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

func TestDeterministic_NamesTheCodecThatIsNot(t *testing.T) {
	t.Parallel()
	sealed := codec.Encrypt(codec.For[string](), codec.Key{Secret: make([]byte, 16)})
	same := func(s string) (string, error) { return s, nil }
	for name, c := range map[string]codec.Codec[string]{
		"Encrypt": sealed, "Compress": codec.Compress(sealed, codec.Compression{}), "Version": codec.Version(sealed, 1),
		"Map": codec.Map(sealed, same, same), "Bind": codec.Bind(sealed),
	} {
		err := codec.Deterministic(c)
		require.ErrorIs(t, err, codec.ErrConfig, name)
		require.ErrorContains(t, err, "Encrypt", name)
	}
	require.NoError(t, codec.Deterministic(codec.Version(codec.For[map[string]int](), 1)))
	require.NoError(t, codec.Deterministic(codec.JSON[map[string]int]()))
	require.NoError(t, codec.Deterministic(codec.Bind(codec.For[string]())))
}
