package key_test

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/cachex-go/cachex/internal/key"
)

// inverse requires of the template that Parse undoes Append for k, and Append undoes Parse for foreign, whoever made it.
func inverse[K comparable](t *testing.T, template string, k K, foreign string) {
	t.Helper()
	tmpl, err := key.Compile[K](template)
	if err != nil {
		return
	}
	if err := tmpl.Parses(); err != nil {
		t.Fatalf("%T: %v", k, err)
	}
	if rendered, err := tmpl.Append(nil, k); err == nil {
		undone(t, tmpl, template, string(rendered))
		if got, err := tmpl.Parse(string(rendered)); err != nil || got != k {
			t.Fatalf("%q: %+v is %q, parsed as %+v, %v", template, k, rendered, got, err)
		}
		// What differs little from a key is likelier to be taken for one.
		undone(t, tmpl, template, string(rendered)+foreign)
		undone(t, tmpl, template, strings.ToLower(string(rendered)))
		undone(t, tmpl, template, strings.Replace(string(rendered), ":", foreign, 1))
	}
	undone(t, tmpl, template, foreign)
}

// undone requires that rendered is the key of what it is parsed as, or that there is no such K.
func undone[K comparable](t *testing.T, tmpl *key.Template[K], template, rendered string) {
	t.Helper()
	k, err := tmpl.Parse(rendered)
	var none K
	switch {
	case err == nil:
		if again, err := tmpl.Append(nil, k); err != nil || string(again) != rendered || !tmpl.Match(rendered) {
			t.Fatalf("%q: %q is parsed as %+v, whose key is %q, %v", template, rendered, k, again, err)
		}
	case k != none:
		t.Fatalf("%q: %q is no key, but parsed as %+v", template, rendered, k)
	case err.Error() == "", strings.Contains(err.Error(), "secret") && !strings.Contains(template, "secret"):
		t.Fatalf("%q: %q is no key, and its error shows it: %v", template, rendered, err)
	}
}

func FuzzParseIsTheInverseOfAppend(f *testing.F) {
	f.Add("users:{id}", "a:b{c}%\xff\n", int64(-1), "users:007")
	f.Add("users:{id}", "secret", int64(-1), "users:+1secret")
	f.Add("{id}:{lang}", "secret%", int64(1<<40), "99999999999999999999:secret")
	f.Add("f:{user_id}:{lang}:{user_id}", "en", int64(42), "f:42:en:042")
	f.Add("p{a}x{b}y{a}z", "xyz", int64(0), "p%78xb%79yxz")
	f.Add("p{a}\ufffd{b}", "\xff\ufffd", int64(0), "p\xff\ufffd%ff")
	f.Add("s:{tenant}:{user}:{admin}:{token}:{level}:{from}", "t", int64(1), "s:t:1:true:0102030g:LEVEL%3A1:%3a%3A1")
	f.Add("l:{x}", "level:1", int64(0), "l:level%3A01")
	f.Add("ip:{x}", "%", int64(0), "ip:0%3A%3A1")
	f.Add("config", "", int64(0), "")
	f.Fuzz(func(t *testing.T, template, s string, n int64, foreign string) {
		var d digest
		var ip [16]byte
		for i := range s {
			d[i%len(d)], ip[i%len(ip)] = octet(s[i]), s[i]
		}
		addr := netip.AddrFrom16(ip)
		if n < 0 {
			addr = netip.AddrFrom4([4]byte(ip[:4]))
		}
		prefix := netip.PrefixFrom(addr, int(uint8(n))%(addr.BitLen()+1))
		inverse(t, template, s, foreign)
		inverse(t, template, slug(s), foreign)
		inverse(t, template, int(n), foreign)
		inverse(t, template, int8(n), foreign)
		inverse(t, template, int16(n), foreign)
		inverse(t, template, int32(n), foreign)
		inverse(t, template, ID(n), foreign)
		inverse(t, template, uint(n), foreign)
		inverse(t, template, uint16(n), foreign)
		inverse(t, template, uint32(n), foreign)
		inverse(t, template, uint64(n), foreign)
		inverse(t, template, n > 0, foreign)
		inverse(t, template, d, foreign)
		inverse(t, template, ip, foreign)
		inverse(t, template, addr, foreign)
		inverse(t, template, embedAddrBlank{Addr: addr}, foreign)
		inverse(t, template, level(n), foreign)
		inverse(t, template, grudge(s), foreign)
		inverse(t, template, struct{}{}, foreign)
		inverse(t, template, userKey{n, s}, foreign)
		inverse(t, template, taggedKey{int(n), s}, foreign)
		inverse(t, template, blankKey{ID: int(n)}, foreign)
		inverse(t, template, embedScalar{ID(n), s}, foreign)
		inverse(t, template, pairKey{s, foreign}, foreign)
		inverse(t, template, pairKey{s, strconv.FormatInt(n, 10)}, foreign)
		inverse(t, template, intPair{int(n), uint8(n)}, foreign)
		inverse(t, template, boolPair{n > 0, n < 0}, foreign)
		inverse(t, template, octets{[2]byte{byte(n)}, [2]byte{byte(d[2])}}, foreign)
		inverse(t, template, addrPair{addr, netip.Addr{}}, foreign)
		inverse(t, template, twoTexts{addr, prefix}, foreign)
		inverse(t, template, session{slug(s), n, n > 0, d, level(n), addr}, foreign)
		if !isLoud(s) && s != "" {
			inverse(t, template, mute{s}, "")
		}
	})
}
