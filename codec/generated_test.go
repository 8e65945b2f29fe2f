package codec_test

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

// generated has the methods that tinylib/msgp generates, on the same receivers,
// for a struct as a MessagePack array.
type generated struct {
	ID   uint32
	Next *generated
}

var errGenerated = errors.New("msgp: not this type")

func (z *generated) MarshalMsg(b []byte) ([]byte, error) {
	if z.ID == 13 {
		return b, errGenerated
	}
	b = append(b, 0x92, 0xce)
	b = binary.BigEndian.AppendUint32(b, z.ID)
	if z.Next == nil {
		return append(b, 0xc0), nil
	}
	return z.Next.MarshalMsg(b)
}

func (z *generated) UnmarshalMsg(b []byte) ([]byte, error) {
	if len(b) < 7 || b[0] != 0x92 || b[1] != 0xce {
		return b, errGenerated
	}
	z.ID = binary.BigEndian.Uint32(b[2:])
	if b = b[6:]; b[0] == 0xc0 {
		z.Next = nil
		return b[1:], nil
	}
	if z.Next == nil {
		z.Next = new(generated)
	}
	return z.Next.UnmarshalMsg(b)
}

// byValue has MarshalMsg on the value.
type byValue struct{ B bool }

func (z byValue) MarshalMsg(b []byte) ([]byte, error) {
	if z.B {
		return append(b, 0xc3), nil
	}
	return append(b, 0xc2), nil
}

func (z *byValue) UnmarshalMsg(b []byte) ([]byte, error) {
	if b[0] != 0xc2 && b[0] != 0xc3 {
		return b, errGenerated
	}
	z.B = b[0] == 0xc3
	return b[1:], nil
}

func TestForUsesGeneratedMethods(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.For[generated](), generated{}, generated{ID: 1, Next: &generated{ID: 2}})
	codectest.Run(t, codec.For[*generated](), nil, &generated{ID: 1, Next: &generated{ID: 2}})
	codectest.Run(t, codec.For[byValue](), byValue{}, byValue{true})
	codectest.Run(t, codec.For[*byValue](), nil, &byValue{}, &byValue{true})

	b, err := codec.For[generated]().Append([]byte("x"), generated{ID: 7})
	require.NoError(t, err)
	require.Equal(t, "x\x92\xce\x00\x00\x00\x07\xc0", string(b))
}

func TestGeneratedMethodsFailWithErrors(t *testing.T) {
	t.Parallel()
	err := appendError(codec.For[generated](), generated{ID: 13})
	require.ErrorIs(t, err, codec.ErrEncode)
	require.ErrorIs(t, err, errGenerated)

	err = codec.For[generated]().Decode([]byte{0x01}, new(generated))
	require.ErrorIs(t, err, codec.ErrFormat)
	require.ErrorIs(t, err, errGenerated)

	require.ErrorIs(t, appendError(codec.For[wild](), wild{}), codec.ErrEncode)
	require.ErrorIs(t, appendError(codec.For[wild](), wild{shorten: true}), codec.ErrEncode)
	require.ErrorIs(t, codec.For[wild]().Decode([]byte{0x01}, new(wild)), codec.ErrFormat)
	require.ErrorIs(t, codec.For[wild]().Decode([]byte{0x02}, new(wild)), codec.ErrFormat)
}

// wild has methods that break every rule.
type wild struct{ shorten bool }

func (w wild) MarshalMsg(b []byte) ([]byte, error) {
	if w.shorten {
		return nil, nil
	}
	return append(b, 0xc1), nil
}

func (w *wild) UnmarshalMsg(b []byte) ([]byte, error) {
	if b[0] == 1 {
		return b, nil // reads nothing
	}
	panic("wild")
}
