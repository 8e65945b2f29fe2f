package codec_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"net"
	"net/netip"
	"net/url"
	"reflect"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
)

// This file tests one property: if Check accepts a type, Decode returns every
// value that Append accepts, equal. Fuzz bytes determine types and values.

// source yields the bytes that determine types and values, and then zeros.
type source struct {
	b    []byte
	left int // parts that may still be made
}

func (s *source) byte() byte {
	if len(s.b) == 0 {
		return 0
	}
	c := s.b[0]
	s.b = s.b[1:]
	return c
}

func (s *source) intN(n int) int { return int(s.byte()) % n }

func (s *source) uint64() (n uint64) {
	for range s.intN(9) {
		n = n<<8 | uint64(s.byte())
	}
	switch s.intN(4) {
	case 0:
		return -n
	case 1:
		return math.MaxUint64 << (n % 64)
	}
	return n
}

// flag is a byte array, grading an integer and label a string. All encode
// themselves as text.
type (
	flag    [2]byte
	grading int8
	label   string
)

func (f flag) MarshalText() ([]byte, error) { return []byte{'f', f[0], f[1]}, nil }
func (f *flag) UnmarshalText(b []byte) error {
	if len(b) != 3 {
		return errors.New("not a flag")
	}
	copy(f[:], b[1:])
	return nil
}

// A grading of 0 does not decode: many enumerations refuse values that they do
// not name.
func (l grading) MarshalText() ([]byte, error) { return []byte{byte(l)}, nil }
func (l *grading) UnmarshalText(b []byte) error {
	if len(b) != 1 || b[0] == 0 {
		return errors.New("no grading")
	}
	*l = grading(b[0])
	return nil
}

func (l label) MarshalText() ([]byte, error)  { return []byte("#" + l), nil }
func (l *label) UnmarshalText(b []byte) error { *l = label(b[1:]); return nil }

// never says that it is empty, whatever its value.
type never struct{ N int8 }

func (never) IsZero() bool { return true }

// partly has fields that are not stored.
type partly struct {
	A      int8
	hidden int8
	Gone   int8 `msgpack:"-"`
}

// These types have parts that reflect.StructOf cannot make.
type (
	Inner struct {
		X   int8      `msgpack:",omitempty"`
		At  time.Time `msgpack:",omitempty"`
		Ptr *int8
	}
	Lazy struct {
		L  []int8     `msgpack:",omitempty"`
		Of netip.Addr `msgpack:",omitempty"`
	}
	Outer struct {
		*Inner
		Lazy
		B *Lazy
	}
	Deeper struct {
		*Outer
		C any `msgpack:",omitempty"`
	}
	arrayed struct {
		_msgpack struct{} `msgpack:",as_array"`
		A        int8
		B        any
		At       time.Time
		P        *arrayed
	}
	omitting struct {
		_msgpack struct{} `msgpack:",omitempty"`
		F        float64
		A        any
		T        *time.Time
		M        map[string]int8
		S        []string
		N        netip.Addr
		Big      big.Int
		V        never
		G        flag
		In       Lazy
		Raw      msgpack.RawMessage
	}
	Tree struct {
		Kids  []Tree
		Next  *Tree
		Named map[string]Tree
		Value any
	}
	stamped struct{ time.Time }
)

