package key_test

import (
	"encoding/hex"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/cachex-go/cachex/internal/key"
)

// try compiles any template for a K and renders any key: it may fail but not panic, and a key is one clean line.
func try[K comparable](t *testing.T, template string, k K) {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	if err != nil {
		if err.Error() == "" || tmpl != nil {
			t.Fatalf("%T: error %q with %v", k, err, tmpl)
		}
		return
	}
	got, err := tmpl.Append([]byte("before"), k)
	rest, ok := strings.CutPrefix(string(got), "before")
	switch {
	case !ok, err != nil && rest != "":
		t.Fatalf("%T: dst became %q", k, got)
	case err != nil:
		return
	case rest == "", len(rest) > key.MaxLen, !utf8.ValidString(rest), strings.ContainsFunc(rest, unicode.IsControl):
		t.Fatalf("%T: key %q", k, rest)
	}
	if !strings.HasPrefix(template, tmpl.Name()) {
		t.Fatalf("%T: name %q", k, tmpl.Name())
	}
}

func FuzzTemplateNeverPanics(f *testing.F) {
	for _, template := range []string{
		"", "users:{id}", "users:{{id}}", "{a}:{b}", "{a}{b}", "{a}-{b}", "{{a}}{b}", "{a}%{b}", "{a}→{b}", "{a}\ufffd{b}",
		"f:{user_id}:{lang}", "s:{tenant}:{user}:{admin}:{token}:{level}:{from}", "config", "{", "}", "{{", "}}", "{}", "{{}}",
		"{{{a}}}", "{a}}", "a\x00{b}", "a\xff{b}", "{größe}", strings.Repeat("{a}:{b}:", 99),
	} {
		f.Add(template, "a:b{c}%\xff\n", int64(-1))
	}
	f.Fuzz(func(t *testing.T, template, s string, n int64) {
		var d digest
		var ip [16]byte
		for i := range s {
			d[i%len(d)], ip[i%len(ip)] = octet(s[i]), s[i]
		}
		addr := netip.AddrFrom16(ip).WithZone(s)
		try(t, template, s)
		try(t, template, n)
		try(t, template, uint8(n))
		try(t, template, n > 0)
		try(t, template, d)
		try(t, template, addr)
		try(t, template, mute{s})
		try(t, template, struct{}{})
		try(t, template, userKey{n, s})
		try(t, template, pairKey{s, s})
		try(t, template, intPair{int(n), uint8(n)})
		try(t, template, boolPair{n > 0, n < 0})
		try(t, template, addrPair{addr, addr})
		try(t, template, session{slug(s), n, n > 0, d, level(n), addr})
		try(t, template, float64(n))
		try(t, template, any(s))
		try(t, template, &n)
	})
}

// keysOf renders two keys by one template, and requires that they are alike if and only if a and b are.
func differ[K comparable](t *testing.T, template string, a, b K) {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	if err != nil {
		return // refused: nothing can collide
	}
	ka, err := tmpl.Append(nil, a)
	if err != nil {
		return
	}
	kb, err := tmpl.Append(nil, b)
	if err != nil {
		return
	}
	if (a == b) != (string(ka) == string(kb)) {
		t.Fatalf("%q: %+v is %q, %+v is %q", template, a, ka, b, kb)
	}
}

func FuzzDistinctKeysNeverCollide(f *testing.F) {
	f.Add("a:b", uint8(1), uint8(2), int64(1), int64(-1), ":")
	f.Add("a--b", uint8(1), uint8(2), int64(1), int64(11), "-")
	f.Add("aAAb", uint8(1), uint8(2), int64(12), int64(1), "A")
	f.Add("%3A%", uint8(1), uint8(3), int64(12), int64(1), "%3A")
	f.Add("110110", uint8(1), uint8(3), int64(1), int64(11), "1")
	f.Add("x→→↓\xe2", uint8(4), uint8(7), int64(1), int64(11), "→")
	f.Add("\xff\xfe%FF", uint8(0), uint8(1), int64(0), int64(0), "F")
	f.Add("}{:}{", uint8(2), uint8(3), int64(0), int64(0), "}{")
	f.Fuzz(func(t *testing.T, s string, i, j uint8, m, n int64, between string) {
		// Two ways to cut one string are the likeliest to collide, next to those that share a literal.
		cut := func(at uint8) pairKey {
			at = uint8(min(int(at), len(s)))
			return pairKey{s[:at], s[at:]}
		}
		a, b := cut(i), cut(j)
		for _, template := range []string{"{a}" + between + "{b}", "{b}" + between + "{a}x", "{{a}}" + between + "{b}", "{a}" + between + "{{b}}"} {
			differ(t, template, a, b)
			differ(t, template, a, pairKey{a.A + between, a.B})
			differ(t, template, pairKey{a.A + between, a.B}, pairKey{a.A, between + a.B})
			differ(t, template, intPair{int(m), i}, intPair{int(n), j})
			differ(t, template, boolPair{m > 0, n > 0}, boolPair{i > 1, j > 1})
			differ(t, template, octets{[2]byte{i, j}, [2]byte{j, i}}, octets{[2]byte{j, i}, [2]byte{i, j}})
		}
		differ(t, "{x}"+between, a.A, b.A)
		differ(t, "{x}"+between, m, n)
		differ(t, "{user_id}"+between+"{lang}", userKey{m, a.A}, userKey{n, b.A})
		differ(t, "{lang}"+between+"{user_id}", userKey{m, a.A}, userKey{n, b.A})
		differ(t, "{do}"+between, mute{a.A}, mute{b.A})
	})
}

