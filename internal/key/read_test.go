package key_test

import (
	"errors"
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
	// widow can be rendered and not read: its type has the one method, and nothing has the other.
	widow struct{ Text string }

	widowKey struct {
		ID    int
		Widow widow
	}

	// liar reads everything as one value, and fails to render some.
	liar struct{ Text string }
)

func (w widow) MarshalText() ([]byte, error) { return []byte(w.Text), nil }

func (l liar) MarshalText() ([]byte, error) {
	if l.Text == "" {
		return nil, errMute
	}
	return []byte(l.Text), nil
}

func (l *liar) UnmarshalText(text []byte) error {
	if string(text) != "nothing" {
		l.Text = "truth"
	}
	return nil
}

// back requires that key is the key of want by the template, and is parsed as want.
func back[K comparable](t *testing.T, template string, want K, key string) {
	t.Helper()
	require.Equal(t, key, render(t, template, want))
	tmpl := compiled[K](t, template)
	require.NoError(t, tmpl.Parses())
	got, err := tmpl.Parse(key)
	require.NoError(t, err, key)
	require.True(t, got == want, "%q is parsed as %+v, want %+v", key, got, want)
}

func TestParseGivesBackTheKeyThatWasRendered(t *testing.T) {
	t.Parallel()
	back(t, "users:{id}", 42, "users:42")
	back(t, "users:{id}", int8(math.MinInt8), "users:-128")
	back(t, "users:{id}", int16(math.MaxInt16), "users:32767")
	back(t, "users:{id}", int32(math.MinInt32), "users:-2147483648")
	back(t, "users:{id}", int64(math.MinInt64), "users:-9223372036854775808")
	back(t, "users:{id}", uint8(math.MaxUint8), "users:255")
	back(t, "users:{id}", uint16(math.MaxUint16), "users:65535")
	back(t, "users:{id}", uint32(math.MaxUint32), "users:4294967295")
	back(t, "users:{id}", uint64(math.MaxUint64), "users:18446744073709551615")
	back(t, "users:{id}", uint(7), "users:7")
	back(t, "users:{id}", uintptr(7), "users:7")
	back(t, "users:{id}:posts", ID(-7), "users:-7:posts")
	back(t, "{id}", false, "false")
	back(t, "flags:{on}", true, "flags:true")
	back(t, "d:{x}", [3]byte{0, 0xab, 0x0f}, "d:00ab0f")
	back(t, "d:{x}", digest{1, 2, 3, 255}, "d:010203ff")
	back(t, "d:{x}", [0]byte{}, "d:")
	back(t, "config", struct{}{}, "config")

	back(t, "s:{x}", "", "s:")
	back(t, "s:{x}", "größe→☃", "s:größe→☃")
	back(t, "s:{x}", slug("a:b"), "s:a%3Ab")
	back(t, "s:{x}", "%3A", "s:%253A")
	back(t, "s:{x}", "\x00\u0085\xff\ufffd", "s:%00%C2%85%FF\ufffd")
	back(t, "s:{x}", strings.Repeat("x", key.MaxLen-2), "s:"+strings.Repeat("x", key.MaxLen-2))
	back(t, "g:{x}", grudge("x"), "g:x")

	back(t, "ip:{x}", netip.MustParseAddr("2001:db8::1"), "ip:2001%3Adb8%3A%3A1")
	back(t, "ip:{x}", netip.Addr{}, "ip:")
	back(t, "ip:{x}", embedAddr{netip.MustParseAddr("10.0.0.1")}, "ip:10.0.0.1")
	back(t, "ip:{x}", embedAddrBlank{Addr: netip.MustParseAddr("10.0.0.1")}, "ip:10.0.0.1")
	back(t, "ip:{addr}:{prefix}", twoTexts{netip.IPv6Loopback(), netip.MustParsePrefix("10.0.0.0/8")}, "ip:%3A%3A1:10.0.0.0/8")
	back(t, "l:{x}", level(3), "l:level%3A3")
	back(t, "m:{x}", mute{"a{b}"}, "m:a%7Bb%7D")

	back(t, "f:{lang}:{{user_id}}", userKey{42, "e:n"}, "f:e%3An:{42}")
	back(t, "f:{user}:{locale}", taggedKey{42, "en"}, "f:42:en")
	back(t, "b:{id}", blankKey{ID: 1}, "b:1")
	back(t, "{id}:{lang}", embedScalar{1, "en"}, "1:en")
	back(t, "{a}-{b}", intPair{-1, 2}, "-1-2")
	back(t, "{a}A{b}", pairKey{"A:", "A:"}, "%41%3AAA%3A")
	back(t, "{a}→{b}", pairKey{"x→↓", "x→"}, "x%E2%86%92↓→x→")
	back(t, "{a}0{b}", boolPair{true, false}, "true0false")
	back(t, "{a}0{b}", octets{[2]byte{0, 1}, [2]byte{2, 3}}, "000100203")
	back(t, "{a}|{b}", addrPair{netip.IPv6Loopback(), netip.IPv4Unspecified()}, "%3A%3A1|0.0.0.0")
	back(t, "s:{tenant}:{user}:{admin}:{token}:{level}:{from}",
		session{"a b", -1, true, digest{0xca, 0xfe}, 9, netip.MustParseAddr("::1")},
		"s:a b:-1:true:cafe0000:level%3A9:%3A%3A1")

	// A field in two places is read once, and is the same in both, however it is escaped there.
	back(t, "f:{user_id}:{lang}:{user_id}", userKey{42, "en"}, "f:42:en:42")
	back(t, "p{a}x{b}y{a}", pairKey{"xy", "y"}, "p%78yx%79yxy")
	type mutePair struct{ A, B mute }
	back(t, "m{a}x{b}y{a}", mutePair{mute{"xy"}, mute{"y"}}, "m%78yx%79yxy")
	type nine struct{ A, B, C, D, E, F, G, H, I int }
	back(t, "{a}.{b}.{c}.{d}.{e}.{f}.{g}.{h}.{i}", nine{1, 2, 3, 4, 5, 6, 7, 8, 9}, "1.2.3.4.5.6.7.8.9")
}

