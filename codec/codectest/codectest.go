// Package codectest tests that a codec keeps the contract of codec.Codec.
package codectest

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"slices"
	"sync"
	"testing"

	"github.com/cachex-go/cachex/codec"
)

// key is the Redis key for codecs that need one.
const key = "codectest:1"

// Run tests c with values, which should be as different as V allows: zero,
// small, large, with every field set. It checks that
//
//   - codec.Check returns nil or a note;
//   - a value decodes to a value that is equal by reflect.DeepEqual;
//   - Append preserves the bytes in dst, and does not retain dst;
//   - Decode neither retains nor changes src, and nothing of the old *v
//     remains;
//   - an error of Decode is a codec.ErrFormat, and no bytes make it panic. Run
//     decodes the bytes of each value truncated anywhere and with any bit
//     flipped. It also decodes random bytes, and bytes that are known to make
//     decoders allocate gigabytes or overflow the stack. A stack overflow ends
//     the test process at once;
//   - many goroutines can use c at the same time, for which the test must run
//     with -race.
//
// If c implements codec.Keyed, Run passes it a key.
func Run[V any](t *testing.T, c codec.Codec[V], values ...V) {
	t.Helper()
	RunEqual(t, c, func(a, b V) bool { return reflect.DeepEqual(a, b) }, values...)
}

// RunEqual is [Run] for values that decode to a value that is equal in another
// sense, such as a time in another zone.
func RunEqual[V any](t *testing.T, c codec.Codec[V], equal func(a, b V) bool, values ...V) {
	t.Helper()
	if err := codec.Check(c); err != nil && !errors.Is(err, codec.ErrNote) {
		t.Fatalf("Check: %v", err)
	}
	if len(values) == 0 {
		t.Fatal("no values to test with")
	}
	s := &suite[V]{codec: codec.Bind(c), equal: equal, values: values}
	for _, v := range values {
		src, err := s.codec.AppendKeyed(nil, key, v)
		if err != nil {
			t.Fatalf("Append: %v", err)
		}
		s.encoded = append(s.encoded, src)
	}
	t.Run("round trip", s.roundTrip)
	t.Run("append", s.appends)
	t.Run("alias", s.alias)
	t.Run("dirty", s.dirty)
	t.Run("damaged", s.damaged)
	t.Run("hostile", s.hostile)
	t.Run("concurrent", s.concurrent)
}

type suite[V any] struct {
	codec   codec.Keyed[V]
	equal   func(a, b V) bool
	values  []V
	encoded [][]byte // of values
}

// roundTrip decodes each value into a new variable.
func (s *suite[V]) roundTrip(t *testing.T) {
	for i, want := range s.values {
		if err := s.decodesTo(s.encoded[i], new(V), want); err != nil {
			t.Errorf("value %d: %v", i, err)
		}
	}
}

// decodesTo decodes src into *v and compares it with want.
func (s *suite[V]) decodesTo(src []byte, v *V, want V) error {
	kept := bytes.Clone(src)
	if err := s.codec.DecodeKeyed(src, key, v); err != nil {
		return fmt.Errorf("Decode of what was encoded: %w", err)
	}
	if !bytes.Equal(src, kept) {
		return errors.New("Decode changed src")
	}
	if !s.equal(*v, want) {
		return fmt.Errorf("decoded to %+v, want %+v", *v, want)
	}
	return nil
}

// appends encodes after a prefix, with no room in dst, with too little, and
// with plenty. It checks that neither the prefix nor earlier results change.
func (s *suite[V]) appends(t *testing.T) {
	prefix := []byte("prefix")
	for i, v := range s.values {
		for _, room := range []int{0, 1, 1 << 16} {
			dst := append(make([]byte, 0, len(prefix)+room), prefix...)
			out, err := s.codec.AppendKeyed(dst, key, v)
			if err != nil {
				t.Fatalf("value %d: Append: %v", i, err)
			}
			if !bytes.HasPrefix(out, prefix) {
				t.Fatalf("value %d: Append with %d bytes of room overwrote dst: %q", i, room, out[:min(len(out), len(prefix))])
			}
			before := bytes.Clone(out)
			for _, other := range s.values {
				if _, err := s.codec.AppendKeyed(nil, key, other); err != nil {
					t.Fatalf("Append: %v", err)
				}
			}
			if !bytes.Equal(out, before) {
				t.Fatalf("value %d: a later Append changed what an earlier one returned", i)
			}
			if err := s.decodesTo(out[len(prefix):], new(V), v); err != nil {
				t.Fatalf("value %d: appended with %d bytes of room: %v", i, room, err)
			}
		}
	}
}

// alias changes src after decoding it, and checks that the value does not
// change.
func (s *suite[V]) alias(t *testing.T) {
	for i, want := range s.values {
		src, v := bytes.Clone(s.encoded[i]), new(V)
		if err := s.codec.DecodeKeyed(src, key, v); err != nil {
			t.Fatalf("value %d: Decode: %v", i, err)
		}
		for j := range src {
			src[j] ^= 0x55
		}
		if !s.equal(*v, want) {
			t.Errorf("value %d changed with src after it was decoded", i)
		}
	}
}

