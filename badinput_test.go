package cachex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/near"
)

// Errors are tested by their whole text: it is what a user has at three in the
// morning, and it has to name the field or the key and what would be right.

type userSpec = Spec[int64, User]

// Types for keys.
type (
	oneKey     struct{ ID int64 }
	twoKey     struct{ ID, Lang string }
	numbersKey struct{ A, B int64 }
	hiddenKey  struct{ id int64 }
	taggedKey  struct {
		ID int64 `cachex:"the id"`
	}
	textKey string
)

// MarshalText fails, panics or works, as the key says.
func (k textKey) MarshalText() ([]byte, error) {
	switch k {
	case "fail":
		return nil, io.ErrUnexpectedEOF
	case "panic":
		panic("no text for " + k)
	}
	return []byte(k), nil
}

// Types for values.
type (
	hidden  struct{ secret string } //nolint:unused // that it is not used is what New has to find
	strange struct{ C chan int }
	loose   struct{ S fmt.Stringer }
	node    struct{ Next *node }
	rude    struct{ Secret string }
	oneWay  struct{ Secret string }
)

// The methods of rude panic with its value, as a careless library would.
func (r rude) MarshalJSON() ([]byte, error)            { panic(r.Secret) }
func (r *rude) UnmarshalJSON([]byte) error             { panic("rude") }
func (r rude) EncodeMsgpack(*msgpack.Encoder) error    { panic(errors.New(r.Secret)) }
func (r *rude) DecodeMsgpack(d *msgpack.Decoder) error { return nil }

// oneWay encodes to what makes its decoding panic.
func (oneWay) MarshalJSON() ([]byte, error) { return []byte("1"), nil }
func (*oneWay) UnmarshalJSON([]byte) error  { panic("one way") }

// badCodec is a codec of a user that panics or fails, and quotes the value.
type badCodec struct{ codec.Codec[string] }

func (badCodec) Append(dst []byte, v string) ([]byte, error) {
	if strings.HasPrefix(v, "fail") {
		return dst, io.ErrShortWrite
	}
	panic(v)
}

// refused returns the error of New for spec.
func refused[K comparable, V any](spec Spec[K, V]) error {
	if spec.TTL == 0 {
		spec.TTL = time.Minute
	}
	rdb := redis.NewClient(&redis.Options{})
	defer func() { _ = rdb.Close() }()
	_, err := New(rdb, spec)
	return err
}

func valueRefused[V any](c codec.Codec[V]) error {
	_, _, err := (&Spec[int64, V]{Key: "users:{id}", TTL: time.Minute, Codec: c}).resolve()
	return err
}

func keyRefused[K comparable](template string) error {
	_, _, err := (&Spec[K, string]{Key: template, TTL: time.Minute}).resolve()
	return err
}

type refusal struct {
	name string
	err  error
	want string
}

func checkRefusals(t *testing.T, rows []refusal) {
	t.Helper()
	for _, row := range rows {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			require.EqualError(t, row.err, row.want)
		})
	}
}