// unread returns the error of Parse, which gives a zero K and shows nothing of the key.
func unread[K comparable](t *testing.T, template, k string) error {
	t.Helper()
	got, err := compiled[K](t, template).Parse(k)
	require.Error(t, err, "%q and %q, parsed as %+v", template, k, got)
	require.Zero(t, got, "%q and %q", template, k)
	return err
}

func TestAKeyThatAppendDoesNotGiveIsAnError(t *testing.T) {
	t.Parallel()
	for _, k := range []string{
		"users", "users:", "users:128", "users:-129", "users:99999999999999999999", "users:abc", "users:42:posts", "users:+1",
		"users:007", "users:-0", "users:1 ", " users:1", "Users:1", "users:1\n", "users:--1", "users:-", "users:1_0", "users:0x1",
		"users::1", "users:1e1", "users:\x00", "users:١",
	} {
		unread[int8](t, "users:{id}", k)
	}
	unread[uint8](t, "u:{id}", "u:256")
	unread[uint8](t, "u:{id}", "u:-1")
	unread[uint64](t, "u:{id}", "u:18446744073709551616")
	unread[int64](t, "u:{id}", "u:9223372036854775808")
	for _, k := range []string{"users:42", "users:42:post", "users:42:posts:1", "users::posts", ":posts"} {
		unread[int](t, "users:{id}:posts", k)
	}
	for _, k := range []string{"cart:42", "cart:{42", "cart:{}", "cart:{{42}}"} {
		unread[int](t, "cart:{{id}}", k)
	}
	for _, k := range []string{"f", "f:", "f:True", "f:1", "f:t", "f:TRUE", "f:truefalse"} {
		unread[bool](t, "f:{on}", k)
	}
	for _, k := range []string{"d:", "d:010203f", "d:010203FF", "d:010203ff0", "d:010203fg", "d:010203ff00"} {
		unread[digest](t, "d:{x}", k)
	}
	unread[[0]byte](t, "d:{x}", "d:00")
	unread[octets](t, "d{a}0{b}", "d0001")
	unread[struct{}](t, "config", "config:")
	unread[struct{}](t, "config", "confi")
	for _, k := range []string{
		"s", "s:a:b", "s:{a}", "s:%", "s:%3", "s:a%3", "s:%3a", "s:%41", "s:%ZZ", "s:\n", "s:\xff", "s:a%C3%A4",
	} {
		unread[string](t, "s:{x}", k)
		unread[mute](t, "s:{x}", k)
	}
	for _, k := range []string{"p", "p%41", "p%", "pBA%41", "p%4", "p%A%41"} {
		unread[pairKey](t, "p{a}A{b}", k)
	}
	for _, k := range []string{"l:", "l:level:3", "l:LEVEL%3A3", "l:level%3A03", "l:level%3A256", "l:level%3a3"} {
		unread[level](t, "l:{x}", k)
	}
	for _, k := range []string{"ip:10.0.0.01", "ip:2001%3ADB8%3A%3A1", "ip:0%3A%3A1", "ip:%3A%3A1 "} {
		unread[netip.Addr](t, "ip:{x}", k)
	}
	for _, k := range []string{"f:42:en:43", "f:42:en:042", "f:42:en", "f:42:en:", "f:42:en:42:"} {
		unread[userKey](t, "f:{user_id}:{lang}:{user_id}", k)
	}
	unread[pairKey](t, "p{a}x{b}y{a}", "p%78xbyxx")
	unread[pairKey](t, "p{a}x{b}y{a}", "p%79xbyy")
}

