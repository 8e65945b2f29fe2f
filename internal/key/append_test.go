package key_test

import (
	"errors"
	"fmt"
	"io"
	"math"
	"net/netip"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
)

type (
	slug   string
	level  uint8 // with a text of its own
	octet  byte
	digest [4]octet

	// mute is a text whose method is told by the value what to do.
	mute struct{ Do string }

	// grudge has its method on the pointer alone, so it renders as the string that it is.
	grudge string

	// greedy appends to what it is given after spoiling the bytes beyond.
	greedy struct{ Text string }

	session struct {
		Tenant slug
		User   int64
		Admin  bool
		Token  digest
		Level  level
		From   netip.Addr
	}
)

var errMute = errors.New("mute")

func (l level) MarshalText() ([]byte, error) { return []byte("level:" + strconv.Itoa(int(l))), nil }

func (m mute) MarshalText() ([]byte, error) {
	switch m.Do {
	case "fail":
		return []byte("ignored"), errMute
	case "panic":
		panic("secret")
	case "panic with an error":
		panic(io.ErrUnexpectedEOF)
	case "index":
		return []byte{m.Do[len(m.Do)+2]}, nil
	}
	return []byte(m.Do), nil
}

// UnmarshalText takes more than MarshalText gives, as many a parser does: levels in any case, of any number of zeros.
func (l *level) UnmarshalText(text []byte) error {
	digits, ok := strings.CutPrefix(strings.ToLower(string(text)), "level:")
	n, err := strconv.ParseUint(digits, 10, 8)
	if !ok || err != nil {
		return fmt.Errorf("%q is no level: %w", text, errMute)
	}
	*l = level(n)
	return nil
}

func (m *mute) UnmarshalText(text []byte) error {
	if m.Do != "" {
		panic("a value is read twice")
	}
	m.Do = string(text)
	clear(text) // whose it is now, or else the key would show it
	switch m.Do {
	case "refuse":
		return fmt.Errorf("%s: %w", m.Do, errMute)
	case "choke":
		panic("secret")
	case "choke with an error":
		panic(fmt.Errorf("secret: %w", io.ErrUnexpectedEOF))
	}
	return nil
}

func (g *grudge) MarshalText() ([]byte, error) { return nil, errMute }

func (g *grudge) UnmarshalText([]byte) error { return errMute }

func (g greedy) AppendText(b []byte) ([]byte, error) {
	spare := b[:cap(b)]
	for i := range spare {
		spare[i] = '!'
	}
	return append(b, g.Text...), nil
}

func (g greedy) MarshalText() ([]byte, error) { panic("AppendText comes first") }

// render is the key of k by the template, both of which must be well.
func render[K comparable](t *testing.T, template string, k K) string {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	require.NoError(t, err)
	got, err := tmpl.Append(nil, k)
	require.NoError(t, err)
	return string(got)
}