func TestNew_RefusesInvalidFields(t *testing.T) {
	t.Parallel()
	with := func(change func(*userSpec)) error {
		s := userSpec{Key: "users:{id}", TTL: time.Minute}
		change(&s)
		rdb := redis.NewClient(&redis.Options{})
		defer func() { _ = rdb.Close() }()
		_, err := New(rdb, s)
		return err
	}
	ttl := func(d time.Duration) error { return with(func(s *userSpec) { s.TTL = d }) }
	jitter := func(j float64) error { return with(func(s *userSpec) { s.Jitter = j }) }
	lease := func(d time.Duration) error { return with(func(s *userSpec) { s.LeaseTTL = d }) }
	ok := userSpec{Key: "users:{id}", TTL: time.Minute}
	_, nilClient := New(nil, ok)
	_, typedNil := New((*redis.Client)(nil), ok)
	_, typedNilCluster := New((*redis.ClusterClient)(nil), ok)

	checkRefusals(t, []refusal{
		{"a client that is nil", nilClient, "cachex: client is nil"},
		// An interface that holds a nil pointer is not nil, and would panic at the first call.
		{"a client that is a nil pointer", typedNil, "cachex: client is nil"},
		{"a cluster client that is a nil pointer", typedNilCluster, "cachex: client is nil"},

		// Nothing lives for ever by an oversight.
		{"no TTL", ttl(0), "cachex: Spec.TTL is required: choose one, or Forever"},
		// go-redis' Set takes it for no expiry at all.
		{"a negative TTL", ttl(-5 * time.Second), "cachex: Spec.TTL: -5s is too short, must be at least 1ms"},
		// What Redis cannot count would be rounded, to twice or ten times as much.
		{"a TTL below a millisecond", ttl(100 * time.Microsecond), "cachex: Spec.TTL: 100µs is too short, must be at least 1ms"},
		{"a TTL with half a millisecond", ttl(1500 * time.Microsecond), "cachex: Spec.TTL: 1.5ms is not whole milliseconds"},
		// Redis refuses what overflows its clock, but only at the first Set.
		{"a TTL of eleven years", ttl(11 * 365 * 24 * time.Hour), "cachex: Spec.TTL: 96360h0m0s is longer than ten years: use Forever"},
		{"a TTL of almost Forever", ttl(Forever - 1), "cachex: Spec.TTL: 2562047h47m16.854775806s is not whole milliseconds"},

		{"a jitter below zero", jitter(-0.5), "cachex: Spec.Jitter is -0.5, must be from 0 to 1, or NoJitter"},
		// More than all of the TTL would leave less than none.
		{"a jitter above one", jitter(1.01), "cachex: Spec.Jitter is 1.01, must be from 0 to 1, or NoJitter"},
		{"a jitter in percent", jitter(10), "cachex: Spec.Jitter is 10, must be from 0 to 1, or NoJitter"},
		// It is neither less than zero nor more than one.
		{"a jitter that is no number", jitter(math.NaN()), "cachex: Spec.Jitter is NaN, must be from 0 to 1, or NoJitter"},
		{"a jitter without end", jitter(math.Inf(1)), "cachex: Spec.Jitter is +Inf, must be from 0 to 1, or NoJitter"},
		{"a jitter without beginning", jitter(math.Inf(-1)), "cachex: Spec.Jitter is -Inf, must be from 0 to 1, or NoJitter"},

		// It would run out between two heartbeats of a busy process.
		{"a lease that is too short", lease(99 * time.Millisecond), "cachex: Spec.LeaseTTL is 99ms, must be at least 100ms"},
		{"a negative lease", lease(-time.Second), "cachex: Spec.LeaseTTL is -1s, must be at least 100ms"},
		{"a lease with half a millisecond", lease(100500 * time.Microsecond), "cachex: Spec.LeaseTTL is 100.5ms, must be whole milliseconds"},
		{"a negative timeout", with(func(s *userSpec) { s.UpTimeout = -time.Second }), "cachex: Spec.UpTimeout is -1s, must be at least 1ms"},
		// Somebody wrote 30 and meant seconds.
		{"a timeout of nanoseconds", with(func(s *userSpec) { s.UpTimeout = 30 }), "cachex: Spec.UpTimeout is 30ns, must be at least 1ms"},
		{"a negative number of keys", with(func(s *userSpec) { s.MaxKeys = -1 }), "cachex: Spec.MaxKeys is -1, must be from 1 to 10000, or 0: the leases of one call of UpMany are renewed together"},
		{"more keys than leases can be renewed for", with(func(s *userSpec) { s.MaxKeys = 10001 }), "cachex: Spec.MaxKeys is 10001, must be from 1 to 10000, or 0: the leases of one call of UpMany are renewed together"},
		{"a negative number of loads", with(func(s *userSpec) { s.MaxLoads = -1 }), "cachex: Spec.MaxLoads is -1, must not be negative"},

		{"stale for less than a millisecond", with(func(s *userSpec) { s.StaleWhileRevalidate = 1 }), "cachex: Spec.StaleWhileRevalidate: 1ns is too short, must be at least 1ms"},
		{"stale for a negative time", with(func(s *userSpec) { s.StaleIfError = -time.Hour }), "cachex: Spec.StaleIfError is -1h0m0s, must not be negative"},
		{"stale forever", with(func(s *userSpec) { s.StaleIfError = Forever }), "cachex: Spec.StaleIfError: Forever is valid only for Spec.TTL"},
		{"kept for too long in all", with(func(s *userSpec) {
			s.TTL, s.StaleIfError = 9*365*24*time.Hour, 2*365*24*time.Hour
		}), "cachex: Spec.TTL, StaleWhileRevalidate and StaleIfError: 96360h0m0s is longer than ten years: use Forever"},
		{"a negative TTL for not found", with(func(s *userSpec) { s.NotFoundTTL = -1 }), "cachex: Spec.NotFoundTTL is -1ns, must not be negative"},
		{"a soft timeout with nothing to serve", with(func(s *userSpec) {
			s.SoftTimeout, s.Up = time.Second, func(context.Context, int64) (User, error) { return ann, nil }
		}), "cachex: Spec.SoftTimeout needs Spec.StaleIfError, which keeps the value to serve"},
		{"a soft timeout that is none", with(func(s *userSpec) {
			s.StaleIfError, s.SoftTimeout, s.UpTimeout, s.Up = time.Hour, time.Minute, time.Minute, func(context.Context, int64) (User, error) { return ann, nil }
		}), "cachex: Spec.SoftTimeout is 1m0s, must be shorter than Spec.UpTimeout, which is 1m0s"},
		{"a negative backoff", with(func(s *userSpec) { s.Backoff = -time.Second }), "cachex: Spec.Backoff is -1s, must not be negative"},
		{"a negative early refresh", with(func(s *userSpec) { s.EarlyRefresh = -1 }), "cachex: Spec.EarlyRefresh is -1, must be 0 or positive"},
		{"an early refresh that is no number", with(func(s *userSpec) { s.EarlyRefresh = math.NaN() }), "cachex: Spec.EarlyRefresh is NaN, must be 0 or positive"},
		{"a persister of many alone", with(func(s *userSpec) {
			s.DownMany = func(context.Context, map[int64]User) error { return nil }
		}), "cachex: Spec.DownMany needs Spec.Down, which Set calls"},

		{"write behind", with(func(s *userSpec) { s.WriteBehind = time.Second }), "cachex: Spec.WriteBehind needs Spec.Down or Spec.DownMany, which persist the values"},
		{"packing by one", with(func(s *userSpec) { s.Packed = 1 }), "cachex: Spec.Packed is 1, must be from 2 to 1024, or 0"},
		{"packing by many", with(func(s *userSpec) { s.Packed = 1025 }), "cachex: Spec.Packed is 1025, must be from 2 to 1024, or 0"},
		{"expecting, and not packing", with(func(s *userSpec) { s.Expected = 1000 }), "cachex: Spec.Expected needs Spec.Packed"},
		{"expecting less than nothing", with(func(s *userSpec) { s.Packed, s.Expected = 100, -1 }), "cachex: Spec.Expected is -1, must not be negative"},
		{
			"packing by a function", with(func(s *userSpec) { s.Packed, s.Key, s.KeyFunc = 100, "", func(int64) string { return "k" } }),
			"cachex: Spec.Packed needs Spec.Key in place of Spec.KeyFunc",
		},
		{
			"packing a hash tag", with(func(s *userSpec) { s.Packed, s.Key = 100, "users:{{id}}" }),
			"cachex: Spec.Packed keeps {id} in the field of a hash, so it cannot be a hash tag: write Spec.Key with {id}",
		},
		{
			"packing what is written behind", with(func(s *userSpec) { s.Packed, s.WriteBehind = 100, time.Second }),
			"cachex: Spec.Packed and Spec.WriteBehind cannot be combined: write-behind needs one key per entry",
		},
		// What does nothing yet must not be taken in silence: whoever sets it counts on it.
		{"a near cache", with(func(s *userSpec) { s.Near = &near.Options{} }), "cachex: Spec.Near is not supported yet"},

		{"two ways to make keys", with(func(s *userSpec) { s.KeyFunc = func(int64) string { return "k" } }),
			"cachex: Spec.Key and Spec.KeyFunc are both set, and one is enough"},
		{"no way to make keys", with(func(s *userSpec) { s.Key = "" }), `cachex: Spec.Key is required, for instance "users:{id}"`},
	})
}