func TestTheErrorOfParseSaysWhereAndNotWhat(t *testing.T) {
	t.Parallel()
	const foreign = "the key is not of this template: "
	for _, row := range []struct {
		got  error
		want string
	}{
		{unread[string](t, "s:{x}", ""), "key is empty"},
		{unread[string](t, "s:{x}", strings.Repeat("x", 2000)), "key too long: at least 2000 bytes, the limit is 1024"},
		{unread[userKey](t, "f:{user_id}:{lang}", "g:1:en"), foreign + "it differs before or in {user_id}"},
		{unread[userKey](t, "f:{user_id}:{lang}", "f:1secret:en"), foreign + "it differs before or in {lang}"},
		{unread[userKey](t, "f:{user_id}:{lang}:z", "f:1:secret"), foreign + "it differs at the end"},
		{unread[struct{}](t, "config", "secret"), foreign + "it differs at the end"},
		{unread[int](t, "u:{id}", "u:007"), foreign + "it is rendered otherwise"},
		{unread[int](t, "u:{id}", "u:secret"), "int: invalid syntax"},
		{unread[uint8](t, "u:{id}", "u:777"), "uint8: value out of range"},
		{unread[userKey](t, "f:{user_id}:{lang}", "f::en"), "field UserID of key_test.userKey: invalid syntax"},
		{unread[boolPair](t, "f:{a}:{b}", "f:true:secret"), "field B of key_test.boolPair: invalid syntax"},
		{unread[digest](t, "d:{x}", "d:0102"), "key_test.digest: not 8 hexadecimal digits"},
		{unread[digest](t, "d:{x}", "d:010203zz"), "key_test.digest: not 8 hexadecimal digits"},
		{unread[digest](t, "d:{x}", "d:010203z0"), "key_test.digest: not 8 hexadecimal digits"},
		{unread[digest](t, "d:{x}", "d:0102030z"), "key_test.digest: not 8 hexadecimal digits"},
		{unread[digest](t, "d:{x}", "d:0102030405"), "key_test.digest: not 8 hexadecimal digits"},
		{unread[slug](t, "s:{x}", "s:secret%3a"), "key_test.slug: a % in the key does not begin an escape, which is %XX"},
		{unread[level](t, "l:{x}", "l:secret"), "key_test.level: UnmarshalText failed"},
		{unread[mute](t, "m:{x}", "m:choke"), "key_test.mute: UnmarshalText panicked with a string"},
		{unread[mute](t, "m:{x}", "m:choke with an error"), "key_test.mute: UnmarshalText panicked with a *fmt.wrapError"},
		{unread[mute](t, "m:{x}", "m:panic"), "what is read from the key cannot be rendered"},
		{unread[liar](t, "m:{x}", "m:secret"), foreign + "it is rendered otherwise"},
		{unread[liar](t, "m:{x}", "m:nothing"), "what is read from the key cannot be rendered"},
	} {
		require.EqualError(t, row.got, row.want)
	}
	require.ErrorIs(t, unread[string](t, "s:{x}", ""), key.ErrEmpty)
	require.ErrorIs(t, unread[string](t, "s:{x}", strings.Repeat("x", 2000)), key.ErrTooLong)
	require.ErrorIs(t, unread[uint8](t, "u:{id}", "u:777"), strconv.ErrRange)
	require.ErrorIs(t, unread[mute](t, "m:{x}", "m:refuse"), errMute)
	require.ErrorIs(t, unread[mute](t, "m:{x}", "m:choke with an error"), io.ErrUnexpectedEOF)
	require.ErrorIs(t, unread[liar](t, "m:{x}", "m:nothing"), errMute)
	require.NoError(t, errors.Unwrap(unread[mute](t, "m:{x}", "m:choke")))
}