// fixed holds the types that a source chooses from, besides the types that it
// makes.
var fixed = []reflect.Type{
	reflect.TypeFor[int8](), reflect.TypeFor[string](), reflect.TypeFor[any](), reflect.TypeFor[time.Time](), reflect.TypeFor[[]byte](),
	reflect.TypeFor[bool](), reflect.TypeFor[int](), reflect.TypeFor[int16](), reflect.TypeFor[int32](), reflect.TypeFor[int64](),
	reflect.TypeFor[uint](), reflect.TypeFor[uint8](), reflect.TypeFor[uint16](), reflect.TypeFor[uint32](), reflect.TypeFor[uint64](),
	reflect.TypeFor[float32](), reflect.TypeFor[float64](), reflect.TypeFor[name](), reflect.TypeFor[[4]byte](), reflect.TypeFor[time.Duration](),
	reflect.TypeFor[*time.Time](), reflect.TypeFor[struct{}](), reflect.TypeFor[[0]int](),
	reflect.TypeFor[netip.Addr](), reflect.TypeFor[*netip.Addr](), reflect.TypeFor[big.Int](), reflect.TypeFor[*big.Int](), reflect.TypeFor[net.IP](),
	reflect.TypeFor[url.URL](), reflect.TypeFor[custom](), reflect.TypeFor[*custom](), reflect.TypeFor[flag](), reflect.TypeFor[grading](), reflect.TypeFor[label](),
	reflect.TypeFor[msgpack.RawMessage](), reflect.TypeFor[cents](), reflect.TypeFor[point](), reflect.TypeFor[never](), reflect.TypeFor[partly](),
	reflect.TypeFor[Inner](), reflect.TypeFor[Outer](), reflect.TypeFor[*Outer](), reflect.TypeFor[Deeper](), reflect.TypeFor[arrayed](),
	reflect.TypeFor[omitting](), reflect.TypeFor[Tree](), reflect.TypeFor[stamped](), reflect.TypeFor[map[string]any](), reflect.TypeFor[[]any](),
	reflect.TypeFor[selfMap](), reflect.TypeFor[octet](), reflect.TypeFor[common](), reflect.TypeFor[sparing](), reflect.TypeFor[embedsTime](),
}

type embedsTime struct {
	time.Time
	N int
}

// typ makes a type, which Check may refuse.
func (s *source) typ(depth int) reflect.Type {
	if depth == 0 {
		return fixed[s.intN(len(fixed))]
	}
	switch s.intN(9) {
	case 0:
		return reflect.PointerTo(s.typ(depth - 1))
	case 1:
		return reflect.SliceOf(s.typ(depth - 1))
	case 2:
		return reflect.ArrayOf(s.intN(4), s.typ(depth-1))
	case 3:
		if key := s.typ(min(depth-1, 2)); key.Comparable() {
			return reflect.MapOf(key, s.typ(depth-1))
		}
	case 4, 5, 6:
		return s.structOf(depth - 1)
	}
	return fixed[s.intN(len(fixed))]
}

// embeddable holds types that reflect.StructOf can embed: none has methods.
var embeddable = []reflect.Type{
	reflect.TypeFor[Base](), reflect.TypeFor[*Base](), reflect.TypeFor[Inner](), reflect.TypeFor[*Inner](), reflect.TypeFor[*Lazy](),
	reflect.TypeFor[Outer](), reflect.TypeFor[*Outer](), reflect.TypeFor[*Deeper](), reflect.TypeFor[*More](), reflect.TypeFor[*Part](),
}

var tags = []string{"", "", "", ",omitempty", ",omitempty", "-", "short", "s2,omitempty", ",inline", ",noinline", ",noinline,omitempty", "a,alias:b"}

func (s *source) structOf(depth int) (t reflect.Type) {
	defer func() {
		if recover() != nil { // reflect cannot make every struct
			t = reflect.TypeFor[Inner]()
		}
	}()
	var fields []reflect.StructField
	switch s.intN(12) {
	case 0:
		fields = append(fields, reflect.StructField{Name: "_msgpack", PkgPath: "codec", Type: reflect.TypeFor[struct{}](), Tag: `msgpack:",as_array"`})
	case 1:
		fields = append(fields, reflect.StructField{Name: "_msgpack", PkgPath: "codec", Type: reflect.TypeFor[struct{}](), Tag: `msgpack:",omitempty"`})
	}
	for i := range 1 + s.intN(5) {
		f := reflect.StructField{Name: fmt.Sprintf("F%d", i)}
		if s.intN(6) == 0 {
			f.Type, f.Anonymous = embeddable[s.intN(len(embeddable))], true
			f.Name = f.Type.Name()
			if f.Type.Kind() == reflect.Pointer {
				f.Name = f.Type.Elem().Name()
			}
		} else {
			f.Type = s.typ(depth)
		}
		if tag := tags[s.intN(len(tags))]; tag != "" {
			f.Tag = reflect.StructTag(fmt.Sprintf("msgpack:%q", tag))
		}
		fields = append(fields, f)
	}
	return reflect.StructOf(fields)
}

