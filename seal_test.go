package cachex

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

// What an entry says is put right by whoever forges it: sums are no secret.

func sealedStrings() codec.Codec[string] {
	inner := codec.Compress(codec.String[string](), codec.Compression{})
	return codec.Version(codec.Encrypt(inner, codec.Key{ID: 1, Secret: make([]byte, 32)}), 1)
}

// forge replaces the header of what is in Redis under key, and drops its TTL.
func forge(t *testing.T, rdb *redis.Client, key string, change func(h *entry.Header, payload []byte) []byte) {
	t.Helper()
	b, err := rdb.Get(t.Context(), key).Bytes()
	require.NoError(t, err)
	h, payload, ok := entry.Parse(key, b)
	require.True(t, ok)
	payload = change(&h, payload)
	h.Sum = entry.Sum(key, payload)
	require.NoError(t, rdb.Set(t.Context(), key, append(h.Append(nil), payload...), 0).Err())
}

func TestEncrypt_ForgedAbsenceIsAMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, sealedStrings(), "up")
		unknown := newCache(t, rdb, Spec[int, string]{
			Key: b.with.keyed.core.settings.key, Codec: sealedStrings(), NotFoundTTL: time.Hour,
			Up: func(context.Context, int) (string, error) { return "", ErrNotFound },
		})
		_, err := unknown.Get(t.Context(), 2)
		require.ErrorIs(t, err, ErrNotFound)
		none, err := rdb.Get(t.Context(), b.with.Key(2)).Bytes()
		require.NoError(t, err)
		_, ofAnother, ok := entry.Parse(b.with.Key(2), none)
		require.True(t, ok)
		require.NotEmpty(t, ofAnother)
		require.NoError(t, b.with.Set(t.Context(), 1, "value"))
		value, err := rdb.Get(t.Context(), b.key).Bytes()
		require.NoError(t, err)
		for what, payload := range map[string][]byte{
			"without a payload":              nil,
			"with an end":                    []byte("\xff\xff\xff\xff\xff\xff"),
			"with the payload of a value":    value[entry.Size:],
			"with that of an absence":        ofAnother,
			"with what is too short to open": []byte("\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x01"),
		} {
			h := entry.Header{State: entry.Absent, Soft: entry.Forever, Token: entry.NewToken(), Sum: entry.Sum(b.key, payload)}
			b.throw(append(h.Append(nil), payload...))
			b.heals(what)
		}
		// And the payload of an absence is that of no value.
		h := entry.Header{State: entry.Value, Soft: entry.Forever, Token: entry.NewToken(), Sum: entry.Sum(b.with.Key(2), ofAnother)}
		require.NoError(t, rdb.Set(t.Context(), b.with.Key(2), append(h.Append(nil), ofAnother...), 0).Err())
		v, err := b.with.Get(t.Context(), 2)
		require.NoError(t, err)
		require.Equal(t, "up", v)
	})
}

func TestEncrypt_AbsenceIsRemembered(t *testing.T) {
	t.Parallel()
	for name, packed := range map[string]int{"plain": 0, "packed": 100} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				loads := 0
				c := newCache(t, rdb, Spec[int, string]{
					Codec: sealedStrings(), NotFoundTTL: time.Hour, Packed: packed,
					Up: func(context.Context, int) (string, error) { loads++; return "", ErrNotFound },
				})
				for range 3 {
					_, err := c.Get(t.Context(), 1)
					require.ErrorIs(t, err, ErrNotFound)
					_, err = c.Refresh(t.Context(), 2)
					require.ErrorIs(t, err, ErrNotFound)
					all, err := c.GetMany(t.Context(), []int{1, 2})
					require.NoError(t, err)
					require.Empty(t, all)
				}
				require.Equal(t, 4, loads)
				require.Zero(t, c.Stats().DecodeFailures)
			})
		})
	}
}

func TestEncrypt_NoEntryOutlivesItsSealedLifetime(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]Spec[int, string]{
		"TTL":                  {},
		"StaleWhileRevalidate": {StaleWhileRevalidate: time.Minute},
		"StaleIfError":         {StaleIfError: time.Minute},
	} {
		for _, missing := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
					var err error
					if missing {
						err = ErrNotFound
					}
					v := "old"
					spec := spec
					spec.TTL, spec.NotFoundTTL, spec.Codec, spec.Jitter = time.Minute, time.Minute, sealedStrings(), NoJitter
					spec.Up = func(context.Context, int) (string, error) { return v, err }
					c := newCache(t, rdb, spec)
					_, got := c.Get(t.Context(), 1)
					require.Equal(t, missing, got != nil)
					v, err = "new", nil
					// Whoever writes the entry keeps it fresh.
					prolong := func() {
						forge(t, rdb, c.Key(1), func(h *entry.Header, payload []byte) []byte {
							h.Soft, h.Flags = entry.Forever, 0
							return payload
						})
					}
					prolong()
					time.Sleep(30 * time.Second)
					was, _ := c.Get(t.Context(), 1)
					require.NotEqual(t, "new", was)
					time.Sleep(41 * time.Second) // and 10 s that clocks may differ by
					_, _ = c.Get(t.Context(), 1)
					time.Sleep(time.Second) // for a load in the background
					was, got = c.Get(t.Context(), 1)
					require.NoError(t, got)
					require.Equal(t, "new", was)
					loaded, ok, got := c.Lookup(t.Context(), 1)
					require.NoError(t, got)
					require.True(t, ok)
					require.Equal(t, "new", loaded)

					prolong()
					time.Sleep(131 * time.Second) // its windows are over, too
					err = errors.New("down")
					_, got = c.Get(t.Context(), 1)
					require.ErrorIs(t, got, err)
					_, ok, got = c.Lookup(t.Context(), 1)
					require.NoError(t, got)
					require.False(t, ok)
				})
			})
		}
	}
}

func TestEncrypt_RenewedValueLivesOn(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		loads := 0
		c := newCache(t, rdb, Spec[int, string]{
			TTL: time.Minute, StaleIfError: time.Hour, Codec: sealedStrings(), Jitter: NoJitter,
			Up: func(ctx context.Context, _ int) (string, error) {
				loads++
				if _, ok := Previous[string](ctx); ok {
					return "", ErrNotModified
				}
				return "value", nil
			},
		})
		for i := range 4 {
			for range 3 {
				v, err := c.Get(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, "value", v)
			}
			require.Equal(t, i+1, loads)
			time.Sleep(90 * time.Second)
		}
		require.Zero(t, c.Stats().DecodeFailures)
		require.Zero(t, c.Stats().StoreFailures)
	})
}
