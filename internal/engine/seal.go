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

// Besides its value, an entry has a header that scripts edit, so a codec cannot
// seal it. If the codec authenticates its bytes, as codec.Encrypt does, the
// payload therefore begins with its end. The end has 6 bytes: when the value
// stops being fresh, by the clock of the process that made it. The codec binds
// the end along with the key, and also seals a payload for the absence of a
// value. A reader believes a header only as far as the payload confirms it.
//
// A header may always claim less: that an entry is stale or leased. Then the
// key is loaded or waited for, as after a deletion.

const endSize = 6

var (
	errNoEnd    = errors.New("the payload has no end")
	errNotEmpty = errors.New("ErrNotFound is stored with a payload")
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

// boundKey returns the key that the codec gets for a payload with this end.
// Since an end has a fixed length, different keys and ends have different
// results.
func boundKey(key string, end []byte) string { return key + "\x00" + string(end) }

// appendEnd appends the end of a value that is fresh from now on for so long.
func appendEnd(dst []byte, fresh time.Duration) []byte {
	end := entry.Forever
	if fresh != Forever {
		end = time.Now().UnixMilli() + fresh.Milliseconds()
	}
	return append(dst, binary.BigEndian.AppendUint64(nil, uint64(end))[2:]...)
}

// maxPacked is the largest payload of a packed entry, in bytes. One HMGET reads
// maxHMGetFields of them: 2 MB, which take Redis a millisecond.
const maxPacked = 16_000

// encode appends to dst the payload of the value in box, which is fresh for so
// long.
func (l *Engine) encode(dst []byte, key string, fresh time.Duration, box any) (b []byte, err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.sealer == nil {
		b, err = l.codec.AppendBox(dst, key, box)
	} else {
		b = appendEnd(dst, fresh)
		b, err = l.codec.AppendBox(b, boundKey(key, b[len(dst):]), box)
	}
	if n := len(b) - len(dst); err == nil && l.leases.packed && n > maxPacked {
		return nil, fmt.Errorf("%w: the value has %d bytes, a packed one may have %d: set Spec.Packed to 0", codec.ErrTooLarge, n, maxPacked)
	}
	return b, err
}

// encodeNotFound returns the payload of an absence that is remembered for so
// long.
func (l *Engine) encodeNotFound(key string, fresh time.Duration) (b []byte, err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.sealer == nil {
		return nil, nil
	}
	b = appendEnd(nil, fresh)
	return l.sealer.AppendNone(b, boundKey(key, b))
}

// Decode sets *v to the value of payload, from an entry of key, even if it has
// ended. The error is the codec's; a panic of the codec is an error too.
func (l *Engine) Decode(key string, payload []byte, v any) (err error) {
	defer guard.Catch(guard.Codec, &err)
	if l.sealer == nil {
		return l.codec.DecodeBox(payload, key, v)
	}
	if len(payload) < endSize {
		return errNoEnd
	}
	return l.codec.DecodeBox(payload[endSize:], boundKey(key, payload[:endSize]), v)
}

// decodeNotFound returns nil if payload states that key has no value.
func (l *Engine) decodeNotFound(key string, payload []byte) (err error) {
	defer guard.Catch(guard.Codec, &err)
	switch {
	case l.sealer == nil && len(payload) > 0:
		return errNotEmpty
	case l.sealer == nil:
		return nil
	case len(payload) < endSize:
		return errNoEnd
	}
	return l.sealer.DecodeNone(payload[endSize:], boundKey(key, payload[:endSize]))
}

// sealEnd returns the latest end of payload, by the clock of this process: its
// own end plus the clock skew.
func (l *Engine) sealEnd(payload []byte) int64 {
	if l.sealer == nil || len(payload) < endSize {
		return math.MaxInt64
	}
	end := int64(binary.BigEndian.Uint64(append([]byte{0, 0}, payload[:endSize]...)))
	if end == entry.Forever {
		return math.MaxInt64
	}
	return end + clockSkew
}

// sealExpired reports whether payload ended longer ago than windows, in
// milliseconds.
func (l *Engine) sealExpired(payload []byte, now time.Time, windows int64) bool {
	return now.UnixMilli()-l.sealEnd(payload) >= windows
}

// limitToSeal reduces h to what payload confirms.
func (l *Engine) limitToSeal(h *entry.Header, payload []byte, now time.Time) {
	end := l.sealEnd(payload)
	h.Soft = min(h.Soft, end)
	if end <= now.UnixMilli() {
		h.Flags |= entry.Stale
	}
}