func TestATemplateThatCannotParseSaysSoBeforehand(t *testing.T) {
	t.Parallel()
	const whole = "key_test.widow renders itself, but cannot be read back from a key: give *key_test.widow the method UnmarshalText"
	one := compiled[widow](t, "w:{x}")
	require.EqualError(t, one.Parses(), whole)
	require.EqualError(t, unread[widow](t, "w:{x}", "w:a"), whole)
	require.EqualError(t, compiled[greedy](t, "g:{x}").Parses(),
		"key_test.greedy renders itself, but cannot be read back from a key: give *key_test.greedy the method UnmarshalText")

	const field = "field Widow of key_test.widowKey renders itself, but cannot be read back from a key: give *key_test.widow the method UnmarshalText"
	require.EqualError(t, compiled[widowKey](t, "w:{id}:{widow}").Parses(), field)
	require.EqualError(t, unread[widowKey](t, "w:{id}:{widow}", "w:1:a"), field)
	require.True(t, compiled[widowKey](t, "w:{id}:{widow}").Match("w:1:a"), "which needs no method")

	f, err := key.FromFunc(strconv.Itoa)
	require.NoError(t, err)
	const function = "the keys are made by Spec.KeyFunc, so nobody can read one back: it takes a Spec.Key"
	require.EqualError(t, f.Parses(), function)
	_, err = f.Parse("1")
	require.EqualError(t, err, function)
}

func TestATemplateParsesForManyGoroutines(t *testing.T) {
	t.Parallel()
	tmpl := compiled[session](t, "s:{tenant}:{user}:{admin}:{token}:{level}:{from}")
	var wg sync.WaitGroup
	for g := range 8 {
		wg.Go(func() {
			want := session{Tenant: "t", User: int64(g), Level: 1, From: netip.IPv6Loopback()}
			for range 500 {
				got, err := tmpl.Parse("s:t:" + strconv.Itoa(g) + ":false:00000000:level%3A1:%3A%3A1")
				if err != nil || got != want {
					t.Errorf("got %+v, %v, want %+v", got, err, want)
					return
				}
			}
		})
	}
	wg.Wait()
}
