package key_test

import (
	"net/netip"
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

func BenchmarkAppend(b *testing.B) {
	b.Run("string", func(b *testing.B) { benchmark(b, "users:{id}", "a-user's-name") })
	b.Run("int64", func(b *testing.B) { benchmark(b, "users:{id}", int64(123456)) })
	b.Run("struct", func(b *testing.B) {
		benchmark(b, "s:{tenant}:{user}:{admin}:{token}", plainKey{"acme", 123456, true, digest{1}})
	})
	b.Run("text", func(b *testing.B) { benchmark(b, "ip:{addr}", netip.MustParseAddr("2001:db8::1")) })
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
