package codec_test

import (
	"slices"
	"testing"
	"time"

	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
)

// user is the value of the benchmarks: some 120 bytes of MessagePack.
type user struct {
	ID      int64
	Name    string
	Email   string
	City    string
	Created time.Time
	Score   float64
	Visits  int
	Active  bool
	Roles   []string
}

func someUser() user {
	return user{
		ID: 1234567, Name: "Ada Lovelace", Email: "ada@example.com", City: "London",
		Created: time.Unix(1700000000, 0), Score: 0.5, Visits: 321, Active: true, Roles: []string{"admin"},
	}
}

// BenchmarkDecode compares the guarded decoding with msgpack's own.
func BenchmarkDecode(b *testing.B) {
	src, err := msgpack.Marshal(someUser())
	if err != nil {
		b.Fatal(err)
	}
	b.Run("msgpack.Unmarshal", func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			var u user
			if err := msgpack.Unmarshal(src, &u); err != nil {
				b.Fatal(err)
			}
		}
	})
	benchmarkDecode(b, "MessagePack", codec.MessagePack[user]())
	benchmarkDecode(b, "JSON", codec.JSON[user]())
	benchmarkDecode(b, "MessagePack in Compress", codec.Compress(codec.MessagePack[user](), codec.Compression{Threshold: 1}))
	benchmarkDecode(b, "MessagePack in Encrypt", codec.Encrypt(codec.MessagePack[user](), codec.Key{Secret: make([]byte, 16)}))
}

func benchmarkDecode(b *testing.B, name string, c codec.Codec[user]) {
	k := codec.Bind(c)
	src, err := k.AppendKeyed(nil, "users:1", someUser())
	if err != nil {
		b.Fatal(err)
	}
	b.Run(name, func(b *testing.B) {
		b.ReportAllocs()
		b.SetBytes(int64(len(src)))
		for b.Loop() {
			var u user
			if err := k.DecodeKeyed(src, "users:1", &u); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// BenchmarkVersusMsgpack reports how many times as fast MessagePack is as
// msgpack alone. It is the median of rounds in which they take turns, since
// machines are never the same twice.
func BenchmarkVersusMsgpack(b *testing.B) {
	u, c, buf := someUser(), codec.MessagePack[user](), make([]byte, 0, 1024)
	src, err := msgpack.Marshal(u)
	if err != nil {
		b.Fatal(err)
	}
	b.Run("decode", func(b *testing.B) {
		versus(b, func() error { return c.Decode(src, new(user)) }, func() error { return msgpack.Unmarshal(src, new(user)) })
	})
	b.Run("append", func(b *testing.B) {
		versus(b, func() error { _, err := c.Append(buf, u); return err }, func() error { _, err := msgpack.Marshal(u); return err })
	})
}

func versus(b *testing.B, f, baseline func() error) {
	const calls = 100
	timed := func(f func() error) float64 {
		began := time.Now()
		for range calls {
			if err := f(); err != nil {
				b.Fatal(err)
			}
		}
		return float64(time.Since(began))
	}
	var ratios, took []float64
	for b.Loop() {
		base := timed(baseline)
		took = append(took, timed(f))
		ratios = append(ratios, base/took[len(took)-1])
	}
	slices.Sort(ratios)
	slices.Sort(took)
	b.ReportMetric(0, "ns/op") // of both and of many calls: useless
	b.ReportMetric(ratios[len(ratios)/2], "times-as-fast")
	b.ReportMetric(took[len(took)/2]/calls, "ns/call")
}

func BenchmarkAppend(b *testing.B) {
	u := someUser()
	b.Run("msgpack.Marshal", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := msgpack.Marshal(u); err != nil {
				b.Fatal(err)
			}
		}
	})
	for name, c := range map[string]codec.Codec[user]{
		"MessagePack": codec.MessagePack[user](),
		"JSON":        codec.JSON[user](),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			buf := make([]byte, 0, 1024)
			for b.Loop() {
				if _, err := c.Append(buf, u); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