func TestKeysAreRenderedLikeThis(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ got, want string }{
		{render(t, "users:{id}", int64(42)), "users:42"},
		{render(t, "users:{id}", int64(math.MinInt64)), "users:-9223372036854775808"},
		{render(t, "users:{id}", uint64(math.MaxUint64)), "users:18446744073709551615"},
		{render(t, "users:{id}", int8(-128)), "users:-128"},
		{render(t, "users:{id}", uintptr(7)), "users:7"},
		{render(t, "users:{id}", 'a'), "users:97"},
		{render(t, "users:{id}:posts", ID(7)), "users:7:posts"},
		{render(t, "{id}", false), "false"},
		{render(t, "flags:{on}", true), "flags:true"},
		{render(t, "d:{x}", [3]byte{0, 0xab, 0x0f}), "d:00ab0f"},
		{render(t, "d:{x}", digest{1, 2, 3, 255}), "d:010203ff"},
		{render(t, "d:{x}", [0]byte{}), "d:"},
		{render(t, "config", struct{}{}), "config"},

		{render(t, "s:{x}", "plain text-with_all.of/it, größe→\u00a0☃"), "s:plain text-with_all.of/it, größe→\u00a0☃"},
		{render(t, "s:{x}", ""), "s:"},
		{render(t, "s:{x}", slug("a:b")), "s:a%3Ab"},
		{render(t, "s:{x}", "100%{}:"), "s:100%25%7B%7D%3A"},
		{render(t, "s:{x}", "%3A"), "s:%253A"},
		{render(t, "s:{x}", "\x00\r\n\x1f\x7f"), "s:%00%0D%0A%1F%7F"},
		{render(t, "s:{x}", "\u0085\u009f"), "s:%C2%85%C2%9F"},
		{render(t, "s:{x}", "a\xffb\xc3"), "s:a%FFb%C3"},
		{render(t, "s:{x}", "\xed\xa0\x80"), "s:%ED%A0%80"},
		{render(t, "s:{x}", "\ufffd"), "s:\ufffd"},
		{render(t, `s*?[]\:{x}`, `*?[]\`), `s*?[]\:*?[]\`},

		{render(t, "ip:{x}", netip.MustParseAddr("10.0.0.1")), "ip:10.0.0.1"},
		{render(t, "ip:{x}", netip.MustParseAddr("2001:db8::1")), "ip:2001%3Adb8%3A%3A1"},
		{render(t, "ip:{x}", embedAddr{netip.MustParseAddr("10.0.0.1")}), "ip:10.0.0.1"},
		{render(t, "l:{x}", level(3)), "l:level%3A3"},
		{render(t, "g:{x}", grudge("x")), "g:x"},
		{render(t, "g:{x}", greedy{"a:b"}), "g:a%3Ab"},
		{render(t, "g:{x}", greedy{strings.Repeat("long:", 20)}), "g:" + strings.Repeat("long%3A", 20)},

		{render(t, "f:{user_id}:{lang}", userKey{42, "en"}), "f:42:en"},
		{render(t, "f:{lang}:{user_id}", userKey{42, "en"}), "f:en:42"},
		{render(t, "f:{user}:{locale}", taggedKey{42, "en"}), "f:42:en"},
		{render(t, "f:{user_id}:{lang}:{user_id}", userKey{42, "en"}), "f:42:en:42"},
		{render(t, "{id}", blankKey{ID: 1}), "1"},
		{render(t, "{id}:{lang}", embedScalar{1, "en"}), "1:en"},
		{render(t, "{a}-{b}", intPair{-1, 2}), "-1-2"},
		{render(t, "{a}-{b}", pairKey{"a-", "-b"}), "a%2D--b"},
		{render(t, "{a}A{b}", pairKey{"A:", "A:"}), "%41%3AAA%3A"},
		{render(t, "{a}→{b}", pairKey{"x→↓", "x→"}), "x%E2%86%92↓→x→"},
		{render(t, "{a}0{b}", boolPair{true, false}), "true0false"},
		{render(t, "{a}0{b}", octets{[2]byte{0, 1}, [2]byte{2, 3}}), "000100203"},
		{render(t, "{a}|{b}", addrPair{netip.IPv6Loopback(), netip.IPv4Unspecified()}), "%3A%3A1|0.0.0.0"},
		{
			render(t, "s:{tenant}:{user}:{admin}:{token}:{level}:{from}",
				session{"a b", -1, true, digest{0xca, 0xfe}, 9, netip.MustParseAddr("::1")}),
			"s:a b:-1:true:cafe0000:level%3A9:%3A%3A1",
		},
	} {
		require.Equal(t, row.want, row.got)
	}
}

// hashTag is what Redis Cluster hashes of a key, by its specification: what is between the first '{' and the first '}'
// thereafter, if that is anything, else all.
func hashTag(s string) string {
	if _, after, ok := strings.Cut(s, "{"); ok {
		if tag, _, ok := strings.Cut(after, "}"); ok && tag != "" {
			return tag
		}
	}
	return s
}

func TestADoubleBraceIsTheHashTagAndNoValueCanMoveIt(t *testing.T) {
	t.Parallel()
	require.Equal(t, "cart:{7}:items", render(t, "cart:{{id}}:items", 7))
	require.Equal(t, "7", hashTag(render(t, "cart:{{id}}:items", 7)))
	for _, other := range []string{"x", "{x}", "}{", "{", "{}"} {
		k := render(t, "{a}:{{b}}:z", pairKey{other, "tenant"})
		require.Equal(t, "tenant", hashTag(k), k)
		k = render(t, "{{b}}{a}", pairKey{other, "tenant"})
		require.Equal(t, "tenant", hashTag(k), k)
	}
	k := render(t, "cart:{{id}}", "}evil{")
	require.Equal(t, "cart:{%7Devil%7B}", k)
	require.Equal(t, "%7Devil%7B", hashTag(k))
	// Without a tag, a value cannot make one.
	k = render(t, "cart:{id}", "{evil}")
	require.Equal(t, k, hashTag(k))
}

func TestNameIsTheTemplateUpToItsFirstPlaceholder(t *testing.T) {
	t.Parallel()
	for template, want := range map[string]string{
		"users:{user_id}":  "users",
		"users::{id}":      "users",
		"users{id}:x":      "users",
		"a:b:{id}":         "a:b",
		"users:{{id}}:x":   "users",
		"{id}:users":       "",
		":{id}":            "",
		"jobs:{id}:views:": "jobs",
	} {
		tmpl, err := key.Compile[int](template)
		require.NoError(t, err)
		require.Equal(t, want, tmpl.Name(), template)
	}
	constant, err := key.Compile[struct{}]("front:page:")
	require.NoError(t, err)
	require.Equal(t, "front:page", constant.Name())
	f, err := key.FromFunc(strconv.Itoa)
	require.NoError(t, err)
	require.Empty(t, f.Name())
}

func TestAppendKeepsWhatDstHolds(t *testing.T) {
	t.Parallel()
	tmpl, err := key.Compile[greedy]("g:{x}")
	require.NoError(t, err)
	dst := append(make([]byte, 0, 256), "before|"...)
	got, err := tmpl.Append(dst, greedy{"a:b"})
	require.NoError(t, err)
	require.Equal(t, "before|g:a%3Ab", string(got))
	require.Same(t, &dst[0], &got[0], "dst had room")
}

// requireRefusal asserts that k has no key, for the reason of that text, and that dst comes back as it was.
func requireRefusal[K comparable](t *testing.T, tmpl *key.Template[K], k K, want string) error {
	t.Helper()
	dst := append(make([]byte, 0, 8192), "before"...)
	got, err := tmpl.Append(dst, k)
	require.EqualError(t, err, want)
	require.Equal(t, "before", string(got))
	require.Equal(t, "before", string(dst))
	return err
}

func TestFailuresAndPanicsOfAMethodAreErrorsOfAppend(t *testing.T) {
	t.Parallel()
	whole, err := key.Compile[mute]("m:{x}")
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, whole, mute{"fail"}, "key_test.mute: MarshalText: mute"), errMute)
	requireRefusal(t, whole, mute{"panic"}, "key_test.mute: MarshalText panicked with a string")
	requireRefusal(t, whole, mute{"index"}, "key_test.mute: MarshalText panicked: runtime error: index out of range [7] with length 5")
	require.ErrorIs(t, requireRefusal(t, whole, mute{"panic with an error"}, "key_test.mute: MarshalText panicked with a *errors.errorString"),
		io.ErrUnexpectedEOF)

	type part struct{ A, B mute }
	parts, err := key.Compile[part]("m:{a}:{b}")
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, parts, part{B: mute{"fail"}}, "field B of key_test.part: MarshalText: mute"), errMute)
	got, err := parts.Append(nil, part{mute{"x"}, mute{"y"}})
	require.NoError(t, err, "a failure leaves the template whole")
	require.Equal(t, "m:x:y", string(got))
}

func TestAppendRefusesKeysThatAreTooLongWithoutTellingThem(t *testing.T) {
	t.Parallel()
	const at = "key too long: at least %d bytes, the limit is 1024"
	text, err := key.Compile[string]("s:{x}")
	require.NoError(t, err)
	room := key.MaxLen - len("s:")
	got, err := text.Append([]byte("before"), strings.Repeat("x", room))
	require.NoError(t, err, "dst does not count")
	require.Len(t, got, len("before")+key.MaxLen)
	tooLong := func(n int) string { return strings.Replace(at, "%d", strconv.Itoa(n), 1) }
	require.ErrorIs(t, requireRefusal(t, text, strings.Repeat("x", room+1), tooLong(key.MaxLen+1)), key.ErrTooLong)
	requireRefusal(t, text, strings.Repeat(":", room), tooLong(2+3*room))
	requireRefusal(t, text, strings.Repeat("x", 5000), tooLong(5000))

	method, err := key.Compile[mute]("s:{x}")
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, method, mute{strings.Repeat("x", 5000)}, tooLong(5000)), key.ErrTooLong)

	f, err := key.FromFunc(func(n int) string { return strings.Repeat("x", n) })
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, f, 1025, tooLong(1025)), key.ErrTooLong)
	_, err = f.Append(nil, 1024)
	require.NoError(t, err)
}

func TestAppendRefusesEmptyKeys(t *testing.T) {
	t.Parallel()
	text, err := key.Compile[string]("{x}")
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, text, "", "key is empty"), key.ErrEmpty)
	f, err := key.FromFunc(func(s string) string { return s })
	require.NoError(t, err)
	require.ErrorIs(t, requireRefusal(t, f, "", "key is empty"), key.ErrEmpty)
}

func TestFromFuncTakesTheStringAsItComes(t *testing.T) {
	t.Parallel()
	f, err := key.FromFunc(func(x float64) string {
		if x < 0 {
			panic("secret")
		}
		return "f:{" + strconv.FormatFloat(x, 'g', -1, 64) + "}%\n\xff"
	})
	require.NoError(t, err)
	got, err := f.Append([]byte("before|"), 1.5)
	require.NoError(t, err)
	require.Equal(t, "before|f:{1.5}%\n\xff", string(got))
	requireRefusal(t, f, -1, "Spec.KeyFunc panicked with a string")

	_, err = key.FromFunc[int](nil)
	require.EqualError(t, err, "Spec.KeyFunc is nil")
}

func TestATemplateServesManyGoroutines(t *testing.T) {
	t.Parallel()
	tmpl, err := key.Compile[session]("s:{tenant}:{user}:{admin}:{token}:{level}:{from}")
	require.NoError(t, err)
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			want := "s:t:" + strconv.Itoa(g) + ":false:00000000:level%3A1:%3A%3A1"
			for range 500 {
				got, err := tmpl.Append(nil, session{Tenant: "t", User: int64(g), Level: 1, From: netip.IPv6Loopback()})
				if err != nil || string(got) != want {
					t.Errorf("got %s, %v, want %s", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
