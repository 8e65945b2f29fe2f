// Package key renders typed keys as Redis keys, from a template that is checked against the key's type once, when the
// cache is made, so that nothing is left to go wrong on the way to Redis.
//
// # Templates
//
// A template is literal text and placeholders. {name} stands for a value. {{name}} stands for a value inside literal
// braces, a hash tag: Redis Cluster keeps the keys with equal text between the first pair of braces on one node, unless
// that text is empty. Braces have no other use in a template.
//
// A struct without a text of its own has a placeholder for each of its fields, found by the field's tag `cachex:"name"`,
// or without a tag by the field's name as it is in Go or in snake case, whatever the case of the letters: {user_id},
// {UserID} and {userid} are all the field UserID. Every field must be in the template, or keys that differ would collide.
// Any other type has exactly one placeholder, and its name is only for the reader.
//
// # Values
//
// Integers are decimal, bools true or false, arrays of bytes lower-case hexadecimal. Strings stand as they are, but for
// '%', ':', '{', '}', control characters, bytes that are not UTF-8, and the character that begins the literal between a
// string and the next value: of these each byte is written %XX. What [encoding.TextAppender] or [encoding.TextMarshaler]
// give is treated as a string is; they come before the underlying type, and must be methods of the value, not of its
// pointer. Named types render as what they are made of. All else is refused, and left to a function.
//
// Text is compared byte by byte, as Go compares strings: it is not folded in case and not brought to a Unicode normal form.
//
// # Distinct keys are distinct strings
//
// Let a key be L0 V0 L1 V1 … Vn Ln+1, the literals L known, with the braces of hash tags in them, and the values V to be
// found again.
//
// One value is found again from its rendering: decimals, bools and hexadecimal plainly, and an escaped string by undoing
// the escapes, since '%' itself is always escaped. For text this is as good as the type's own method: it must give
// different text for different values.
//
// The end of each value is found too. The last one ends where the last literal, of known length, begins. Any other value
// is followed by a literal that is not empty, for touching placeholders are refused, and a reader who goes from left to
// right knows where that literal begins:
//
//   - no bool and no hexadecimal array of a given length is the beginning of another, so they end by themselves;
//   - an integer is a sign, or none, and digits, and a literal that begins with a digit is refused here;
//   - a string is a row of escapes, each three bytes long, and of other characters. The character with which the literal
//     begins is escaped in the string, so the first time it stands outside an escape it is the literal's. That fails for
//     '%' alone, with which escapes begin, and it is refused here.
//
// So the key gives back every value, and thereby the K: fields that are not rendered are blank ones, which do not count
// when Go compares. [Template.Parse] does so, and [Template.Match] tells whether it could.
package key

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/cachex-go/cachex/internal/guard"
)

// MaxLen is the greatest length of a key, in bytes. Redis itself would take 512 MB.
const MaxLen = 1024

var (
	// ErrTooLong is the error for a key of more than MaxLen bytes.
	ErrTooLong = errors.New("key too long")

	// ErrEmpty is the error for a key of no bytes. Redis would take it, but it is hardly ever what was meant.
	ErrEmpty = errors.New("key is empty")
)

// Template renders a K as a Redis key. It is made by [Compile] or [FromFunc], does not change thereafter, and is safe for
// concurrent use.
type Template[K comparable] struct {
	name  string
	parts []part
	tail  string // the literal after the last part
	text  bool   // some part calls a method of the value
	hides bool   // see Hides

	f func(K) string // if not nil, all else but hides is zero
}

// part is a literal and the value after it.
type part struct {
	literal string
	name    string // the placeholder's
	value   value
	stop    rune // the character that ends the value, to be escaped in it; zero if nothing need be
	first   int  // the index of the first part with this value, most often its own
}

// Compile checks the template against K and returns it, ready for use. Its errors tell what to change, and speak of
// Spec.KeyFunc where only [FromFunc] can help.
func Compile[K comparable](template string) (*Template[K], error) {
	parts, tail, err := parse(template)
	if err != nil {
		return nil, err
	}
	if err := bind(reflect.TypeFor[K](), parts); err != nil {
		return nil, err
	}
	if err := separate(parts); err != nil {
		return nil, err
	}
	t := &Template[K]{parts: parts, tail: tail, hides: Hides[K]()}
	for i := range parts {
		t.text = t.text || parts[i].value.class.isText()
	}
	t.name, _, _ = strings.Cut(template, "{")
	t.name = strings.TrimRight(t.name, ":")
	return t, nil
}

