package key_test

import (
	"net/netip"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
)

type plainKey struct {
	Tenant slug
	User   int64
	Admin  bool
	Token  digest
}

// allocs counts the allocations of one Append into a dst with room.
func allocs[K comparable](t *testing.T, template string, k K) float64 {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	require.NoError(t, err)
	dst := make([]byte, 0, 2*key.MaxLen)
	return testing.AllocsPerRun(200, func() {
		if _, err := tmpl.Append(dst, k); err != nil {
			t.Fatal(err)
		}
	})
}

// Not parallel: testing.AllocsPerRun counts what all goroutines allocate.
func TestAppendAllocatesNothingButForMethods(t *testing.T) {
	require.Zero(t, allocs(t, "k:{x}", "plain"))
	require.Zero(t, allocs(t, "k:{x}", "esc:aped \xff ☃ text, of more bytes than fit in a small temporary buffer"))
	require.Zero(t, allocs(t, "k:{x}", slug("named")))
	require.Zero(t, allocs(t, "k:{x}", 1<<20))
	require.Zero(t, allocs(t, "k:{x}", int64(1<<40)))
	require.Zero(t, allocs(t, "k:{x}", uint32(1<<30)))
	require.Zero(t, allocs(t, "k:{x}", ID(1<<40)))
	require.Zero(t, allocs(t, "k:{x}", [32]byte{1}))
	require.Zero(t, allocs(t, "k:{x}", true))
	require.Zero(t, allocs(t, "k:{{tenant}}:{user}:{admin}:{token}", plainKey{"a:b", 1 << 40, true, digest{1}}))

	// One, for all the values that have methods; AppendText itself needs none.
	v6 := netip.MustParseAddr("2001:db8::1")
	require.EqualValues(t, 1, allocs(t, "k:{x}", v6))
	require.EqualValues(t, 1, allocs(t, "k:{a}:{b}", addrPair{v6, v6}))
}

func TestMatchAllocatesNothingAndParseTheKeyItReturns(t *testing.T) {
	plain := compiled[plainKey](t, "k:{{tenant}}:{user}:{admin}:{token}")
	require.Zero(t, testing.AllocsPerRun(200, func() {
		if !plain.Match("k:{acme}:1:true:01000000") {
			t.Fatal("no match")
		}
	}))
	require.EqualValues(t, 1, testing.AllocsPerRun(200, func() {
		if _, err := plain.Parse("k:{acme}:1:true:01000000"); err != nil {
			t.Fatal(err)
		}
	}))
	// What is nobody's key is not copied.
	huge := "k:{" + strings.Repeat("x%3A", 1<<20)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := plain.Parse(huge)
	runtime.ReadMemStats(&after)
	require.ErrorIs(t, err, key.ErrTooLong)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<16))
}

func BenchmarkAppend(b *testing.B) {
	b.Run("string", func(b *testing.B) { benchmark(b, "users:{id}", "a-user's-name") })
	b.Run("int64", func(b *testing.B) { benchmark(b, "users:{id}", int64(123456)) })
	b.Run("struct", func(b *testing.B) {
		benchmark(b, "s:{tenant}:{user}:{admin}:{token}", plainKey{"acme", 123456, true, digest{1}})
	})
	b.Run("text", func(b *testing.B) { benchmark(b, "ip:{addr}", netip.MustParseAddr("2001:db8::1")) })
}

func BenchmarkMatch(b *testing.B) {
	b.Run("int64", func(b *testing.B) { benchmarkMatch[int64](b, "users:{id}", "users:123456") })
	b.Run("string", func(b *testing.B) { benchmarkMatch[string](b, "users:{id}", "users:a-user's%3Aname") })
	b.Run("struct", func(b *testing.B) {
		benchmarkMatch[plainKey](b, "s:{tenant}:{user}:{admin}:{token}", "s:acme:123456:true:01000000")
	})
	b.Run("twice", func(b *testing.B) { benchmarkMatch[userKey](b, "f:{user_id}:{lang}:{user_id}", "f:42:en:42") })
}

func benchmarkMatch[K comparable](b *testing.B, template, k string) {
	tmpl, err := key.Compile[K](template)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if !tmpl.Match(k) {
			b.Fatal(k)
		}
	}
}

func BenchmarkParse(b *testing.B) {
	b.Run("int64", func(b *testing.B) { benchmarkParse[int64](b, "users:{id}", "users:123456") })
	b.Run("string", func(b *testing.B) { benchmarkParse[string](b, "users:{id}", "users:a-user's%3Aname") })
	b.Run("struct", func(b *testing.B) {
		benchmarkParse[plainKey](b, "s:{tenant}:{user}:{admin}:{token}", "s:acme:123456:true:01000000")
	})
	b.Run("text", func(b *testing.B) { benchmarkParse[netip.Addr](b, "ip:{addr}", "ip:2001%3Adb8%3A%3A1") })
}

func benchmarkParse[K comparable](b *testing.B, template, k string) {
	tmpl, err := key.Compile[K](template)
	require.NoError(b, err)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tmpl.Parse(k); err != nil {
			b.Fatal(err)
		}
	}
}

func benchmark[K comparable](b *testing.B, template string, k K) {
	tmpl, err := key.Compile[K](template)
	require.NoError(b, err)
	dst := make([]byte, 0, key.MaxLen)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tmpl.Append(dst, k); err != nil {
			b.Fatal(err)
		}
	}
}
