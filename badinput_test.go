package cachex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"github.com/vmihailenco/msgpack/v5"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
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
	return refused(Spec[int64, V]{Key: "users:{id}", Codec: c})
}

func keyRefused[K comparable](template string) error {
	return refused(Spec[K, string]{Key: template})
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

func TestNewRefusesAFieldThatIsWrong(t *testing.T) {
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
		{"a negative number of loads", with(func(s *userSpec) { s.MaxLoads = -1 }), "cachex: Spec.MaxLoads is -1, must not be negative"},

		// What does nothing yet must not be taken in silence: whoever sets it counts on it.
		{"stale while revalidate", with(func(s *userSpec) { s.StaleWhileRevalidate = 1 }), "cachex: Spec.StaleWhileRevalidate is not supported yet"},
		{"stale if error", with(func(s *userSpec) { s.StaleIfError = time.Hour }), "cachex: Spec.StaleIfError is not supported yet"},
		{"a TTL for not found", with(func(s *userSpec) { s.NotFoundTTL = -1 }), "cachex: Spec.NotFoundTTL is not supported yet"},
		{"a restorer of many", with(func(s *userSpec) {
			s.UpMany = func(context.Context, []int64) (map[int64]User, error) { return nil, nil }
		}), "cachex: Spec.UpMany is not supported yet"},
		{"a persister", with(func(s *userSpec) {
			s.Down = func(context.Context, int64, User) error { return nil }
		}), "cachex: Spec.Down is not supported yet"},
		{"a persister of many", with(func(s *userSpec) {
			s.DownMany = func(context.Context, map[int64]User) error { return nil }
		}), "cachex: Spec.DownMany is not supported yet"},
		{"write behind", with(func(s *userSpec) { s.WriteBehind = time.Second }), "cachex: Spec.WriteBehind is not supported yet"},
		{"packing", with(func(s *userSpec) { s.Packed = 100 }), "cachex: Spec.Packed is not supported yet"},
		{"a near cache", with(func(s *userSpec) { s.Near = &near.Options{} }), "cachex: Spec.Near is not supported yet"},

		{"two ways to make keys", with(func(s *userSpec) { s.KeyFunc = func(int64) string { return "k" } }),
			"cachex: Spec.Key and Spec.KeyFunc are both set, and one is enough"},
		{"no way to make keys", with(func(s *userSpec) { s.Key = "" }), `cachex: Spec.Key is required, for instance "users:{id}"`},
	})
}

