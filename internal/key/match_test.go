package key_test

import (
	"math"
	"net/netip"
	"path"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
)

// compiled is key.Compile of a template that must be well.
func compiled[K comparable](t testing.TB, template string) *key.Template[K] {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	require.NoError(t, err)
	return tmpl
}

// pattern is the Pattern of a template that must have one.
func pattern[K comparable](t testing.TB, template string) string {
	t.Helper()
	glob, err := compiled[K](t, template).Pattern()
	require.NoError(t, err)
	return glob
}

func TestAPatternIsTheTemplateWithStarsAndNothingElseThatIsSpecial(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ got, want string }{
		{pattern[int](t, "users:{id}"), `users:*`},
		{pattern[int](t, "users:{id}:posts"), `users:*:posts`},
		{pattern[int](t, "cart:{{id}}:items"), `cart:{*}:items`},
		{pattern[userKey](t, "f:{user_id}:{lang}:{user_id}"), `f:*:*:*`},
		{pattern[struct{}](t, "config"), `config`},
		{pattern[struct{}](t, ":"), `:`},
		{pattern[int](t, `a[b]*?^c-d\:{id}?`), `a\[b\]\*\?\^c\-d\\:*\?`},
		{pattern[int](t, "größe:{id}→"), `größe:*→`},
	} {
		require.Equal(t, row.want, row.got)
	}
}

func TestATemplateWhoseKeysCannotBeToldFromOthersHasNoPattern(t *testing.T) {
	t.Parallel()
	const bare = "Spec.Key begins with a placeholder, so keys of others could be taken for its own: begin it with a name, such as \"users:\""
	for _, template := range []string{"{id}", "{id}:users", "{{id}}:users", ":{id}", "::{{id}}"} {
		_, err := compiled[int](t, template).Pattern()
		require.EqualError(t, err, bare, template)
	}
	f, err := key.FromFunc(strconv.Itoa)
	require.NoError(t, err)
	_, err = f.Pattern()
	require.EqualError(t, err, "the keys are made by Spec.KeyFunc, so nobody can tell which they are: it takes a Spec.Key")
	require.False(t, f.Match("1"), "nobody knows that it does")
}

// owned requires that the template, and its pattern, match these keys and not those.
func owned[K comparable](t *testing.T, template string, own, others []string) {
	t.Helper()
	tmpl := compiled[K](t, template)
	for _, k := range own {
		require.True(t, tmpl.Match(k), "%q and its key %q", template, k)
	}
	for _, k := range others {
		require.False(t, tmpl.Match(k), "%q and %q, which is of another", template, k)
	}
}