// fill makes a value.
func (s *source) fill(v reflect.Value) {
	if s.left--; s.left < 0 {
		return
	}
	if s.fillSelfEncoding(v) {
		return
	}
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(s.intN(2) == 1)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(s.uint64()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(s.uint64())
	case reflect.Float32:
		v.SetFloat(float64(math.Float32frombits(uint32(s.uint64()))))
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(s.uint64()))
	case reflect.String:
		v.SetString(string(s.bytes()))
	case reflect.Interface:
		s.fillAny(v)
	case reflect.Pointer:
		if s.intN(4) > 0 {
			v.Set(reflect.New(v.Type().Elem()))
			s.fill(v.Elem())
		}
	case reflect.Slice:
		if n := s.intN(5); n > 0 {
			v.Set(reflect.MakeSlice(v.Type(), n-1, n-1))
		}
		for i := range v.Len() {
			s.fill(v.Index(i))
		}
	case reflect.Array:
		for i := range v.Len() {
			s.fill(v.Index(i))
		}
	case reflect.Map:
		n := s.intN(5)
		if n > 0 {
			v.Set(reflect.MakeMap(v.Type()))
		}
		for range n - 1 {
			key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
			s.fill(key)
			s.fill(elem)
			func() {
				defer func() { _ = recover() }() // the any may be no valid key
				v.SetMapIndex(key, elem)
			}()
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() || v.Type().Field(i).Anonymous && f.Kind() == reflect.Struct {
				s.fill(f)
			}
		}
	}
}

func (s *source) bytes() []byte {
	n := min(s.intN(40), len(s.b))
	b := bytes.Clone(s.b[:n])
	s.b = s.b[n:]
	return b
}

// fillSelfEncoding fills a value of a type whose fields cannot be set.
func (s *source) fillSelfEncoding(v reflect.Value) bool {
	if !v.CanSet() {
		return false
	}
	switch p := v.Addr().Interface().(type) {
	case *time.Time:
		switch s.intN(6) {
		case 0:
		case 1:
			*p = time.Unix(int64(s.uint64())>>8, int64(s.uint64()>>34))
		case 2:
			*p = time.Unix(int64(s.uint64())>>28, 0).In(time.FixedZone("east", 3600*s.intN(12)))
		case 3:
			*p = time.Now()
		default:
			*p = time.Unix(int64(s.uint64())>>20, int64(s.uint64()>>34)).UTC()
		}
	case *stamped:
		p.Time = time.Unix(int64(s.byte()), 0).UTC()
	case *embedsTime:
		p.Time, p.N = time.Unix(int64(s.byte()), 0).UTC(), s.intN(9)
	case *netip.Addr:
		if s.intN(3) > 0 {
			*p = netip.AddrFrom4([4]byte{10, s.byte(), 0, 1})
		}
	case *big.Int:
		p.SetUint64(s.uint64())
	case *net.IP:
		*p = [][]byte{nil, {}, {1, 2, 3, 4}, net.IPv6loopback, {1}}[s.intN(5)]
	case *url.URL:
		p.Path = "/" + fmt.Sprintf("%x", s.bytes())
	case *point:
		p.X, p.Y = int(s.byte()), int(s.byte())
	case *cents:
		*p = cents(s.byte())
	case *custom:
		p.x, p.y = int(s.byte()), int(s.byte())
	case *msgpack.RawMessage:
		*p = [][]byte{nil, {}, {0xc0}, {1}, {0x91, 1}, {0x81}, {1, 1}, {0xd4, 99, 1}, {0x81, 1, 2}, {0xc1}, []byte("\xa2F1\x01")}[s.intN(11)]
	default:
		return false
	}
	return true
}