func TestNewRefusesWhatCannotBeStored(t *testing.T) {
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

func TestNewRefusesAKeyByWhichTwoThingsCouldCollide(t *testing.T) {
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

// calls returns every call on a cache, by the Op of its errors.
func calls[K comparable, V any](c *Cache[K, V], key K, value V) map[string]func(context.Context) error {
	return map[string]func(context.Context) error{
		"get":    func(ctx context.Context) error { _, err := c.Get(ctx, key); return err },
		"lookup": func(ctx context.Context) error { _, _, err := c.Lookup(ctx, key); return err },
		"set":    func(ctx context.Context) error { return c.Set(ctx, key, value) },
		"delete": func(ctx context.Context) error { return c.Delete(ctx, key) },
	}
}

// requireError checks the whole of an error of a call.
func requireError(t *testing.T, err error, want Error, text string) {
	t.Helper()
	require.EqualError(t, err, text)
	got, ok := errors.AsType[*Error](err)
	require.True(t, ok, "%T is not an *Error", err)
	want.Err = got.Err
	require.Equal(t, want, *got)
}

func TestACallThatCannotSucceedSendsNothingAndLoadsNothing(t *testing.T) {
	t.Parallel()
	rdb, commands := counted(t, redistest.StartEmbedded(t).Client(nil))
	loads := 0
	spec := Spec[textKey, User]{Key: "users:{id}", Up: func(context.Context, textKey) (User, error) { loads++; return ann, nil }}
	users, closed := newCache(t, rdb, spec), newCache(t, rdb, spec)
	require.NoError(t, closed.Close(t.Context()))
	spec = Spec[textKey, User]{Name: "users", KeyFunc: func(k textKey) string {
		if k == "panic" {
			panic("no key for " + k)
		}
		return ""
	}}
	byFunc := newCache(t, rdb, spec)

	var none context.Context // a literal nil is what linters are for
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	blamed, blame := context.WithCancelCause(t.Context())
	blame(errors.New("the user hung up"))
	late, stop := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer stop()
	long := textKey(strings.Repeat("x", 1019)) // one byte too many after "users:"

	for _, row := range []struct {
		name  string
		cache *Cache[textKey, User]
		ctx   context.Context
		key   textKey
		want  string
		is    error
	}{
		// The standard library panics; a cache must not take the process with it.
		{"a nil ctx", users, none, "1", "ctx is nil", nil},
		{"a cancelled ctx", users, cancelled, "1", "context canceled", context.Canceled},
		// Why it was cancelled is worth more than that it was.
		{"a ctx with a cause", users, blamed, "1", "the user hung up", nil},
		{"a deadline in the past", users, late, "1", "context deadline exceeded", context.DeadlineExceeded},
		{"a closed cache", closed, t.Context(), "1", "closed", ErrClosed},
		// A key of a megabyte would be sent, stored and logged.
		{"a key that is too long", users, t.Context(), long, "key too long: at least 1025 bytes, the limit is 1024", nil},
		// The cause is in the chain; the key is not in the text.
		{"a key whose text cannot be made", users, t.Context(), "fail", "cachex.textKey: MarshalText: unexpected EOF", io.ErrUnexpectedEOF},
		{"a key whose method panics", users, t.Context(), "panic", "cachex.textKey: MarshalText panicked with a cachex.textKey", nil},
		// Redis would take it, and every key would be this one.
		{"a function that makes no key", byFunc, t.Context(), "1", "key is empty", nil},
		{"a function that panics", byFunc, t.Context(), "panic", "Spec.KeyFunc panicked with a cachex.textKey", nil},
	} {
		for op, call := range calls(row.cache, row.key, ann) {
			t.Run(row.name+", "+op, func(t *testing.T) {
				err := call(row.ctx)
				requireError(t, err, Error{Op: op, Cache: "users"}, "cachex: "+op+" users: "+row.want)
				if row.is != nil {
					require.ErrorIs(t, err, row.is)
				}
			})
		}
	}
	require.Empty(t, users.Key("fail"), "Key has no error to return")
	requireError(t, users.Delete(t.Context(), "1", "2", "fail"), Error{Op: "delete", Cache: "users"},
		"cachex: delete users: cachex.textKey: MarshalText: unexpected EOF") // and 1 and 2 are not deleted
	require.Zero(t, commands.Count(), "commands were sent")
	require.Zero(t, loads)
}

func TestAnErrorNamesTheCacheOnlyIfItHasAName(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[string, string]{KeyFunc: func(k string) string { return k }})
	_, err := c.Get(t.Context(), "")
	require.EqualError(t, err, "cachex: get: key is empty")
	// A key that is made by a function may hold anything, and a log is read on a terminal.
	for key, shown := range map[string]string{
		"a b:é":      "a b:é",
		"a\nb":       `"a\nb"`,
		"a\x1b[31mb": `"a\x1b[31mb"`,
		"a\x9b31mb":  `"a\x9b31mb"`, // not UTF-8: the escape of a terminal of 8 bits
	} {
		_, err := c.Get(t.Context(), key)
		require.EqualError(t, err, "cachex: get "+shown+": not found")
	}
}

func TestCloseMayBeCalledAgainButNotWithoutACtx(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[int64, string]{Key: "users:{id}"})
	var none context.Context
	requireError(t, c.Close(none), Error{Op: "close", Cache: "users"}, "cachex: close users: ctx is nil")
	require.NoError(t, c.Set(t.Context(), 1, "still open"))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, c.Close(t.Context()))
	require.NoError(t, rdb.Ping(t.Context()).Err(), "the client is the caller's")
}

