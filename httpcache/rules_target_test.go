package httpcache

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func targetRules() []rule {
	targeted := func(name, first, second string, fields ...string) rule {
		r := twice("9213 2.2", name, says(fields...), first, second)
		r.options.Targets = []string{"pages-cache-control", "CDN-Cache-Control"}
		return r
	}
	return []rule{
		twice("9213 2.2", "a field that no option names does not count", says("CDN-Cache-Control", fresh60), "1", "2"),
		twice("9213 2.2", "nor does it forbid", says("CDN-Cache-Control", "no-store", "Cache-Control", fresh60), "1", "1"),
		targeted("one that is named is freshness", "1", "1", "CDN-Cache-Control", fresh60),
		targeted("it overrides Cache-Control", "1", "1", "CDN-Cache-Control", fresh60, "Cache-Control", "no-store, private"),
		targeted("and forbids", "1", "2", "CDN-Cache-Control", "no-store", "Cache-Control", fresh60),
		targeted("also by private", "1", "2", "CDN-Cache-Control", "private", "Cache-Control", fresh60),
		targeted("and no-cache", "1", "2", "CDN-Cache-Control", "no-cache", "Cache-Control", fresh60),
		targeted("it overrides Expires", "1", "2", "CDN-Cache-Control", "foo", "Expires", "Fri, 01 Jan 2100 00:00:00 GMT"),
		targeted("and an Expires in the past", "1", "1", "CDN-Cache-Control", fresh60, "Expires", "0"),
		targeted("the first in the option counts", "1", "2", "CDN-Cache-Control", fresh60, "Pages-Cache-Control", "max-age=0"),
		targeted("wherever it stands", "1", "1", "Cache-Control", "no-store", "CDN-Cache-Control", "no-store", "Pages-Cache-Control", fresh60),
		targeted("an empty one is skipped", "1", "1", "Pages-Cache-Control", "", "CDN-Cache-Control", fresh60, "Cache-Control", "no-store"),
		targeted("so is an invalid one", "1", "1", "Pages-Cache-Control", "no-store, &", "CDN-Cache-Control", fresh60, "Cache-Control", "no-store"),
		targeted("and then Cache-Control counts", "1", "2", "CDN-Cache-Control", "max-age=60, &", "Cache-Control", "no-store"),
		targeted("names are in lower case", "1", "2", "CDN-Cache-Control", "Max-Age=60", "Cache-Control", "no-store"),
		targeted("a value of another type is no value", "1", "2", "CDN-Cache-Control", `max-age="60"`, "Cache-Control", fresh60),
		targeted("lines are joined", "1", "1", "CDN-Cache-Control", "a=1", "CDN-Cache-Control", fresh60),
		targeted("the last one of a name counts", "1", "1", "CDN-Cache-Control", "max-age=0, max-age=60"),
		{
			section: "9213 2.2", name: "the field reaches the client, also with a 304", origin: says("CDN-Cache-Control", fresh60, "Cache-Control", "no-cache", "Etag", `"a"`),
			options: Options{Targets: []string{"CDN-Cache-Control"}},
			steps: []step{
				{body: "1", fields: []string{"Cdn-Cache-Control", fresh60, "Cache-Control", "no-cache"}},
				{body: "1", says: "hit", fields: []string{"Cdn-Cache-Control", fresh60, "Cache-Control", "no-cache"}},
				{with: []string{"If-None-Match", `"a"`}, status: 304, fields: []string{"Cdn-Cache-Control", fresh60, "Cache-Control", "no-cache"}},
			},
		},
		{
			section: "9213 2.2", name: "it says how long a response may be stale", origin: says("CDN-Cache-Control", "max-age=60, stale-while-revalidate=60", "Cache-Control", "must-revalidate"),
			options: Options{Targets: []string{"CDN-Cache-Control"}},
			steps:   []step{{body: "1"}, {wait: 70e9, body: "1", says: "hit; ttl=-10"}},
		},
	}
}

func TestParseTargeted_ReadsADictionary(t *testing.T) {
	t.Parallel()
	for field, want := range map[string]string{
		"":                                    "",
		"  ":                                  "",
		"a":                                   "a",
		" a ,\tb ":                            "a b",
		"a=?1, b=?0":                          "a=1",
		"max-age=60":                          "max-age=60",
		"max-age=060":                         "max-age=060",
		"max-age=999999999999999":             "max-age=999999999999999",
		"max-age=-1, a":                       "a",
		"max-age=1.5, a":                      "a",
		"max-age, a":                          "a",
		"max-age=a, a":                        "a",
		"max-age=?1, a":                       "a",
		"max-age=@1, a":                       "a",
		"no-cache=\"x, y\", private=?0":       "no-cache=x, y",
		"no-store;x=1;y;z=\"q\", max-age=1;a": "no-store max-age=1",
		"a=(1 \"b\";x c), b=:YQ==:, c=tok/x:*, *d": "a= b=YQ== c=tok/x:* *d",
		"a=%\"x\", b=(), c=( a  b )":               "a=x b= c=",
		`a="q\"\\"`:                                `a=q"\`,
		"a=1, b, a=2":                              "a=2 b",
		"max-age=1, b, max-age=x":                  "b",
	} {
		list, empty, ok := parseTargeted([]string{field})
		require.True(t, ok, field)
		require.Equal(t, strings.Trim(field, " ") == "", empty, field)
		var got []string
		for _, d := range list {
			if d.has {
				d.name += "=" + d.arg
			}
			got = append(got, d.name)
		}
		require.Equal(t, want, strings.Join(got, " "), field)
	}
	for _, field := range []string{
		"A", "1", "a,", ",a", "a,,b", "a b", "a=", "a =1", "a= 1", "a=1 2", "a=1;", "a=1;B", "a=1;b=", "&", "max-age=60, &&&", "a=-", "a=1.", "a=1.1234",
		"a=1234567890123456", "a=1234567890123.1", `a="`, `a="\x"`, "a=\"\x7f\"", "a=\"é\"", "a=?", "a=?2", "a=:a", "a=:$:", "a=@x", "a=@1.5", "a=(", "a=(1", "a=(1\t2)",
		"a=(1,2)", "a=(1)2", `a=("x"y)`, "é", "a=é", "\ta", `a=%x`,
	} {
		_, _, ok := parseTargeted([]string{field})
		require.False(t, ok, field)
	}
	list, _, ok := parseTargeted([]string{"a", "b=1"})
	require.True(t, ok)
	require.Len(t, list, 2)
}

// FuzzTargeted checks that any field can be parsed, and that the directives of
// a valid one are parsed like those of Cache-Control.
func FuzzTargeted(f *testing.F) {
	f.Add("max-age=60, no-cache=\"a\", x=(1 2);y, z=:YQ==:")
	f.Add("a=%\"")
	f.Fuzz(func(t *testing.T, s string) {
		list, empty, ok := parseTargeted([]string{s})
		h := Handler{targets: []string{"X"}}
		cc, targeted := h.policyOf(http.Header{"X": {s}, "Cache-Control": {"a"}})
		if targeted != (ok && !empty) || !targeted && !cc.has("a") {
			t.Fatalf("%q: %v, %v, but %v", s, list, ok, cc)
		}
		for _, d := range list {
			if n, there, ok := cc.seconds(d.name); !there || d.name == "max-age" && (!ok || n < 0) {
				t.Fatalf("%q: %v", s, d)
			}
		}
	})
}
