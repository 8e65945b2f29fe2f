package codec_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

// Hall is 64 KiB large, and a few bytes of JSON when it is empty. Its names are
// hard to match.
type Hall struct {
	Room [8192]int64 `json:"room,omitempty"`
	Kin  []Hall      `json:"kin,omitempty"`
}

type (
	Shallow struct {
		X int    `json:"x"`
		Y []Hall // Names.Y hides it in Go, but not in JSON
	}
	Deep struct {
		Shallow
		X []Hall `json:"deep"`
	}
	Names struct {
		*Deep
		Y int    `json:"z"`
		A []Hall `json:"a"`
		B int8   `json:"A"`
		K []Hall
		S []Hall `json:"s\u017f"`
	}
	halls struct{ *Hall }
	own   struct{ Room [8192]int64 }
	roomy struct {
		Seats [88]int64 `json:",omitzero"`
	}
)

func (o *own) UnmarshalJSON([]byte) error  { return nil }
func (o own) MarshalJSON() ([]byte, error) { return []byte("{}"), nil }
func row(n int, open, each, end string) []byte {
	return []byte(open + strings.TrimSuffix(strings.Repeat(each+",", n), ",") + end)
}

// The test is not parallel, since it measures allocations of the process.
func TestJSON_DecodeAllocatesNoMoreThanItSays(t *testing.T) {
	array := func(n int, each string) []byte { return row(n, "[", each, "]") }
	for _, n := range []int{20, 2000, 100_000} {
		within(t, codec.JSON[any](), array(n, "{}"), "empty objects in any")
		within(t, codec.JSON[any](), array(n, "[]"), "empty arrays in any")
		within(t, codec.JSON[any](), array(n, `{"":{"":0}}`), "nested objects in any")
		within(t, codec.JSON[any](), array(n, "0"), "numbers in any")
		within(t, codec.JSON[[]any](), array(n, `""`), "strings in any")
		within(t, codec.JSON[[]roomy](), array(n, "{}"), "empty structs of 700 bytes")
		within(t, codec.JSON[[]*roomy](), array(n, "{}"), "pointers to them")
		within(t, codec.JSON[[]map[string]string](), array(n, `{"":""}`), "small maps")
		within(t, codec.JSON[[]map[string]roomy](), array(n, `{"":{}}`), "small maps of large structs")
		within(t, codec.JSON[[]Hall](), array(n, "{}"), "empty structs of 64 KiB")
		within(t, codec.JSON[[]Hall](), array(n, "null"), "null structs of 64 KiB")
		within(t, codec.JSON[[]Hall](), array(n, " {\n}\t"), "with white space")
		within(t, codec.JSON[[]*Hall](), array(n, "{}"), "pointers to 64 KiB")
		within(t, codec.JSON[[]*own](), array(n, "{}"), "pointers to 64 KiB that decode themselves")
		within(t, codec.JSON[[][]Hall](), array(n, "[{}]"), "slices of one")
		within(t, codec.JSON[[2][]Hall](), []byte("[[],"+string(array(n, "{}"))+"]"), "within an array")
		within(t, codec.JSON[map[string]Hall](), row(n, "{", `"`+strings.Repeat("k", 8)+`":{}`, "}"), "a map of one key, again and again")
		within(t, codec.JSON[Hall](), row(n, `{"kin":[`, "{}", "]}"), "in a field")
		within(t, codec.JSON[Hall](), row(n, `{"Kin":[`, "{}", "]}"), "by a name in another case")
		within(t, codec.JSON[Hall](), row(n, `{"\u212ain":[`, "{}", "]}"), "by a name with the sign of Kelvin")
		within(t, codec.JSON[Hall](), row(n, `{"\u006bin":[`, "{}", "]}"), "by a name that is escaped")
		within(t, codec.JSON[Hall](), row(n, `{"other":"}]\"","kin":[`, "{}", "]}"), "after a string")
		within(t, codec.JSON[Names](), row(n, `{"Y":[`, "{}", "]}"), "hidden in Go")
		within(t, codec.JSON[Names](), row(n, `{"deep":[`, "{}", "]}"), "embedded by a pointer")
		within(t, codec.JSON[Names](), row(n, `{"a":[`, "{}", "]}"), "two names that differ in case")
		within(t, codec.JSON[Names](), row(n, `{"k":[`, "{}", "]}"), "a name without a tag")
		within(t, codec.JSON[Names](), row(n, `{"sS":[`, "{}", "]}"), "a name with a long s")
		within(t, codec.JSON[[]halls](), array(n, `{"room":[]}`), "embedded pointers to 64 KiB")
	}
	atMost(t, codec.JSON[[]Hall](), func(n int) []byte { return array(n, "{}") })
	atMost(t, codec.JSON[[]*Hall](), func(n int) []byte { return array(n, "{}") })
	atMost(t, codec.JSON[[]map[string]Hall](), func(n int) []byte { return array(n, `{"":{}}`) })
	atMost(t, codec.JSON[[][]Hall](), func(n int) []byte { return array(n, "[{}]") })
}