func TestMustPanicsWithTheErrorOfNew(t *testing.T) {
	t.Parallel()
	require.PanicsWithError(t, "cachex: client is nil", func() { Must(New(nil, userSpec{Key: "users:{id}", TTL: time.Minute})) })
}

func TestDeleteTakesNoKeysAndManyKeys(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx := t.Context()
		counting, commands := counted(t, rdb)
		c := newCache(t, counting, Spec[int, string]{})
		require.NoError(t, c.Delete(ctx))
		require.Zero(t, commands.Count(), "there was nothing to delete")

		const n = 10_000
		keys, some := make([]int, n), []int{0, 511, 512, 5_000, n - 1}
		for i := range keys {
			keys[i] = i
		}
		for _, k := range some {
			require.NoError(t, c.Set(ctx, k, "x"))
		}
		commands.Reset()
		require.NoError(t, c.Delete(ctx, keys...))
		require.Equal(t, n, commands.Count("unlink"))
		require.Equal(t, n, commands.Count())
		// Neither one round trip a key, nor one that keeps everybody else waiting.
		require.Equal(t, 20, commands.RoundTrips())
		for _, k := range some {
			_, ok, err := c.Lookup(ctx, k)
			require.NoError(t, err)
			require.False(t, ok, "key %d is still there", k)
		}
	})
}

func TestKeysThatLookAlikeAreDistinct(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[twoKey, string]{Key: "users:{id}:{lang}"})
	keys := []twoKey{
		{"a:b", "c"}, {"a", "b:c"}, // the separator in a part
		{"", "a"}, {"a", ""}, {"", ""}, // nothing is a part too
		{"{a}", "b"}, {"a", "{b}"}, {"a%3Ab", "c"}, // what would steer a slot of a Cluster, what is escaped already
		{"a\x00", "b"}, {"a", "\x00b"}, {"a\r\n", "b"}, {"a\xff", "b"},
		{"\u00e9", ""}, {"e\u0301", ""}, {"É", ""}, // one letter to a reader, three keys to Redis
		{"*", "?"}, {"[ab]", "\\"}, {"cachex", "wake"},
	}
	seen := map[string]twoKey{}
	for _, k := range keys {
		rendered := c.Key(k)
		require.NotContains(t, seen, rendered, "%q", k)
		require.NotContains(t, rendered, "{")
		seen[rendered] = k
		require.NoError(t, c.Set(t.Context(), k, rendered))
	}
	for rendered, k := range seen {
		v, err := c.Get(t.Context(), k)
		require.NoError(t, err)
		require.Equal(t, rendered, v)
	}
}

func TestATTLForThatIsWrongFailsSetAndKeepsWhatWasLoaded(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[string, User]{
		Key: "users:{id}",
		TTLFor: func(k string, u User) time.Duration {
			switch k {
			case "panic":
				panic(u.Name)
			case "error":
				panic(fmt.Errorf("%s: %w", u.Name, io.ErrClosedPipe))
			}
			d, err := time.ParseDuration(k)
			require.NoError(t, err)
			return d
		},
		Up: func(context.Context, string) (User, error) { return ann, nil },
	})
	for i, row := range []struct{ key, want string }{
		{"-1s", "Spec.TTLFor: -1s is too short, must be at least 1ms"},
		{"100us", "Spec.TTLFor: 100µs is too short, must be at least 1ms"},
		{"1500us", "Spec.TTLFor: 1.5ms is not whole milliseconds"},
		{"100000h", "Spec.TTLFor: 100000h0m0s is longer than ten years: use Forever"},
		// What it panicked with may be made of the value.
		{"panic", "Spec.TTLFor panicked with a string"},
	} {
		t.Run(row.key, func(t *testing.T) {
			key := "users:" + row.key
			requireError(t, c.Set(t.Context(), row.key, ann), Error{Op: "set", Cache: "users", Key: key}, "cachex: set "+key+": "+row.want)
			u, err := c.Get(t.Context(), row.key)
			require.NoError(t, err, "the value is there, whatever its TTL")
			require.Equal(t, ann, u)
			require.EqualValues(t, i+1, c.Stats().StoreFailures)
			require.Zero(t, rdb.Exists(t.Context(), key).Val(), "it has no TTL, so it must not be stored")
		})
	}
	require.ErrorIs(t, c.Set(t.Context(), "error", ann), io.ErrClosedPipe, "an error is in the chain")
}

