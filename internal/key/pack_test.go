package key_test

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
)

type memberKey struct {
	Org  string
	User int64
}

func packed[K comparable](t testing.TB, template string, n, expected int) *key.Packed[K] {
	t.Helper()
	p, err := compiled[K](t, template).Pack(n, expected)
	require.NoError(t, err)
	return p
}

// place returns where the entry of k is.
func place[K comparable](t testing.TB, template string, n, expected int, k K) string {
	t.Helper()
	b, err := packed[K](t, template, n, expected).Append(nil, k)
	require.NoError(t, err)
	return string(b)
}

// These stay as they are for good: entries of the last release are found by them.
func TestPlacesOfPackedEntries(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ got, want string }{
		{place(t, "users:{id}", 100, 0, 4217), "users:%~100:42 17"},
		{place(t, "users:{id}", 100, 0, 0), "users:%~100:0 0"},
		{place(t, "users:{id}", 100, 0, 99), "users:%~100:0 99"},
		{place(t, "users:{id}", 100, 0, 100), "users:%~100:1 0"},
		{place(t, "users:{id}", 100, 0, -1), "users:%~100:-1 99"},
		{place(t, "users:{id}", 100, 0, -100), "users:%~100:-1 0"},
		{place(t, "users:{id}", 100, 0, -101), "users:%~100:-2 99"},
		{place(t, "users:{id}", 100, 0, int64(math.MinInt64)), "users:%~100:-92233720368547759 92"},
		{place(t, "users:{id}", 100, 0, int64(math.MaxInt64)), "users:%~100:92233720368547758 7"},
		{place(t, "users:{id}", 100, 0, uint64(math.MaxUint64)), "users:%~100:184467440737095516 15"},
		{place(t, "users:{id}:name", 64, 0, int8(-128)), "users:%~64:-2:name 0"},
		{place(t, "o:{{org}}:u:{user} x", 100, 0, memberKey{"a b", 123}), "o:{a b}:u:%~100:1 x 23"},
		{place(t, "users:{name}", 100, 100_000, "ann"), "users:%#1000:936 ann"},
		{place(t, "users:{name}", 100, 1, "a b:%"), "users:%#1:0 a%20b%3A%25"},
		{place(t, "users:{name}", 100, 1, ""), "users:%#1:0 "},
		{place(t, "o:{org}:u:{user}:x", 100, 500, memberKey{"a:b", 123}), "o:%#5:1:u:%#:x a%3Ab:123"},
	} {
		require.Equal(t, row.want, row.got)
	}
}

func TestDifferentKeysHaveDifferentPlaces(t *testing.T) {
	t.Parallel()
	rnd := rand.New(rand.NewPCG(1, 2))
	letters := []rune("a:% {}~#0é\x00")
	word := func() string {
		b := make([]rune, rnd.IntN(4))
		for i := range b {
			b[i] = letters[rnd.IntN(len(letters))]
		}
		return string(b)
	}
	for name, p := range map[string]*key.Packed[memberKey]{
		"by ranges": packed[memberKey](t, "o:{org} :u:{user} x", 7, 0),
		"by a hash": packed[memberKey](t, "o:{org} :u:{user} x", 7, 70),
	} {
		plain := compiled[memberKey](t, "o:{org} :u:{user} x")
		seen := map[string]memberKey{}
		for range 20_000 {
			k := memberKey{word(), rnd.Int64N(200) - 100}
			b, err := p.Append(nil, k)
			require.NoError(t, err)
			at := string(b)
			if before, ok := seen[at]; ok {
				require.Equal(t, before, k, "%s: %s", name, at)
			}
			seen[at] = k
			i := strings.LastIndexByte(at, ' ')
			require.True(t, p.Match(at[:i]), at)
			require.NotContains(t, at[i+1:], " ")
			require.False(t, plain.Match(at[:i]), "%s could be a key of its own", at)
		}
	}
}

func TestHashesOfOneTemplateAreKnownWhateverTheirNumberAndNoOthers(t *testing.T) {
	t.Parallel()
	ranges, hashed := packed[int](t, "users:{id}", 100, 0), packed[string](t, "users:{name}", 100, 1000)
	for at, want := range map[string][2]bool{
		"users:%~100:42": {true, false}, "users:%~50:-1": {true, false},
		"users:%#10:4": {false, true}, "users:%#20:19": {false, true},
		"users:42": {}, "users:%~100": {}, "users:%~100:": {}, "users:%~100:042": {}, "users:%~100:4 2": {}, "users:%#10:-4": {},
		"users:%~100:42:%every": {}, "x:%~100:42": {},
	} {
		require.Equal(t, want, [2]bool{ranges.Match(at), hashed.Match(at)}, at)
	}
	glob, err := ranges.Pattern()
	require.NoError(t, err)
	require.Equal(t, `users:%~*:*`, glob)
	glob, err = hashed.Pattern()
	require.NoError(t, err)
	require.Equal(t, `users:%#*:*`, glob)
	_, err = packed[int](t, "{id}", 100, 0).Pattern()
	require.ErrorContains(t, err, "begins with a placeholder")
}

func TestWhatCannotBePackedSaysWhatToDo(t *testing.T) {
	t.Parallel()
	f, err := key.FromFunc(func(int) string { return "" })
	require.NoError(t, err)
	for want, err := range map[string]error{
		"needs Spec.Key in place of Spec.KeyFunc":                                               second(f.Pack(100, 0)),
		"needs a placeholder in Spec.Key":                                                       second(compiled[struct{}](t, "config").Pack(100, 0)),
		"needs Spec.Expected, about how many entries there will be, since {name} is no integer": second(compiled[string](t, "u:{name}").Pack(100, 0)),
		"needs Spec.Expected, about how many entries there will be, since {user} is in":         second(compiled[memberKey](t, "{user}:{org}:{user}").Pack(100, 0)),
		"write Spec.Key with {id}":                                                              second(compiled[int](t, "u:{{id}}").Pack(100, 0)),
		"keeps {org} in the field of a hash, so it cannot be":                                   second(compiled[memberKey](t, "u:{{org}}:{user}").Pack(100, 1000)),
	} {
		require.ErrorContains(t, err, want)
	}
}

func second[T any](_ T, err error) error { return err }

func TestAPlaceThatIsTooLongIsRefused(t *testing.T) {
	t.Parallel()
	for _, expected := range []int{0, 1000} {
		p := packed[memberKey](t, "o:{org}:{user}", 100, expected)
		for _, n := range []int{key.MaxLen - 5, key.MaxLen + 1} {
			b, err := p.Append([]byte("before"), memberKey{strings.Repeat("x", n), 1})
			require.ErrorIs(t, err, key.ErrTooLong)
			require.Equal(t, "before", string(b))
		}
	}
}

// Not parallel: testing.AllocsPerRun counts what all goroutines allocate.
func TestPlacesAllocateNothing(t *testing.T) {
	dst := make([]byte, 0, 2*key.MaxLen)
	ranges, hashed := packed[int64](t, "users:{id}", 100, 0), packed[string](t, "users:{name}", 100, 1000)
	require.Zero(t, testing.AllocsPerRun(200, func() { _, _ = ranges.Append(dst, 1<<40) }))
	require.Zero(t, testing.AllocsPerRun(200, func() { _, _ = hashed.Append(dst, "somebody") }))
}
