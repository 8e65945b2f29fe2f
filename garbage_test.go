package cachex

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Whatever stands in Redis, a reader with an Up gets its value, and what stood
// there is overwritten once. A reader without one has no value, and changes
// nothing.

// A bin is a key into which tests throw garbage, and two caches that read it.
type bin[V any] struct {
	t        *testing.T
	rdb      *redis.Client
	with     *Cache[int, V] // it has an Up, which returns up
	without  *Cache[int, V]
	up       V
	key      string
	loads    atomic.Int64
	failures int64 // of decoding, in all
}

func newBin[V any](t *testing.T, rdb *redis.Client, c codec.Codec[V], up V) *bin[V] {
	b := &bin[V]{t: t, rdb: rdb, up: up}
	spec := Spec[int, V]{Key: redistest.Key(t) + ":{id}", Codec: c}
	b.without = newCache(t, rdb, spec)
	spec.Up = func(context.Context, int) (V, error) { b.loads.Add(1); return up, nil }
	b.with = newCache(t, rdb, spec)
	b.key = b.with.Key(1)
	return b
}

// entry returns the bytes of an entry that a cache would have stored.
func (b *bin[V]) entry(payload []byte) []byte {
	h := entry.Header{
		State: entry.Value, Soft: time.Now().Add(time.Minute).UnixMilli(), Token: entry.NewToken(),
		Born: time.Now().UnixMilli(), Cost: time.Millisecond, Sum: entry.Sum(b.key, payload),
	}
	return append(h.Append(nil), payload...)
}

// throw puts garbage into the bin.
func (b *bin[V]) throw(garbage []byte) {
	require.NoError(b.t, b.rdb.Set(b.t.Context(), b.key, garbage, 0).Err())
}

// heals checks what readers make of what is in the bin.
func (b *bin[V]) heals(what string) {
	t, ctx := b.t, b.t.Context()
	t.Helper()
	_, ok, err := b.without.Lookup(ctx, 1)
	require.NoError(t, err, what)
	require.False(t, ok, what)
	_, err = b.without.Get(ctx, 1)
	require.ErrorIs(t, err, ErrNotFound, what)

	loads := b.loads.Load()
	b.failures++
	for range 2 { // and then it is a hit
		v, err := b.with.Get(ctx, 1)
		require.NoError(t, err, what)
		require.Equal(t, b.up, v, what)
		require.Equal(t, loads+1, b.loads.Load(), what)
		require.Equal(t, b.failures, b.with.Stats().DecodeFailures, what)
	}
	v, ok, err := b.without.Lookup(ctx, 1)
	require.NoError(t, err, what)
	require.True(t, ok, what)
	require.Equal(t, b.up, v, what)
	require.Positive(t, b.rdb.PTTL(ctx, b.key).Val(), "%s: what replaced it must expire", what)
}

func TestGet_CorruptEntryIsReplaced(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin[User](t, rdb, nil, User{Name: "up"})
		require.NoError(t, b.with.Set(t.Context(), 1, ann))
		whole, err := rdb.Get(t.Context(), b.key).Bytes()
		require.NoError(t, err)
		for i := range whole {
			b.throw(whole[:i])
			b.heals(fmt.Sprintf("the first %d bytes of %d", i, len(whole)))
			changed := bytes.Clone(whole)
			changed[i] ^= 1 << (i % 8)
			b.throw(changed)
			b.heals(fmt.Sprintf("byte %d of %d changed", i, len(whole)))
		}
		b.throw(append(bytes.Clone(whole), 0))
		b.heals("one byte more")
		b.throw(append(bytes.Clone(whole), whole...))
		b.heals("twice the same")
	})
}