// setRefused checks that Set of v fails with an error of this text that does not
// show the value, and that a load that returns v is returned and not stored.
func setRefused[V any](t *testing.T, c codec.Codec[V], v V, want string, is error) {
	t.Helper()
	rdb := redistest.StartEmbedded(t).Client(nil)
	cache := newCache(t, rdb, Spec[int, V]{Key: "users:{id}", Codec: c, Up: func(context.Context, int) (V, error) { return v, nil }})
	err := cache.Set(t.Context(), 1, v)
	requireError(t, err, Error{Op: "set", Cache: "users", Key: "users:1"}, "cachex: set users:1: "+want)
	require.NotContains(t, err.Error(), "s3cret")
	if is != nil {
		require.ErrorIs(t, err, is)
	}
	_, err = cache.Get(t.Context(), 1)
	require.NoError(t, err, "the value is there, even if it cannot be stored")
	require.EqualValues(t, 1, cache.Stats().StoreFailures)
	require.Zero(t, rdb.Exists(t.Context(), "users:1").Val())
}

func TestSetRefusesAValueThatCannotBeEncoded(t *testing.T) {
	t.Parallel()
	circle := &node{}
	circle.Next = circle
	str, secret := codec.String[string](), "s3cret"
	for name, check := range map[string]func(*testing.T){
		"NaN in JSON": func(t *testing.T) {
			setRefused(t, codec.JSON[float64](), math.NaN(), "codec: json: unsupported value: NaN", codec.ErrEncode)
		},
		// Both encoders would follow it until the stack is full, and that no recover catches.
		"a cycle": func(t *testing.T) {
			setRefused(t, nil, circle, "codec: nested deeper than 512, or in a cycle", codec.ErrTooLarge)
		},
		"a cycle in JSON": func(t *testing.T) {
			setRefused(t, codec.JSON[*node](), circle, "codec: json: unsupported value: encountered a cycle via *cachex.node", codec.ErrEncode)
		},
		"a cycle in an any": func(t *testing.T) {
			m := map[string]any{"name": secret}
			m["me"] = m
			setRefused[any](t, nil, m, "codec: nested deeper than 512, or in a cycle", codec.ErrTooLarge)
		},
		"a channel in an any": func(t *testing.T) {
			setRefused[any](t, nil, map[string]any{"c": make(chan int)}, "codec: chan int cannot be encoded", codec.ErrEncode)
		},
		"a method that panics with a string": func(t *testing.T) {
			setRefused(t, codec.JSON[rude](), rude{secret}, "codec: panic in a method of the value: string", codec.ErrEncode)
		},
		"a method that panics with an error": func(t *testing.T) {
			setRefused(t, nil, rude{secret}, "codec: panic in a method of the value: *errors.errorString", codec.ErrEncode)
		},
		"a method that fails": func(t *testing.T) {
			setRefused(t, codec.Text[textKey2](), "fail", "codec: text: *errors.errorString", io.ErrUnexpectedEOF)
		},
		"more bytes than are allowed": func(t *testing.T) {
			setRefused(t, codec.Compress(str, codec.Compression{MaxSize: 10}), strings.Repeat(secret, 10),
				"codec: Compress: more bytes than Compression.MaxSize", codec.ErrTooLarge)
		},
		// Not "load panicked", which nothing did.
		"a codec that panics": func(t *testing.T) {
			setRefused[string](t, badCodec{str}, secret, "codec panicked with a string", nil)
		},
		"a codec that fails": func(t *testing.T) {
			setRefused[string](t, badCodec{str}, "fail "+secret, "short write", io.ErrShortWrite)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			check(t)
		})
	}
}