func (s *source) fillAny(v reflect.Value) {
	var x any
	switch s.intN(10) {
	case 0:
	case 1:
		x = int(s.uint64())
	case 2:
		x = string(s.bytes())
	case 3, 4: // a map, mostly with keys that are not strings
		t := reflect.MapOf(s.typKey(), fixed[s.intN(len(fixed))])
		m := reflect.New(t).Elem()
		s.fill(m)
		x = m.Interface()
	case 5:
		x = map[string]any{string(s.bytes()): s.someAny(), "k": s.someAny()}
	case 6:
		x = []any{s.someAny(), s.someAny()}
	default:
		e := reflect.New(s.typ(2)).Elem()
		s.fill(e)
		x = e.Interface()
	}
	if x != nil {
		v.Set(reflect.ValueOf(x))
	}
}

func (s *source) someAny() (x any) {
	s.fill(reflect.ValueOf(&x).Elem())
	return x
}

func (s *source) typKey() reflect.Type {
	if t := fixed[s.intN(len(fixed))]; t.Comparable() {
		return t
	}
	return reflect.TypeFor[int]()
}

// roundTrip makes a type and a value from data, and tests the property. It
// reports whether Check accepted the type, and whether Append accepted the
// value.
func roundTrip(t *testing.T, data []byte) (checked, accepted bool) {
	t.Helper()
	s := &source{b: data, left: 200}
	typ := s.typ(4)
	c, err := codec.MessagePackOf(typ)
	if err != nil {
		if !errors.Is(err, codec.ErrConfig) {
			t.Fatalf("Check of %v: %v", typ, err)
		}
		return false, false
	}
	p := reflect.New(typ)
	s.fill(p.Elem())
	src, err := c.Append(p)
	if err != nil {
		if !errors.Is(err, codec.ErrEncode) {
			t.Fatalf("Append of %+v of type %v: %v", p.Elem(), typ, err)
		}
		return true, false
	}
	same, err := c.Append(p)
	if err != nil || !bytes.Equal(src, same) {
		t.Fatalf("%+v of type %v is encoded %x, and then %x and %v", p.Elem(), typ, src, same, err)
	}
	got, err := c.Decode(src)
	wantSame(t, "Decode", p.Elem(), got, src, err)
	got, err = c.DecodeByLibrary(src)
	wantSame(t, "msgpack", p.Elem(), got, src, err)
	return true, true
}

func wantSame(t *testing.T, by string, want, got reflect.Value, src []byte, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s of %+v of type %v, encoded %x: %v", by, want, want.Type(), src, err)
	}
	if err := comesBack(want, got); err != nil {
		t.Fatalf("%s: %v\n%+v of type %v, encoded %x, comes back as %+v", by, err, want, want.Type(), src, got)
	}
}

// unlike returns an error that shows where two values differ.
func unlike(want, got any) error { return fmt.Errorf("want %T %+v, got %T %+v", want, want, got, got) }