func TestNew_RefusesTypesThatCannotBeStored(t *testing.T) {
	t.Parallel()
	secret := make([]byte, 16)
	str := codec.String[string]()
	checkRefusals(t, []refusal{
		// All of these would be an error of every single call, found by whoever is called at night.
		{"a channel", valueRefused[chan int](nil), "cachex: Spec.Codec: codec: chan int cannot be encoded"},
		{"a function", valueRefused[func()](nil), "cachex: Spec.Codec: codec: func() cannot be encoded"},
		{"a complex number", valueRefused[complex128](nil), "cachex: Spec.Codec: codec: complex128 cannot be encoded"},
		{"a channel in a field", valueRefused[strange](nil), "cachex: Spec.Codec: codec: cachex.strange.C: chan int cannot be encoded"},
		{"a channel in a map of slices", valueRefused[map[string][]strange](nil),
			"cachex: Spec.Codec: codec: map[string][]cachex.strange[][].C: chan int cannot be encoded"},
		// It would be stored as nothing, and come back as zero.
		{"a struct of hidden fields", valueRefused[hidden](nil), "cachex: Spec.Codec: codec: cachex.hidden: cachex.hidden has no exported field to store"},
		{"a struct of hidden fields as JSON", valueRefused(codec.JSON[hidden]()),
			"cachex: Spec.Codec: codec: cachex.hidden: cachex.hidden has no exported field to store"},
		// It could be encoded, but what it was is not in the bytes.
		{"an interface with methods", valueRefused[error](nil), "cachex: Spec.Codec: codec: error cannot be encoded"},
		{"an interface with methods in a field", valueRefused[loose](nil), "cachex: Spec.Codec: codec: cachex.loose.S: fmt.Stringer cannot be encoded"},
		{"a complex number as JSON", valueRefused(codec.JSON[complex64]()), "cachex: Spec.Codec: codec: complex64 cannot be encoded"},
		{"a text without methods", valueRefused(codec.Text[User]()), "cachex: Spec.Codec: codec: Text: cachex.User has no method AppendText or MarshalText"},

		{"encryption without a key", valueRefused(codec.Encrypt(str)), "cachex: Spec.Codec: codec: Encrypt: a key is required"},
		{"encryption under a key of 15 bytes", valueRefused(codec.Encrypt(str, codec.Key{ID: 7, Secret: secret[:15]})),
			"cachex: Spec.Codec: codec: Encrypt: Secret of key 7 has 15 bytes, want 16, 24 or 32"},
		{"encryption under an empty key", valueRefused(codec.Encrypt(str, codec.Key{ID: 1, Secret: secret}, codec.Key{ID: 2})),
			"cachex: Spec.Codec: codec: Encrypt: Secret of key 2 has 0 bytes, want 16, 24 or 32"},
		// Which of the two an entry needs could not be told.
		{"encryption under two keys of one ID", valueRefused(codec.Encrypt(str, codec.Key{ID: 7, Secret: secret}, codec.Key{ID: 7, Secret: secret})),
			"cachex: Spec.Codec: codec: Encrypt: two keys have the ID 7"},
		// A wrapper around what cannot work cannot work.
		{"encryption of a channel", valueRefused(codec.Encrypt(codec.For[chan int](), codec.Key{Secret: secret})),
			"cachex: Spec.Codec: codec: chan int cannot be encoded"},
		{"compression of nothing", valueRefused(codec.Compress[string](nil, codec.Compression{})), "cachex: Spec.Codec: codec: codec is nil"},
		{"an unknown compression", valueRefused(codec.Compress(str, codec.Compression{Algorithm: 9})), "cachex: Spec.Codec: codec: Compression.Algorithm 9 is unknown"},
		{"a negative threshold", valueRefused(codec.Compress(str, codec.Compression{Threshold: -1})), "cachex: Spec.Codec: codec: Compression.Threshold -1 is negative"},
		{"a size that Redis cannot hold", valueRefused(codec.Compress(str, codec.Compression{MaxSize: 1 << 30})),
			"cachex: Spec.Codec: codec: Compression.MaxSize 1073741824 is not in 0 to 512 MiB"},
		{"a map to nowhere", valueRefused(codec.Map[string](str, nil, nil)), "cachex: Spec.Codec: codec: Map: to and from are required"},
	})
}

