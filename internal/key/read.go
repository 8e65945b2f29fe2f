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

// Parses returns nil if Parse can recover every K. Otherwise the error names
// the obstacle: a function of [FromFunc], or a value whose type has a method
// that renders it, but whose pointer has no UnmarshalText. Parses assumes that
// UnmarshalText reverses the other method; Parse checks it for each key. Parses
// uses the types alone, so one call is enough, when a cache is made. It is safe
// for concurrent use.
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

// Parse returns the K whose key is key. It checks that Append renders the
// result to exactly these bytes. Blank fields of the K are zero. The K may
// share the memory of key.
//
// If key has no K, the K is zero, and the error says why: ErrEmpty, ErrTooLong,
// a key of another template, a value that Append writes differently or that its
// type cannot hold, or one that UnmarshalText rejects or panics on. [errors.Is]
// and [errors.As] find the error of UnmarshalText. If Parses returns an error,
// Parse always fails. The text of an error names fields and placeholders, and
// repeats nothing of the key.
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

// read sets k, which is zero, to the values in key. confirm must then check
// whether key is its key.
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
			continue // it is set, and UnmarshalText may expect a zero value
		}
		if err := p.value.set(p.value.of(v), s); err != nil {
			return err
		}
	}
	return nil
}

// confirm returns nil if k has exactly that key. All deviations of a parsed key
// are found here: a sign, a leading zero, an unnecessary escape, a field with
// two values, a method that reads more than it writes. A list of such cases
// would never be complete.
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

// oneWay returns the error for a value of type t whose rendering method has no
// inverse.
func (v *value) oneWay(t reflect.Type) error {
	return fmt.Errorf("%s renders itself, but cannot be read back from a key: give *%v the method UnmarshalText", v.what, t)
}

// set sets x, which must be addressable, to the value of s. It need not reject
// renderings that Append would not produce.
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
		return fmt.Errorf("%s: %w", v.what, errors.Unwrap(err)) // the wrapping error of strconv quotes s
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

// setText is set for escaped text.
func (v *value) setText(x reflect.Value, s string) error {
	if strings.IndexByte(s, '%') < 0 && v.class == escaped {
		x.SetString(s)
		return nil
	}
	// Each text has its own memory: UnmarshalText should not retain it, but
	// might.
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

// unmarshal calls UnmarshalText of x's address.
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

// quiet is an error that wraps another without repeating its text: parsers
// often quote their input.
type quiet struct {
	text  string
	cause error // or nil
}

// Error returns the text alone.
func (e *quiet) Error() string { return e.text }

// Unwrap returns the cause.
func (e *quiet) Unwrap() error { return e.cause }
