package codec_test

import (
	"errors"
	"math/big"
	"net/netip"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

func TestTextStoresWhatTheMethodsMake(t *testing.T) {
	t.Parallel()
	addr := netip.MustParseAddr("10.0.0.1")
	codectest.Run(t, codec.Text[netip.Addr](), netip.Addr{}, addr, netip.MustParseAddr("::1"))
	b, err := codec.Text[netip.Addr]().Append(nil, addr)
	require.NoError(t, err)
	require.Equal(t, "10.0.0.1", string(b))

	// The methods of big.Int have a pointer receiver. V may be the type or the
	// pointer.
	codectest.Run(t, codec.Text[*big.Int](), big.NewInt(0), big.NewInt(-5), new(big.Int).Lsh(big.NewInt(1), 200))
	equal := func(a, b big.Int) bool { return a.Cmp(&b) == 0 }
	codectest.RunEqual(t, codec.Text[big.Int](), equal, *big.NewInt(0), *big.NewInt(77))
}

func TestTextRefusesANilPointer(t *testing.T) {
	t.Parallel()
	out, err := codec.Text[*big.Int]().Append([]byte("x"), nil)
	require.ErrorIs(t, err, codec.ErrEncode)
	require.Equal(t, "x", string(out))
}

func TestTextWantsBothMethods(t *testing.T) {
	t.Parallel()
	require.ErrorContains(t, codec.Check(codec.Text[int]()), "int has no method AppendText or MarshalText")
	require.ErrorContains(t, codec.Check(codec.Text[onlyMarshalText]()), "has no method UnmarshalText")
	require.ErrorIs(t, codec.Check(codec.Text[any]()), codec.ErrConfig)
}

type onlyMarshalText struct{}

func (onlyMarshalText) MarshalText() ([]byte, error) { return nil, nil }

// badText is a type whose methods fail in the way that how names.
type badText struct{ how string }

var errBadText = errors.New("secret in the text of an error")

func (b badText) MarshalText() ([]byte, error) { return []byte(b.how), b.fail("encode") }

func (b *badText) UnmarshalText(src []byte) error {
	b.how = string(src)
	return b.fail("decode")
}

func (b badText) fail(when string) error {
	switch b.how {
	case when + " error":
		return errBadText
	case when + " panic":
		panic("secret in a panic")
	case when + " nil":
		var p *badText
		_ = p.how
	}
	return nil
}

func TestErrorsAndPanicsOfMethodsAreErrorsThatDoNotQuoteThem(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]codec.Codec[badText]{
		"Text": codec.Text[badText](), "JSON": codec.JSON[badText](), "MessagePack": codec.MessagePack[badText](),
	} {
		for _, how := range []string{"error", "panic", "nil"} {
			out, err := c.Append([]byte("dst"), badText{"encode " + how})
			require.ErrorIs(t, err, codec.ErrEncode, "%s, %s", name, how)
			require.NotContains(t, err.Error(), "secret")
			require.Equal(t, "dst", string(out))
			require.Equal(t, how == "error", errors.Is(err, errBadText))

			text := "decode " + how
			src := map[string][]byte{
				"Text": []byte(text), "JSON": []byte(strconv.Quote(text)), "MessagePack": append([]byte{0xc4, byte(len(text))}, text...),
			}[name]
			v := badText{"before"}
			err = c.Decode(src, &v)
			require.ErrorIs(t, err, codec.ErrFormat, "%s, %s", name, how)
			require.NotContains(t, err.Error(), "secret")
			require.Zero(t, v)
			require.Equal(t, how == "error", errors.Is(err, errBadText))
		}
		codectest.Run(t, c, badText{}, badText{"fine"}) // it works afterwards
	}
}