// mixedKey has a field of every class, and can be read back from any of its keys.
type mixedKey struct {
	S string
	I int32
	U uint8
	B bool
	X [2]byte
	T mute
}

// decode is the proof in the package's comment as a program: it reads key back by the order of the fields, which is a
// permutation of "siubxt", and the literals around them.
func decode(key, order string, literals []string) (k mixedKey, ok bool) {
	if key, ok = strings.CutPrefix(key, literals[0]); !ok {
		return k, false
	}
	for i, field := range order {
		var v string
		next := literals[i+1]
		if last := i == len(order)-1; last {
			if v, ok = strings.CutSuffix(key, next); !ok {
				return k, false
			}
			key = next
		} else {
			n := min(lengthOf(key, field, next), len(key))
			v, key = key[:n], key[n:]
		}
		if key, ok = strings.CutPrefix(key, next); !ok {
			return k, false
		}
		switch field {
		case 's':
			k.S, _ = url.PathUnescape(v)
		case 't':
			k.T.Do, _ = url.PathUnescape(v)
		case 'i':
			n, _ := strconv.ParseInt(v, 10, 32)
			k.I = int32(n)
		case 'u':
			n, _ := strconv.ParseUint(v, 10, 8)
			k.U = uint8(n)
		case 'b':
			k.B = v == "true"
		case 'x':
			b, _ := hex.DecodeString(v)
			copy(k.X[:], b)
		}
	}
	return k, key == ""
}

// lengthOf is how much of key is the value with which it begins, before the literal next.
func lengthOf(key string, field rune, next string) int {
	switch field {
	case 'b':
		if strings.HasPrefix(key, "true") {
			return len("true")
		}
		return len("false")
	case 'x':
		return len("abcd")
	case 'i', 'u':
		digits := strings.TrimPrefix(key, "-")
		return len(key) - len(strings.TrimLeft(digits, "0123456789"))
	}
	stop, _ := utf8.DecodeRuneInString(next)
	for i := 0; i < len(key); {
		r, size := utf8.DecodeRuneInString(key[i:])
		switch r {
		case stop:
			return i
		case '%':
			size = len("%XX")
		}
		i += size
	}
	return len(key)
}

// isLoud reports whether a mute of that text fails somewhere.
func isLoud(text string) bool {
	switch text {
	case "fail", "panic", "panic with an error", "index", "refuse", "choke", "choke with an error":
		return true
	}
	return false
}

func FuzzKeysCanBeReadBack(f *testing.F) {
	f.Add(uint(0), ":", ":", ":", ":", ":", "a:b", "c", int32(-1), uint8(2), true, uint16(3))
	f.Add(uint(5), "-", "-", "-", "-", "-", "a-b", "-", int32(-1), uint8(2), false, uint16(3))
	f.Add(uint(99), "true", "a", "e", "2", "A", "true", "%3A", int32(11), uint8(11), true, uint16(11))
	f.Add(uint(321), "→", "↓", "\ufffd", "ö", "F", "→↓\ufffd\xffö", "\xe2\x86", int32(0), uint8(0), true, uint16(0))
	f.Fuzz(func(t *testing.T, seed uint, l1, l2, l3, l4, l5, s, text string, i int32, u uint8, b bool, x uint16) {
		// A permutation for each seed, so that every class stands before every literal.
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
		want := mixedKey{s, i, u, b, [2]byte{byte(x >> 8), byte(x)}, mute{text}}
		rendered, err := tmpl.Append(nil, want)
		if err != nil {
			return
		}
		if got, ok := decode(string(rendered), string(order), literals); !ok || got != want {
			t.Fatalf("%q: %+v is %q, read back as %+v", template, want, rendered, got)
		}
		if got, err := tmpl.Parse(string(rendered)); !isLoud(text) && (err != nil || got != want) {
			t.Fatalf("%q: %+v is %q, parsed as %+v, %v", template, want, rendered, got, err)
		}
	})
}
