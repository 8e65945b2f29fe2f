package codec_test

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
)

// common has a part of each kind that a program handles.
type common struct {
	Base
	tagged  `msgpack:",inline"`
	Part    `msgpack:"part,noinline"`
	Bool    bool
	Int     int
	I8      int8
	I16     int16
	I32     int32
	I64     int64
	Uint    uint
	U8      uint8
	U16     uint16
	U32     uint32
	U64     uint64
	F32     float32
	F64     float64
	String  string
	Named   name
	Bytes   []byte
	Octets  []octet
	Hash    [20]byte
	Strings []string
	Names   []name
	Ints    []int32
	Array   [3]int16
	Nested  []inner
	Ptr     *inner
	PtrPtr  **int
	Map     map[string]string
	Flags   map[name]bool
	ByInt   map[int16]inner
	Deep    map[uint8][]map[string]*time.Time
	Time    time.Time
	Times   []time.Time
	Took    time.Duration
	Empty   struct{}
	Empties []struct{}
	Skipped chan int `msgpack:"-"`
	hidden  func()
}

type (
	octet  byte
	tagged struct {
		T8 int8 `msgpack:"t"`
	}
	Part  struct{ PartID uint32 }
	chain struct { // a recursive type
		Next *chain
		Kids []chain
		By   map[string]chain
	}
)

// sparing has an omitempty field of each kind.
type sparing struct {
	Bool   bool              `msgpack:",omitempty"`
	I8     int8              `msgpack:",omitempty"`
	I16    int16             `msgpack:"i16,omitempty"`
	I32    int32             `msgpack:",omitempty"`
	I64    int64             `msgpack:",omitempty"`
	U8     uint8             `msgpack:",omitempty"`
	U16    uint16            `msgpack:",omitempty"`
	U32    uint32            `msgpack:",omitempty"`
	U64    uint64            `msgpack:",omitempty"`
	F32    float32           `msgpack:",omitempty"`
	F64    float64           `msgpack:",omitempty"`
	String string            `msgpack:",omitempty"`
	Bytes  []byte            `msgpack:",omitempty"`
	Hash   [4]byte           `msgpack:",omitempty"`
	None   [0]byte           `msgpack:",omitempty"`
	Slice  []int             `msgpack:",omitempty"`
	Array  [2]int            `msgpack:",omitempty"`
	Map    map[string]string `msgpack:",omitempty"`
	Ptr    *int              `msgpack:",omitempty"`
	Time   time.Time         `msgpack:",omitempty"`
	At     *time.Time        `msgpack:",omitempty"`
	In     inner             `msgpack:",omitempty"`
	Sparse sparse64          `msgpack:",omitempty"`
	Empty  struct{}          `msgpack:",omitempty"`
	Always int
	Alias  int `msgpack:"a,alias:b"`
}

// broad has, in its second half, more fields than a machine word has bits.
type broad struct {
	A, B, C, D, E, F, G, H eight
}

type eight struct{ A, B, C, D, E, F, G, H, I int }

// long has more than 64 fields in one struct.
type long struct {
	A0, A1, A2, A3, A4, A5, A6, A7, A8, A9, B0, B1, B2, B3, B4, B5, B6, B7, B8, B9  int8
	C0, C1, C2, C3, C4, C5, C6, C7, C8, C9, D0, D1, D2, D3, D4, D5, D6, D7, D8, D9  string
	E0, E1, E2, E3, E4, E5, E6, E7, E8, E9, F0, F1, F2, F3, F4, F5, F6, F7, F8, F9  uint16
	G0, G1, G2, G3, G4, G5, G6, G7, G8, G9, WithANameThatIsLongerThanThirtyOneBytes bool
}

// twin is a type with both of its codecs, the program's and msgpack's.
type twin interface {
	// random encodes random values with both codecs, and decodes them.
	random(t testing.TB, r *rand.Rand) (src []byte)
	// decode decodes src with both codecs.
	decode(t testing.TB, src []byte)
}

type twinOf[V any] struct {
	fast, slow codec.Codec[V]
	alike      bool // every value has the same bytes in both
}

func newTwin[V any](t testing.TB) twin {
	require.True(t, codec.Compiled[V](), "%v has no program", reflect.TypeFor[V]())
	// msgpack's omitempty omits more values, and loses them.
	return twinOf[V]{codec.MessagePack[V](), codec.ByLibrary[V](), reflect.TypeFor[V]() != reflect.TypeFor[sparing]()}
}

