package codec

import "encoding/binary"

// sealer is an optional interface of a [Keyed], as the documentation of Keyed
// describes. A wrapper embeds the sealer of its inner codec.
type sealer interface {
	Authenticates() bool
	AppendNone(dst []byte, key string) ([]byte, error)
	DecodeNone(src []byte, key string) error
}

func sealerOf(c any) sealer {
	if s, ok := c.(sealer); ok {
		return s
	}
	return noSealer{}
}

// noSealer is the sealer of a codec that authenticates nothing.
type noSealer struct{}

// Authenticates returns false.
func (noSealer) Authenticates() bool { return false }

// AppendNone appends nothing.
func (noSealer) AppendNone(dst []byte, _ string) ([]byte, error) { return dst, nil }

// DecodeNone accepts any bytes.
func (noSealer) DecodeNone([]byte, string) error { return nil }

// Authenticates returns true.
func (c *encrypted[V]) Authenticates() bool { return true }

// AppendNone seals the absence of a value, with the first key. The
// authenticated format byte differs from the one of values, so no sealed value
// passes for it.
func (c *encrypted[V]) AppendNone(dst []byte, key string) ([]byte, error) {
	if key == "" {
		return dst, cannotEncode(errNeedsKey.msg, ErrConfig)
	}
	head := binary.BigEndian.AppendUint32(append(dst, formatNone), c.id)
	aad := getScratch()
	defer putScratch(aad)
	*aad = append(append(*aad, head[len(dst):]...), key...)
	return c.seal.Seal(head, nil, nil, *aad), nil
}

// DecodeNone opens bytes that AppendNone sealed for this Redis key, with any of
// the keys.
func (c *encrypted[V]) DecodeNone(src []byte, key string) error {
	if key == "" {
		return badFormat(errNeedsKey.msg, ErrConfig)
	}
	plain := getScratch()
	defer putScratch(plain)
	opened, err := c.opened(*plain, src, formatNone, key)
	if err == nil && len(opened) > 0 {
		return errSealHeader
	}
	return err
}
