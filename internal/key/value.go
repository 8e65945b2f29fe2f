package key

import (
	"encoding"
	"fmt"
	"reflect"
	"strconv"
	"unicode"
	"unicode/utf8"

	"github.com/cachex-go/cachex/internal/guard"
)

// class is the form in which a value is rendered. There is no class for
// fmt.Stringer: text for people often omits details.
type class uint8

const (
	signed    class = iota
	unsigned        // rendered like signed, but parsed differently
	boolean         // true, false
	hex             // an array of bytes
	escaped         // a string
	appended        // the result of AppendText, escaped
	marshaled       // the result of MarshalText, escaped
)

// isText reports whether values of the class are rendered by their own method.
func (c class) isText() bool { return c >= appended }

// endsBefore reports whether the end of a value is recognizable if the literal
// follows.
func (c class) endsBefore(literal string) bool {
	first := literal[0]
	switch c {
	case signed, unsigned:
		return first < '0' || first > '9' // '-' is fine: an integer has it only in front
	case boolean, hex:
		return true
	}
	return first != '%'
}

// value is a value in a key.
type value struct {
	class class
	field int    // its index in the struct, or whole
	what  string // in errors: "main.ID", "field ID of main.Key"
	size  int    // the bits of an integer, the bytes of an array, otherwise zero
}

// whole is the field of a value that is the key itself.
const whole = -1

// of returns the value in k.
func (v *value) of(k reflect.Value) reflect.Value {
	if v.field == whole {
		return k
	}
	return k.Field(v.field)
}

// text calls the method of x that renders it. x must be addressable. scratch is
// room for the text, separate from the key, so that a method that does more
// than append cannot damage the key.
func (v *value) text(x reflect.Value, scratch []byte) (text []byte, err error) {
	method := "MarshalText"
	if v.class == appended {
		method = "AppendText"
	}
	defer guard.Catch(guard.Named(method).Of(v.what), &err)
	// The address has the methods of the value, and fits into an interface
	// without a copy on the heap.
	if p := x.Addr().Interface(); v.class == appended {
		text, err = p.(encoding.TextAppender).AppendText(scratch)
	} else {
		text, err = p.(encoding.TextMarshaler).MarshalText()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %s: %w", v.what, method, err)
	}
	return text, nil
}

// append appends x, which is not of a text class.
func (p *part) append(dst []byte, x reflect.Value) ([]byte, error) {
	switch p.value.class {
	case signed:
		return strconv.AppendInt(dst, x.Int(), 10), nil
	case unsigned:
		return strconv.AppendUint(dst, x.Uint(), 10), nil
	case boolean:
		return strconv.AppendBool(dst, x.Bool()), nil
	case hex:
		for i := range x.Len() {
			b := byte(x.Index(i).Uint())
			dst = append(dst, lowerHex[b>>4], lowerHex[b&15])
		}
		return dst, nil
	}
	return appendEscaped(dst, x.String(), p.stop)
}

const (
	lowerHex = "0123456789abcdef"
	upperHex = "0123456789ABCDEF"
)

// appendEscaped appends s. It writes %XX for each byte of a character that is
// special in keys, a control character or the stop, and for each byte that is
// not UTF-8. Control characters are Unicode's class Cc, which never changes. A
// wider class of unprintable characters would change with Go's tables, and with
// it the keys of a fleet.
func appendEscaped[S string | []byte](dst []byte, s S, stop rune) ([]byte, error) {
	if len(s) > MaxLen {
		return nil, tooLong(len(s))
	}
	start := 0 // of the bytes not yet appended
	for i := 0; i < len(s); {
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(string(s[i:min(i+utf8.UTFMax, len(s))]))
		}
		end := i + size
		if r == '%' || r == ':' || r == '{' || r == '}' || r == stop || unicode.IsControl(r) || r == utf8.RuneError && size == 1 {
			dst = append(dst, s[start:i]...)
			for ; i < end; i++ {
				dst = append(dst, '%', upperHex[s[i]>>4], upperHex[s[i]&15])
			}
			start = end
		}
		i = end
	}
	return append(dst, s[start:]...), nil
}

// firstRune returns the first character of s, which is not empty.
func firstRune(s string) rune {
	r, _ := utf8.DecodeRuneInString(s)
	return r
}
