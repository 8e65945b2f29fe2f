package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/bench/measure"
	"github.com/cachex-go/cachex/codec"
)

// codecs measures the work of a call in the process alone.
func codecs(t testing.TB, _ options) []measure.Work {
	return append(keysAlone(t), encoding(t)...)
}

func encoding(t testing.TB) []measure.Work {
	u := user(1 << 40)
	packed, err := msgpack.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(u)
	if err != nil {
		t.Fatal(err)
	}
	decode := func(name string, f func(*User) error) measure.Variant {
		return alone(name, func() error {
			return f(new(User)) // on the heap, since the compiler cannot prove that f does not retain it
		})
	}
	encode := func(name string, f func(dst []byte) ([]byte, error)) measure.Variant {
		dst := make([]byte, 0, 1<<10)
		return alone(name, func() error {
			_, err := f(dst)
			return err
		})
	}
	byDefault, byJSON := codec.For[User](), codec.JSON[User]()
	return []measure.Work{
		{
			Name: "decode", Goroutines: []int{1},
			Note: "A struct of about 110 bytes, into a fresh one, which is one of the allocations.",
			Base: decode("msgpack.Unmarshal", func(u *User) error { return msgpack.Unmarshal(packed, u) }),
			Variants: []measure.Variant{
				decode("codec.For", func(u *User) error { return byDefault.Decode(packed, u) }),
				decode("codec.JSON", func(u *User) error { return byJSON.Decode(text, u) }),
				decode("json.Unmarshal", func(u *User) error { return json.Unmarshal(text, u) }),
			},
			Targets: []measure.Target{
				{Variant: "codec.For", Goroutines: 1, Bound: 2.5},
				{Variant: "codec.For", Goroutines: 1, What: measure.Allocs, Bound: 3},
			},
		},
		{
			Name: "encode", Goroutines: []int{1},
			Note: "The same struct. Codecs append to an existing buffer, as a Set does; the others allocate one.",
			Base: encode("msgpack.Marshal", func([]byte) ([]byte, error) { return msgpack.Marshal(&u) }),
			Variants: []measure.Variant{
				encode("codec.For", func(dst []byte) ([]byte, error) { return byDefault.Append(dst, u) }),
				encode("codec.JSON", func(dst []byte) ([]byte, error) { return byJSON.Append(dst, u) }),
				encode("json.Marshal", func([]byte) ([]byte, error) { return json.Marshal(&u) }),
			},
		},
	}
}

func keysAlone(t testing.TB) []measure.Work {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"}) // no command is sent
	t.Cleanup(func() { _ = rdb.Close() })
	c := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{Key: "raw:users:{id}", TTL: ttl}))
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	id := int64(1 << 40) // a small number would make Sprintf cheaper than it is in practice
	key := func(name string, f func() string) measure.Variant {
		return alone(name, func() error {
			id++
			if f() == "" {
				return errMissing
			}
			return nil
		})
	}
	return []measure.Work{{
		Name: "key", Goroutines: []int{1},
		Note: "Making the string `raw:users:<id>`.",
		Base: key("strconv by hand", func() string { return "raw:users:" + strconv.FormatInt(id, 10) }),
		Variants: []measure.Variant{
			key("Cache.Key", func() string { return c.Key(id) }),
			key("fmt.Sprintf", func() string { return fmt.Sprintf("raw:users:%d", id) }),
		},
	}}
}

// alone returns a variant of a work that one goroutine does, and that takes
// about as long as reading the clock.
func alone(name string, f func() error) measure.Variant {
	return measure.Variant{Name: name, Burst: 64, Call: func(context.Context) error { return f() }}
}
