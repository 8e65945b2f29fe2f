package key

import (
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// Packed renders a K as the place of an entry in a shared hash: the key of the
// hash, a space, and the field. A field has no space, so the last space
// separates the two. Packed is immutable, and safe for concurrent use.
//
// Keys that end in an integer are packed by ranges of it: "users:{id}" by 100
// has 4217 in field 17 of "users:%~100:42". All other keys are distributed over
// a number of hashes by a hash of their values, and the field is these values:
// in "users:%#5000:1234", "ann".
//
// The part that replaces the rest of the key begins with '%'. In a value two
// hexadecimal digits always follow '%', so no template renders that part for a
// value. It contains the number, since a field means another key under another
// number.
type Packed[K comparable] struct {
	keys *Template[K] // by ranges: of the unpacked keys
	last int          // by ranges: the divided part
	n    uint64       // the size of a range, or the number of hashes
	mark string       // the beginning of the replacing part, up to the number of the hash

	fields *Template[K] // by a hash: of the fields; nil by ranges
	before string       // by a hash: the text before mark
	after  string       // by a hash: the text after the number

	hashes *Template[K] // only its Match and Pattern are used
}

// Pack returns t packed with n entries to a hash: by ranges if expected is 0,
// otherwise by a hash, for the expected number of entries. Its errors say what
// to change.
func (t *Template[K]) Pack(n, expected int) (*Packed[K], error) {
	switch {
	case t.f != nil:
		return nil, fmt.Errorf("needs Spec.Key in place of Spec.KeyFunc")
	case len(t.parts) == 0:
		return nil, fmt.Errorf("needs a placeholder in Spec.Key: there is only one entry")
	}
	for i := range t.parts {
		p := &t.parts[i]
		if strings.HasSuffix(p.literal, "{") && (expected > 0 || i == len(t.parts)-1) {
			return nil, fmt.Errorf("keeps {%s} in the field of a hash, so it cannot be a hash tag: write Spec.Key with {%[1]s}", p.name)
		}
	}
	p := &Packed[K]{keys: t, last: len(t.parts) - 1, n: uint64(n)}
	if expected > 0 {
		return p.byHash(n, expected)
	}
	return p.byRanges()
}

func (p *Packed[K]) byRanges() (*Packed[K], error) {
	t, last := p.keys, &p.keys.parts[p.last]
	if c := last.value.class; c != signed && c != unsigned {
		return nil, fmt.Errorf("needs Spec.Expected, about how many entries there will be, since {%s} is no integer", last.name)
	}
	for i := range t.parts[:p.last] {
		if t.parts[i].value.field == last.value.field {
			return nil, fmt.Errorf("needs Spec.Expected, about how many entries there will be, since {%s} is in Spec.Key twice", last.name)
		}
	}
	p.mark = "%~" + strconv.FormatUint(p.n, 10) + ":"
	parts := slices.Clone(t.parts)
	of := value{class: last.value.class, size: 64}
	parts[p.last] = part{literal: last.literal + "%~", value: value{class: unsigned, size: 64}, first: p.last}
	parts = append(parts, part{literal: ":", value: of, first: p.last + 1})
	p.hashes = &Template[K]{name: t.name, parts: parts, tail: t.tail}
	return p, nil
}

func (p *Packed[K]) byHash(n, expected int) (*Packed[K], error) {
	t := p.keys
	p.n = max(uint64((expected+n-1)/n), 1)
	p.mark, p.before = "%#"+strconv.FormatUint(p.n, 10)+":", t.parts[0].literal
	p.fields = &Template[K]{parts: slices.Clone(t.parts), text: t.text}
	for i := range p.fields.parts {
		one := &p.fields.parts[i]
		if one.stop, one.literal = ' ', ":"; i == 0 {
			one.literal = ""
		} else {
			p.after += t.parts[i].literal + "%#"
		}
	}
	p.after += t.tail
	number := value{class: unsigned, size: 64}
	p.hashes = &Template[K]{name: t.name, tail: p.after, parts: []part{
		{literal: p.before + "%#", value: number}, {literal: ":", value: number, first: 1},
	}}
	return p, nil
}

// Append appends the place of the entry of k to dst, like [Template.Append] its
// key, with the same errors.
func (p *Packed[K]) Append(dst []byte, k K) ([]byte, error) {
	place, err := p.append(dst, k)
	if err != nil {
		return dst, err
	}
	if n := len(place) - len(dst); n > MaxLen {
		return dst, tooLong(n)
	}
	return place, nil
}

func (p *Packed[K]) append(dst []byte, k K) ([]byte, error) {
	if p.fields != nil {
		var room [96]byte
		field, err := p.fields.append(room[:0], k)
		if err != nil {
			return nil, err
		}
		dst = append(append(dst, p.before...), p.mark...)
		dst = strconv.AppendUint(dst, fnv(field)%p.n, 10)
		dst = append(append(dst, p.after...), ' ')
		return append(dst, field...), nil
	}
	place, err := p.keys.append(dst, k)
	if err != nil {
		return nil, err
	}
	// The integer is the last part, followed only by the tail. The replacing
	// part takes the place of its rendering.
	var room [20]byte
	x, v := p.keys.parts[p.last].value.of(reflect.ValueOf(k)), uint64(0)
	var digits []byte
	negative := false
	if x.CanInt() {
		digits, negative = strconv.AppendInt(room[:0], x.Int(), 10), x.Int() < 0
		if v = uint64(x.Int()); negative {
			v = uint64(-1 - x.Int()) // ranges of negative numbers count downwards from -1
		}
	} else {
		v = x.Uint()
		digits = strconv.AppendUint(room[:0], v, 10)
	}
	at, rest := v/p.n, v%p.n
	place = append(place[:len(place)-len(p.keys.tail)-len(digits)], p.mark...)
	if negative {
		place = strconv.AppendInt(place, -1-int64(at), 10)
		rest = p.n - 1 - rest
	} else {
		place = strconv.AppendUint(place, at, 10)
	}
	place = append(append(place, p.keys.tail...), ' ')
	return strconv.AppendUint(place, rest, 10), nil
}

// Pattern returns the glob that the key of every hash matches, like
// [Template.Pattern].
func (p *Packed[K]) Pattern() (string, error) {
	if _, err := p.keys.Pattern(); err != nil {
		return "", err
	}
	return p.hashes.Pattern()
}

// Match reports whether key can be the key of a hash, of this number or another
// one.
func (p *Packed[K]) Match(key string) bool { return p.hashes.Match(key) }

// fnv returns the 64-bit FNV-1a hash of b, which is the same in every process.
func fnv(b []byte) uint64 {
	h := uint64(14695981039346656037)
	for _, c := range b {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return h
}