// dirty decodes each value into a variable that holds each other value. So a
// shorter slice replaces a longer one, and a missing field one that is set.
func (s *suite[V]) dirty(t *testing.T) {
	for i := range s.values {
		for j, want := range s.values {
			v := new(V)
			if err := s.codec.DecodeKeyed(s.encoded[i], key, v); err != nil {
				t.Fatalf("value %d: Decode: %v", i, err)
			}
			if err := s.decodesTo(s.encoded[j], v, want); err != nil {
				t.Errorf("value %d into what held value %d: %v", j, i, err)
			}
		}
	}
}

// maxDamage bounds the positions at which the bytes of a value are truncated
// and flipped.
const maxDamage = 1 << 10

// damaged decodes the bytes of each value truncated, with one bit flipped, and
// with further bytes after them.
func (s *suite[V]) damaged(t *testing.T) {
	for _, src := range s.encoded {
		step := max(1, len(src)/maxDamage)
		for i := 0; i < len(src); i += step {
			s.survives(t, src[:i])
			for bit := range 8 {
				flipped := bytes.Clone(src)
				flipped[i] ^= 1 << bit
				s.survives(t, flipped)
			}
		}
		s.survives(t, append(bytes.Clone(src), 0))
		s.survives(t, append(bytes.Clone(src), src...))
	}
}

// hostile decodes bytes that are known to harm decoders, alone and after the
// first byte of each value, where a wrapper has its header. It also decodes
// random bytes, the same in each run.
func (s *suite[V]) hostile(t *testing.T) {
	heads := map[string]bool{"": true}
	for _, src := range s.encoded {
		heads[string(src[:min(1, len(src))])] = true
	}
	var src []byte // one buffer for all, since most of the bombs are large
	for head := range heads {
		for _, bomb := range bombs() {
			src = append(append(src[:0], head...), bomb...)
			s.survives(t, src)
		}
	}
	r := rand.New(rand.NewPCG(1, 2))
	for range 5000 {
		src := make([]byte, r.IntN(64))
		for i := range src {
			src[i] = byte(r.Uint32())
		}
		s.survives(t, src)
	}
	for _, src := range s.encoded { // with several bytes changed
		for range 2000 {
			mutated := bytes.Clone(src)
			for range min(1+r.IntN(4), len(src)) {
				mutated[r.IntN(len(src))] = byte(r.Uint32())
			}
			s.survives(t, mutated)
		}
	}
}

// bombs are made once and never changed.
var bombs = sync.OnceValue(func() [][]byte {
	return [][]byte{
		nil,
		[]byte("\xdd\xff\xff\xff\xff"),         // MessagePack: array of 4 billion
		[]byte("\xdf\xff\xff\xff\xff"),         // MessagePack: map of 4 billion
		[]byte("\xc6\x1d\xcd\x65\x00"),         // MessagePack: 500 MB of bytes
		[]byte("\x80\x80\x80\x80\x04\x00\x00"), // s2: 1 GiB
		[]byte("null"), []byte("{}"), []byte("[]"), []byte(`""`), []byte("0"), []byte("-1"),
		bytes.Repeat([]byte{0x91}, 2<<20),                                          // MessagePack: 2 million arrays in each other
		bytes.Repeat([]byte("\x81\xa0"), 1<<17),                                    // and maps
		bytes.Repeat([]byte("["), 1<<18),                                           // JSON: arrays in each other
		bytes.Repeat([]byte(`{"a":`), 1<<15),                                       // and objects
		slices.Concat([]byte("\xdc\xff\xff"), make([]byte, 1<<16-1)),               // MessagePack: array of integers
		slices.Concat([]byte("\xdc\xff\xff"), bytes.Repeat([]byte{0xc0}, 1<<16-1)), // and of nils
	}
})

// survives decodes arbitrary bytes. It is no fault if they decode.
func (s *suite[V]) survives(t *testing.T, src []byte) {
	t.Helper()
	defer func() {
		if r := recover(); r != nil {
			t.Errorf("Decode panics on %s: %v", shown(src), r)
		}
	}()
	if err := s.codec.DecodeKeyed(src, key, new(V)); err != nil && !errors.Is(err, codec.ErrFormat) {
		t.Errorf("Decode of %s: %v, which is not an ErrFormat", shown(src), err)
	}
}

// shown formats src for a message of limited length.
func shown(src []byte) string {
	if len(src) > 64 {
		return fmt.Sprintf("%d bytes beginning %x", len(src), src[:64])
	}
	return fmt.Sprintf("%x", src)
}

// concurrent encodes and decodes in many goroutines that reuse their buffers.
// If the codec retained a buffer, they would see each other's bytes.
func (s *suite[V]) concurrent(t *testing.T) {
	const goroutines, rounds = 8, 50
	var wg sync.WaitGroup
	for g := range goroutines {
		wg.Go(func() {
			var buf []byte
			v := new(V)
			for r := range rounds {
				i := (g + r) % len(s.values)
				var err error
				if buf, err = s.codec.AppendKeyed(buf[:0], key, s.values[i]); err != nil {
					t.Errorf("value %d: Append: %v", i, err)
					return
				}
				_ = s.codec.DecodeKeyed(buf[:len(buf)/2], key, new(V)) // errors take other paths
				if err := s.decodesTo(buf, v, s.values[i]); err != nil {
					t.Errorf("value %d, with others at work: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}
