package key

import (
	"errors"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"
)

// parse splits a template into parts, with unknown values, and the literal
// after the last. The braces of a hash tag are part of the adjacent literals. A
// literal brace cannot be escaped: in a Redis key a brace is never mere text. A
// second hash tag is accepted, although Redis Cluster ignores it: it is
// harmless.
func parse(template string) (parts []part, tail string, err error) {
	if template == "" {
		return nil, "", errors.New("it is empty: write a template, such as \"users:{id}\"")
	}
	var literal strings.Builder
	literals := 0 // bytes of all literals: with more than MaxLen no key can be rendered
	for i := 0; i < len(template); {
		r, size := utf8.DecodeRuneInString(template[i:])
		switch {
		case r == '{':
			name, double, err := placeholder(template, i)
			if err != nil {
				return nil, "", err
			}
			size = len("{}") + len(name)
			if double {
				literal.WriteByte('{')
				size += len("{}")
			}
			literals += literal.Len()
			parts = append(parts, part{literal: literal.String(), name: name})
			literal.Reset()
			if double {
				literal.WriteByte('}')
			}
		case r == '}':
			return nil, "", fmt.Errorf("unbalanced \"}\" at byte %d: braces are only for {name} and {{name}}", i)
		case r == utf8.RuneError && size == 1:
			return nil, "", fmt.Errorf("invalid UTF-8 at byte %d", i)
		case unicode.IsControl(r):
			return nil, "", fmt.Errorf("control character %U at byte %d", r, i)
		default:
			literal.WriteString(template[i : i+size])
		}
		i += size
	}
	literals += literal.Len()
	if literals > MaxLen {
		return nil, "", fmt.Errorf("it has %d bytes beside its placeholders: a key has at most %d", literals, MaxLen)
	}
	return parts, literal.String(), nil
}

// placeholder returns the name of the placeholder whose brace is at byte i, and
// whether its braces are double.
func placeholder(template string, i int) (name string, double bool, err error) {
	opening, closing := "{", "}"
	if strings.HasPrefix(template[i:], "{{") {
		double, opening, closing = true, "{{", "}}"
	}
	// The next brace of any type ends the name, so that a missing brace is
	// reported where it is missing, not at the end of a later placeholder.
	rest := template[i+len(opening):]
	end := strings.IndexAny(rest, "{}")
	switch {
	case end >= 0 && rest[end] == '{':
		return "", false, fmt.Errorf("%q inside the %q of byte %d: a placeholder is {name}, a hash tag {{name}}", "{", opening, i)
	case end < 0 || !strings.HasPrefix(rest[end:], closing):
		return "", false, fmt.Errorf("unbalanced %q at byte %d: close it with %q", opening, i, closing)
	case end == 0:
		return "", false, fmt.Errorf("no name in the placeholder at byte %d: write one, such as {id}", i)
	}
	name = rest[:end]
	if !isName(name) {
		return "", false, fmt.Errorf("placeholder %q at byte %d: a name has only letters, digits and underscores", name, i)
	}
	return name, double, nil
}

// isName reports whether s can be the name of a placeholder: any Go identifier,
// even with a leading digit.
func isName(s string) bool {
	notInName := func(r rune) bool { return r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r) }
	return s != "" && strings.IndexFunc(s, notInName) < 0
}

// snake returns a Go name in snake case: user_id for UserID, http_port for
// HTTPPort. There is no list of acronyms: for OAuthID, o_auth_id here, a
// placeholder may also be {OAuthID} or {oauthid}.
func snake(name string) string {
	var b strings.Builder
	runes := []rune(name)
	for i, r := range runes {
		if i > 0 && unicode.IsUpper(r) && runes[i-1] != '_' {
			// A word begins after a small letter or digit, or with the last
			// capital of several: HTTPPort.
			if !unicode.IsUpper(runes[i-1]) || i+1 < len(runes) && unicode.IsLower(runes[i+1]) {
				b.WriteByte('_')
			}
		}
		b.WriteRune(unicode.ToLower(r))
	}
	return b.String()
}