// FromSpec returns what the fields Key and KeyFunc of a Spec describe, one of which must be set. Its errors begin with the
// name of the field that is wrong, and tell what to change.
func FromSpec[K comparable](template string, f func(K) string) (*Template[K], error) {
	switch {
	case template != "" && f != nil:
		return nil, errors.New("Spec.Key and Spec.KeyFunc are both set, and one is enough")
	case f != nil:
		return FromFunc(f)
	case template == "":
		return nil, errors.New(`Spec.Key is required, for instance "users:{id}"`)
	}
	t, err := Compile[K](template)
	if err != nil {
		return nil, fmt.Errorf("Spec.Key %q: %w", template, err)
	}
	return t, nil
}

// FromFunc returns a template that renders keys by f, as they come: nothing is escaped, and that different keys give
// different strings is up to f. f must be safe for concurrent use and always give the same string for the same key. The
// only error is for an f that is nil.
func FromFunc[K comparable](f func(K) string) (*Template[K], error) {
	if f == nil {
		return nil, errors.New("Spec.KeyFunc is nil")
	}
	return &Template[K]{f: f, hides: Hides[K]()}, nil
}

// Name returns the template up to its first placeholder, without colons at the end: "users" for "users:{user_id}". It is
// empty if the template begins with a placeholder, or is a function.
func (t *Template[K]) Name() string { return t.name }

// Append appends the key of k to dst, which may be nil. If dst has room it allocates nothing, except once if some value
// is rendered by a method of its own, and what that method and a template of [FromFunc] allocate themselves.
//
// The error is ErrEmpty, ErrTooLong, or one that wraps what such a method returned; a panic of a method or function is an
// error too. With an error, what is returned is dst as it was. No error contains the key; but a method's own error may.
// Append is safe for concurrent use.
func (t *Template[K]) Append(dst []byte, k K) ([]byte, error) {
	key, err := t.append(dst, k)
	if err != nil {
		return dst, err
	}
	switch n := len(key) - len(dst); {
	case n == 0:
		return dst, ErrEmpty
	case n > MaxLen:
		return dst, tooLong(n)
	}
	return key, nil
}

func (t *Template[K]) append(dst []byte, k K) ([]byte, error) {
	switch {
	case t.f != nil:
		s, err := t.call(k)
		return append(dst, s...), err
	case t.text:
		return t.appendText(dst, k)
	}
	// Two loops that look alike, here and in appendText, because methods are called through interfaces and make the key
	// escape to the heap. This loop keeps it on the stack, where reflection reads it without allocating: a type switch for
	// the common types, or unsafe offsets, could save no more than nanoseconds before a call that takes microseconds.
	v := reflect.ValueOf(k)
	for i := range t.parts {
		p := &t.parts[i]
		dst = append(dst, p.literal...)
		var err error
		if dst, err = p.append(dst, p.value.of(v)); err != nil {
			return nil, err
		}
	}
	return append(dst, t.tail...), nil
}

// appendText is append for a K some of whose values have methods to render them.
func (t *Template[K]) appendText(dst []byte, k K) ([]byte, error) {
	// One allocation for the key, whose methods are called through its address, lest each value be copied to the heap on
	// its own, and for the text. The text is not written into dst at once because escaping makes it longer.
	room := &struct {
		key  K
		text [64]byte
	}{key: k}
	v := reflect.ValueOf(&room.key).Elem()
	for i := range t.parts {
		p := &t.parts[i]
		dst = append(dst, p.literal...)
		var err error
		if p.value.class.isText() {
			var text []byte
			if text, err = p.value.text(p.value.of(v), room.text[:0]); err == nil {
				dst, err = appendEscaped(dst, text, p.stop)
			}
		} else {
			dst, err = p.append(dst, p.value.of(v))
		}
		if err != nil {
			return nil, err
		}
	}
	return append(dst, t.tail...), nil
}

// call is t.f without its panics.
func (t *Template[K]) call(k K) (s string, err error) {
	defer guard.Catch(keyFunc, &err)
	return t.f(k), nil
}

// keyFunc names Spec.KeyFunc in errors.
var keyFunc = guard.Named("Spec.KeyFunc")

// separate sees to it that the end of every value can be found, as the package's comment proves. Bools and arrays could
// touch the next value and still be found, but nobody who looks at the keys would find them.
func separate(parts []part) error {
	for i := range len(parts) - 1 {
		p, next := &parts[i], &parts[i+1]
		switch {
		case next.literal == "":
			return fmt.Errorf("{%s} and {%s} touch, so two keys could collide: put \":\" between them", p.name, next.name)
		case !p.value.class.endsBefore(next.literal):
			return fmt.Errorf("the %q between {%s} and {%s} could be part of {%[2]s}, so two keys could collide: begin it with \":\"",
				strings.TrimSuffix(next.literal, "{"), p.name, next.name)
		}
		p.stop = firstRune(next.literal)
	}
	return nil
}

// tooLong wraps ErrTooLong for a key of n bytes or more: a value that is too long by itself is not rendered to the end.
func tooLong(n int) error {
	return fmt.Errorf("%w: at least %d bytes, the limit is %d", ErrTooLong, n, MaxLen)
}