// textKey2 is textKey as a value: it can be read as well.
type textKey2 string

func (k textKey2) MarshalText() ([]byte, error)  { return textKey(k).MarshalText() }
func (k *textKey2) UnmarshalText(b []byte) error { *k = textKey2(b); return nil }

func TestAMethodThatPanicsOnDecodingIsAMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		loads := 0
		c := newCache(t, rdb, Spec[int, oneWay]{Codec: codec.JSON[oneWay](), Up: func(context.Context, int) (oneWay, error) {
			loads++
			return oneWay{"up"}, nil
		}})
		require.NoError(t, c.Set(t.Context(), 1, oneWay{"set"}))
		for i := range 3 { // each stores again what cannot be read
			v, err := c.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, oneWay{"up"}, v)
			require.Equal(t, i+1, loads)
		}
		_, ok, err := c.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
	})
}

// roundTrip checks that v is a value like any other: a hit after Set, and after
// a load.
func roundTrip[V any](v V) func(*testing.T, *redis.Client) {
	return func(t *testing.T, rdb *redis.Client) {
		loads := 0
		c := newCache(t, rdb, Spec[string, V]{Up: func(context.Context, string) (V, error) { loads++; return v, nil }})
		require.NoError(t, c.Set(t.Context(), "set", v))
		for _, key := range []string{"set", "load", "load"} {
			got, err := c.Get(t.Context(), key)
			require.NoError(t, err)
			require.Equal(t, v, got)
		}
		got, ok, err := c.Lookup(t.Context(), "load")
		require.NoError(t, err)
		require.True(t, ok)
		require.Equal(t, v, got)
		require.Equal(t, 1, loads, "a value that was stored is a hit")
		require.Zero(t, c.Stats().DecodeFailures)
	}
}

func TestAValueThatLooksLikeNoneIsAValue(t *testing.T) {
	t.Parallel()
	entry := "\xc1X\x01L\x00" + strings.Repeat("\x00", 35) // what a lease looks like
	for name, check := range map[string]func(*testing.T, *redis.Client){
		"the empty string":     roundTrip(""),
		"no bytes":             roundTrip([]byte{}),
		"the zero struct":      roundTrip(User{}),
		"a struct of nothing":  roundTrip(struct{}{}),
		"a nil pointer":        roundTrip((*User)(nil)),
		"a pointer to zero":    roundTrip(&User{}),
		"a nil map":            roundTrip(map[string]int(nil)),
		"an empty map":         roundTrip(map[string]int{}),
		"a nil any":            roundTrip[any](nil),
		"zero":                 roundTrip(0),
		"false":                roundTrip(false),
		"the least integer":    roundTrip(int64(math.MinInt64)),
		"the greatest integer": roundTrip(uint64(math.MaxUint64)),
		"NaN's neighbour":      roundTrip(math.Inf(-1)),
		"the zero time":        roundTrip(time.Time{}),
		"a star":               roundTrip("*"),           // what others store for "not found"
		"a lock of others":     roundTrip("rueidisid:x"), // what others take for a lock
		"null":                 roundTrip("null"),
		"one zero byte":        roundTrip([]byte{0}),
		"an entry":             roundTrip(entry),
		"not UTF-8":            roundTrip("\xff\xfe"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, check)
		})
	}
}