func TestGet_BytesOfOtherProgramsAreReplaced(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, nil, "up")
		future := b.entry([]byte("hello"))
		future[2]++ // a format to come, its sum put right
		future[5]++
		for what, garbage := range map[string]string{
			"nothing":              "",
			"one byte":             "\x00",
			"a word":               "hello",
			"a number":             "42",
			"JSON":                 `{"id":42,"name":"Ann"}`,
			"MessagePack":          "\x82\xa2ID\x2a\xa4Name\xa3Ann",
			"gob":                  "\x0c\xff\x81\x02\x01\x02\xff\x82\x00\x01\x0c\x00\x00",
			"a Python pickle":      "\x80\x04\x95\x05\x00\x00\x00\x00\x00\x00\x00\x8c\x01a\x94.",
			"a lock of others":     "rueidisid:0123456789",
			"a HyperLogLog":        "HYLL\x01\x00\x00\x00",
			"half a magic":         "\xc1",
			"a magic":              "\xc1X",
			"a magic and zeros":    "\xc1X\x01" + strings.Repeat("\x00", 100),
			"a header of zeros":    strings.Repeat("\x00", entry.Size),
			"a header of ones":     strings.Repeat("\xff", entry.Size),
			"a megabyte of zeros":  strings.Repeat("\x00", 1<<20),
			"a format to come":     string(future),
			"an unknown state":     string(entry.Header{State: 'X', Token: entry.NewToken()}.Append(nil)),
			"a count of words":     string(append(entry.Header{State: entry.Value, Flags: entry.Count, Soft: entry.Forever, Token: entry.NewToken()}.Append(nil), "\xc1"...)),
			"a lease and a value":  string(append(entry.Header{State: entry.Lease, Token: entry.NewToken()}.Append(nil), "hello"...)),
			"a value of no token":  string(append(entry.Header{State: entry.Value, Soft: entry.Forever, Sum: 1}.Append(nil), "hello"...)),
			"a value of wrong sum": string(append(entry.Header{State: entry.Value, Soft: entry.Forever, Token: entry.NewToken()}.Append(nil), "hello"...)),
		} {
			b.throw([]byte(garbage))
			b.heals(what)
		}
		for what, put := range map[string]func(ctx context.Context) error{
			"a list":       func(ctx context.Context) error { return rdb.RPush(ctx, b.key, "a", "b").Err() },
			"a hash":       func(ctx context.Context) error { return rdb.HSet(ctx, b.key, "a", "b").Err() },
			"a set":        func(ctx context.Context) error { return rdb.SAdd(ctx, b.key, "a", "b").Err() },
			"a sorted set": func(ctx context.Context) error { return rdb.ZAdd(ctx, b.key, redis.Z{Member: "a"}).Err() },
			"a stream": func(ctx context.Context) error {
				return rdb.XAdd(ctx, &redis.XAddArgs{Stream: b.key, Values: []string{"a", "b"}}).Err()
			},
		} {
			require.NoError(t, rdb.Del(t.Context(), b.key).Err())
			require.NoError(t, put(t.Context()), what)
			b.heals(what)
		}
	})
}

func TestLookup_LeavesGarbageUnchanged(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{})
		require.NoError(t, rdb.Set(t.Context(), c.Key(1), "theirs", 0).Err())
		_, ok, err := c.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		_, err = c.Get(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		require.Equal(t, "theirs", rdb.Get(t.Context(), c.Key(1)).Val())
		require.EqualValues(t, 2, c.Stats().DecodeFailures)
	})
}

// poison returns a test that puts each payload into a sound entry, where only
// the codec can find out.
func poison[V any](c codec.Codec[V], up V, payloads ...string) func(*testing.T, *redis.Client) {
	return func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, c, up)
		for _, p := range payloads {
			b.throw(b.entry([]byte(p)))
			b.heals(fmt.Sprintf("%d bytes beginning %q", len(p), p[:min(len(p), 16)]))
		}
	}
}

// Most of these are small, and known to make decoders allocate gigabytes or end
// the process, which would be seen here at once.
func TestGet_HostilePayloadIsReplaced(t *testing.T) {
	t.Parallel()
	str := codec.String[string]()
	zeros, err := zstd.NewWriter(nil)
	require.NoError(t, err)
	bomb := "\x02" + string(zeros.EncodeAll(make([]byte, 2<<20), nil))
	require.NoError(t, zeros.Close())
	for name, check := range map[string]func(*testing.T, *redis.Client){
		"MessagePack": poison(nil, User{Name: "up"},
			"", "\xc0", "\xc1", "\x90", "\x2a", // nothing, nil, reserved, an empty array, an integer
			"\xdd\xff\xff\xff\xff", "\xdf\xff\xff\xff\xff", // an array and a map of 4 billion
			"\xc6\x1d\xcd\x65\x00",         // 500 MB of bytes
			strings.Repeat("\x91", 2<<20),  // arrays in arrays: the stack of a decoder
			"\x81\xa2ID\xa1x",              // a string for a number
			"\x80\x00",                     // bytes after the value
			"\x81\xa4Tags\xdd\x7f\xff\xff", // a length cut short
		),
		"an integer too large": poison(nil, struct{ N int8 }{7}, "\x81\xa1N\xcd\x01\x2c", "\x81\xa1N\xd0"), // 300 would be 44
		"decimals": poison(nil, int64(7),
			"", " 1", "1 ", "+1", "-", "-0", "007", "1e3", "0x10", "1.0", "٣", "9223372036854775808", "-9223372036854775809"),
		"an unsigned": poison(nil, uint8(7), "-1", "256"),
		"JSON": poison(codec.JSON[User](), User{Name: "up"},
			"", "null", "{", "[]", `{"ID":"x"}`, `{"ID":1}{}`, strings.Repeat("[", 1<<20), strings.Repeat(`{"Tags":`, 1<<16)),
		"text": poison(codec.Text[time.Time](), ann.Seen.UTC(), "", "yesterday", "2026-13-01T00:00:00Z"),
		"compressed": poison(codec.Compress(str, codec.Compression{MaxSize: 1 << 20}), "up",
			"", "\x09hello", // no algorithm, an unknown one
			"\x01\x80\x80\x80\x80\x04\x00\x00",                                         // s2: 1 GiB in two bytes
			"\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "\x02\x28\xb5\x2f\xfd", // lengths that are none
			bomb, bomb[:len(bomb)/2],
		),
		"a version":   poison(codec.Version(str, 3), "up", "", "\x02hello", "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
		"a seal":      poison(codec.Encrypt(str, codec.Key{ID: 1, Secret: make([]byte, 16)}), "up", "", "\x01", "\x01\x00\x00\x00\x01", "\x01\x00\x00\x00\x09hello", "hello"),
		"a pointer":   poison(nil, &ann, "\xdd\xff\xff\xff\xff", "hello"),
		"any of them": poison[any](nil, "up", strings.Repeat("\x91", 2<<20), "\xc7\xff\x7f", "\xd4\x7f\x00", "\x81\x90\x00"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, check)
		})
	}
}

