package codec_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"math/big"
	"reflect"
	"strconv"
	"testing"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
)

// again decodes src. If that succeeds, it requires that the value encodes to
// bytes that decode to the same value. If it fails, again requires an
// ErrFormat.
func again[V any](t *testing.T, c codec.Codec[V], src []byte) (v V, ok bool) {
	k := codec.Bind(c)
	kept := bytes.Clone(src)
	err := k.DecodeKeyed(src, "key", &v)
	if !bytes.Equal(src, kept) {
		t.Fatalf("Decode changed src %x", kept)
	}
	if err != nil {
		if !errors.Is(err, codec.ErrFormat) {
			t.Fatalf("Decode(%x): %v", src, err)
		}
		return v, false
	}
	out, err := k.AppendKeyed(nil, "key", v)
	if err != nil {
		// Encoding has more limits than decoding: for instance, a time may be
		// out of range.
		if !errors.Is(err, codec.ErrEncode) {
			t.Fatalf("Append of what %x decodes to: %v", src, err)
		}
		return v, true
	}
	var w V
	if err := k.DecodeKeyed(out, "key", &w); err != nil {
		t.Fatalf("%x decodes, %x which is of the same value does not: %v", src, out, err)
	}
	if !reflect.DeepEqual(v, w) && !alike(reflect.ValueOf(&v).Elem(), reflect.ValueOf(&w).Elem()) {
		t.Fatalf("%x decodes to %+v, and again to %+v", src, v, w)
	}
	return v, true
}

// alike is reflect.DeepEqual, except that NaN is like NaN. If two maps have a
// NaN among their keys, which no lookup finds, it compares their sizes. It is
// for decoded values, so none of them contains itself.
func alike(v, w reflect.Value) bool {
	if v.IsValid() != w.IsValid() {
		return false
	}
	if !v.IsValid() || v.Type() != w.Type() {
		return !v.IsValid()
	}
	each := func(n int, at func(v reflect.Value, i int) reflect.Value) bool {
		for i := range n {
			if !alike(at(v, i), at(w, i)) {
				return false
			}
		}
		return true
	}
	switch v.Kind() {
	case reflect.Float32, reflect.Float64:
		return v.Float() == w.Float() || math.IsNaN(v.Float()) && math.IsNaN(w.Float())
	case reflect.Interface:
		return alike(v.Elem(), w.Elem())
	case reflect.Pointer:
		return v.Pointer() == w.Pointer() || alike(v.Elem(), w.Elem())
	case reflect.Struct:
		return each(v.NumField(), reflect.Value.Field)
	case reflect.Array:
		return each(v.Len(), reflect.Value.Index)
	case reflect.Slice:
		return v.IsNil() == w.IsNil() && v.Len() == w.Len() && each(v.Len(), reflect.Value.Index)
	case reflect.Map:
		same := v.IsNil() == w.IsNil() && v.Len() == w.Len()
		for _, k := range v.MapKeys() {
			if v.MapIndex(k).IsValid() {
				same = same && alike(v.MapIndex(k), w.MapIndex(k))
			}
		}
		return same
	case reflect.Func:
		return v.IsNil() && w.IsNil()
	}
	return v.Equal(w)
}

// narrow and wide have the same fields. Those of wide hold every integer.
type narrow struct {
	I8  int8
	I16 []int16
	I32 *int32
	I64 int64
	U8  uint8
	U16 map[string]uint16
	U32 [2]uint32
	U64 uint64
	In  struct{ N int8 }
}

type wide struct {
	I8  any
	I16 []any
	I32 any
	I64 any
	U8  any
	U16 map[string]any
	U32 [2]any
	U64 any
	In  struct{ N any }
}

