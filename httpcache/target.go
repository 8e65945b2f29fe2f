package httpcache

import (
	"net/http"
	"strings"
)

// policyOf returns the directives of a response for this cache: from the first valid and non-empty field of Options.Targets (RFC 9213, section 2.2), otherwise from Cache-Control. If targeted is true, Cache-Control and
// Expires do not count.
func (h *Handler) policyOf(header http.Header) (cc directives, targeted bool) {
	for _, name := range h.targets {
		if lines := header[name]; len(lines) > 0 {
			if list, empty, ok := parseTargeted(lines); ok && !empty {
				return directives{list: list}, true
			}
		}
	}
	return parseDirectives(header["Cache-Control"]), false
}

// parseTargeted parses a targeted field, which is a Dictionary of Structured
// Fields (RFC 9651, section 3.2): one error invalidates the whole field. A
// directive whose value has a wrong type is left out, but the field still
// counts as non-empty.
func parseTargeted(lines []string) (list []directive, empty, ok bool) {
	s := structured{rest: strings.TrimLeft(strings.Join(lines, ","), " ")}
	byName := map[string]directive{}
	var order []string
	for s.rest != "" {
		name, ok := s.key()
		if !ok {
			return nil, false, false
		}
		d := directive{name: name}
		is := typeBoolean
		if s.take('=') {
			d.has = true
			d.arg, is, ok = s.member()
		}
		if ok = ok && s.parameters(); !ok {
			return nil, false, false
		}
		if _, there := byName[name]; !there {
			order = append(order, name)
		}
		if byName[name] = d; !fits(d, is) {
			delete(byName, name) // the last one of a name counts
		}
		s.space()
		if s.rest == "" {
			break
		}
		if !s.take(',') {
			return nil, false, false
		}
		if s.space(); s.rest == "" {
			return nil, false, false // a trailing comma
		}
	}
	for _, name := range order {
		if d, there := byName[name]; there {
			list = append(list, d)
		}
		delete(byName, name)
	}
	return list, len(order) == 0, true
}

// fits reports whether a directive may have a value of that type (RFC 9213,
// section 2.1): seconds are an Integer, and a flag is true.
func fits(d directive, is bareType) bool {
	switch d.name {
	case "max-age", "s-maxage", "stale-while-revalidate", "stale-if-error":
		return is == typeInteger && !strings.HasPrefix(d.arg, "-")
	case "no-cache", "private": // the value may be field names
		return !d.has || d.arg == "1" && is == typeBoolean || is == typeString || is == typeToken
	}
	return is != typeBoolean || d.arg != "0"
}

// bareType is the type of a bare item of Structured Fields.
type bareType uint8

const (
	typeBoolean bareType = iota
	typeInteger
	typeDecimal
	typeString
	typeToken
	typeOther // bytes, a date, a display string, an inner list
)

// structured parses Structured Fields.
type structured struct{ rest string }

func (s *structured) space() { s.rest = strings.TrimLeft(s.rest, " \t") }

func (s *structured) take(c byte) bool {
	if s.rest == "" || s.rest[0] != c {
		return false
	}
	s.rest = s.rest[1:]
	return true
}

// cut returns the first n bytes.
func (s *structured) cut(n int) string {
	part := s.rest[:n]
	s.rest = s.rest[n:]
	return part
}

// span returns the leading bytes for which in is true.
func (s *structured) span(in func(byte) bool) string {
	n := 0
	for n < len(s.rest) && in(s.rest[n]) {
		n++
	}
	return s.cut(n)
}

func lower(c byte) bool { return 'a' <= c && c <= 'z' }
func digit(c byte) bool { return '0' <= c && c <= '9' }
func alpha(c byte) bool { return lower(c | 0x20) }

func (s *structured) key() (string, bool) {
	if s.rest == "" || !lower(s.rest[0]) && s.rest[0] != '*' {
		return "", false
	}
	return s.span(func(c byte) bool { return lower(c) || digit(c) || strings.IndexByte("_-.*", c) >= 0 }), true
}

// member reads an item or an inner list, without its parameters.
func (s *structured) member() (string, bareType, bool) {
	if !s.take('(') {
		return s.bare()
	}
	for {
		s.rest = strings.TrimLeft(s.rest, " ")
		if s.take(')') {
			return "", typeOther, true
		}
		if _, _, ok := s.bare(); !ok || !s.parameters() {
			return "", 0, false
		}
		if s.rest == "" || s.rest[0] != ' ' && s.rest[0] != ')' {
			return "", 0, false
		}
	}
}

func (s *structured) parameters() bool {
	for s.take(';') {
		s.rest = strings.TrimLeft(s.rest, " ")
		if _, ok := s.key(); !ok {
			return false
		}
		if s.take('=') {
			if _, _, ok := s.bare(); !ok {
				return false
			}
		}
	}
	return true
}

// bare reads a bare item.
func (s *structured) bare() (string, bareType, bool) {
	if s.rest == "" {
		return "", 0, false
	}
	switch c := s.rest[0]; {
	case c == '-' || digit(c):
		return s.number()
	case c == '"':
		return s.text()
	case c == '*' || alpha(c):
		return s.span(func(c byte) bool { return tokenByte(c) || c == ':' || c == '/' }), typeToken, true
	case c == '?':
		if len(s.rest) < 2 || s.rest[1] != '0' && s.rest[1] != '1' {
			return "", 0, false
		}
		return s.cut(2)[1:], typeBoolean, true
	case c == ':':
		s.cut(1)
		value := s.span(func(c byte) bool { return alpha(c) || digit(c) || strings.IndexByte("+/=", c) >= 0 })
		return value, typeOther, s.take(':')
	case c == '@':
		s.cut(1)
		value, is, ok := s.number()
		return value, typeOther, ok && is == typeInteger
	case strings.HasPrefix(s.rest, `%"`):
		s.cut(1)
		value, _, ok := s.text()
		return value, typeOther, ok
	}
	return "", 0, false
}

// number reads an Integer of at most 15 digits, or a Decimal.
func (s *structured) number() (string, bareType, bool) {
	sign := ""
	if s.take('-') {
		sign = "-"
	}
	whole := s.span(digit)
	if !s.take('.') {
		return sign + whole, typeInteger, whole != "" && len(whole) <= 15
	}
	part := s.span(digit)
	return sign + whole + "." + part, typeDecimal, whole != "" && len(whole) <= 12 && part != "" && len(part) <= 3
}

// text reads a String.
func (s *structured) text() (string, bareType, bool) {
	var b strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; {
		case c == '"':
			s.cut(i + 1)
			return b.String(), typeString, true
		case c == '\\':
			if i++; i == len(s.rest) || s.rest[i] != '"' && s.rest[i] != '\\' {
				return "", 0, false
			}
			b.WriteByte(s.rest[i])
		case c < ' ' || c > '~':
			return "", 0, false
		default:
			b.WriteByte(c)
		}
	}
	return "", 0, false
}