func twins(t testing.TB) []twin {
	return []twin{
		newTwin[common](t), newTwin[sparing](t), newTwin[broad](t), newTwin[long](t), newTwin[user](t), newTwin[chain](t),
		newTwin[bool](t), newTwin[int8](t), newTwin[int16](t), newTwin[int32](t), newTwin[int64](t), newTwin[uint8](t),
		newTwin[uint16](t), newTwin[uint32](t), newTwin[uint64](t), newTwin[float32](t), newTwin[float64](t), newTwin[string](t),
		newTwin[[]byte](t), newTwin[[5]byte](t), newTwin[time.Time](t), newTwin[*time.Time](t), newTwin[[]string](t), newTwin[[]user](t),
		newTwin[*user](t), newTwin[map[string]user](t), newTwin[map[int]string](t), newTwin[map[name][]*inner](t), newTwin[selfMap](t),
		newTwin[selfSlice](t), newTwin[[2][3]float32](t), newTwin[struct{}](t), newTwin[[]struct{}](t), newTwin[spacious](t),
	}
}

func (w twinOf[V]) decode(t testing.TB, src []byte) {
	t.Helper()
	var fast, slow V
	kept := bytes.Clone(src)
	errFast, errSlow := w.fast.Decode(src, &fast), w.slow.Decode(src, &slow)
	if fmt.Sprint(errFast) != fmt.Sprint(errSlow) {
		t.Fatalf("%x decodes to a %T with %v, by msgpack with %v", shown(src), fast, errFast, errSlow)
	}
	if !bytes.Equal(src, kept) {
		t.Fatalf("decoding %x to a %T changed it", kept, fast)
	}
	for i := range src {
		src[i] ^= 0x55 // the decoded value must not refer to it
	}
	if !reflect.DeepEqual(fast, slow) && !alike(reflect.ValueOf(&fast).Elem(), reflect.ValueOf(&slow).Elem()) {
		t.Fatalf("%x decodes to %+v, by msgpack to %+v", shown(kept), fast, slow)
	}
	copy(src, kept)
}

func shown(src []byte) []byte { return src[:min(len(src), 500)] }

func (w twinOf[V]) random(t testing.TB, r *rand.Rand) []byte {
	t.Helper()
	var v V
	(&scatter{r, 60}).fill(reflect.ValueOf(&v).Elem())
	fast, errFast := w.fast.Append([]byte("before"), v)
	slow, errSlow := w.slow.Append([]byte("before"), v)
	if errFast != nil && strings.Contains(errFast.Error(), "a pointer to nil") {
		return nil
	}
	if fmt.Sprint(errFast) != fmt.Sprint(errSlow) {
		t.Fatalf("encoding %+v: %v, by msgpack %v", v, errFast, errSlow)
	}
	if w.alike && !bytes.Equal(fast, slow) {
		t.Fatalf("%+v is encoded %x, by msgpack %x", v, fast, slow)
	}
	if errFast != nil {
		return nil
	}
	src := fast[len("before"):]
	got, ok := codec.ReadByProgram(w.fast, src)
	if !ok {
		t.Fatalf("the program of %T leaves to msgpack what was encoded: %x", v, src)
	}
	var want V
	if err := w.slow.Decode(src, &want); err != nil || !alike(reflect.ValueOf(&got).Elem(), reflect.ValueOf(&want).Elem()) {
		t.Fatalf("%x decodes to %+v, by msgpack to %+v and %v", src, got, want, err)
	}
	return src
}

// scatter fills values at random, mostly with values at the limits. Maps have
// one entry, since the order of more entries is random.
type scatter struct {
	*rand.Rand
	left int // slices, maps and pointers still allowed
}

