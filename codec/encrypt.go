package codec

import (
	"crypto/aes"
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// Key encrypts and decrypts. It does not show its Secret to fmt, log/slog or
// encoding/json.
type Key struct {
	ID     uint32 // stored with the encrypted bytes; any number that identifies only this secret
	Secret []byte // 16, 24 or 32 random bytes: AES-128, AES-192 or AES-256
}

// String returns the key without its secret.
func (k Key) String() string { return fmt.Sprintf("codec.Key{ID: %d, Secret: hidden}", k.ID) }

// Format writes the result of String for every verb.
func (k Key) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(k.String())) }

// MarshalText returns the result of String.
func (k Key) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// Encrypt returns a codec that encrypts the bytes of c with AES-GCM (NIST SP
// 800-38D). It encrypts with the first key and decrypts with any of them. The
// bytes are bound to the Redis key that holds them. Without the secret, a
// writer to Redis cannot read a value, change it, or copy it to another key.
// Bytes that were changed or copied are an [ErrAuth].
//
// A cache also seals the absence of a value, and the time at which a value or
// its absence ends. A writer without the secret can still delete a value, and
// can restore an older one until that one ends: see SECURITY.md.
//
// Encrypt needs the Redis key, so it works only as a [Keyed]. Append and Decode
// without a key are an [ErrConfig], also through wrappers. Compress inside, not
// outside: Encrypt(Compress(c, …), keys…).
//
// Nonces are random, so one key may encrypt at most 2^32 values. At 1000 values
// a second that is 50 days. To change keys without a gap:
//
//  1. add the new key after the current one, in every process;
//  2. then put it first;
//  3. drop the old key when the longest TTL has passed since step 2.
//
// At least one key is required, IDs must differ, and each Secret must have one
// of the three lengths. Otherwise [Check] says which rule is broken. Secrets
// are not kept, so the caller may wipe them. Encrypt adds 33 bytes, and a cache
// 6 more.
func Encrypt[V any](c Codec[V], keys ...Key) Codec[V] {
	e := &encrypted[V]{inner: Bind(c), open: make(map[uint32]cipher.AEAD, len(keys))}
	if len(keys) == 0 {
		return refused[V](misconfigured("Encrypt: a key is required"))
	}
	e.id = keys[0].ID
	for _, k := range keys {
		if e.open[k.ID] != nil {
			return refused[V](misconfigured("Encrypt: two keys have the ID %d", k.ID))
		}
		block, err := aes.NewCipher(k.Secret)
		if err != nil {
			return refused[V](misconfigured("Encrypt: Secret of key %d has %d bytes, want 16, 24 or 32", k.ID, len(k.Secret)))
		}
		if e.open[k.ID], err = cipher.NewGCMWithRandomNonce(block); err != nil {
			return refused[V](misconfigured("Encrypt: key %d: %v", k.ID, err))
		}
	}
	e.seal = e.open[e.id]
	return e
}

// encrypted writes a format byte, the ID of the key, the nonce, and the
// ciphertext with the tag. The tag authenticates the format, the ID and the
// Redis key.
type encrypted[V any] struct {
	inner Keyed[V]
	id    uint32
	seal  cipher.AEAD
	open  map[uint32]cipher.AEAD
}

const (
	formatGCM     = 1
	formatNone    = 2     // no value
	encryptHeader = 1 + 4 // format and ID
)

var (
	errNeedsKey   = misconfigured("Encrypt needs the Redis key: use Bind and AppendKeyed")
	errSealHeader = badFormat("Encrypt: not encrypted by this codec", nil)
	errOpen       = &failure{"Encrypt: the bytes were changed, or moved from another Redis key, or the secret differs", []error{ErrAuth}}
)

// Check checks the inner codec. Encrypt has checked the keys.
func (c *encrypted[V]) Check() error { return Check(c.inner) }

// Append always fails: it has no Redis key to bind the bytes to.
func (c *encrypted[V]) Append(dst []byte, v V) ([]byte, error) { return c.AppendKeyed(dst, "", v) }

// Decode always fails, as Append does.
func (c *encrypted[V]) Decode(src []byte, v *V) error { return c.DecodeKeyed(src, "", v) }

// AppendKeyed seals with the first key. It leaves no plain bytes in dst.
func (c *encrypted[V]) AppendKeyed(dst []byte, key string, v V) ([]byte, error) {
	if key == "" {
		return dst, cannotEncode(errNeedsKey.msg, ErrConfig)
	}
	head := binary.BigEndian.AppendUint32(append(dst, formatGCM), c.id)
	out, err := c.inner.AppendKeyed(head, key, v)
	if err != nil {
		return dst, err
	}
	aad := getScratch()
	defer putScratch(aad)
	*aad = append(append(*aad, out[len(dst):len(head)]...), key...)
	// Seal overwrites the plain bytes with the nonce and the ciphertext. If
	// these do not fit behind dst, the plain bytes are wiped.
	plain := out[len(head):]
	sealed := c.seal.Seal(out[:len(head)], nil, plain, *aad)
	if len(plain) > 0 && &sealed[len(head)] != &plain[0] {
		clear(plain)
	}
	return sealed, nil
}

// DecodeKeyed opens bytes that any of the keys sealed for this Redis key. The
// inner codec never sees bytes that do not authenticate.
func (c *encrypted[V]) DecodeKeyed(src []byte, key string, v *V) error {
	*v = *new(V)
	if key == "" {
		return badFormat(errNeedsKey.msg, ErrConfig)
	}
	plain := getScratch()
	opened, err := c.opened(*plain, src, formatGCM, key)
	if err != nil {
		putScratch(plain)
		return err
	}
	*plain = opened
	defer func() {
		clear(*plain) // no secret stays in the pool
		putScratch(plain)
	}()
	return c.inner.DecodeKeyed(*plain, key, v)
}

// opened appends the plain bytes of src to dst. src must have the given format.
func (c *encrypted[V]) opened(dst, src []byte, format byte, key string) ([]byte, error) {
	if len(src) < encryptHeader || src[0] != format {
		return nil, errSealHeader
	}
	id := binary.BigEndian.Uint32(src[1:])
	aead := c.open[id]
	if aead == nil {
		return nil, &failure{fmt.Sprintf("Encrypt: no key has the ID %d", id), []error{ErrAuth}}
	}
	aad := getScratch()
	defer putScratch(aad)
	*aad = append(append(*aad, src[:encryptHeader]...), key...)
	opened, err := aead.Open(dst, nil, src[encryptHeader:], *aad)
	if err != nil {
		return nil, errOpen
	}
	return opened, nil
}