func TestAnErrorOfUpIsReturnedWholeAndNothingIsStored(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	rdb := redistest.StartEmbedded(t).Client(nil)
	var c *Cache[string, User]
	c = newCache(t, rdb, Spec[string, User]{
		Key:       "users:{id}",
		UpTimeout: 100 * time.Millisecond,
		Up: func(ctx context.Context, k string) (User, error) {
			switch k {
			case "missing":
				return User{}, fmt.Errorf("no row: %w", ErrNotFound)
			case "both": // as a careless function does that fills a named result
				return ann, io.ErrClosedPipe
			case "again":
				return c.Get(ctx, k)
			case "around":
				return c.Get(ctx, "about")
			case "about":
				return c.Get(ctx, "around")
			case "late":
				<-ctx.Done()
				return User{}, ctx.Err()
			case "exit":
				runtime.Goexit()
			}
			panic(k)
		},
	})
	for _, row := range []struct {
		key, want string
		is        error
	}{
		{"missing", "no row: not found", ErrNotFound},
		{"both", "io: read/write on closed pipe", io.ErrClosedPipe},
		// It would wait for itself.
		{"again", "cachex: get users:again: load asks for the key that it loads", loader.ErrReentrant},
		{"around", "cachex: get users:about: cachex: get users:around: load asks for the key that it loads", loader.ErrReentrant},
		// Up returns the bare error of its ctx. Why that ended is what the caller asks.
		{"late", "load took longer than 100ms: context deadline exceeded", context.DeadlineExceeded},
		{"exit", "load called runtime.Goexit", loader.ErrGoexit},
		{"boom", "load panicked: boom", nil},
	} {
		t.Run(row.key, func(t *testing.T) {
			key := "users:" + row.key
			u, err := c.Get(ctx, row.key)
			requireError(t, err, Error{Op: "get", Cache: "users", Key: key}, "cachex: get "+key+": "+row.want)
			if row.is != nil {
				require.ErrorIs(t, err, row.is)
			}
			require.Zero(t, u, "an error comes with no value")
			require.Zero(t, rdb.Exists(ctx, key).Val())
		})
	}
	_, err := c.Get(ctx, "boom")
	p, ok := errors.AsType[*loader.PanicError](err)
	require.True(t, ok)
	require.Equal(t, "boom", p.Value)
	require.Contains(t, string(p.Stack), "badinput_test.go", "the stack is that of the panic")
	require.EqualValues(t, 1, c.Stats().Loads-c.Stats().LoadFailures, "only ErrNotFound is no failure")
}

func TestWithoutUpAMissIsNotFound(t *testing.T) {
	t.Parallel()
	rdb := redistest.StartEmbedded(t).Client(nil)
	c := newCache(t, rdb, Spec[int, User]{Key: "users:{id}"})
	_, err := c.Get(t.Context(), 7)
	requireError(t, err, Error{Op: "get", Cache: "users", Key: "users:7"}, "cachex: get users:7: not found")
	require.ErrorIs(t, err, ErrNotFound)
}

// Where an operator has taken a command away, Redis quotes what it was sent.
func TestAnErrorOfRedisDoesNotQuoteTheValue(t *testing.T) {
	t.Parallel()
	rdb := redistest.Start(t, "--rename-command", "EVALSHA", "", "--rename-command", "EVAL", "").Client(nil)
	c := newCache(t, rdb, Spec[int, string]{Key: "users:{id}"})
	err := c.Set(t.Context(), 1, "s3cret")
	require.ErrorContains(t, err, "cachex: set users:1: script write: ERR unknown command")
	require.NotContains(t, err.Error(), "s3cret")
}

// A KeyFunc that checks something with a testing.T leaves its goroutine.
func TestACallThatDoesNotComeBackDoesNotKeepCloseWaiting(t *testing.T) {
	t.Parallel()
	c, err := New(closedClient(t), Spec[int, string]{TTL: time.Minute, KeyFunc: func(int) string { runtime.Goexit(); return "" }})
	require.NoError(t, err)
	var gone sync.WaitGroup
	gone.Go(func() { _, _ = c.Get(t.Context(), 1) })
	gone.Wait()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	require.NoError(t, c.Close(ctx))
}
