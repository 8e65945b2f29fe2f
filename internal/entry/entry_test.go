package entry_test

import (
	"encoding/hex"
	"fmt"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
)

// compose returns the bytes of an entry with its checksum.
func compose(key string, h entry.Header, payload string) []byte {
	if h.State != entry.Lease {
		h.Sum = entry.Sum(key, []byte(payload))
	}
	return append(h.Append(nil), payload...)
}

// mend corrects the check of a header after a change.
func mend(b []byte) []byte {
	b[5] = 0
	for i, c := range b[:entry.Size] {
		if i != 5 {
			b[5] += c
		}
	}
	return b
}

func TestHeader_HasTheDocumentedLayout(t *testing.T) {
	t.Parallel()
	h := entry.Header{
		State: entry.Value, Flags: entry.Expired | entry.Awaited | entry.Stale, Fails: 9,
		Soft: 0x010203040506, Token: entry.Token{1, 2, 3, 4, 5, 6, 7, 8},
		Till: 0x111213141516, Born: 0x212223242526,
		Cost: 0x31323334 * time.Millisecond, Sum: 0x41424344,
	}
	want := "c158" + "01" + "56" + "97" + "%02x" + "010203040506" + "0102030405060708" +
		"111213141516" + "212223242526" + "31323334" + "41424344"
	others, err := hex.DecodeString(fmt.Sprintf(want, 0))
	require.NoError(t, err)
	var sum int
	for _, c := range others {
		sum += int(c)
	}
	got := h.Append([]byte("before"))
	require.Equal(t, hex.EncodeToString([]byte("before"))+fmt.Sprintf(want, sum%256), hex.EncodeToString(got))
	require.Len(t, h.Append(nil), entry.Size)
	require.LessOrEqual(t, entry.Size, 40)
}

func TestParse_ReversesAppend(t *testing.T) {
	t.Parallel()
	for _, g := range golden {
		h := g.header
		if h.State != entry.Lease {
			h.Sum = entry.Sum(goldenKey, []byte(g.payload))
		}
		b := compose(goldenKey, g.header, g.payload)
		got, payload, ok := entry.Parse(goldenKey, b)
		require.True(t, ok, g.name)
		require.Equal(t, h, got, g.name)
		require.Equal(t, g.payload, string(payload), g.name)
		if len(payload) > 0 {
			require.Same(t, &b[entry.Size], &payload[0], "%s: the payload is a copy", g.name)
		}
	}
}

func TestParse_RejectsEveryPrefix(t *testing.T) {
	t.Parallel()
	for _, g := range golden {
		b := compose(goldenKey, g.header, g.payload)
		for n := range len(b) {
			_, _, ok := entry.Parse(goldenKey, b[:n])
			require.False(t, ok, "%s: the first %d bytes of %d", g.name, n, len(b))
		}
		_, _, ok := entry.Parse(goldenKey, append(b, 0))
		require.False(t, ok, "%s and one byte more", g.name)
	}
	_, _, ok := entry.Parse(goldenKey, nil)
	require.False(t, ok)
}

func TestParse_RejectsEveryChangedByte(t *testing.T) {
	t.Parallel()
	for _, g := range golden {
		b := compose(goldenKey, g.header, g.payload)
		for i := range b {
			for delta := 1; delta < 256; delta++ {
				b[i] += byte(delta)
				h, payload, ok := entry.Parse(goldenKey, b)
				b[i] -= byte(delta)
				require.False(t, ok, "%s: byte %d plus %d", g.name, i, delta)
				require.Nil(t, payload)
				if i < entry.Size {
					require.Zero(t, h, "%s: byte %d plus %d: the header does not hold", g.name, i, delta)
				}
			}
		}
		_, _, ok := entry.Parse(goldenKey, b)
		require.True(t, ok, "the test did not restore %s", g.name)
	}
}

func TestParse_RejectsUnknownValuesWithAValidCheck(t *testing.T) {
	t.Parallel()
	valid := map[int]string{0: "\xC1", 1: "X", 2: "\x01", 3: "VLN"} // all flags are known
	for at, known := range valid {
		for c := range 256 {
			// Without a payload it is valid in every state.
			b := compose(goldenKey, entry.Header{State: entry.Value, Token: entry.Token{1}}, "")
			b[at] = byte(c)
			_, _, ok := entry.Parse(goldenKey, mend(b))
			require.Equal(t, strings.IndexByte(known, byte(c)) >= 0, ok, "byte %d is %#x", at, c)
		}
	}
}

