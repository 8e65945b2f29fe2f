package httpcache

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseDirectives_FollowsTheGrammar(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		field     string
		want      string // as name=arg, separated by spaces
		malformed bool
	}{
		{"", "", false},
		{" , ,", "", false},
		{"a", "a", false},
		{"A ,\tb=C", "a b=C", false},
		{`a="b, c" , d`, "a=b, c d", false},
		{`a="b\"\\c"`, `a=b"\c`, false},
		{`a=""`, "a=", false},
		{"a=", "", true},
		{"a=,b", "b", true},
		{"=b, c", "c", true},
		{"a b, c", "c", true},
		{"a=b c, d", "d", true},
		{`a="b`, "", true},
		{`a="b\`, "", true},
		{`a="b"c, d`, "d", true},
		{`a@"x, y", b`, "b", true},
		{`a@"x`, "", true},
		{"é, b", "b", true},
	} {
		ds := parseDirectives([]string{c.field})
		var got []string
		for _, d := range ds.list {
			if d.has {
				d.name += "=" + d.arg
			}
			got = append(got, d.name)
		}
		require.Equal(t, c.want, strings.Join(got, " "), c.field)
		require.Equal(t, c.malformed, ds.malformed, c.field)
	}
}

func TestParseSeconds_AcceptsDigitsOnly(t *testing.T) {
	t.Parallel()
	const most = maxSeconds * time.Second
	for s, want := range map[string]time.Duration{
		"0": 0, "1": time.Second, "007": 7 * time.Second, "2147483647": most - time.Second, "2147483648": most,
		"2147483649": most, "9223372036854775808": most, strings.Repeat("9", 100): most,
	} {
		d, ok := parseSeconds(s)
		require.True(t, ok, s)
		require.Equal(t, want, d, s)
	}
	for _, s := range []string{"", "-1", "+1", "1.0", " 1", "1 ", "0x1", "1e9", "٣"} {
		_, ok := parseSeconds(s)
		require.False(t, ok, s)
	}
}

// FuzzDirectives checks that any field can be parsed, that the result can be
// written and parsed again, and that a quoted argument is never a directive.
func FuzzDirectives(f *testing.F) {
	for _, s := range []string{
		"", "max-age=60", `private="a, b", no-cache`, "max-age=-1", "max-age=99999999999999999999", `a="\`, `x="a\", no-store", y`, ",,=,",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		ds := parseDirectives([]string{s})
		var b strings.Builder
		for i, d := range ds.list {
			if d.name == "" || d.name != strings.ToLower(d.name) {
				t.Fatalf("%q: name %q", s, d.name)
			}
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(d.name)
			if d.has {
				b.WriteString(`="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(d.arg) + `"`)
			}
			if d, there, _ := ds.seconds(d.name); !there || d < 0 || d > maxSeconds*time.Second {
				t.Fatalf("%q: %v", s, d)
			}
		}
		again := parseDirectives([]string{b.String()})
		if again.malformed || !slices.Equal(again.list, ds.list) {
			t.Fatalf("%q was read as %q, which is read as %v", s, b.String(), again)
		}
		quoted := parseDirectives([]string{`x="` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`})
		if quoted.malformed || len(quoted.list) != 1 || quoted.list[0].arg != s {
			t.Fatalf("%q in quotes is %v", s, quoted)
		}
	})
}

// FuzzConditions checks that no condition panics, and that a tag matches only
// itself.
func FuzzConditions(f *testing.F) {
	f.Add(`"a"`, `W/"a", "b"`)
	f.Add(`W/"`, `"`)
	f.Add("a", "*")
	f.Fuzz(func(t *testing.T, etag, list string) {
		tag, _, ok := parseETag(etag)
		if ok && !matches(etag, etag, false) {
			t.Fatalf("%q does not match itself", etag)
		}
		if matches(list, etag, true) && !matches(list, etag, false) {
			t.Fatalf("%q matches %q strongly and not weakly", etag, list)
		}
		if matches(list, etag, false) && strings.Trim(list, " \t") != "*" && !strings.Contains(list, `"`+tag+`"`) {
			t.Fatalf("%q matches %q", etag, list)
		}
		rec := record{Status: http.StatusOK, Header: http.Header{"Etag": {etag}, "Last-Modified": {list}}}
		now := time.Now()
		rec.conditions(http.Header{"If-Modified-Since": {etag}}, now)
		rec.conditions(http.Header{"If-Unmodified-Since": {etag}}, now)
		rec.sameVariant(http.Header{"Etag": {list}})
		validators(rec.Header, now)
	})
}

// FuzzKeys checks that different requests have different keys.
func FuzzKeys(f *testing.F) {
	f.Add("a", "b", "c", "d")
	f.Add("", "a", "a", "")
	f.Add("X-A", "1", "X-A", "1, 2")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		variant := func(keyed []string, part string, vary []string, header http.Header) string {
			q := query{h: &Handler{}, keyed: keyed, part: part, header: header}
			return q.variant("gen", vary)
		}
		one := variant([]string{a, b}, "", []string{"A", "B"}, http.Header{"A": {c}, "B": {d}})
		if one != variant([]string{a, b}, "", []string{"A", "B"}, http.Header{"A": {c}, "B": {d}}) {
			t.Fatal("the same is not the same")
		}
		for _, other := range []string{
			variant([]string{a + b}, "", []string{"A", "B"}, http.Header{"A": {c}, "B": {d}}),
			variant([]string{a, b, "x"}, "", []string{"A", "B"}, http.Header{"A": {c}, "B": {d}}),
			variant([]string{a, b}, "x", []string{"A", "B"}, http.Header{"A": {c}, "B": {d}}),
			variant([]string{a, b}, "", []string{"A", "B"}, http.Header{"A": {c}}),
			variant([]string{a, b}, "", []string{"A"}, http.Header{"A": {c}, "B": {d}}),
			variant([]string{a, b}, "", []string{"A", "B"}, http.Header{"A": {c + "x."}, "B": {d}}),
		} {
			if one == other {
				t.Fatalf("%q %q %q %q: two requests have the same key", a, b, c, d)
			}
		}
		if uriKey(a, "/"+b) == uriKey(a, "/"+b+"x") {
			t.Fatal("two URIs have the same key")
		}
	})
}
