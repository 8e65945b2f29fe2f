package codec

import (
	"sync"

	"github.com/klauspost/compress/s2"
	"github.com/klauspost/compress/zstd"
)

// Algorithm names a compression algorithm. Its number is stored before the
// bytes.
type Algorithm uint8

// The algorithms of [Compress].
const (
	S2   Algorithm = 1 // github.com/klauspost/compress/s2, Snappy's successor: fast
	Zstd Algorithm = 2 // RFC 8878: smaller, and several times slower
)

// Compression configures [Compress]. The zero value is ready to use.
type Compression struct {
	// Algorithm compresses new values. Stored values are read whatever their
	// algorithm. Defaults to S2.
	Algorithm Algorithm

	// Threshold is the least length in bytes for which compression is tried. If
	// it is 1, compression is always tried. Defaults to 256.
	Threshold int

	// MaxSize is the greatest length in bytes before compression, for storing
	// and for reading. Defaults to 64 MiB.
	MaxSize int
}

// Compress returns a codec that compresses the bytes of c if that makes them
// shorter, and adds one byte that says so.
//
// Decode refuses bytes with [ErrTooLarge] if they claim to hold more than
// MaxSize. It also refuses them if they claim more than 1 MiB and more than
// 1024 times their own length. Both checks come before any allocation, so a few
// bytes cannot ask for much memory. A value that compresses better than that is
// stored uncompressed.
//
// Around [Encrypt], Compress is useless: encrypted bytes do not compress.
// Inside Encrypt, as in Encrypt(Compress(c, …), keys…), the stored length
// reveals how well the value compressed. If an attacker chooses a part of the
// value, that can reveal a secret in the other part.
func Compress[V any](c Codec[V], how Compression) Codec[V] {
	if how.Algorithm == 0 {
		how.Algorithm = S2
	}
	if how.Threshold == 0 {
		how.Threshold = 256
	}
	if how.MaxSize == 0 {
		how.MaxSize = 64 << 20
	}
	switch {
	case how.Algorithm > Zstd:
		return refused[V](misconfigured("Compression.Algorithm %d is unknown", how.Algorithm))
	case how.Threshold < 0:
		return refused[V](misconfigured("Compression.Threshold %d is negative", how.Threshold))
	case how.MaxSize < 0 || how.MaxSize > maxEncoded:
		return refused[V](misconfigured("Compression.MaxSize %d is not in 0 to 512 MiB", how.MaxSize))
	}
	return &compressed[V]{sealerOf(c), Bind(c), how}
}

type compressed[V any] struct {
	sealer
	inner Keyed[V]
	how   Compression
}

const stored Algorithm = 0 // not compressed

// If a claim exceeds both limits, it is refused. zstd reaches a factor of 30000
// and s2 of 3 million, on zeros. Meaningful values stay below 100.
const (
	maxRatio   = 1024
	ratioFloor = 1 << 20
)

var (
	errUnknownAlgorithm = badFormat("Compress: unknown algorithm", nil)
	errCompressedBytes  = badFormat("Compress: the compressed bytes are not sound", nil)
	errClaimTooLarge    = badFormat("Compress: more bytes than Compression.MaxSize, or than so few can hold", ErrTooLarge)
	errOverMaxSize      = cannotEncode("Compress: more bytes than Compression.MaxSize", ErrTooLarge)
)

// Check checks the inner codec.
func (c *compressed[V]) Check() error { return Check(c.inner) }

// Append is AppendKeyed with an empty key.
func (c *compressed[V]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode is DecodeKeyed with an empty key.
func (c *compressed[V]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed appends the algorithm and the bytes of the inner codec. It
// compresses them if they reach the threshold and become shorter.
func (c *compressed[V]) AppendKeyed(dst []byte, key string, v V) ([]byte, error) {
	// The inner codec writes where uncompressed bytes stay.
	out, err := c.inner.AppendKeyed(append(dst, byte(stored)), key, v)
	if err != nil {
		return dst, err
	}
	plain := out[len(dst)+1:]
	if len(plain) > c.how.MaxSize {
		return dst, errOverMaxSize
	}
	if len(plain) < c.how.Threshold {
		return out, nil
	}
	scratch := getScratch()
	defer putScratch(scratch)
	if c.how.Algorithm == Zstd {
		*scratch = zstdEncoder().EncodeAll(plain, (*scratch)[:0])
	} else {
		*scratch = s2.Encode((*scratch)[:cap(*scratch)], plain)
	}
	if len(*scratch) >= len(plain) || !credible(len(plain), len(*scratch)) {
		return out, nil
	}
	return append(append(out[:len(dst)], byte(c.how.Algorithm)), *scratch...), nil
}

// DecodeKeyed reads the bytes of any algorithm. Before it allocates, it refuses
// bytes that claim more than MaxSize, or more than their length can hold.
func (c *compressed[V]) DecodeKeyed(src []byte, key string, v *V) error {
	*v = *new(V)
	if len(src) == 0 {
		return errUnknownAlgorithm
	}
	algorithm, src := Algorithm(src[0]), src[1:]
	if algorithm == stored {
		if len(src) > c.how.MaxSize {
			return errClaimTooLarge
		}
		return c.inner.DecodeKeyed(src, key, v)
	}
	size, err := plainSize(algorithm, src)
	if err != nil {
		return err
	}
	if size > uint64(c.how.MaxSize) || !credible(int(size), len(src)) {
		return errClaimTooLarge
	}
	scratch := getScratch()
	defer putScratch(scratch)
	if cap(*scratch) < int(size) {
		*scratch = make([]byte, 0, size)
	}
	plain := *scratch
	if algorithm == S2 {
		plain, err = s2.Decode(plain[:0], src)
	} else {
		plain, err = zstdDecoder().DecodeAll(src, plain[:0:size])
	}
	if err != nil || uint64(len(plain)) != size {
		return errCompressedBytes
	}
	return c.inner.DecodeKeyed(plain, key, v)
}

// credible reports whether packed bytes may claim to hold plain bytes.
func credible(plain, packed int) bool {
	return plain <= ratioFloor || plain/maxRatio <= packed
}

// plainSize returns the length before compression, as src states it.
func plainSize(a Algorithm, src []byte) (uint64, error) {
	switch a {
	case S2:
		n, err := s2.DecodedLen(src)
		if err != nil {
			return 0, errCompressedBytes
		}
		return uint64(n), nil
	case Zstd:
		var h zstd.Header
		if err := h.Decode(src); err != nil || !h.HasFCS || h.Skippable {
			return 0, errCompressedBytes // a single segment always says its size
		}
		return h.FrameContentSize, nil
	}
	return 0, errUnknownAlgorithm
}

// One encoder and one decoder serve all codecs. Each has one worker per
// processor, made at first use, and holds no goroutines. The decoder never
// writes beyond the capacity of its destination, whatever the frames say.
var (
	zstdEncoder = sync.OnceValue(func() *zstd.Encoder {
		e, err := zstd.NewWriter(nil, zstd.WithSingleSegment(true), zstd.WithEncoderCRC(false), zstd.WithLowerEncoderMem(true))
		return mustZstd(e, err)
	})
	zstdDecoder = sync.OnceValue(func() *zstd.Decoder {
		d, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(0), zstd.WithDecodeAllCapLimit(true))
		return mustZstd(d, err)
	})
)

// mustZstd panics if the options above are wrong. No input can cause that.
func mustZstd[T any](coder T, err error) T {
	if err != nil {
		panic(err)
	}
	return coder
}