func TestParse_RejectsForeignBytes(t *testing.T) {
	t.Parallel()
	for _, s := range []string{
		"", "1", "hello", `{"ID":42,"Name":"Ada"}`, strings.Repeat("\x00", entry.Size), strings.Repeat("\xff", 99),
		"\xC1X\x01V" + strings.Repeat("\x00", entry.Size), strings.Repeat("\xC1X\x01V", 20),
	} {
		h, payload, ok := entry.Parse(goldenKey, []byte(s))
		require.False(t, ok, "%q", s)
		require.Zero(t, h, "%q", s)
		require.Nil(t, payload, "%q", s)
	}
}

func TestParse_RejectsAValueUnderAnotherKey(t *testing.T) {
	t.Parallel()
	b := compose("users:42", entry.Header{State: entry.Value, Token: entry.Token{1}}, "payload")
	for _, key := range []string{"users:43", "users:4", "users:422", "", "Users:42", "users:42p"} {
		_, _, ok := entry.Parse(key, b)
		require.False(t, ok, "%q", key)
	}
	// The absence of a value holds for one key only.
	none := compose("users:42", entry.Header{State: entry.Absent, Token: entry.Token{1}}, "")
	_, _, ok := entry.Parse("users:42", none)
	require.True(t, ok)
	_, _, ok = entry.Parse("users:43", none)
	require.False(t, ok)
	// A lease has no payload to mistake for the value of another key, so it can
	// be released under any key.
	_, _, ok = entry.Parse("users:43", entry.Header{State: entry.Lease, Token: entry.Token{1}}.Append(nil))
	require.True(t, ok)
}

func TestParse_ReturnsTheHeaderOfAnInvalidPayload(t *testing.T) {
	t.Parallel()
	token := entry.Token{8, 7, 6, 5, 4, 3, 2, 1}
	value := compose(goldenKey, entry.Header{State: entry.Value, Token: token, Soft: 5, Till: 6}, "payload")
	lease := compose(goldenKey, entry.Header{State: entry.Lease, Token: token}, "")
	none := compose(goldenKey, entry.Header{State: entry.Absent, Token: token}, "")
	moved := compose("users:43", entry.Header{State: entry.Absent, Token: token}, "")
	for name, b := range map[string][]byte{
		"cut":            value[:len(value)-1],
		"changed":        append(value[:len(value)-1:len(value)-1], 'D'),
		"longer":         append(value[:len(value):len(value)], 'd'),
		"lease with one": append(lease, 'p'),
		"none with one":  append(none, 'p'),
		"none elsewhere": moved,
	} {
		h, payload, ok := entry.Parse(goldenKey, b)
		require.False(t, ok, name)
		require.Nil(t, payload, name)
		require.Equal(t, token, h.Token, name)
		require.Equal(t, b[:entry.Size], h.Append(nil), name)
	}
}

func TestPaused_HasATimeAndNoToken(t *testing.T) {
	t.Parallel()
	token := entry.Token{7: 1}
	for h, want := range map[entry.Header]bool{
		{State: entry.Value, Till: 1, Fails: 3}:     true,
		{State: entry.Value, Till: 1}:               true,
		{State: entry.Value, Till: 1, Soft: 2}:      true,
		{State: entry.Value, Till: 1, Token: token}: false,
		{State: entry.Value, Fails: 3}:              false, // expired by hand since
		{State: entry.Value, Token: token}:          false,
		{State: entry.Lease, Till: 1}:               false,
		{State: entry.Absent, Till: 1}:              false,
		{}:                                          false,
	} {
		require.Equal(t, want, h.Paused(), "%+v", h)
	}
}

func TestNewToken_IsUniqueAndNotZero(t *testing.T) {
	t.Parallel()
	seen := map[entry.Token]bool{{}: true}
	for range 10_000 {
		token := entry.NewToken()
		require.False(t, seen[token], "%x", token)
		seen[token] = true
	}
}