func TestGet_EntryIsInvalidUnderAnotherKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, nil, "up")
		ctx, source := t.Context(), b.with.Key(2)
		for what, move := range map[string]func() error{
			"renamed": func() error { return rdb.Rename(ctx, source, b.key).Err() },
			"copied":  func() error { return rdb.Copy(ctx, source, b.key, rdb.Options().DB, true).Err() },
		} {
			require.NoError(t, b.with.Set(ctx, 2, "of another"))
			require.NoError(t, move())
			b.heals(what)
		}
	})
}

// The sum of an entry finds accidents. Somebody who can write to Redis can put
// it right; that is what encryption is for.
func TestEncrypt_EntryCannotBeMovedToAnotherKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, codec.Encrypt(codec.String[string](), codec.Key{ID: 1, Secret: make([]byte, 32)}), "up")
		require.NoError(t, b.with.Set(t.Context(), 2, "s3cret"))
		whole, err := rdb.Get(t.Context(), b.with.Key(2)).Bytes()
		require.NoError(t, err)
		require.NotContains(t, string(whole), "s3cret", hex.EncodeToString(whole))
		h, payload, ok := entry.Parse(b.with.Key(2), whole)
		require.True(t, ok)
		h.Sum = entry.Sum(b.key, payload)
		b.throw(append(h.Append(nil), payload...))
		b.heals("moved, with its sum put right")

		// Without encryption it works, so it is not for another reason that it did not.
		plain := newBin(t, rdb, nil, "up")
		plain.throw(plain.entry([]byte("forged")))
		v, err := plain.with.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, "forged", v)
	})
}

func TestGet_WaitForAnAbandonedLeaseIsBounded(t *testing.T) {
	t.Parallel()
	year := 365 * 24 * time.Hour
	for name, lease := range map[string]entry.Header{
		"without anything":         {},
		"which somebody waits for": {Flags: entry.Awaited},
		"of a key that expired":    {Flags: entry.Expired | entry.Awaited},
		"that began long ago":      {Born: 1},
		"that is to begin":         {Born: time.Now().Add(year).UnixMilli()},
		"of a load that takes 49 days": {
			Born: time.Now().UnixMilli(), Cost: math.MaxUint32 * time.Millisecond,
		},
		"that holds for a year": {Till: time.Now().Add(year).UnixMilli(), Soft: entry.Forever},
	} {
		lease.State, lease.Token = entry.Lease, entry.NewToken()
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				c := newCache(t, rdb, Spec[int, string]{
					LeaseTTL: time.Second,
					Up:       func(context.Context, int) (string, error) { return "up", nil },
				})
				// No TTL: a PERSIST or a RESTORE by hand has lost it.
				require.NoError(t, rdb.Set(t.Context(), c.Key(1), lease.Append(nil), 0).Err())
				began := time.Now() // of the bubble, where time is exact
				v, err := c.Get(t.Context(), 1)
				require.NoError(t, err)
				require.Equal(t, "up", v)
				require.Less(t, time.Since(began), 4*time.Second, "leases of a second")
				v, ok, err := c.Lookup(t.Context(), 1)
				require.NoError(t, err)
				require.True(t, ok)
				require.Equal(t, "up", v)
				require.NoError(t, c.Close(t.Context()))
			})
		})
	}
}

func TestGet_ConcurrentReadersOfGarbageLoadOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, nil, "up")
		b.throw([]byte("garbage"))
		var callers sync.WaitGroup
		for range 100 {
			callers.Go(func() {
				v, err := b.with.Get(t.Context(), 1)
				if err != nil || v != "up" {
					t.Errorf("Get: %q, %v", v, err)
				}
			})
		}
		callers.Wait()
		require.EqualValues(t, 1, b.loads.Load())
	})
}
