package httpcache

import (
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

// forms are values of fields, as lines. In each list some values have the same
// meaning, some do not, and some are invalid.
var forms = map[string][][]string{
	"Accept": {
		nil, {}, {""}, {","}, {"application/json"}, {"", "application/json"}, {"application/json", ""}, {"Application/JSON"}, {" application/json "},
		{"application/json,"}, {",application/json"}, {"text/html", "application/json"}, {"text/html,application/json"}, {"text/html,\tapplication/json"},
		{"text/html ; q=0.5 , application/json"}, {"text/html;q=0.5,application/json"}, {"text/html;q = 0.5,application/json"},
		{"application/json", "text/html"}, {"text /html"}, {"text  /html"}, {"text/html application/json"}, {`a/b;p="X, y"`}, {`a/b;p="x, y"`}, {`A/b;p="X,y"`},
		{`a/b;p="X`, `y"`}, {"\t"}, {"text/html;;q=1"}, {"text/html,,,application/json"},
	},
	"Accept-Encoding": {
		nil, {""}, {"gzip"}, {"GZIP"}, {"gzip, br"}, {"gzip,br"}, {"br, gzip"}, {"gzip", "br"}, {"", "gzip"}, {"gzip;q=0"}, {"gzip; q=0"}, {"gzip ;q=0"}, {"gz ip"}, {"gzip,"},
	},
	"Accept-Language": {
		nil, {""}, {"en"}, {"EN"}, {"en-US, en;q=0.5"}, {"en-us,en;q=0.5"}, {"en, en-us;q=0.5"}, {"en-US", "en;q=0.5"}, {"", "en"}, {"en us"}, {"en  us"}, {"enus"},
	},
	"User-Agent":             {nil, {""}, {"a"}, {"A"}, {"a b"}, {"a  b"}, {" a"}, {"a", "b"}, {"a, b"}, {"a,b"}, {"", "a"}, {"a", ""}, {", a"}},
	"X-Any":                  {nil, {""}, {"a"}, {"A"}, {"a b"}, {"a  b"}, {" a"}, {"a", "b"}, {"a, b"}, {"a,b"}, {"", "a"}, {"a", ""}, {", a"}},
	"X-Unkeyed":              {nil, {""}, {"a"}, {"A"}, {"a", "b"}, {"a, b"}, {"a,b"}, {"", "a"}, {", a"}, {"\ta\t"}},
	"Origin":                 {nil, {""}, {"http://a"}, {"HTTP://A"}, {"", "http://a"}, {"http://a", "http://b"}},
	"Connection":             {nil, {""}, {"close"}, {"x-any"}, {"X-Any"}, {"close, x-any"}, {"x-any", "x-b"}, {"x-b,x-any"}, {"x-any,,x-any"}, {"", "x-any"}, {"x-anyx-b"}},
	"X-Http-Method-Override": {nil, {""}, {"POST"}, {"post"}, {"GET"}, {"", "POST"}},
}

// The client that comes first decides nothing for others: each gets the
// response that it would have got as the first one.
func TestKey_ContainsEveryFormThatTheHandlerSees(t *testing.T) {
	t.Parallel()
	for name, all := range forms {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHandler(t, embedded(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Cache-Control", fresh60)
				w.Header().Set("Vary", name)
				fmt.Fprintf(w, "%q %q", r.Header[name], r.Header.Get(name))
			}), Options{Unkeyed: []string{"X-Unkeyed"}})
			ask := func(path string, form []string) string {
				r := httptest.NewRequest(http.MethodGet, path, nil)
				if form != nil {
					r.Header[name] = form
				}
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				require.Equal(t, http.StatusOK, w.Code)
				return w.Body.String()
			}
			alone := make([]string, len(all))
			for i, form := range all {
				alone[i] = ask(fmt.Sprint("/alone/", i), form)
			}
			for first := range all { // each is the first once, and all others follow
				for i := range all {
					i = (first + i) % len(all)
					require.Equal(t, alone[i], ask(fmt.Sprint("/", first), all[i]), "%q after %q", all[i], all[first])
				}
			}
		})
	}
}

