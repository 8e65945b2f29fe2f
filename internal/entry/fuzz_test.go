package entry_test

import (
	"bytes"
	"regexp"
	"strconv"
	"testing"
	"time"

	"github.com/cachex-go/cachex/internal/entry"
)

var number = regexp.MustCompile(`^-?[0-9]+$`)

// FuzzParse passes any bytes to Parse, and one change of accepted bytes.
func FuzzParse(f *testing.F) {
	for _, g := range golden {
		f.Add(goldenKey, compose(goldenKey, g.header, g.payload), uint(5), byte(1))
	}
	f.Add("", []byte(nil), uint(0), byte(0))
	f.Add("", compose("", entry.Header{State: entry.Value}, ""), uint(39), byte(0x80))
	f.Add("other", compose(goldenKey, golden[1].header, "moved"), uint(40), byte(0xff))
	f.Add(goldenKey, compose(goldenKey, golden[0].header, "a lease with a payload"), uint(3), byte(10))
	f.Add(goldenKey, compose(goldenKey, entry.Header{State: entry.Absent}, "none with a payload"), uint(4), byte(8))
	f.Add(goldenKey, []byte("\xC1X\x01V, and then something else that is long enough"), uint(1), byte(1))
	f.Add("views", compose("views", entry.Header{State: entry.Value, Flags: entry.Count}, "-0"), uint(40), byte(3))
	f.Fuzz(func(t *testing.T, key string, b []byte, at uint, delta byte) {
		before := bytes.Clone(b)
		h, payload, ok := entry.Parse(key, b)
		if !bytes.Equal(before, b) {
			t.Fatal("Parse has changed what it read")
		}
		if h != (entry.Header{}) && !bytes.Equal(h.Append(nil), b[:entry.Size]) {
			t.Fatalf("header %x is written as %x", b[:entry.Size], h.Append(nil))
		}
		if !ok {
			if payload != nil {
				t.Fatalf("refused, with a payload of %d bytes", len(payload))
			}
			return
		}
		if h == (entry.Header{}) || !bytes.Equal(payload, b[entry.Size:]) {
			t.Fatalf("%x gives %+v and %x", b, h, payload)
		}
		count := h.State == entry.Value && h.Flags&entry.Count != 0
		switch {
		case count && !number.Match(payload):
			t.Fatalf("%x counts, and is no number", b)
		case !count && h.State != entry.Lease && h.Sum != crc32c(key+string(payload)):
			t.Fatalf("%x has the sum of other bytes", b)
		}
		i := at % uint(len(b))
		b[i] += delta
		// Scripts change the payload of a count and cannot update a checksum,
		// so only another number is accepted.
		want := delta == 0 || count && i >= entry.Size && number.Match(b[entry.Size:])
		if _, _, ok := entry.Parse(key, b); ok != want {
			t.Fatalf("byte %d plus %d: %v", i, delta, ok)
		}
	})
}

// FuzzRoundTrip writes any header and payload, and reads them back.
func FuzzRoundTrip(f *testing.F) {
	for _, g := range golden {
		h := g.header
		f.Add(byte(h.State), byte(h.Flags), h.Fails, h.Soft, h.Token[:], h.Till, h.Born, uint32(h.Cost/time.Millisecond), goldenKey, g.payload)
	}
	f.Fuzz(func(t *testing.T, state, flags byte, fails int, soft int64, token []byte, till, born int64, cost uint32, key, payload string) {
		const limit = entry.Forever // the greatest number of 48 bits
		h := entry.Header{
			State: entry.Value, Flags: entry.Flags(flags) % 16, Fails: fails & entry.MaxFails,
			Soft: soft & limit, Till: till & limit, Born: born & limit, Cost: time.Duration(cost) * time.Millisecond,
		}
		copy(h.Token[:], token)
		switch s := entry.State(state); s {
		case entry.Lease:
			h.State, payload = s, ""
		case entry.Absent:
			h.State = s
		}
		if h.State == entry.Value && h.Flags&entry.Count != 0 {
			payload = strconv.FormatInt(soft, 10)
		}
		b := compose(key, h, payload)
		if h.State != entry.Lease {
			h.Sum = crc32c(key + payload)
		}
		got, rest, ok := entry.Parse(key, b)
		if !ok || got != h || string(rest) != payload {
			t.Fatalf("wrote %+v and %q, read %+v and %q: %v", h, payload, got, rest, ok)
		}
	})
}
