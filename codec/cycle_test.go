package codec_test

import (
	"container/list"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

type tree struct {
	Left, Right *tree
	Kids        []tree
	ByName      map[string]*tree
	Any         any
	hidden      *tree
	Skipped     *tree `msgpack:"-"`
}

type (
	self      *self
	selfSlice []selfSlice
	selfMap   map[string]selfMap
)

// Without a guard each of these values ends the process.
func TestCyclesAreErrors(t *testing.T) {
	t.Parallel()
	left, kids, byName, inAny := &tree{}, &tree{}, &tree{}, &tree{}
	left.Left = left
	kids.Kids = []tree{{Right: kids}}
	byName.ByName = map[string]*tree{"me": byName}
	inAny.Any = []any{map[string]any{"x": inAny}}
	slice := selfSlice{nil}
	slice[0] = slice
	m := selfMap{}
	m["m"] = m
	anySlice := []any{nil}
	anySlice[0] = anySlice
	anyMap := map[string]any{}
	anyMap["m"] = map[string]any{"n": anyMap}
	var anyPtr any
	anyPtr = &anyPtr
	ring := &generated{}
	ring.Next = &generated{Next: ring}

	for name, err := range map[string]error{
		"pointer":   appendError(codec.For[*tree](), left),
		"slice":     appendError(codec.For[*tree](), kids),
		"map":       appendError(codec.For[*tree](), byName),
		"any":       appendError(codec.For[*tree](), inAny),
		"in an any": appendError(codec.For[any](), any(left)),
		"value":     appendError(codec.For[tree](), *left),
		"selfSlice": appendError(codec.For[selfSlice](), slice),
		"selfMap":   appendError(codec.For[selfMap](), m),
		"anySlice":  appendError(codec.For[any](), any(anySlice)),
		"anyMap":    appendError(codec.For[map[string]any](), anyMap),
		"anyPtr":    appendError(codec.For[any](), anyPtr),
		"generated": appendError(codec.For[generated](), *ring),
		"*gen":      appendError(codec.For[*generated](), ring),
		"unable":    appendError(codec.For[any](), any(self(nil))),
	} {
		require.ErrorIs(t, err, codec.ErrEncode, name)
		if name != "unable" {
			require.ErrorIs(t, err, codec.ErrTooLarge, name)
		}
	}
}

func TestCyclesThatAreNotEncodedAreFine(t *testing.T) {
	t.Parallel()
	v := &tree{Left: &tree{}}
	v.hidden, v.Skipped, v.Left.hidden = v, v, v
	require.NoError(t, appendError(codec.For[*tree](), v))
	require.NoError(t, appendError(codec.For[any](), any(v)))
}

func TestSharedPartsMetTooOftenAreAnError(t *testing.T) {
	t.Parallel()
	v := &tree{}
	for range 100 { // 2^100 leaves
		v = &tree{Left: v, Right: v}
	}
	require.ErrorIs(t, appendError(codec.For[*tree](), v), codec.ErrTooLarge)
}

func TestListsAsLongAsTheLimitAreEncoded(t *testing.T) {
	t.Parallel()
	v := &inner{}
	for range 510 {
		v = &inner{B: v}
	}
	src, err := codec.For[*inner]().Append(nil, v)
	require.NoError(t, err)
	var got *inner
	require.NoError(t, codec.For[*inner]().Decode(src, &got))
	require.Equal(t, v, got)
	require.ErrorIs(t, appendError(codec.For[*inner](), &inner{B: &inner{B: v}}), codec.ErrTooLarge)
}

// ownEncoding encodes itself, so it is not followed.
type ownEncoding struct{ *list.List }

func (ownEncoding) MarshalMsgpack() ([]byte, error)  { return []byte{0xc0}, nil }
func (*ownEncoding) UnmarshalMsgpack(b []byte) error { return nil }

func TestTypesThatEncodeThemselvesMayHaveCycles(t *testing.T) {
	t.Parallel()
	l := list.New()
	l.PushBack(1)
	require.NoError(t, appendError(codec.For[struct{ O ownEncoding }](), struct{ O ownEncoding }{ownEncoding{l}}))
}
