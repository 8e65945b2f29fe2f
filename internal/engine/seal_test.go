package engine

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
)

// A genuine payload was sealed for a key.
type genuine struct {
	key     string
	none    bool
	value   string
	end     time.Duration // from now; Forever
	payload []byte
}

// forger makes entries from sealed payloads, without the secret.
type forger struct {
	l    *Loader[string]
	made []genuine
}

func newForger(t testing.TB, packed bool) *forger {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // it is never called
	t.Cleanup(func() { _ = rdb.Close() })
	l, err := newTyped(rdb, typedOptions[string]{
		Codec:                codec.Encrypt(codec.String[string](), codec.Key{ID: 1, Secret: make([]byte, 16)}),
		StaleWhileRevalidate: time.Minute, StaleIfError: time.Minute, Packed: packed,
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close(t.Context()) })
	f := &forger{l: l}
	for _, key := range []string{"users: 1", "users: 2"} {
		for _, end := range []time.Duration{-time.Hour, -150 * time.Second, -80 * time.Second, -20 * time.Second, time.Hour, Forever} {
			value := key + end.String()
			b, err := l.engine.encode(nil, key, end, &value)
			require.NoError(t, err)
			f.made = append(f.made, genuine{key, false, value, end, b})
			b, err = l.engine.encodeNotFound(key, end)
			require.NoError(t, err)
			f.made = append(f.made, genuine{key, true, "", end, b})
		}
	}
	return f
}

// forge returns an entry of key with correct checksums.
func (f *forger) forge(r *rand.Rand, key string) []byte {
	h := entry.Header{
		State: []entry.State{entry.Value, entry.Absent, entry.Lease}[r.IntN(20)/9],
		Flags: []entry.Flags{0, 0, 0, entry.Flags(r.IntN(16))}[r.IntN(4)], Fails: r.IntN(16),
		Soft: []int64{entry.Forever, time.Now().UnixMilli() + r.Int64N(7_200_000) - 3_600_000, r.Int64N(entry.Forever)}[r.IntN(3)],
		Till: []int64{0, 0, time.Now().UnixMilli() + r.Int64N(100_000)}[r.IntN(3)],
		Born: r.Int64N(entry.Forever),
	}
	if r.IntN(3) > 0 {
		h.Token = entry.NewToken()
	}
	payload := bytes.Clone(f.made[r.IntN(len(f.made))].payload)
	switch r.IntN(6) {
	case 0:
		payload[r.IntN(len(payload))] ^= 1 << r.IntN(8)
	case 1:
		payload = payload[:r.IntN(len(payload))]
	case 2:
		copy(payload[:r.IntN(len(payload))], f.made[r.IntN(len(f.made))].payload)
	case 3:
		payload = nil
	}
	h.Sum = entry.Sum(key, payload)
	var b []byte
	if f.l.engine.leases.packed {
		end, stale := entry.Forever, int64(0)
		if r.IntN(2) == 0 {
			h.Flags, h.Fails, h.Till, end, stale = 0, 0, 0, h.Soft, 0
		}
		b = append(h.AppendPacked(nil, end, stale), payload...)
	} else {
		b = append(h.Append(nil), payload...)
	}
	if r.IntN(4) == 0 {
		b[r.IntN(len(b))] ^= 1 << r.IntN(8)
	}
	return b
}

// genuine returns the sealed payload for key that b holds, and whether there is
// one.
func (f *forger) genuine(key string, b []byte, none bool) (genuine, bool) {
	_, payload, _ := f.l.engine.leases.parse(key, b)
	for _, g := range f.made {
		if g.key == key && g.none == none && bytes.Equal(g.payload, payload) {
			return g, true
		}
	}
	return genuine{}, false
}

// check requires that every believed part of b was sealed for key and has not
// ended. It reports whether any part is believed.
func (f *forger) check(t testing.TB, key string, b []byte) (believed bool) {
	t.Helper()
	within := func(what string, none bool, v string, windows time.Duration) {
		t.Helper()
		believed = true
		g, ok := f.genuine(key, b, none)
		if !ok || g.value != v {
			t.Fatalf("%s of %q is believed, which was not sealed for %q: %x", what, v, key, b)
		}
		if g.end != Forever && g.end+clockSkew*time.Millisecond+windows < -time.Second {
			t.Fatalf("%s of %q is believed, which has ended %v ago", what, v, -g.end)
		}
	}
	for _, doubt := range []bool{false, true} {
		var v string
		switch s := f.l.engine.decodeEntry(key, b, doubt, time.Now(), &v); s.freshness {
		case absent, undecodable:
		case notFound:
			within("an absence", true, "", 0)
		case fresh, refreshDue:
			within("a fresh value", false, v, 0)
		case stale, staleRefreshing:
			within("a stale value", false, v, time.Minute)
		case errorOnly, staleBackoff:
			within("an old value", false, v, 2*time.Minute)
		}
	}
	if v, ok := f.l.engine.decodeAnyAge(key, b, 0); ok {
		within("a value that a script calls fresh", false, *v.(*string), 0)
	}
	if v, ok := f.l.engine.decodeAnyAge(key, b, f.l.engine.swr+f.l.engine.sie); ok {
		within("a value that a script calls stale", false, *v.(*string), 2*time.Minute)
	}
	if f.l.engine.isNotFound(key, b) {
		within("what a script calls an absence", true, "", 0)
	}
	return believed
}

func TestSeal_NoForgedEntryIsBelieved(t *testing.T) {
	t.Parallel()
	for name, packed := range map[string]bool{"plain": false, "packed": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f, r, believed := newForger(t, packed), rand.New(rand.NewPCG(1, 2)), 0
			const rounds = 50_000
			for range rounds {
				if f.check(t, "users: 1", f.forge(r, "users: 1")) {
					believed++
				}
			}
			if believed < rounds/50 {
				t.Errorf("%d of %d entries are believed, too few to tell", believed, rounds)
			}
		})
	}
}

// A worker of the fuzzer is a process, and knows only payloads that it has
// sealed itself. So the input is the way to forge an entry, and not the entry.
func FuzzSeal(f *testing.F) {
	forgers := []*forger{newForger(f, false), newForger(f, true)}
	for seed := range uint64(20) {
		f.Add(seed, []byte(nil), uint(0), byte(0))
	}
	f.Fuzz(func(t *testing.T, seed uint64, header []byte, at uint, flip byte) {
		for _, g := range forgers {
			b := g.forge(rand.New(rand.NewPCG(seed, 0)), "users: 1")
			copy(b, header)
			b[at%uint(len(b))] ^= flip
			g.check(t, "users: 1", b)
		}
	})
}

func TestSeal_AnAbsenceOfAPlainCodecHasNoPayload(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		l := newLoader(t, t.rdb, still[string]())
		for payload, want := range map[string]freshness{"": notFound, "x": undecodable} {
			h := entry.Header{State: entry.Absent, Soft: entry.Forever, Token: entry.NewToken(), Sum: entry.Sum(t.key, []byte(payload))}
			b := append(h.Append(nil), payload...)
			var v string
			require.Equal(t, want, l.engine.decodeEntry(t.key, b, true, time.Now(), &v).freshness, "%q", payload)
			require.Equal(t, want == notFound, l.engine.isNotFound(t.key, b), "%q", payload)
		}
	})
}