func TestJSON_RefusesToWriteWhatWouldTakeTooMuchToRead(t *testing.T) {
	t.Parallel()
	type sparse struct {
		Room [8][8][8]string `json:",omitzero"`
	}
	c := codec.JSON[[]sparse]()
	dst := []byte("before")
	out, err := c.Append(dst, make([]sparse, 10_000))
	require.ErrorIs(t, err, codec.ErrEncode)
	require.ErrorIs(t, err, codec.ErrTooLarge)
	require.Equal(t, "before", string(out))
}

// A value that takes much space in Go takes much in JSON too, unless parts are
// omitted.
func TestJSON_ReadsLargeValuesThatItWrote(t *testing.T) {
	t.Parallel()
	readsBack(t, make([]Hall, 40))
	readsBack(t, []Hall{{Room: [8192]int64{1, 8191: 2}, Kin: make([]Hall, 3)}})
	var full []roomy
	for range 10_000 {
		full = append(full, roomy{Seats: [88]int64{1}})
	}
	readsBack(t, full)
	people := make([]article, 20_000)
	for i := range people {
		people[i] = article{Title: fmt.Sprint("title ", i), Tags: []string{"a", "b"}}
	}
	readsBack(t, people)
	readsBack(t, map[string][]map[string][]*Names{"a": {{"b": {{Deep: &Deep{X: make([]Hall, 2)}}, nil, {}}}}})
	readsBack(t, Names{Deep: &Deep{}, A: make([]Hall, 5)})
}

func readsBack[V any](t *testing.T, v V) {
	t.Helper()
	c := codec.JSON[V]()
	src, err := c.Append(nil, v)
	require.NoError(t, err)
	var got V
	require.NoError(t, c.Decode(src, &got))
	again, err := c.Append(nil, got)
	require.NoError(t, err)
	require.Equal(t, string(src), string(again))
}

// FuzzJSONAllocates requires that JSON decodes the bytes that encoding/json
// decodes, or refuses them as too large. It also requires that JSON allocates
// no more than documented.
func FuzzJSONAllocates(f *testing.F) {
	for _, n := range []int{1, 12, 13, 64, 100} {
		f.Add(row(n, "[", "{}", "]"))
		f.Add(row(n, `{"kin":[`, `{"\u006bin":[{}],"room":[1,2]}`, "]}"))
		f.Add(row(n, `{"a":[`, "null ,{ }", `],"A":1,"Y":[],"deep":[{}],"k":null,"sS":[{}]}`))
		f.Add(row(n, "[", "[{},[]]", "]"))
	}
	f.Add([]byte(`{"a":[{}`))
	f.Add([]byte(`{"a\`))
	f.Fuzz(func(t *testing.T, src []byte) {
		fuzzJSON[[]Hall](t, src)
		fuzzJSON[Names](t, src)
		fuzzJSON[map[string][]*Hall](t, src)
		fuzzJSON[[][]any](t, src)
		fuzzJSON[[]halls](t, src)
	})
}

func fuzzJSON[V any](t *testing.T, src []byte) {
	if len(src) > 4096 {
		return
	}
	c := codec.JSON[V]()
	if used, limit := allocatedBy(c, src), max(4<<20, 256*len(src)); used > limit+64<<10 {
		t.Fatalf("%q: took %d bytes of %d", src, used, limit)
	}
	var got V
	err := c.Decode(src, &got)
	if used := fmt.Sprint(err); err != nil && strings.Contains(used, "too much memory") {
		return
	}
	var want V
	if strings.TrimSpace(string(src)) == "null" {
		return
	}
	if (json.Unmarshal(src, &want) == nil) != (err == nil) {
		t.Fatalf("%q: %v", src, err)
	}
}