func FuzzMessagePack(f *testing.F) {
	seven := int32(7)
	for _, v := range []any{
		narrow{I8: -128, I16: []int16{1, 300}, I32: &seven, I64: -1, U8: 255, U16: map[string]uint16{"a": 65535}, U64: 1 << 63},
		full(), user{}, someUser(), everything{F64: math.NaN(), PtrPtr: full().PtrPtr}, map[string]any{"a": []any{1, "s", nil, 1.5}}, []int{1, -1, 1 << 30},
	} {
		src, err := msgpack.Marshal(v)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(src)
	}
	for _, src := range []string{
		"\x81\xa2I8\xcd\x01\x2c", "\xdd\xff\xff\xff\xff", "\x91\x91\x91\xc0", "\xc7\x05\x01\xdf\xff\xff\xff\xff", "\xc1", "\x80", "\x90",
		"\x81\xa3U16\xd6\xff\xdf\x00\x00\x00", "\x81\xa2In\x81\xa1N\xcc\xff", "\x82\xa2I8\x01\xa2I8\x02",
	} {
		f.Add([]byte(src))
	}
	var (
		everythings, anys, maps = codec.MessagePack[everything](), codec.MessagePack[any](), codec.MessagePack[map[any]any]()
		trees, narrows, gen     = codec.MessagePack[*tree](), codec.MessagePack[narrow](), codec.For[generated]()
		wides                   = codec.MessagePack[wide]()
	)
	f.Fuzz(func(t *testing.T, src []byte) {
		again(t, everythings, src)
		again(t, anys, src)
		_ = maps.Decode(src, new(map[any]any))
		again(t, trees, src)
		again(t, gen, src)
		n, ok := again(t, narrows, src)
		if !ok {
			return
		}
		// No integer was truncated to fit: an any holds the same.
		var w wide
		if err := wides.Decode(src, &w); err != nil {
			return // an any accepts no unknown extension and no repeated key
		}
		same(t, reflect.ValueOf(n), reflect.ValueOf(w))
	})
}

// same compares the integers in n with the integers in w, which are in any.
func same(t *testing.T, n, w reflect.Value) {
	for w.Kind() == reflect.Interface && !w.IsNil() {
		w = w.Elem()
	}
	switch {
	case n.Kind() == reflect.Pointer:
		if !n.IsNil() {
			same(t, n.Elem(), w)
		}
	case n.Kind() == reflect.Struct:
		for i := range n.NumField() {
			same(t, n.Field(i), w.Field(i))
		}
	case n.Kind() == reflect.Slice, n.Kind() == reflect.Array:
		for i := range min(n.Len(), w.Len()) {
			same(t, n.Index(i), w.Index(i))
		}
	case n.Kind() == reflect.Map:
		for _, k := range n.MapKeys() {
			same(t, n.MapIndex(k), w.MapIndex(k))
		}
	case w.CanInt() && n.CanInt(), w.CanInt() && n.CanUint(), w.CanUint() && n.CanInt(), w.CanUint() && n.CanUint():
		if integer(n).Cmp(integer(w)) != 0 {
			t.Fatalf("%v was decoded to %v of type %v", w, n, n.Type())
		}
	}
}

func integer(v reflect.Value) *big.Int {
	if v.CanInt() {
		return big.NewInt(v.Int())
	}
	return new(big.Int).SetUint64(v.Uint())
}

func FuzzJSON(f *testing.F) {
	for _, src := range []string{`{"title":"t","tags":["a"],"extra":{"a":[1,null]},"next":{},"small":300}`, "null", "[[[[", `{"a":1}{}`, " 1 ", `"\ud800"`, "1e999"} {
		f.Add([]byte(src))
	}
	articles, anys, ints := codec.JSON[article](), codec.JSON[any](), codec.JSON[int8]()
	f.Fuzz(func(t *testing.T, src []byte) {
		again(t, articles, src)
		again(t, anys, src)
		again(t, ints, src)
	})
}

func FuzzInt(f *testing.F) {
	for _, src := range []string{"", "0", "-0", "1", "-1", "+1", " 1", "127", "128", "-128", "-129", "255", "9223372036854775808", "18446744073709551615", "18446744073709551616"} {
		f.Add([]byte(src))
	}
	f.Fuzz(func(t *testing.T, src []byte) {
		fuzzInt[int8](t, src)
		fuzzInt[int64](t, src)
		fuzzInt[uint8](t, src)
		fuzzInt[uint64](t, src)
	})
}