func TestATemplateMatchesWhatItCanHaveRenderedAndNothingElse(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", key.MaxLen-len("s:"))

	owned[int8](t, "users:{id}", []string{"users:0", "users:-1", "users:127", "users:-128"}, []string{
		"", "users", "users:", "users:128", "users:-129", "users:abc", "users:42:posts", "users:+1", "users:01", "users:-0",
		"users:1 ", " users:1", "Users:1", "users:1\n", "users:--1", "users:1_0", "users:0x1", "user:1", "users::1", "users:1e1",
	})
	owned[uint64](t, "users:{id}", []string{"users:18446744073709551615"}, []string{"users:18446744073709551616", "users:-1"})
	owned[int](t, "users:{id}:posts", []string{"users:42:posts"}, []string{"users:42", "users:42:post", "users:42:posts:1", "users::posts"})
	owned[int](t, "cart:{{id}}", []string{"cart:{42}"}, []string{"cart:42", "cart:{42", "cart:{}", "cart:{{42}}"})
	owned[int](t, "n{id}0", []string{"n10", "n-10", "n00"}, []string{"n0", "n1", "n1000000000000000000000", "n010"})
	owned[bool](t, "flags:{on}", []string{"flags:true", "flags:false"}, []string{"flags:", "flags:True", "flags:1", "flags:falsetrue"})
	owned[boolPair](t, "f{a}0{b}", []string{"ftrue0false"}, []string{"ftrue1false", "f0false", "ffalse", "ffals", "ft", "ftrue0falsefalse"})
	owned[digest](t, "d:{x}", []string{"d:010203ff"}, []string{"d:", "d:010203f", "d:010203FF", "d:010203ff0", "d:010203fg"})
	owned[[0]byte](t, "d:{x}", []string{"d:"}, []string{"d:00"})
	owned[octets](t, "d{a}0{b}", []string{"d000100203"}, []string{"d00010020", "d0001", "d00", "d0001002030"})
	owned[struct{}](t, "config", []string{"config"}, []string{"", "confi", "config:", "config:1", "Config"})

	owned[string](t, "s:{x}", []string{"s:", "s:a b", "s:größe→", "s:a%3Ab", "s:%25", "s:%00%FF", "s:" + long}, []string{
		"s:a:b", "s:{a}", "s:%", "s:%3", "s:%3a", "s:%41", "s:%ZZ", "s:\n", "s:\xff", "s:a%C3%A4", "s:x" + long, "s",
	})
	owned[string](t, "s:{x}:t", []string{"s::t", "s:%3At:t"}, []string{"s:t", "s:", "s:t:t:t"})
	owned[pairKey](t, "p{a}A{b}", []string{"pA", "p%41AA", "p%3AAA%3A"}, []string{"p", "p%41", "p%3A", "p%", "pBA%41"})
	owned[pairKey](t, "p{a}→{b}", []string{"p→", "p%E2→", "p%E2%86%92↓→x→"}, []string{"p\xe2→", "p%41→"})
	owned[pairKey](t, "p{a}\ufffd{b}", []string{"p\ufffd"}, []string{"p\xff", "p\xff\ufffd"})
	owned[level](t, "l:{x}", []string{"l:level%3A3"}, []string{"l:level:3"})
	owned[addrPair](t, "ip{a}|{b}", []string{"ip%3A%3A1|0.0.0.0"}, []string{"ip::1|0.0.0.0", "ip%3A%3A1"})

	// A field in two places is the same in both, however it is escaped there.
	owned[userKey](t, "f:{user_id}:{lang}:{user_id}", []string{"f:42:en:42"}, []string{"f:42:en:43", "f:42:en:042", "f:42:en"})
	owned[pairKey](t, "p{a}x{b}y{a}", []string{"p%78xb%79yx"}, []string{"p%78xbyy", "p%78xbyxx", "p%79xbyy"})
}

func TestKeysOfOneTemplateAreNotThoseOfItsNeighbours(t *testing.T) {
	t.Parallel()
	number, text := compiled[int](t, "users:{id}"), compiled[string](t, "users:{id}")
	posts, both := compiled[int](t, "users:{id}:posts"), compiled[userKey](t, "users:{user_id}:{lang}")
	for _, id := range []int{0, -1, 42, math.MaxInt, math.MinInt} {
		k := render(t, "users:{id}", id)
		require.True(t, number.Match(k))
		require.True(t, text.Match(k), "that text renders alike is why templates are to differ")
		for _, spoilt := range []string{k + ":posts", k + ":", k + "x", "x" + k, k[:len("users:")], k + "\x00"} {
			require.False(t, number.Match(spoilt), spoilt)
		}
		require.False(t, posts.Match(k))
		require.False(t, both.Match(k))
		require.True(t, posts.Match(k+":posts"))
		require.True(t, both.Match(k+":posts"), "which is a language, too")
	}
	require.False(t, number.Match(render(t, "users:{id}", "a")))
	require.False(t, both.Match(render(t, "users:{id}", "1:en")))
}

// matches renders k and requires that the template and its pattern match the key.
func matches[K comparable](t *testing.T, template string, k K) {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	if err != nil {
		return
	}
	rendered, err := tmpl.Append(nil, k)
	if err != nil {
		return
	}
	if !tmpl.Match(string(rendered)) {
		t.Fatalf("%q does not match its %q", template, rendered)
	}
	// A glob of path is one of Redis, but that its star stops at a slash, and that it has no invalid UTF-8.
	glob, err := tmpl.Pattern()
	if err == nil && !strings.Contains(string(rendered), "/") {
		if ok, err := path.Match(glob, string(rendered)); !ok || err != nil {
			t.Fatalf("the pattern %q does not match %q: %v", glob, rendered, err)
		}
	}
}