// comesBack returns nil, or an error that shows how the decoded value got
// differs from want.
func comesBack(want, got reflect.Value) error {
	if !got.CanAddr() { // the value in an any
		copied := reflect.New(got.Type()).Elem()
		copied.Set(got)
		got = copied
	}
	if want.CanAddr() {
		w, g := want.Addr().Interface(), got.Addr().Interface()
		switch w := w.(type) {
		case *time.Time:
			g := g.(*time.Time)
			if !w.Equal(*g) || *g != g.UTC() {
				return unlike(*w, *g)
			}
			return nil
		case *big.Int:
			if w.Cmp(g.(*big.Int)) != 0 {
				return unlike(w, g)
			}
			return nil
		case *netip.Addr, *custom, *url.URL, *flag, *grading, *label, *stamped:
			if !reflect.DeepEqual(w, g) {
				return unlike(w, g)
			}
			return nil
		case *embedsTime:
			if !w.Equal(g.(*embedsTime).Time) || w.N != g.(*embedsTime).N {
				return unlike(w, g)
			}
			return nil
		case *net.IP:
			if !w.Equal(*g.(*net.IP)) || (*w == nil) != (*g.(*net.IP) == nil) && len(*w) > 0 {
				return unlike(w, g)
			}
			return nil
		}
	}
	switch want.Kind() {
	case reflect.Float32, reflect.Float64:
		if w, g := want.Float(), got.Float(); math.Float64bits(w) != math.Float64bits(g) && !(math.IsNaN(w) && math.IsNaN(g)) {
			return unlike(w, g)
		}
		return nil
	case reflect.Interface:
		return anyComesBack(want.Elem(), got.Elem())
	case reflect.Pointer:
		if want.IsNil() || got.IsNil() {
			if want.IsNil() != got.IsNil() {
				return unlike(want.Interface(), got.Interface())
			}
			return nil
		}
		return comesBack(want.Elem(), got.Elem())
	case reflect.Slice, reflect.Array:
		if want.Len() != got.Len() || want.Kind() == reflect.Slice && want.IsNil() != got.IsNil() {
			return unlike(want.Interface(), got.Interface())
		}
		for i := range want.Len() {
			if err := comesBack(want.Index(i), got.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Map:
		if want.Len() != got.Len() || want.IsNil() != got.IsNil() {
			return unlike(want.Interface(), got.Interface())
		}
		for iter := want.MapRange(); iter.Next(); {
			w, g := reflect.New(want.Type().Elem()).Elem(), reflect.New(want.Type().Elem()).Elem()
			w.Set(iter.Value())
			at := got.MapIndex(iter.Key())
			if !at.IsValid() {
				if iter.Key().Comparable() && !iter.Key().Equal(iter.Key()) {
					continue // NaN
				}
				return fmt.Errorf("no key %+v in %+v", iter.Key(), got)
			}
			g.Set(at)
			if err := comesBack(w, g); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		for i := range want.NumField() {
			f := want.Type().Field(i)
			if !f.IsExported() && !f.Anonymous || f.Tag.Get("msgpack") == "-" {
				continue
			}
			if !f.IsExported() { // embedded, with exported fields
				for j := range f.Type.NumField() {
					if f.Type.Field(j).IsExported() && !reflect.DeepEqual(want.Field(i).Field(j).Interface(), got.Field(i).Field(j).Interface()) {
						return unlike(want, got)
					}
				}
				continue
			}
			if err := comesBack(want.Field(i), got.Field(i)); err != nil {
				return fmt.Errorf("%s: %w", f.Name, err)
			}
		}
		return nil
	}
	if !reflect.DeepEqual(want.Interface(), got.Interface()) {
		return unlike(want.Interface(), got.Interface())
	}
	return nil
}

// anyComesBack is comesBack for the value in an any, which decodes to the type
// that docs/codecs.md states.
func anyComesBack(want, got reflect.Value) error {
	for want.IsValid() && (want.Kind() == reflect.Pointer || want.Kind() == reflect.Interface) && !encodesItself(want.Type()) {
		want = want.Elem()
	}
	if got.IsValid() && got.Kind() == reflect.Interface {
		got = got.Elem()
	}
	isNil := !want.IsValid()
	if !isNil && !encodesItself(want.Type()) {
		switch want.Kind() {
		case reflect.Slice, reflect.Map:
			isNil = want.IsNil()
		}
	}
	switch {
	case isNil && !got.IsValid():
		return nil
	case isNil:
		return unlike(nil, got)
	case encodesItself(want.Type()):
		return nil // decodes to a value that only the type knows
	case !got.IsValid():
		return unlike(want, nil)
	}
	ok := false
	if w, is := want.Interface().(time.Time); is {
		g, isTime := got.Interface().(time.Time)
		if !isTime || !g.Equal(w) || g != g.UTC() {
			return unlike(w, got)
		}
		return nil
	}
	switch kind := want.Kind(); kind {
	case reflect.Bool, reflect.String, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		ok = got.Kind() == kind && want.Convert(got.Type()).Equal(got)
	case reflect.Int:
		ok = got.CanInt() && got.Int() == want.Int() || got.CanUint() && want.Int() >= 0 && got.Uint() == uint64(want.Int())
	case reflect.Uint:
		ok = got.CanUint() && got.Uint() == want.Uint() || got.CanInt() && got.Int() >= 0 && uint64(got.Int()) == want.Uint()
	case reflect.Float32, reflect.Float64:
		ok = got.Kind() == kind
		if ok {
			return comesBack(want, got)
		}
	case reflect.Slice, reflect.Array:
		if want.Type().Elem().Kind() == reflect.Uint8 {
			g, isBytes := got.Interface().([]byte)
			ok = isBytes && len(g) == want.Len()
			for i := range min(len(g), want.Len()) {
				ok = ok && g[i] == byte(want.Index(i).Uint())
			}
			break
		}
		if got.Kind() != reflect.Slice || got.Len() != want.Len() {
			break
		}
		for i := range want.Len() {
			if err := anyComesBack(want.Index(i), got.Index(i)); err != nil {
				return err
			}
		}
		ok = true
	case reflect.Map:
		if got.Kind() != reflect.Map || got.Len() != want.Len() {
			break
		}
		for iter := want.MapRange(); iter.Next(); {
			if err := findsInAny(iter.Key(), iter.Value(), got); err != nil {
				return err
			}
		}
		ok = true
	case reflect.Struct:
		ok = got.Kind() == reflect.Map || got.Kind() == reflect.Slice
	}
	if !ok {
		return unlike(want, got)
	}
	return nil
}

// findsInAny returns nil, or an error that says why a decoded map lacks an
// entry.
func findsInAny(k, v, got reflect.Value) (err error) {
	err = fmt.Errorf("no key %+v in %+v", k, got)
	for iter := got.MapRange(); iter.Next(); {
		if encodesItself(k.Type()) || anyComesBack(k, iter.Key()) == nil {
			if err = anyComesBack(v, iter.Value()); err == nil {
				return nil
			}
		}
	}
	return err
}

// encodesItself reports whether t has its own encoding, so that the type alone
// decides its decoded form in an any.
func encodesItself(t reflect.Type) bool {
	switch t {
	case reflect.TypeFor[time.Time](), reflect.TypeFor[*time.Time]():
		return false
	case reflect.TypeFor[cents](), reflect.TypeFor[point](), reflect.TypeFor[ticket]():
		return true
	}
	for _, method := range []string{"MarshalText", "MarshalBinary", "EncodeMsgpack"} {
		if _, ok := reflect.PointerTo(t).MethodByName(method); ok {
			return true
		}
		if _, ok := t.MethodByName(method); ok {
			return true
		}
	}
	return false
}

// TestMessagePack_WhatAppendAcceptsComesBack is FuzzRoundTrip with the same
// bytes in each run.
func TestMessagePack_WhatAppendAcceptsComesBack(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(8, 9))
	rounds, checked, accepted := 4000, 0, 0
	if raceEnabled {
		rounds = 500
	}
	for range rounds {
		data := make([]byte, 20+r.IntN(400))
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		c, a := roundTrip(t, data)
		if c {
			checked++
		}
		if a {
			accepted++
		}
	}
	t.Logf("Check accepts %d types of %d, and Append %d values of them", checked, rounds, accepted)
	if checked < rounds/3 || accepted < checked*2/3 {
		t.Errorf("Check accepts %d types of %d, and Append %d values of them: too few", checked, rounds, accepted)
	}
}

func FuzzRoundTrip(f *testing.F) {
	r := rand.New(rand.NewPCG(10, 11))
	for range 60 {
		data := make([]byte, 200)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) { roundTrip(t, data) })
}

// TestMessagePack_LeavesToMsgpackOnlyWhatEncodesItself requires that types
// without methods have programs.
func TestMessagePack_LeavesToMsgpackOnlyWhatEncodesItself(t *testing.T) {
	t.Parallel()
	for _, typ := range append(fixed, embeddable...) {
		c, err := codec.MessagePackOf(typ)
		if err != nil {
			continue
		}
		if c.Leaf() != encodesItself(typ) {
			t.Errorf("all of %v is left to msgpack: %v", typ, c.Leaf())
		}
	}
}
