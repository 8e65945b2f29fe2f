package engine

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"time"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/guard"
)

// What an entry says beside its value stands in a header that scripts edit, so a
// codec cannot seal it. If the codec authenticates its bytes, as codec.Encrypt
// does, the payload therefore begins with its end: 6 bytes, when it stops being
// fresh by the clock of the process that made it. The codec binds the end along
// with the key, and seals a payload for the absence of a value too. A reader
// believes a header only as far as the payload says the same.
//
// A header may always say less: that an entry is stale, or leased. Then it is
// loaded, or waited for, as after a deletion.

const endSize = 6

var (
	errNoEnd    = errors.New("the payload has no end")
	errNotEmpty = errors.New("an absence with a payload")
)

// A sealer is the part of a codec that authenticates. See codec.Keyed.
type sealer interface {
	Authenticates() bool
	AppendNone(dst []byte, key string) ([]byte, error)
	DecodeNone(src []byte, key string) error
}

// sealerOf returns nil if the codec c does not authenticate.
func sealerOf(c any) sealer {
	if s, ok := c.(sealer); ok && s.Authenticates() {
		return s
	}
	return nil
}

// bound returns the key that the codec is given for a payload with this end. Of
// different keys and ends the results differ, since an end has a fixed length.
func bound(key string, end []byte) string { return key + "\x00" + string(end) }

// appendEnd appends the end of what is fresh for so long from now.
func appendEnd(dst []byte, fresh time.Duration) []byte {
	end := entry.Forever
	if fresh != Forever {
		end = time.Now().UnixMilli() + fresh.Milliseconds()
	}
	return append(dst, binary.BigEndian.AppendUint64(nil, uint64(end))[2:]...)
}

// mostPacked is how many bytes the payload of a packed entry has at most. One HMGET
// reads mostFields of them: 2 MB, which take Redis a millisecond.
const mostPacked = 16_000

// encode appends the payload of the value in box, which is fresh for so long, to
// dst.
func (l *Engine) encode(dst []byte, key string, fresh time.Duration, box any) (b []byte, err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.seal == nil {
		b, err = l.codec.AppendBox(dst, key, box)
	} else {
		b = appendEnd(dst, fresh)
		b, err = l.codec.AppendBox(b, bound(key, b[len(dst):]), box)
	}
	if n := len(b) - len(dst); err == nil && l.leases.packed && n > mostPacked {
		return nil, fmt.Errorf("%w: the value has %d bytes, a packed one may have %d: set Spec.Packed to 0", codec.ErrTooLarge, n, mostPacked)
	}
	return b, err
}

// encodeNone returns the payload of an absence that is remembered for so long.
func (l *Engine) encodeNone(key string, fresh time.Duration) (b []byte, err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.seal == nil {
		return nil, nil
	}
	b = appendEnd(nil, fresh)
	return l.seal.AppendNone(b, bound(key, b))
}

// Decode sets *v to the value of payload, which is of an entry of key, whenever
// that ends. The error is that of the codec; a panic of the codec is one too.
func (l *Engine) Decode(key string, payload []byte, v any) (err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.seal == nil {
		return l.codec.DecodeBox(payload, key, v)
	}
	if len(payload) < endSize {
		return errNoEnd
	}
	return l.codec.DecodeBox(payload[endSize:], bound(key, payload[:endSize]), v)
}

// decodeNone returns nil if payload says that key has no value.
func (l *Engine) decodeNone(key string, payload []byte) (err error) {
	defer guard.Catch(guard.Codec, &err)
	switch {
	case l.seal == nil && len(payload) > 0:
		return errNotEmpty
	case l.seal == nil:
		return nil
	case len(payload) < endSize:
		return errNoEnd
	}
	return l.seal.DecodeNone(payload[endSize:], bound(key, payload[:endSize]))
}

// end returns when payload ends at the latest, by the clock of this process: its
// own end, and what clocks may differ by.
func (l *Engine) end(payload []byte) int64 {
	if l.seal == nil || len(payload) < endSize {
		return math.MaxInt64
	}
	end := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, payload[:endSize]...)))
	if end == entry.Forever {
		return math.MaxInt64
	}
	return end + slack
}

// over reports whether payload ended longer ago than windows, in milliseconds.
func (l *Engine) over(payload []byte, now time.Time, windows int64) bool {
	return now.UnixMilli()-l.end(payload) >= windows
}

// limit makes h say no more than payload does.
func (l *Engine) limit(h *entry.Header, payload []byte, now time.Time) {
	end := l.end(payload)
	h.Soft = min(h.Soft, end)
	if end <= now.UnixMilli() {
		h.Flags |= entry.Stale
	}
}