// crc32c is the definition: the reflected polynomial 82F63B78, bit by bit.
func crc32c(b string) uint32 {
	crc := ^uint32(0)
	for i := range len(b) {
		crc ^= uint32(b[i])
		for range 8 {
			crc = crc>>1 ^ 0x82F63B78*(crc&1)
		}
	}
	return ^crc
}

func TestSum_IsTheCRC32COfKeyAndPayload(t *testing.T) {
	t.Parallel()
	require.Equal(t, uint32(0xE3069283), crc32c("123456789"), "the check value of RFC 3720 and of every catalogue")
	long := strings.Repeat("0123456789abcdef\x00\xff", 500)
	for _, s := range []string{"", "123456789", "users:42\x00\xff", long} {
		for _, cut := range []int{0, 1, len(s) / 2, len(s) - 1, len(s)} {
			cut = min(max(cut, 0), len(s))
			require.Equal(t, crc32c(s), entry.Sum(s[:cut], []byte(s[cut:])), "%.20q cut at %d", s, cut)
		}
	}
	require.Equal(t, crc32c("key"), entry.Sum("key", nil))
}

func TestAppendCost_ClampsToItsRange(t *testing.T) {
	t.Parallel()
	for d, want := range map[time.Duration]string{
		0:                                    "00000000",
		-1:                                   "00000000",
		math.MinInt64:                        "00000000",
		time.Millisecond - 1:                 "00000000",
		time.Millisecond:                     "00000001",
		1500 * time.Microsecond:              "00000001",
		time.Minute:                          "0000ea60",
		(1<<32 - 1) * time.Millisecond:       "ffffffff",
		(1 << 32) * time.Millisecond:         "ffffffff",
		math.MaxInt64:                        "ffffffff",
		(1<<32-1)*time.Millisecond - 1:       "fffffffe",
		(1<<32-1)*time.Millisecond + 1:       "ffffffff",
		49*24*time.Hour + 17*time.Hour:       fmt.Sprintf("%08x", int64((49*24+17)*3600*1000)),
		(1<<31)*time.Millisecond + time.Hour: fmt.Sprintf("%08x", int64(1<<31+3600*1000)),
	} {
		require.Equal(t, "ff"+want, hex.EncodeToString(entry.AppendCost([]byte{0xff}, d)), d)
	}
}

// It is not parallel: testing.AllocsPerRun counts the allocations of all
// goroutines.
func TestParse_AllocatesNothing(t *testing.T) {
	key, payload := strings.Repeat("key:", 20), []byte(strings.Repeat("payload", 200))
	b := compose(key, entry.Header{State: entry.Value, Token: entry.Token{1}}, string(payload))
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if _, _, ok := entry.Parse(key, b); !ok {
			t.Fatal("refused")
		}
	}))
	var sum uint32
	require.Zero(t, testing.AllocsPerRun(200, func() { sum += entry.Sum(key, payload) }))
	h, dst := entry.Header{State: entry.Value}, make([]byte, 0, entry.Size)
	require.Zero(t, testing.AllocsPerRun(200, func() { dst = h.Append(dst[:0]) }))
}

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{0, 100, 10_000} {
		b.Run(fmt.Sprintf("payload=%d", size), func(b *testing.B) {
			raw := compose("users:123456", entry.Header{State: entry.Value}, strings.Repeat("p", size))
			b.ReportAllocs()
			for b.Loop() {
				if _, _, ok := entry.Parse("users:123456", raw); !ok {
					b.Fatal("refused")
				}
			}
		})
	}
}

func TestParse_CountIsDecimalWithoutASum(t *testing.T) {
	t.Parallel()
	h := entry.Header{State: entry.Value, Flags: entry.Count, Token: entry.Token{1}}
	for payload, ok := range map[string]bool{
		"0": true, "-17": true, "9223372036854775808": true,
		"": false, "-": false, "1-": false, "+1": false, "0x1": false, "1e3": false, "hello": false,
	} {
		_, got, is := entry.Parse(goldenKey, append(h.Append(nil), payload...))
		require.Equal(t, ok, is, payload)
		if ok {
			require.Equal(t, payload, string(got))
		}
	}
}