func (s *scatter) fill(v reflect.Value) {
	if s.IntN(5) == 0 {
		return
	}
	spend := func() bool { s.left--; return s.left >= 0 }
	switch v.Kind() {
	case reflect.Bool:
		v.SetBool(true)
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		v.SetInt(int64(s.bits()) >> (64 - v.Type().Bits()))
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		v.SetUint(s.bits() >> (64 - v.Type().Bits()))
	case reflect.Float32:
		// The bits are set in memory, since SetFloat quiets a NaN.
		*v.Addr().Convert(reflect.TypeFor[*float32]()).Interface().(*float32) = math.Float32frombits(s.Uint32())
	case reflect.Float64:
		v.SetFloat(math.Float64frombits(s.Uint64()))
	case reflect.String:
		v.SetString(strings.Repeat("é", s.length()/2))
	case reflect.Pointer:
		if spend() {
			v.Set(reflect.New(v.Type().Elem()))
			s.fill(v.Elem())
		}
	case reflect.Slice:
		n := s.length()
		if v.Type().Elem().Kind() != reflect.Uint8 {
			n = min(n, 40, s.left)
		}
		if spend() && n >= 0 {
			v.Set(reflect.MakeSlice(v.Type(), n, n))
			s.left -= n / 2
			for i := range n {
				s.fill(v.Index(i))
			}
		}
	case reflect.Array:
		for i := range min(v.Len(), 100) {
			s.fill(v.Index(i))
		}
	case reflect.Map:
		if spend() {
			v.Set(reflect.MakeMap(v.Type()))
			if s.IntN(3) > 0 {
				key, elem := reflect.New(v.Type().Key()).Elem(), reflect.New(v.Type().Elem()).Elem()
				s.fill(key)
				s.fill(elem)
				v.SetMapIndex(key, elem)
			}
		}
	case reflect.Struct:
		if v.Type() == reflect.TypeFor[time.Time]() {
			v.Set(reflect.ValueOf(time.Unix(int64(s.bits())>>s.IntN(40), s.Int64N(2)*s.Int64N(1e9))))
			return
		}
		for i := range v.NumField() {
			if f := v.Field(i); f.CanSet() || v.Type().Field(i).Anonymous {
				s.fill(f)
			}
		}
	}
}

// bits returns a number of a random length, each length with the same
// probability. Its lowest and highest bits are limits of types with fewer bits.
func (s *scatter) bits() uint64 {
	n := s.Uint64() >> s.IntN(64)
	switch s.IntN(4) {
	case 0:
		n = 1<<s.IntN(64) - uint64(s.IntN(2)) // at the limits
	case 1:
		n = -n
	}
	return n | n<<32 | n<<48 | n<<56
}

func (s *scatter) length() int {
	if s.IntN(40) == 0 {
		return s.IntN(70_000)
	}
	return s.IntN(3 << s.IntN(8))
}

// TestProgramsDoAsMsgpackDoes encodes and decodes random values. It also
// decodes their encodings after random changes.
func TestProgramsDoAsMsgpackDoes(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 4))
	rounds := 150
	if raceEnabled {
		rounds = 40
	}
	for _, w := range twins(t) {
		for range rounds {
			src := w.random(t, r)
			if len(src) == 0 || len(src) > 4000 {
				continue
			}
			for range 10 {
				damaged := bytes.Clone(src)
				for range 1 + r.IntN(3) {
					damaged[r.IntN(len(damaged))] = someCode(r)
				}
				w.decode(t, damaged)
			}
			w.decode(t, src[:r.IntN(len(src))])
			w.decode(t, append(bytes.Clone(src), 0xc0))
		}
	}
}

// someCode returns a random byte. Some kinds are more frequent than their
// number of codes.
func someCode(r *rand.Rand) byte {
	if r.IntN(2) == 0 {
		return byte(0xc0 + r.IntN(0x20))
	}
	return byte(r.Uint32())
}

func FuzzProgramsDecode(f *testing.F) {
	all := twins(f)
	r := rand.New(rand.NewPCG(5, 6))
	for i, w := range all {
		for range 3 {
			if src := w.random(f, r); len(src) < 1000 {
				f.Add(uint8(i), src)
			}
		}
	}
	f.Fuzz(func(t *testing.T, i uint8, src []byte) {
		all[int(i)%len(all)].decode(t, src)
	})
}

func FuzzProgramsEncode(f *testing.F) {
	all := twins(f)
	for i := range all {
		f.Add(uint8(i), uint64(i))
	}
	f.Fuzz(func(t *testing.T, i uint8, seed uint64) {
		all[int(i)%len(all)].random(t, rand.New(rand.NewPCG(seed, 7)))
	})
}
