package codec_test

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/cachex-go/cachex/codec"
)

// For chooses the codec by the type.
func ExampleFor() {
	type UserID int64
	type User struct {
		Name string
		Age  uint8
	}
	id, _ := codec.For[UserID]().Append(nil, 42)
	user, _ := codec.For[User]().Append(nil, User{"Ada", 36})
	fmt.Printf("%q\n%q\n", id, user)

	// 300 does not fit the field, and is not truncated.
	err := codec.For[User]().Decode([]byte("\x81\xa3Age\xcd\x01\x2c"), new(User))
	fmt.Println(err)
	// Output:
	// "42"
	// "\x82\xa4Name\xa3Ada\xa3Age$"
	// codec: an integer out of the range of its type
}

// Check finds a type that cannot be stored before a value of it exists.
func ExampleCheck() {
	type Job struct {
		Name string
		Done chan bool
	}
	fmt.Println(codec.Check(codec.For[Job]()))
	// Output:
	// codec: codec_test.Job.Done: chan bool cannot be encoded
}

// Map stores a time as a number of milliseconds.
func ExampleMap() {
	c := codec.Map(codec.Int[int64](),
		func(t time.Time) (int64, error) { return t.UnixMilli(), nil },
		func(ms int64) (time.Time, error) { return time.UnixMilli(ms).UTC(), nil })

	b, _ := c.Append(nil, time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC))
	fmt.Println(string(b))
	var t time.Time
	err := c.Decode(b, &t)
	fmt.Println(t, err)
	// Output:
	// 1893553445000
	// 2030-01-02 03:04:05 +0000 UTC <nil>
}

// Compress compresses a value if that makes it shorter, and otherwise adds one
// byte.
func ExampleCompress() {
	c := codec.Compress(codec.For[string](), codec.Compression{Algorithm: codec.Zstd})

	long, _ := c.Append(nil, strings.Repeat("to be or not to be, ", 100))
	short, _ := c.Append(nil, "brief")
	fmt.Println(len(long) < 100, len(short))

	var s string
	err := c.Decode(long, &s)
	fmt.Println(len(s), err)
	// Output:
	// true 6
	// 2000 <nil>
}

// Encrypt binds a value to its Redis key: it does not decode under another.
func ExampleEncrypt() {
	current := codec.Key{ID: 2, Secret: []byte("a secret of thirty-two bytes ...")}
	previous := codec.Key{ID: 1, Secret: []byte("sixteen bytes...")}
	c := codec.Bind(codec.Encrypt(codec.For[string](), current, previous))

	b, _ := c.AppendKeyed(nil, "users:42", "Ada")
	var s string
	err := c.DecodeKeyed(b, "users:42", &s)
	fmt.Println(s, err)

	err = c.DecodeKeyed(b, "users:43", &s)
	fmt.Println(errors.Is(err, codec.ErrAuth))
	fmt.Println(current)
	// Output:
	// Ada <nil>
	// true
	// codec.Key{ID: 2, Secret: hidden}
}

// Version makes another version another format: to a cache, a miss.
func ExampleVersion() {
	old := codec.Version(codec.For[string](), 1)
	now := codec.Version(codec.For[string](), 2)

	b, _ := old.Append(nil, "value")
	err := now.Decode(b, new(string))
	fmt.Println(err, errors.Is(err, codec.ErrVersion))
	// Output:
	// codec: bytes of version 1, want 2 true
}
