package httpcache

import (
	"net/http"
	"slices"
	"strings"
)

// shown returns the value of a request field as a shared load shows it to the
// handler, and whether the handler sees it at all. Keys are made of these
// values only. So a value that the handler sees never differs from the one in
// the key, and a client cannot choose a form that the key and the handler treat
// differently.
func (q *query) shown(name string) (value string, there bool) {
	if q.load != nil { // another goroutine may call it after the request has ended
		if lines := q.load.Header[name]; len(lines) > 0 {
			return lines[0], true
		}
		return "", false
	}
	lines := q.header[name]
	if name == "Connection" {
		return q.connection, q.connection != ""
	}
	if len(lines) == 0 || q.h.hides[name] || name == "Cookie" && q.bare {
		return "", false
	}
	return normal(name, lines), true
}

// keyedFields returns names and values of the fields that are in every key.
func (q *query) keyedFields() []string {
	var names []string
	for name := range q.header {
		if !q.h.skip[name] {
			names = append(names, name)
		}
	}
	if len(names) == 0 && q.connection == "" {
		return nil
	}
	slices.Sort(names)
	all := make([]string, 0, 2*len(names)+2)
	for _, name := range names {
		if value, there := q.shown(name); there {
			all = append(all, name, value)
		}
	}
	if q.connection != "" {
		all = append(all, "Connection", q.connection)
	}
	return all
}

// normal returns the form of a field that both the key and the handler get: its
// lines joined (RFC 9110, section 5.3), without spaces at the ends. Negotiation
// fields also lose differences of case, spaces and empty elements without
// meaning (RFC 9111, section 4.1). The order is kept: many handlers treat it as
// preference. If a value already has that form, normal allocates nothing.
func normal(name string, lines []string) string {
	value := lines[0]
	if len(lines) > 1 {
		separator := ", "
		if name == "Cookie" {
			separator = "; " // RFC 9113, section 8.2.3
		}
		value = strings.Join(lines, separator)
	}
	switch name {
	case "Accept", "Accept-Encoding", "Accept-Language":
		if !strings.Contains(value, `"`) { // in quotes, case and spaces matter
			return normalList(value)
		}
	}
	return strings.Trim(value, " \t")
}

// normalList returns a list of elements with parameters in lower case, without
// empty elements, and without spaces around ",", ";" and "=".
func normalList(value string) string {
	if plainList(value) {
		return value
	}
	b := make([]byte, 0, len(value))
	pending := false // spaces were skipped after a byte that is not a separator
	for i := range len(value) {
		c := value[i]
		last := byte(',')
		if len(b) > 0 {
			last = b[len(b)-1]
		}
		switch {
		case c == ' ' || c == '\t':
			pending = !separates(last)
			continue
		case c == ',' && last == ',':
			pending = false
			continue // an empty element
		case 'A' <= c && c <= 'Z':
			c += 'a' - 'A'
		}
		if pending && !separates(c) {
			b = append(b, ' ')
		}
		pending = false
		b = append(b, c)
	}
	return strings.TrimRight(string(b), ",")
}

func separates(c byte) bool { return c == ',' || c == ';' || c == '=' }

// plainList reports whether normalList changes nothing.
func plainList(value string) bool {
	last := byte(',')
	for i := range len(value) {
		c := value[i]
		if c == ' ' || c == '\t' || 'A' <= c && c <= 'Z' || c == ',' && last == ',' {
			return false
		}
		last = c
	}
	return last != ',' || value == ""
}

// show adds to the header the fields of the request that a shared load shows.
func (q *query) show(to http.Header) {
	for name := range q.header {
		if name == "Connection" {
			continue
		}
		if value, there := q.shown(name); there {
			to[name] = []string{value}
		}
	}
	if q.connection != "" {
		to["Connection"] = []string{q.connection}
	}
}
