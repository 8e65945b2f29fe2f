package httpcache

import (
	"math"
	"strings"
	"time"
)

// directives are the directives of a Cache-Control field (RFC 9111, section
// 5.2).
type directives struct {
	list      []directive
	malformed bool // a part does not match the grammar, so its meaning is unknown
}

type directive struct {
	name string // in lower case
	arg  string // unquoted
	has  bool   // has an argument
}

// parseDirectives parses the lines of a Cache-Control field:
//
//	#( token [ "=" ( token / quoted-string ) ] )
//
// If a part does not match the grammar, it is skipped up to the next comma
// outside quotes, and the result is malformed.
func parseDirectives(lines []string) (ds directives) {
	for _, line := range lines {
		s := scanner{line}
		for s.skip(" \t,"); s.rest != ""; s.skip(" \t,") {
			d := directive{name: strings.ToLower(s.token())}
			ok := d.name != ""
			if ok && strings.HasPrefix(s.rest, "=") {
				s.rest = s.rest[1:]
				d.has = true
				d.arg, ok = s.value()
			}
			if s.space(); !ok || s.rest != "" && s.rest[0] != ',' {
				ds.malformed = true
				s.junk()
				continue
			}
			ds.list = append(ds.list, d)
		}
	}
	return ds
}

// has reports whether there is a directive of that name, with or without an
// argument.
func (ds *directives) has(name string) bool {
	for _, d := range ds.list {
		if d.name == name {
			return true
		}
	}
	return false
}

// seconds returns the delta-seconds of a directive, and whether it is there. If
// its argument is invalid, or two of them differ, ok is false: the freshness is
// then unreliable (section 4.2.1).
func (ds *directives) seconds(name string) (d time.Duration, there, ok bool) {
	ok = true
	for _, one := range ds.list {
		if one.name != name {
			continue
		}
		n, valid := parseSeconds(one.arg)
		ok = ok && valid && (!there || n == d)
		d, there = n, true
	}
	return d, there, ok
}

// maxSeconds stands for any greater number of seconds (section 1.2.2).
const maxSeconds = 1 << 31

// parseSeconds parses delta-seconds: digits, and nothing else.
func parseSeconds(s string) (time.Duration, bool) {
	n := int64(0)
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
		if n < math.MaxInt32*2 {
			n = n*10 + int64(c-'0')
		}
	}
	return time.Duration(min(n, maxSeconds)) * time.Second, s != ""
}

// scanner parses a field value from its beginning.
type scanner struct{ rest string }

func (s *scanner) skip(set string) { s.rest = strings.TrimLeft(s.rest, set) }
func (s *scanner) space()          { s.skip(" \t") }

// token reads a token (RFC 9110, section 5.6.2); "" if there is none.
func (s *scanner) token() string {
	n := 0
	for n < len(s.rest) && tokenByte(s.rest[n]) {
		n++
	}
	t := s.rest[:n]
	s.rest = s.rest[n:]
	return t
}

func tokenByte(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0
}

// value reads a token or a quoted-string (RFC 9110, section 5.6.4).
func (s *scanner) value() (string, bool) {
	if !strings.HasPrefix(s.rest, `"`) {
		t := s.token()
		return t, t != ""
	}
	var b strings.Builder
	for i := 1; i < len(s.rest); i++ {
		switch c := s.rest[i]; c {
		case '"':
			s.rest = s.rest[i+1:]
			return b.String(), true
		case '\\':
			if i++; i < len(s.rest) {
				b.WriteByte(s.rest[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	s.rest = ""
	return "", false
}

// junk skips to the next comma outside quotes.
func (s *scanner) junk() {
	for s.rest != "" && s.rest[0] != ',' {
		if s.rest[0] == '"' {
			if _, ok := s.value(); !ok {
				return
			}
			continue
		}
		s.rest = s.rest[1:]
	}
}
