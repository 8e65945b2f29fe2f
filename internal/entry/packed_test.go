package entry_test

import (
	"encoding/hex"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

const packedKey = "users:%~100:42 17"

// packing returns the bytes of a packed entry.
func packing(h entry.Header, payload string, end, stale int64) []byte {
	if h.State != entry.Lease {
		h.Sum = entry.Sum(packedKey, []byte(payload))
	}
	return append(h.AppendPacked(nil, end, stale), payload...)
}

// These bytes must never change: they are stored in the Redis of users.
func TestPacked_BytesNeverChange(t *testing.T) {
	t.Parallel()
	token := entry.Token{1, 2, 3, 4, 5, 6, 7, 8}
	const soft = 1_767_225_600_123
	for name, row := range map[string]struct {
		b    []byte
		want string
	}{
		"a value":                         {packing(entry.Header{State: entry.Value, Soft: soft, Token: token}, "ann", soft+5, 5), "99e1815f8f784e616e6e"},
		"one forever":                     {packing(entry.Header{State: entry.Value, Soft: entry.Forever, Token: token}, "ann", entry.Forever, 5), "bffffffffffaa0616e6e"},
		"that there is none":              {packing(entry.Header{State: entry.Absent, Soft: soft, Token: token}, "", soft, 5), "d9e1815f8f79a9"},
		"that there was none before 2000": {packing(entry.Header{State: entry.Absent, Soft: 946_684_799_999, Token: token}, "", 946_684_799_999, 5), "c158014e000100dc6acfabff010203040506070800000000000000000000000000000000136d162000dc6acfabff"},
		"a lease":                         {packing(entry.Header{State: entry.Lease, Token: token, Born: soft}, "", soft+5, 5), "c158014c00990000000000000102030405060708000000000000019b76daa87b0000000000000000019b76daa880"},
	} {
		require.Equal(t, row.want, hex.EncodeToString(row.b), name)
	}
}

func TestPacked_RoundTrips(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(3, 4))
	shorts := 0
	for range 20_000 {
		h := entry.Header{State: []entry.State{entry.Value, entry.Absent, entry.Lease}[rnd.IntN(3)]}
		h.Soft = []int64{entry.Forever, 0, 1_767_225_600_123 + rnd.Int64N(1<<38), rnd.Int64N(1 << 47)}[rnd.IntN(4)]
		if rnd.IntN(4) > 0 {
			h.Token = entry.NewToken()
		}
		if rnd.IntN(4) == 0 {
			h.Flags, h.Fails, h.Born, h.Cost = entry.Flags(rnd.IntN(8)), rnd.IntN(16), rnd.Int64N(1<<47), time.Duration(rnd.Int64N(1<<31))*time.Millisecond
		}
		stale, payload := []int64{0, 1000, entry.Forever}[rnd.IntN(3)], ""
		if h.State == entry.Value {
			payload = "payload"[:rnd.IntN(8)]
		}
		end := h.Soft
		if h.State == entry.Value && h.Soft != entry.Forever {
			if end += stale; stale == entry.Forever {
				end = stale
			}
		}
		if rnd.IntN(4) == 0 {
			end = rnd.Int64N(1 << 47)
		}
		b := packing(h, payload, end, stale)
		got, rest, ok := entry.ParsePacked(packedKey, b)
		require.True(t, ok, "%+v: %x", h, b)
		require.Equal(t, payload, string(rest))
		if h.State == entry.Lease {
			h.Till = end
		}
		got.Sum, h.Sum = 0, 0
		if len(b) == 7+len(payload) { // the short form does not keep it
			shorts++
			require.NotEqual(t, entry.Token{}, got.Token)
			got.Token, h.Token, h.Born, h.Cost = entry.Token{}, entry.Token{}, 0, 0
		}
		require.Equal(t, h, got, "%x", b)
	}
	require.Greater(t, shorts, 2000)
}

func TestPacked_RejectsEveryChange(t *testing.T) {
	t.Parallel()
	token, soft := entry.NewToken(), time.Now().UnixMilli()
	for _, whole := range [][]byte{
		packing(entry.Header{State: entry.Value, Soft: soft, Token: token}, "", soft, 0),
		packing(entry.Header{State: entry.Absent, Soft: soft, Token: token}, "", soft, 0),
		packing(entry.Header{State: entry.Lease, Token: token}, "", soft, 0),
		packing(entry.Header{State: entry.Value, Soft: soft, Token: token, Till: soft}, "", soft, 0),
	} {
		_, _, ok := entry.ParsePacked(packedKey, whole)
		require.True(t, ok)
		for i := range min(len(whole), entry.Size) {
			for by := 1; by < 256; by++ {
				b := append([]byte(nil), whole...)
				b[i] += byte(by)
				_, _, ok := entry.ParsePacked(packedKey, b)
				if ok && len(b) == entry.Size+6 && (i >= 36 || i == 0) { // a byte of the checksum, of which not all bits count; or it then has the short form
					continue
				}
				require.False(t, ok, "byte %d of %x", i, whole)
			}
		}
		for i := range whole {
			_, _, ok := entry.ParsePacked(packedKey, whole[:i])
			require.False(t, ok, "%d bytes of %x", i, whole)
		}
	}
}

// The check has 13 bits.
func TestPacked_RarelyAcceptsAnEntryOfAnotherKey(t *testing.T) {
	t.Parallel()
	soft := time.Now().UnixMilli()
	b := packing(entry.Header{State: entry.Value, Soft: soft, Token: entry.NewToken()}, "payload", soft, 0)
	taken := 0
	for i := range 100_000 {
		if _, _, ok := entry.ParsePacked(packedKey+string(rune('0'+i%10))+string(rune(i)), b); ok {
			taken++
		}
	}
	require.Less(t, taken, 2*100_000/8192)
}

func FuzzParsePacked(f *testing.F) {
	f.Add([]byte("\x99\xe1\x81\x5f\x8f\x78\x4eann"))
	f.Add([]byte(""))
	f.Fuzz(func(t *testing.T, b []byte) {
		h, payload, ok := entry.ParsePacked(packedKey, b)
		require.Equal(t, ok, payload != nil)
		if ok && len(b) == 7+len(payload) {
			require.Equal(t, b[:7], h.AppendPacked(nil, h.Soft, 0))
		}
	})
}
