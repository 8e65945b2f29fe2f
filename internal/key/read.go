package key

import (
	"encoding"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"

	"github.com/cachex-go/cachex/internal/guard"
)

// Parses returns nil if Parse can give back every K, and else says what stands in its way: a function of [FromFunc], or a
// value whose type has a method that renders it, but whose pointer has no UnmarshalText. That UnmarshalText undoes the
// other method it takes on trust, as Append does that different values have different texts; Parse finds out for each
// key. It goes by the types alone, so once is enough, when a cache is made. Parses is safe for concurrent use.
func (t *Template[K]) Parses() error {
	if t.f != nil {
		return errOneWay
	}
	k := reflect.TypeFor[K]()
	for i := range t.parts {
		v := &t.parts[i].value
		if typ := v.typeIn(k); v.class.isText() && !reflect.PointerTo(typ).Implements(textUnmarshaler) {
			return v.oneWay(typ)
		}
	}
	return nil
}

// Parse returns the K whose key is key: the one for which Append gives exactly these bytes, which Parse makes sure of. Blank
// fields of it are zero. The K may share the memory of key.
//
// Whatever else key is, the error says so, and the K is zero: ErrEmpty, ErrTooLong, a key of another template, a value that
// Append would have written in another way or that its type cannot hold, or one that UnmarshalText refuses or panics on.
// [errors.Is] and [errors.As] find what UnmarshalText returned. Where Parses has an error, nothing can be read.
// The text of an error names fields and placeholders, and repeats nothing of the key.
//
// Parse is safe for concurrent use.
func (t *Template[K]) Parse(key string) (K, error) {
	k := new(K)
	err := t.read(k, key)
	if err == nil {
		err = t.confirm(*k, key)
	}
	if err != nil {
		*k = *new(K)
	}
	return *k, err
}

var errOneWay = errors.New("the keys are made by Spec.KeyFunc, so nobody can read one back: it takes a Spec.Key")

// read sets k, which is zero, to what key says if it is a key of the template. It leaves it to confirm whether it is.
func (t *Template[K]) read(k *K, key string) error {
	switch {
	case t.f != nil:
		return errOneWay
	case key == "":
		return ErrEmpty
	case len(key) > MaxLen:
		return tooLong(len(key))
	}
	var room [8]string
	values, ok := t.split(room[:0], key)
	switch n := len(values); {
	case !ok && n < len(t.parts):
		return fmt.Errorf("the key is not of this template: it differs before or in {%s}", t.parts[n].name)
	case !ok:
		return errors.New("the key is not of this template: it differs at the end")
	}
	v := reflect.ValueOf(k).Elem()
	for i, s := range values {
		p := &t.parts[i]
		if p.first != i {
			continue // it is set, and no UnmarshalText need know what to do with a value that is not zero
		}
		if err := p.value.set(p.value.of(v), s); err != nil {
			return err
		}
	}
	return nil
}

// confirm returns nil if k has that key and no other. Whatever is amiss with a key that could be read, a sign, a zero in
// front, an escape that need not be, a field with two values, a method that reads more than it writes: here it shows. A list
// of such things would never be complete.
func (t *Template[K]) confirm(k K, key string) error {
	var room [128]byte
	switch again, err := t.Append(room[:0], k); {
	case err != nil:
		return &quiet{"what is read from the key cannot be rendered", err}
	case string(again) != key:
		return errors.New("the key is not of this template: it is rendered otherwise")
	}
	return nil
}

// typeIn returns the type of the value in a key of type k.
func (v *value) typeIn(k reflect.Type) reflect.Type {
	if v.field == whole {
		return k
	}
	return k.Field(v.field).Type
}

// oneWay is the error for a value of type t that is rendered by a method which nothing undoes.
func (v *value) oneWay(t reflect.Type) error {
	return fmt.Errorf("%s renders itself, but cannot be read back from a key: give *%v the method UnmarshalText", v.what, t)
}

// set sets x, which must be addressable, to what is read from s. It need not refuse what would be rendered otherwise.
func (v *value) set(x reflect.Value, s string) error {
	var err error
	switch v.class {
	case signed:
		var n int64
		n, err = strconv.ParseInt(s, 10, v.size)
		x.SetInt(n)
	case unsigned:
		var n uint64
		n, err = strconv.ParseUint(s, 10, v.size)
		x.SetUint(n)
	case boolean:
		var b bool
		b, err = strconv.ParseBool(s)
		x.SetBool(b)
	case hex:
		return v.setHex(x, s)
	default:
		return v.setText(x, s)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", v.what, errors.Unwrap(err)) // what strconv wraps around it quotes s
	}
	return nil
}

// setHex is set for an array of bytes.
func (v *value) setHex(x reflect.Value, s string) error {
	if len(s) != 2*v.size {
		return fmt.Errorf("%s: not %d hexadecimal digits", v.what, 2*v.size)
	}
	for i := range x.Len() {
		high, low := strings.IndexByte(lowerHex, s[2*i]), strings.IndexByte(lowerHex, s[2*i+1])
		if high < 0 || low < 0 {
			return fmt.Errorf("%s: not %d hexadecimal digits", v.what, 2*v.size)
		}
		x.Index(i).SetUint(uint64(high<<4 | low))
	}
	return nil
}

// setText is set for what is escaped.
func (v *value) setText(x reflect.Value, s string) error {
	if strings.IndexByte(s, '%') < 0 && v.class == escaped {
		x.SetString(s)
		return nil
	}
	// Memory of its own for each text: UnmarshalText ought not to keep it, but need not be hurt by it.
	text, ok := unescape(nil, s)
	switch {
	case !ok:
		return fmt.Errorf("%s: a %% in the key does not begin an escape, which is %%XX", v.what)
	case v.class == escaped:
		x.SetString(string(text))
		return nil
	}
	return v.unmarshal(x, text)
}

// unmarshal calls the method of x's address that undoes text.
func (v *value) unmarshal(x reflect.Value, text []byte) (err error) {
	u, ok := x.Addr().Interface().(encoding.TextUnmarshaler)
	if !ok {
		return v.oneWay(x.Type())
	}
	defer guard.Catch(guard.Named("UnmarshalText").Of(v.what), &err)
	if err := u.UnmarshalText(text); err != nil {
		return &quiet{v.what + ": UnmarshalText failed", err}
	}
	return nil
}

// quiet is an error that wraps another but does not repeat its text: who could not read something likes to quote it.
type quiet struct {
	text  string
	cause error // or nil
}

// Error returns the text alone.
func (e *quiet) Error() string { return e.text }

// Unwrap returns the cause.
func (e *quiet) Unwrap() error { return e.cause }