func FuzzAKeyMatchesItsOwnTemplate(f *testing.F) {
	f.Add("users:{id}", "a:b{c}%\xff\n", int64(-1))
	f.Add("f:{user_id}:{lang}:{user_id}", "en", int64(42))
	f.Add("p{a}x{b}y{a}z", "xyz", int64(0))
	f.Add("p{a}\ufffd{b}", "\xff\ufffd", int64(0))
	f.Add("s:{tenant}:{user}:{admin}:{token}:{level}:{from}", "t", int64(1))
	f.Add(`a[b]*?^c-d\{id}]`, "*", int64(1))
	f.Fuzz(func(t *testing.T, template, s string, n int64) {
		var d digest
		for i := range s {
			d[i%len(d)] = octet(s[i])
		}
		addr := netip.AddrFrom4([4]byte{byte(n), byte(n >> 8), byte(d[2]), 1})
		matches(t, template, s)
		matches(t, template, n)
		matches(t, template, int8(n))
		matches(t, template, uint16(n))
		matches(t, template, n > 0)
		matches(t, template, d)
		matches(t, template, addr)
		matches(t, template, mute{s})
		matches(t, template, struct{}{})
		matches(t, template, userKey{n, s})
		matches(t, template, pairKey{s, s})
		matches(t, template, pairKey{s, strconv.FormatInt(n, 10)})
		matches(t, template, intPair{int(n), uint8(n)})
		matches(t, template, boolPair{n > 0, n < 0})
		matches(t, template, octets{[2]byte{byte(n)}, [2]byte{byte(d[2])}})
		matches(t, template, session{slug(s), n, n > 0, d, level(n), addr})
	})
}

// Match is what reading a key back comes to: it says yes if and only if what was read renders as that key.
func FuzzMatchMeansThatTheKeyIsRenderedAgain(f *testing.F) {
	f.Add(uint(0), ":", ":", ":", ":", ":", "a:b", "c", int32(-1), uint8(2), true, uint16(3), uint16(3), uint8(1), "0")
	f.Add(uint(5), "-", "-", "-", "-", "-", "a-b", "-", int32(-1), uint8(2), false, uint16(3), uint16(0), uint8(9), "")
	f.Add(uint(99), "true", "a", "e", "2", "A", "true", "%3A", int32(11), uint8(11), true, uint16(11), uint16(9), uint8(2), "%2")
	f.Add(uint(321), "→", "↓", "\ufffd", "ö", "F", "→↓\ufffd\xffö", "\xe2", int32(0), uint8(0), true, uint16(0), uint16(5), uint8(1), "\xff")
	f.Fuzz(func(t *testing.T, seed uint, l1, l2, l3, l4, l5, s, text string, i int32, u uint8, b bool, x, at uint16, cut uint8, add string) {
		order := []byte("siubxt")
		for n := uint(len(order)); n > 1; n-- {
			order[n-1], order[seed%n] = order[seed%n], order[n-1]
			seed /= n
		}
		literals := []string{"p", l1, l2, l3, l4, l5, "0"}
		template := literals[0]
		for n, field := range order {
			template += "{" + string(field) + "}" + literals[n+1]
		}
		tmpl, err := key.Compile[mixedKey](template)
		if err != nil || strings.Contains(strings.Join(literals, ""), "{") {
			return
		}
		rendered, err := tmpl.Append(nil, mixedKey{s, i, u, b, [2]byte{byte(x >> 8), byte(x)}, mute{text}})
		if err != nil {
			return
		}
		from := int(at) % (len(rendered) + 1)
		spoilt := string(rendered[:from]) + add + string(rendered[min(from+int(cut), len(rendered)):])
		read, ok := decode(spoilt, string(order), literals)
		again, err := tmpl.Append(nil, read)
		if isLoud(read.T.Do) {
			return // a text that its method never gives, or does not take back
		}
		want := ok && err == nil && string(again) == spoilt
		if tmpl.Match(spoilt) != want {
			t.Fatalf("%q: Match of %q is %v, and it is read as %+v, which is %q", template, spoilt, !want, read, again)
		}
		if !want {
			read = mixedKey{}
		}
		if parsed, err := tmpl.Parse(spoilt); (err == nil) != want || parsed != read {
			t.Fatalf("%q: Parse of %q is %+v, %v, and it is read as %+v, which is %q", template, spoilt, parsed, err, read, again)
		}
	})
}
