package codec_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

type article struct {
	Title string            `json:"title"`
	Tags  []string          `json:"tags"`
	Extra map[string]any    `json:"extra"`
	Links map[string]string `json:"links"`
	Next  *article          `json:"next"`
	Small int8              `json:"small"`
}

func TestJSONRoundTrips(t *testing.T) {
	t.Parallel()
	codectest.Run(t, codec.JSON[article](),
		article{},
		article{Title: "<b>&</b>", Tags: []string{"a", "b"}, Next: &article{Title: "next"}, Small: -128},
		article{Extra: map[string]any{"n": 1.5, "s": []any{"x", nil, true}}, Links: map[string]string{"a": "b"}},
	)
	codectest.Run(t, codec.JSON[*article](), nil, &article{Title: "t"})
	codectest.Run(t, codec.JSON[[]int](), nil, []int{}, []int{1, 2})
	codectest.Run(t, codec.JSON[any](), []any{nil, "s", 1.0, map[string]any{"a": []any{}}}...)
	codectest.Run(t, codec.JSON[time.Time](), time.Time{}, time.Date(2024, 2, 3, 4, 5, 6, 7, time.UTC))
	codectest.Run(t, codec.JSON[int](), 0, -1, 1)
}

func TestJSONDoesNotEscapeHTML(t *testing.T) {
	t.Parallel()
	b, err := codec.JSON[string]().Append(nil, "<a&b>")
	require.NoError(t, err)
	require.Equal(t, `"<a&b>"`, string(b))
}

func TestJSONRefuses(t *testing.T) {
	t.Parallel()
	refuses(t, codec.JSON[article](), "", "null", " null\n", "{", `{"title":"a"}{}`, `{"title":1}`, "[]", `{"small":300}`)
	refuses(t, codec.JSON[int](), "null", "1 2", `"1"`)
	refuses(t, codec.JSON[any](), strings.Repeat("[", 1<<20), strings.Repeat("[", 10001)+strings.Repeat("]", 10001))
}

func TestJSONErrorsDoNotQuoteTheValue(t *testing.T) {
	t.Parallel()
	err := codec.JSON[article]().Decode([]byte(`{"small":31337}`), new(article))
	require.EqualError(t, err, "codec: JSON number does not fit field small of type int8")
}

func TestJSONCannotEncodeNaNAndCycles(t *testing.T) {
	t.Parallel()
	_, err := codec.JSON[float64]().Append(nil, math.NaN())
	require.ErrorIs(t, err, codec.ErrEncode)

	a := &article{}
	a.Next = a
	_, err = codec.JSON[*article]().Append(nil, a)
	require.ErrorIs(t, err, codec.ErrEncode)
	codectest.Run(t, codec.JSON[*article](), &article{}) // it works afterwards
}

func TestJSONCheckNamesTheField(t *testing.T) {
	t.Parallel()
	type inner struct{ F func() }
	type outer struct {
		Skipped chan int `json:"-"`
		Inner   map[string][]inner
	}
	err := codec.Check(codec.JSON[outer]())
	require.ErrorIs(t, err, codec.ErrConfig)
	require.EqualError(t, err, "codec: codec_test.outer.Inner[][].F: func() cannot be encoded")
	for _, c := range []error{
		codec.Check(codec.JSON[chan int]()),
		codec.Check(codec.JSON[map[float64]int]()),
		codec.Check(codec.JSON[complex64]()),
		codec.Check(codec.JSON[error]()),
		codec.Check(codec.JSON[struct{ hidden int }]()),
	} {
		require.ErrorIs(t, c, codec.ErrConfig)
	}
	require.NoError(t, codec.Check(codec.JSON[struct{}]()))
	require.NoError(t, codec.Check(codec.JSON[map[int]map[name]*article]()))
}
