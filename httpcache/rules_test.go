package httpcache

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// step is one request of a rule, and the expected reply.
type step struct {
	wait   time.Duration // before the request
	method string        // GET if empty
	path   string        // /p if empty
	with   []string      // request fields, names and values
	status int           // 200 if 0
	body   string        // the number of the origin's call; "" for none, "*" for any
	says   string        // a part of Cache-Status
	fields []string      // of the response, names and values; "" for none
}

// rule is a rule of RFC 9111, or of another one, by its section.
type rule struct {
	section string
	name    string
	origin  origin
	options Options
	steps   []step
}

func TestRules(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, r := range allRules() {
		name := r.section + " " + r.name
		if seen[name] {
			t.Fatalf("two rules are called %q", name)
		}
		seen[name] = true
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, r.origin, r.options, func(t *testing.T, s *site) {
				for i, step := range r.steps {
					step.run(t, s, i)
				}
			})
		})
	}
	if len(seen) < 70 {
		t.Errorf("only %d rules are tested", len(seen))
	}
}

func (st step) run(t *testing.T, s *site, i int) {
	t.Helper()
	time.Sleep(st.wait) // in a bubble
	if st.method == "" {
		st.method = http.MethodGet
	}
	if st.path == "" {
		st.path = "/p"
	}
	if st.status == 0 {
		st.status = http.StatusOK
	}
	got := s.do(t, st.method, st.path, st.with...)
	status := strings.Join(got.header["Cache-Status"], ", ")
	if got.status != st.status {
		t.Errorf("step %d: status %d, want %d (%s)", i, got.status, st.status, status)
	}
	if st.body != "*" && got.body != st.body {
		t.Errorf("step %d: body %q, want %q (%s)", i, got.body, st.body, status)
	}
	if !strings.Contains(status, st.says) {
		t.Errorf("step %d: Cache-Status %q, want %q in it", i, status, st.says)
	}
	for f := 0; f < len(st.fields); f += 2 {
		if v := strings.Join(got.header[st.fields[f]], ", "); v != st.fields[f+1] {
			t.Errorf("step %d: %s is %q, want %q (%s)", i, st.fields[f], v, st.fields[f+1], status)
		}
	}
}

// twice is a rule in which these two calls answer the same request.
func twice(section, name string, o origin, first, second string) rule {
	return rule{section: section, name: name, origin: o, steps: []step{{body: first}, {body: second}}}
}

// allRules returns every rule.
func allRules() (all []rule) {
	for _, some := range [][]rule{
		storingRules(), freshnessRules(), parsingRules(), requestRules(), staleRules(), varyRules(),
		validationRules(), invalidationRules(), fieldRules(), deceptionRules(), rangeRules(), targetRules(),
	} {
		all = append(all, some...)
	}
	return all
}