func TestNormal_JoinsEquivalentForms(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		want  string
		forms [][]string
	}{
		{"Accept", "text/html,a/b;q=0.5", [][]string{
			{"text/html,a/b;q=0.5"}, {"Text/HTML, a/b ; q = 0.5"}, {"text/html", "", "a/b; q=0.5"}, {" text/html\t,,a/b;q=0.5,"},
		}},
		{"Accept", `a/b;p="X,  y"`, [][]string{{`a/b;p="X,  y"`}, {` a/b;p="X,  y" `}}},
		{"Accept-Encoding", "gzip,br", [][]string{{"gzip, br"}, {"GZIP,br"}, {"gzip", "br"}}},
		{"Accept-Language", "en us", [][]string{{"en us"}, {"EN  us"}, {"en\tus"}}},
		{"Accept-Language", "", [][]string{{""}, {" "}, {",, ,"}, {"", ""}}},
		{"X-Any", "A, b", [][]string{{"A, b"}, {"A", "b"}, {" A, b\t"}}},
		{"X-Any", "A,b", [][]string{{"A,b"}}},
		{"Cookie", "a=1; b=2", [][]string{{"a=1; b=2"}, {"a=1", "b=2"}}},
	} {
		for _, form := range c.forms {
			require.Equal(t, c.want, normal(c.name, form), "%s: %q", c.name, form)
		}
	}
}

func TestNormal_AllocatesNothingForCommonValues(t *testing.T) { // not in parallel: it counts
	for _, plain := range []string{"text/html,application/xhtml+xml,*/*;q=0.8", "gzip", ""} {
		lines := []string{plain}
		require.Zero(t, testing.AllocsPerRun(10, func() { normal("Accept", lines) }))
	}
}

// FuzzShown checks that requests with the same variant show the handler the
// same fields, except unkeyed ones that no response varies on.
func FuzzShown(f *testing.F) {
	f.Add("Accept", "", "application/json", "Accept", ", application/json", "x")
	f.Add("X-A", "1", "2", "X-A", "1, 2", "")
	f.Add("Connection", "x-a", "", "Connection", "X-A", "")
	f.Fuzz(func(t *testing.T, name1, a1, a2, name2, b1, b2 string) {
		h := newFuzzHandler()
		see := func(name string, lines ...string) (string, http.Header) {
			r := httptest.NewRequest(http.MethodGet, "/p", nil)
			r.Header[http.CanonicalHeaderKey(name)] = lines
			q, why := h.examine(r)
			if why != "" {
				return why + name + fmt.Sprint(lines), nil
			}
			vary := []string{"Accept", "Accept-Language", "Connection", "User-Agent"}
			before := q.variant("gen", vary)
			q.prepare()
			if before != q.variant("gen", vary) {
				t.Fatalf("%s: %q: the handler sees something else than was in the key", name, lines)
			}
			return before, q.load.Header
		}
		one, shown1 := see(name1, a1, a2)
		two, shown2 := see(name2, b1, b2)
		if one != two {
			return
		}
		for _, other := range negotiation {
			if !slices.Contains([]string{"Accept", "Accept-Language", "User-Agent"}, other) {
				delete(shown1, other)
				delete(shown2, other)
			}
		}
		delete(shown1, "Authorization")
		delete(shown2, "Authorization")
		if !maps.EqualFunc(shown1, shown2, slices.Equal[[]string]) {
			t.Fatalf("the handler sees %q or %q", shown1, shown2)
		}
	})
}

// newFuzzHandler returns a Handler without Redis, of which only examine works.
func newFuzzHandler() *Handler {
	h := &Handler{}
	h.hides, h.skip = fieldSets(Options{})
	return h
}