func TestNew_RefusesKeysThatCouldCollide(t *testing.T) {
	t.Parallel()
	bad := func(template, why string) string { return fmt.Sprintf("cachex: Spec.Key %q: %s", template, why) }
	no := func(typ, why string) string {
		return bad("users:{id}", typ+" cannot be in a key: "+why+": use Spec.KeyFunc")
	}
	long := strings.Repeat("x", 1025)
	checkRefusals(t, []refusal{
		{"an unknown placeholder", keyRefused[oneKey]("users:{id}:{lang}"), bad("users:{id}:{lang}", "cachex.oneKey has no field lang: it has {id}")},
		{"a field that is left out", keyRefused[twoKey]("users:{id}"), bad("users:{id}", "field Lang of cachex.twoKey is not in the template, so two keys would collide: add {lang}")},
		{"no placeholder", keyRefused[int64]("users"), bad("users", "int64 is not in the template, so all keys would collide: add a placeholder, such as {id}")},
		{"one placeholder too many", keyRefused[int64]("users:{id}:{lang}"),
			bad("users:{id}:{lang}", "int64 is one value, but the template has 2 placeholders: keep one, or make the key a struct")},
		{"a brace that is not closed", keyRefused[int64]("users:{id"), bad("users:{id", `unbalanced "{" at byte 6: close it with "}"`)},
		{"a brace that is not opened", keyRefused[int64]("users:id}"), bad("users:id}", `unbalanced "}" at byte 8: braces are only for {name} and {{name}}`)},
		{"a brace in braces", keyRefused[int64]("users:{a{b}}"), bad("users:{a{b}}", `"{" inside the "{" of byte 6: a placeholder is {name}, a hash tag {{name}}`)},
		{"a hash tag half closed", keyRefused[int64]("users:{{id}"), bad("users:{{id}", `unbalanced "{{" at byte 6: close it with "}}"`)},
		{"a placeholder without a name", keyRefused[int64]("users:{}"), bad("users:{}", "no name in the placeholder at byte 6: write one, such as {id}")},
		{"a placeholder with a blank", keyRefused[int64]("users:{user id}"),
			bad("users:{user id}", `placeholder "user id" at byte 6: a name has only letters, digits and underscores`)},
		// 1 and 23 would be 12 and 3.
		{"placeholders that touch", keyRefused[numbersKey]("users:{a}{b}"), bad("users:{a}{b}", `{a} and {b} touch, so two keys could collide: put ":" between them`)},
		{"numbers with a digit between", keyRefused[numbersKey]("users:{a}0{b}"),
			bad("users:{a}0{b}", `the "0" between {a} and {b} could be part of {a}, so two keys could collide: begin it with ":"`)},
		{"a control character", keyRefused[int64]("users\n{id}"), bad("users\n{id}", "control character U+000A at byte 5")},
		{"bytes that are not UTF-8", keyRefused[int64]("users\xff{id}"), bad("users\xff{id}", "invalid UTF-8 at byte 5")},
		{"a template longer than any key", keyRefused[int64](long + "{id}"), bad(long+"{id}", "it has 1025 bytes beside its placeholders: a key has at most 1024")},
		{"a hidden field", keyRefused[hiddenKey]("users:{id}"),
			bad("users:{id}", "field id of cachex.hiddenKey is unexported, so two keys could differ only in what is not rendered: export it, or use Spec.KeyFunc")},
		{"a tag with a blank", keyRefused[taggedKey]("users:{id}"),
			bad("users:{id}", `field ID of cachex.taggedKey has the tag cachex:"the id": it is the name of a placeholder, only letters, digits and underscores`)},

		// Equal keys would be different strings, or different keys the same.
		{"a time", keyRefused[time.Time]("users:{id}"), no("time.Time", "one instant has many values, by zone and monotonic clock")},
		{"a float", keyRefused[float64]("users:{id}"), no("float64", "-0 equals 0, and NaN not even itself")},
		{"a pointer", keyRefused[*int64]("users:{id}"), no("*int64", "it is compared by its address")},
		{"an interface", keyRefused[any]("users:{id}"), no("interface {}", "values of different types may render alike")},
		{"an array of numbers", keyRefused[[2]int]("users:{id}"), no("[2]int", "of arrays only those of bytes can")},
		{"a channel", keyRefused[chan int]("users:{id}"), no("chan int", "it is compared by its address")},
	})
}
