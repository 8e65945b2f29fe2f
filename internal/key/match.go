package key

import (
	"errors"
	"strconv"
	"strings"
	"unicode/utf8"
)

// Pattern returns a glob, for SCAN MATCH, that every key of the template
// matches. A glob has no classes and escapes of values, so other keys may match
// it too: check them with Match.
//
// It returns an error for a template of [FromFunc], whose keys are unknown, and
// for one that begins with a placeholder: without a name before the values its
// keys cannot be told from others.
func (t *Template[K]) Pattern() (string, error) {
	switch {
	case t.f != nil:
		return "", errors.New("the keys are made by Spec.KeyFunc, so nobody can tell which they are: it takes a Spec.Key")
	case t.name == "" && len(t.parts) > 0:
		return "", errors.New("Spec.Key begins with a placeholder, so keys of others could be taken for its own: begin it with a name, such as \"users:\"")
	}
	var glob []byte
	for i := range t.parts {
		glob = append(appendGlob(glob, t.parts[i].literal), '*')
	}
	return string(appendGlob(glob, t.tail)), nil
}

// appendGlob appends the glob that matches only s. Some of the escaped
// characters are special only in a class, between '[' and ']', but servers
// other than Redis read globs in their own ways.
func appendGlob(glob []byte, s string) []byte {
	for i := range len(s) {
		if strings.IndexByte(`*?[]\^-`, s[i]) >= 0 {
			glob = append(glob, '\\')
		}
		glob = append(glob, s[i])
	}
	return glob
}

// Match reports whether the template can have rendered key. It is true for
// every result of Append. Otherwise it is true only for well-escaped text that
// the method of a type would never return. It is false for every key of a
// template of [FromFunc]. Match is safe for concurrent use.
func (t *Template[K]) Match(key string) bool {
	if t.f != nil || key == "" || len(key) > MaxLen {
		return false
	}
	var room [8]string
	values, ok := t.split(room[:0], key)
	if !ok {
		return false
	}
	for i, s := range values {
		p := &t.parts[i]
		if !p.rendered(s) {
			return false
		}
		// A field that occurs twice has one value.
		if p.first != i && !p.same(values[p.first], s) {
			return false
		}
	}
	return true
}

// split appends the rendered value of each part of key, by the proof in the
// package comment: it goes from left to right, and finds the end of each value.
// It does not check whether they are renderings. If a literal is not in its
// place or a value has no end, it reports false, with the values before.
func (t *Template[K]) split(values []string, key string) ([]string, bool) {
	rest := key
	for i := range t.parts {
		p := &t.parts[i]
		var ok bool
		if rest, ok = strings.CutPrefix(rest, p.literal); !ok {
			return values, false
		}
		end := len(rest) - len(t.tail)
		if i < len(t.parts)-1 {
			end = p.end(rest)
		}
		if end < 0 {
			return values, false
		}
		values = append(values, rest[:end])
		rest = rest[end:]
	}
	return values, rest == t.tail
}

// end returns the length of the value at the beginning of s, which a literal
// follows; -1 if there is none.
func (p *part) end(s string) int {
	switch p.value.class {
	case signed, unsigned:
		digits := strings.TrimPrefix(s, "-")
		return len(s) - len(strings.TrimLeft(digits, "0123456789"))
	case boolean:
		if strings.HasPrefix(s, "true") {
			return len("true")
		}
		return min(len(s), len("false"))
	case hex:
		return min(len(s), 2*p.value.size)
	}
	for i := 0; i < len(s); {
		r, size := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == p.stop:
			return i
		case r == '%':
			size = len("%XX")
		}
		i += size
	}
	return -1
}

// rendered reports whether s is the rendering of a value: parsing and rendering
// it gives s again.
func (p *part) rendered(s string) bool {
	var room [64]byte
	switch p.value.class {
	case signed:
		n, err := strconv.ParseInt(s, 10, p.value.size)
		return err == nil && string(strconv.AppendInt(room[:0], n, 10)) == s
	case unsigned:
		n, err := strconv.ParseUint(s, 10, p.value.size)
		return err == nil && string(strconv.AppendUint(room[:0], n, 10)) == s
	case boolean:
		return s == "true" || s == "false"
	case hex:
		return len(s) == 2*p.value.size && strings.Trim(s, lowerHex) == ""
	}
	var escaped [64]byte
	text, ok := unescape(room[:0], s)
	if !ok {
		return false
	}
	again, err := appendEscaped(escaped[:0], text, p.stop)
	return err == nil && string(again) == s
}

// same reports whether a and b, renderings of p's class, have the same value.
// Text may be escaped in two ways, since it may precede two literals.
func (p *part) same(a, b string) bool {
	if p.value.class < escaped || a == b {
		return a == b
	}
	x, _ := unescape(nil, a)
	y, _ := unescape(nil, b)
	return string(x) == string(y)
}

// unescape appends s with the byte for each %XX, and reports whether all
// escapes are valid. It does not check whether they were necessary.
func unescape(dst []byte, s string) ([]byte, bool) {
	for i := 0; i < len(s); i++ {
		if s[i] != '%' {
			dst = append(dst, s[i])
			continue
		}
		if i+2 >= len(s) {
			return dst, false
		}
		high, low := strings.IndexByte(upperHex, s[i+1]), strings.IndexByte(upperHex, s[i+2])
		if high < 0 || low < 0 {
			return dst, false
		}
		dst = append(dst, byte(high<<4|low))
		i += 2
	}
	return dst, true
}
