package codec_test

import (
	"errors"
	"reflect"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

type (
	unexportedPart struct{ X int }
	Exported       struct{ X int }
	logLevel       int
	embedsItself   struct{ *embedsItself }
	ring1          struct{ *ring2 }
	ring2          struct{ *ring1 }
	unexportedInt  int
)

func (logLevel) MarshalText() ([]byte, error) { return nil, nil }

func TestCheckNamesTheFieldAndTheReason(t *testing.T) {
	t.Parallel()
	type inner struct{ Ch chan int }
	type outer struct {
		Name   string
		Inner  []map[string]*inner
		hidden func()
	}
	for want, err := range map[string]error{
		"codec_test.outer.Inner[][].Ch: chan int cannot be encoded":                                                     codec.Check(codec.For[outer]()),
		"func() cannot be encoded":                                                                                      codec.Check(codec.For[func()]()),
		"complex128 cannot be encoded":                                                                                  codec.Check(codec.For[complex128]()),
		"error cannot be encoded":                                                                                       codec.Check(codec.For[error]()),
		"map[string]error[]: error cannot be encoded":                                                                   codec.Check(codec.For[map[string]error]()),
		"map[chan int]int key: chan int cannot be encoded":                                                              codec.Check(codec.For[map[chan int]int]()),
		"[]uintptr[]: uintptr cannot be encoded":                                                                        codec.Check(codec.For[[]uintptr]()),
		"sync.Mutex: sync.Mutex has no exported field to store":                                                         codec.Check(codec.For[sync.Mutex]()),
		"struct { M sync.Mutex }.M: sync.Mutex has no exported field to store":                                          codec.Check(codec.For[struct{ M sync.Mutex }]()),
		"codec_test.self cannot be encoded":                                                                             codec.Check(codec.For[self]()),
		"codec_test.embedsItself.embedsItself: codec_test.embedsItself embeds itself":                                   codec.Check(codec.For[embedsItself]()),
		"*codec_test.ring1.ring2.ring1: codec_test.ring1 embeds itself":                                                 codec.Check(codec.For[*ring1]()),
		"[]codec_test.logLevel[]: codec_test.logLevel is an encoding.TextMarshaler and not an encoding.TextUnmarshaler": codec.Check(codec.For[[]logLevel]()),
	} {
		require.ErrorIs(t, err, codec.ErrConfig, want)
		require.EqualError(t, err, "codec: "+want)
	}
}

func TestCheckRefusesFieldsThatWouldBeLost(t *testing.T) {
	t.Parallel()
	for _, err := range []error{
		codec.Check(codec.For[struct {
			A int `msgpack:"x"`
			B int `msgpack:"x"`
		}]()),
		codec.Check(codec.For[struct {
			A int `msgpack:",alias:B"`
			B int
		}]()),
		codec.Check(codec.For[struct { // msgpack stores both and reads one
			Exported
			X int
		}]()),
		codec.Check(codec.For[struct { // decoded into the embedded struct
			X int `msgpack:"Named"`
			Named
		}]()),
		codec.Check(codec.For[struct{ Same }]()),
		codec.Check(codec.For[struct{ unexportedInt }]()),
		codec.Check(codec.For[struct{ *unexportedPart }]()),
		codec.Check(codec.For[struct {
			unexportedPart `msgpack:",noinline"`
		}]()),
		codec.Check(codec.For[struct {
			*Exported `msgpack:",inline"`
		}]()),
		codec.Check(codec.For[struct {
			S string `msgpack:",intern"`
		}]()),
		codec.Check(codec.For[struct {
			N int `msgpack:"'quoted,name'"`
		}]()),
	} {
		require.ErrorIs(t, err, codec.ErrConfig)
	}
}

// The option inline makes msgpack drop the fields whose names are taken.
func TestCheck_RefusesInlinedFieldsThatWouldBeLost(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		".Exported: the field that is stored as \"X\"": codec.Check(codec.For[struct {
			X        int
			Exported `msgpack:",inline"`
		}]()),
		".Lazy: the field that is stored as \"L\"": codec.Check(codec.For[struct {
			*Outer
			Lazy `msgpack:",inline"`
		}]()),
	} {
		require.ErrorIs(t, err, codec.ErrConfig)
		require.ErrorContains(t, err, name)
	}
}

func TestCheckAllowsWhatWorks(t *testing.T) {
	t.Parallel()
	type shadow struct {
		X int
		Exported
	}
	type inlined struct {
		sync.Mutex
		unexportedPart
		*ignored `msgpack:"-"`
		Y        string
	}
	codectest.Run(t, codec.For[shadow](), shadow{1, Exported{2}})
	type apart struct {
		*Exported `msgpack:"e,noinline"`
		T         time.Time
	}
	codectest.Run(t, codec.For[apart](), apart{}, apart{Exported: &Exported{1}})
	type array struct {
		_msgpack struct{} `msgpack:",as_array"`
		A        int8
		B        string
	}
	codectest.Run(t, codec.For[array](), array{}, array{A: 1, B: "b"})

	require.NoError(t, codec.Check(codec.For[inlined]()))
	for _, v := range []*inlined{{}, {unexportedPart: unexportedPart{3}, Y: "abc"}} {
		src, err := codec.For[*inlined]().Append(nil, v)
		require.NoError(t, err)
		var got *inlined
		require.NoError(t, codec.For[*inlined]().Decode(src, &got))
		require.Equal(t, v.X, got.X)
		require.Equal(t, v.Y, got.Y)
	}
	require.NoError(t, codec.Check(codec.For[struct{}]()))
	require.NoError(t, codec.Check(codec.For[[0]int]()))
	require.NoError(t, codec.Check(codec.For[selfSlice]()))
	require.NoError(t, codec.Check(codec.For[tree]()))
	codectest.Run(t, codec.For[Parent](), Parent{}, Parent{Common{[]Child{{}, {Common{[]Child{{}}}}}}})
}

type ignored struct{}

type (
	Named struct{ Y int }
	Same  struct{ Same string }
)

// Common is embedded in structs that have a field of its type.
type (
	Common struct{ Children []Child }
	Parent struct{ Common }
	Child  struct{ Common }
)

// ticket is registered with msgpack and has no methods.
type ticket struct{ n byte }

func init() {
	msgpack.RegisterExtEncoder(42, ticket{}, func(_ *msgpack.Encoder, v reflect.Value) ([]byte, error) {
		return []byte{v.Interface().(ticket).n}, nil
	})
	msgpack.RegisterExtDecoder(42, ticket{}, func(d *msgpack.Decoder, v reflect.Value, n int) error {
		if n != 1 {
			return errors.New("not a ticket")
		}
		var b [1]byte
		if err := d.ReadFull(b[:]); err != nil {
			return err
		}
		v.Addr().Interface().(*ticket).n = b[0]
		return nil
	})
}

func TestRegisteredTypesAreCarried(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.For[ticket](), ticket{}, ticket{7})
	type holder struct {
		T  ticket
		Ts []*ticket
		M  map[string]any
	}
	codectest.Run(t, codec.For[holder](), holder{}, holder{T: ticket{1}, Ts: []*ticket{nil, {2}}, M: map[string]any{"t": ticket{3}}})
}