// fuzzInt requires that src decodes if and only if it is the canonical form of
// its number.
func fuzzInt[I codec.Integer](t *testing.T, src []byte) {
	v, ok := again(t, codec.Int[I](), src)
	canonical := false
	if n, is := new(big.Int).SetString(string(src), 10); is && n.String() == string(src) {
		if ^I(0) < 0 {
			_, err := strconv.ParseInt(string(src), 10, reflect.TypeFor[I]().Bits())
			canonical = err == nil
		} else {
			_, err := strconv.ParseUint(string(src), 10, reflect.TypeFor[I]().Bits())
			canonical = err == nil
		}
	}
	if ok != canonical || ok && fmt.Sprint(v) != string(src) {
		t.Fatalf("%q: decoded %v to %v of type %T", src, ok, v, v)
	}
}

func FuzzCompress(f *testing.F) {
	c := codec.Compress(codec.Bytes[[]byte](), codec.Compression{Threshold: 1})
	z := codec.Compress(codec.Bytes[[]byte](), codec.Compression{Threshold: 1, Algorithm: codec.Zstd, MaxSize: 1 << 20})
	for _, v := range []string{"", "a", text(50), text(300), noise(20)} {
		for _, c := range []codec.Codec[[]byte]{c, z} {
			src, err := c.Append(nil, []byte(v))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	f.Add([]byte("\x01\x80\x80\x80\x80\x04\x00\x00"))
	f.Fuzz(func(t *testing.T, src []byte) {
		again(t, c, src)
		again(t, z, src)
		for _, c := range []codec.Codec[[]byte]{c, z} { // src as the value
			out, err := c.Append(nil, src)
			if err != nil || len(out) > len(src)+1 {
				t.Fatalf("Append of %d bytes: %d and %v", len(src), len(out), err)
			}
			var v []byte
			if err := c.Decode(out, &v); err != nil || !bytes.Equal(v, src) {
				t.Fatalf("%x comes back as %x and %v", src, v, err)
			}
		}
	})
}

// sealedValue is "value", encrypted under the key "key" with the first of the
// keys below. Entries of old releases must stay readable.
const sealedValue = "010000000117ede0e5091590dbed5d98219ec4ccf5d1f6a555274770dee60b32e9a909988b3a"

func FuzzEncrypt(f *testing.F) {
	k := codec.Bind(codec.Encrypt(codec.Bytes[[]byte](), codec.Key{ID: 1, Secret: secret(32, 1)}, codec.Key{ID: 2, Secret: secret(16, 2)}))
	sealed, err := hex.DecodeString(sealedValue)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(sealed, "key")
	f.Add(sealed, "other key")
	f.Add(sealed[:20], "key")
	f.Fuzz(func(t *testing.T, src []byte, key string) {
		var v []byte
		genuine := bytes.Equal(src, sealed) && key == "key"
		if err := k.DecodeKeyed(src, key, &v); genuine != (err == nil) {
			t.Fatalf("genuine: %v, but Decode of %x under %q: %v", genuine, src, key, err)
		} else if err != nil && !errors.Is(err, codec.ErrFormat) {
			t.Fatal(err)
		}
		if key == "" {
			return
		}
		out, err := k.AppendKeyed(nil, key, src) // src as the value
		if err != nil {
			t.Fatal(err)
		}
		if err := k.DecodeKeyed(out, key, &v); err != nil || !bytes.Equal(v, src) {
			t.Fatalf("%x comes back as %x and %v", src, v, err)
		}
		if err := k.DecodeKeyed(out, key+"x", &v); !errors.Is(err, codec.ErrAuth) {
			t.Fatalf("under another key: %v", err)
		}
	})
}

func FuzzVersion(f *testing.F) {
	f.Add(uint32(1), []byte("\x01x"))
	f.Add(uint32(300), []byte("\xac\x02x"))
	f.Add(uint32(0), []byte("\x80\x00"))
	f.Fuzz(func(t *testing.T, n uint32, src []byte) {
		c := codec.Version(codec.String[string](), n)
		v, ok := again(t, c, src)
		if !ok {
			return
		}
		if out, err := c.Append(nil, v); err != nil || !bytes.Equal(out, src) {
			t.Fatalf("%x is read as version %d, which is written %x", src, n, out)
		}
	})
}
