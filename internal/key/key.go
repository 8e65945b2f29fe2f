// Package key renders typed keys as Redis keys. A template is checked against
// the key's type once, when the cache is made, so that few errors are left for
// later.
//
// # Templates
//
// A template consists of literals and placeholders. {name} stands for a value.
// {{name}} stands for a value inside literal braces, a hash tag: Redis Cluster
// keeps keys with equal text between the first pair of braces on one node,
// unless that text is empty. Braces have no other use in a template.
//
// A struct without a text of its own has a placeholder for each of its fields.
// The placeholder is the field's tag `cachex:"name"`, or otherwise the field's
// name, as in Go or in snake case, in any case of letters: {user_id}, {UserID}
// and {userid} all mean the field UserID. Every field must be in the template,
// or different keys would collide. Any other type has exactly one placeholder,
// with any name.
//
// # Values
//
// Integers are decimal, bools true or false, arrays of bytes lower-case
// hexadecimal. Strings are rendered unchanged, with these exceptions: '%', ':',
// '{', '}', control characters, bytes that are not UTF-8, and the first
// character of the literal between a string and the next value. Each byte of
// these is written %XX. Results of [encoding.TextAppender] and
// [encoding.TextMarshaler] are treated like strings. These methods take
// precedence over the underlying type, and must be methods of the value, not of
// its pointer. Named types render like their underlying types. All other types
// are rejected, and need a function.
//
// Text is compared byte by byte, as Go compares strings: without case folding
// or Unicode normalization.
//
// # Different keys have different strings
//
// Let a key be L0 V0 L1 V1 … Vn Ln+1. The literals L, including the braces of
// hash tags, are known; the values V must be recovered.
//
// A value is recovered from its rendering: decimals, bools and hexadecimal
// directly, and an escaped string by reversing the escapes, since '%' itself is
// always escaped. For text this depends on the type's own method, which must
// return different text for different values.
//
// The end of each value is recovered too. The last value ends where the last
// literal, of known length, begins. Any other value is followed by a non-empty
// literal, since adjacent placeholders are rejected. Reading from left to
// right, the beginning of that literal is known:
//
//   - no bool and no hexadecimal array of a given length is a prefix of
//     another;
//   - an integer consists of an optional sign and digits, and a following
//     literal that begins with a digit is rejected here;
//   - a string consists of escapes, each three bytes long, and of other
//     characters. The first character of the following literal is escaped in
//     the string, so its first occurrence outside an escape belongs to the
//     literal. That would fail only for '%', with which escapes begin, and
//     which is rejected here.
//
// So the key determines every value, and thereby the K: blank fields are not
// rendered, but Go does not compare them either. [Template.Parse] recovers the
// K, and [Template.Match] reports whether it could.
package key

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/cachex-go/cachex/internal/guard"
)

// MaxLen is the maximum length of a key, in bytes. Redis itself accepts 512 MB.
const MaxLen = 1024

var (
	// ErrTooLong is the error for a key of more than MaxLen bytes.
	ErrTooLong = errors.New("key too long")

	// ErrEmpty is the error for an empty key. Redis would accept it, but it is
	// almost always a mistake.
	ErrEmpty = errors.New("key is empty")
)

// Template renders a K as a Redis key. [Compile] and [FromFunc] make it. It is
// immutable, and safe for concurrent use.
type Template[K comparable] struct {
	name  string
	parts []part
	tail  string // the literal after the last part
	text  bool   // some part calls a method of the value
	hides bool   // see Hides

	f func(K) string // if not nil, all other fields except hides are zero
}

// part is a literal and the value after it.
type part struct {
	literal string
	name    string // the placeholder's
	value   value
	stop    rune // the character that ends the value, escaped in it; zero if there is none
	first   int  // the index of the first part with this value, usually its own
}

// Compile checks the template against K and returns it. Its errors say what to
// change, and mention Spec.KeyFunc only if [FromFunc] is the only way.
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

// FromSpec returns the template of the fields Key and KeyFunc of a Spec,
// exactly one of which must be set. Its errors begin with the name of the wrong
// field, and say what to change.
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

// FromFunc returns a template that renders keys with f, unchanged: nothing is
// escaped, and f must return different strings for different keys. f must be
// safe for concurrent use and always return the same string for the same key.
// FromFunc returns an error only if f is nil.
func FromFunc[K comparable](f func(K) string) (*Template[K], error) {
	if f == nil {
		return nil, errors.New("Spec.KeyFunc is nil")
	}
	return &Template[K]{f: f, hides: Hides[K]()}, nil
}

// Name returns the template up to its first placeholder, without trailing
// colons: "users" for "users:{user_id}". It is empty if the template begins
// with a placeholder, or is a function.
func (t *Template[K]) Name() string { return t.name }

// Append appends the key of k to dst, which may be nil. If dst has room, Append
// allocates nothing, with two exceptions: one allocation if some value is
// rendered by its own method, and the allocations of that method or of the
// function of [FromFunc].
//
// The error is ErrEmpty, ErrTooLong, or one that wraps the error of such a
// method. A panic of a method or function is an error too. With an error,
// Append returns dst unchanged. Its own errors do not contain the key, but the
// error of a method may. Append is safe for concurrent use.
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
	// This loop and the one in appendText look alike. They are separate because
	// methods are called through interfaces, which makes the key escape to the
	// heap. This loop keeps the key on the stack, where reflection reads it
	// without allocating. A type switch for the common types, or unsafe
	// offsets, would save only nanoseconds before a call that takes
	// microseconds.
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

// appendText is append for a K some of whose values have methods to render
// them.
func (t *Template[K]) appendText(dst []byte, k K) ([]byte, error) {
	// One allocation serves the key and the text. The methods are called
	// through the address of the key, otherwise each value would be copied to
	// the heap. The text is not written into dst at once, since escaping makes
	// it longer.
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

// call calls t.f; a panic is an error.
func (t *Template[K]) call(k K) (s string, err error) {
	defer guard.Catch(keyFunc, &err)
	return t.f(k), nil
}

// keyFunc names Spec.KeyFunc in errors.
var keyFunc = guard.Named("Spec.KeyFunc")

// separate checks that the end of every value can be recovered, as the package
// comment proves. Bools and arrays could touch the next value, but such keys
// would be unreadable.
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

// tooLong wraps ErrTooLong for a key of at least n bytes: a value that is too
// long alone is not rendered to its end.
func tooLong(n int) error {
	return fmt.Errorf("%w: at least %d bytes, the limit is %d", ErrTooLong, n, MaxLen)
}
