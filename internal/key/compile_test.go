package key_test

import (
	"encoding"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/key"
)

type (
	userKey struct {
		UserID int64
		Lang   string
	}
	taggedKey struct {
		ID   int    `cachex:"user"`
		Lang string `cachex:"Locale"`
	}
	acronymKey struct{ HTTPPort, ID2A, HTTP_UserName, OAuthID int }
	twinKey    struct{ UserID, Userid int }
	hiddenKey  struct{ id int }
	dashKey    struct {
		ID int `cachex:"-"`
	}
	optionKey struct {
		ID int `cachex:"id,omitempty"`
	}
	emptyTagKey struct {
		ID int `cachex:""`
	}
	nestedKey   struct{ User userKey }
	embedKey    struct{ userKey }
	EmbedMe     struct{ ID int }
	embedOpen   struct{ EmbedMe }
	ID          int64
	embedScalar struct {
		ID
		Lang string
	}
	blankKey struct {
		_  string
		ID int
	}
	atKey        struct{ At time.Time }
	stamp        struct{ time.Time }
	stampKey     struct{ At stamp }
	embedAddr    struct{ netip.Addr }
	embedAddrToo struct {
		netip.Addr
		Port int
	}
	embedAddrBlank struct {
		_ int
		netip.Addr
	}
	embedIface struct{ encoding.TextMarshaler }
	twoTexts   struct {
		netip.Addr
		netip.Prefix
	}
	scoreKey   struct{ Score float64 }
	pointerKey struct{ ID *int }
	octets     struct {
		A, B [2]byte
	}
	pairKey struct{ A, B string }
	intPair struct {
		A int
		B uint8
	}
	addrPair struct{ A, B netip.Addr }
	boolPair struct{ A, B bool }
)

// compile returns the error of Compile as text, or "".
func compile[K comparable](template string) string {
	if _, err := key.Compile[K](template); err != nil {
		return err.Error()
	}
	return ""
}

func TestCompileRefusesWithASentenceThatTellsWhatToChange(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", key.MaxLen)
	const useFunc = ": use Spec.KeyFunc"
	for _, row := range []struct{ got, want string }{
		// The grammar.
		{compile[string](""), `it is empty: write a template, such as "users:{id}"`},
		{compile[string]("users:{id"), `unbalanced "{" at byte 6: close it with "}"`},
		{compile[string]("users:{"), `unbalanced "{" at byte 6: close it with "}"`},
		{compile[string]("users:{{"), `unbalanced "{{" at byte 6: close it with "}}"`},
		{compile[string]("users:{{id}"), `unbalanced "{{" at byte 6: close it with "}}"`},
		{compile[string]("users:{{id}x}"), `unbalanced "{{" at byte 6: close it with "}}"`},
		{compile[string]("users:{id}}"), `unbalanced "}" at byte 10: braces are only for {name} and {{name}}`},
		{compile[string]("users:}{id}"), `unbalanced "}" at byte 6: braces are only for {name} and {{name}}`},
		{compile[string]("{{id}}}"), `unbalanced "}" at byte 6: braces are only for {name} and {{name}}`},
		{compile[string]("users:{}"), `no name in the placeholder at byte 6: write one, such as {id}`},
		{compile[string]("users:{{}}"), `no name in the placeholder at byte 6: write one, such as {id}`},
		{compile[string]("{users:{id}}"), `"{" inside the "{" of byte 0: a placeholder is {name}, a hash tag {{name}}`},
		{compile[string]("{{users:{id}}}"), `"{" inside the "{{" of byte 0: a placeholder is {name}, a hash tag {{name}}`},
		{compile[string]("{{{id}}}"), `"{" inside the "{{" of byte 0: a placeholder is {name}, a hash tag {{name}}`},
		{compile[string]("{user-id}"), `placeholder "user-id" at byte 0: a name has only letters, digits and underscores`},
		{compile[string]("a:{ id}"), `placeholder " id" at byte 2: a name has only letters, digits and underscores`},
		{compile[string]("a:{\xff\n}"), `placeholder "\xff\n" at byte 2: a name has only letters, digits and underscores`},
		{compile[string]("a\n:{id}"), `control character U+000A at byte 1`},
		{compile[string]("a\x00:{id}"), `control character U+0000 at byte 1`},
		{compile[string]("a\u0085:{id}"), `control character U+0085 at byte 1`},
		{compile[string]("a:{id}\x7f"), `control character U+007F at byte 6`},
		{compile[string]("a\xff:{id}"), `invalid UTF-8 at byte 1`},
		{compile[string](long + "{id}:"), `it has 1025 bytes beside its placeholders: a key has at most 1024`},

		// One value, one placeholder.
		{compile[string]("users"), `string is not in the template, so all keys would collide: add a placeholder, such as {id}`},
		{compile[ID]("users"), `key_test.ID is not in the template, so all keys would collide: add a placeholder, such as {id}`},
		{compile[int64]("users:{id}:{lang}"), `int64 is one value, but the template has 2 placeholders: keep one, or make the key a struct`},
		{compile[netip.Addr]("{a}:{a}"), `netip.Addr is one value, but the template has 2 placeholders: keep one, or make the key a struct`},

		// Fields.
		{compile[userKey]("f:{user_id}:{language}"), `key_test.userKey has no field language: it has {user_id}, {lang}`},
		{compile[userKey]("f:{user_id}"), `field Lang of key_test.userKey is not in the template, so two keys would collide: add {lang}`},
		{compile[userKey]("f"), `field UserID of key_test.userKey is not in the template, so two keys would collide: add {user_id}`},
		{compile[taggedKey]("f:{id}:{locale}"), `key_test.taggedKey has no field id: it has {user}, {Locale}`},
		{compile[taggedKey]("f:{locale}"), `field ID of key_test.taggedKey is not in the template, so two keys would collide: add {user}`},
		{compile[struct{}]("f:{id}"), `struct {} has no field id: it has none, so its template has no placeholder`},
		{compile[twinKey]("f:{userid}:{user_id}"), "{userid} is both field UserID of key_test.twinKey and field Userid: give one of them a tag, such as `cachex:\"name\"`"},
		{compile[hiddenKey]("f:{id}"), `field id of key_test.hiddenKey is unexported, so two keys could differ only in what is not rendered: export it, or use Spec.KeyFunc`},
		{compile[embedKey]("f:{id}"), `field userKey of key_test.embedKey is unexported, so two keys could differ only in what is not rendered: export it, or use Spec.KeyFunc`},
		{compile[dashKey]("f:{id}"), `field ID of key_test.dashKey has the tag cachex:"-": it is the name of a placeholder, only letters, digits and underscores`},
		{compile[optionKey]("f:{id}"), `field ID of key_test.optionKey has the tag cachex:"id,omitempty": it is the name of a placeholder, only letters, digits and underscores`},
		{compile[emptyTagKey]("f:{id}"), `field ID of key_test.emptyTagKey has the tag cachex:"": it is the name of a placeholder, only letters, digits and underscores`},
		{compile[blankKey]("f:{_}:{id}"), `key_test.blankKey has no field _: it has {id}`},

		// Types.
		{compile[float64]("f:{x}"), `float64 cannot be in a key: -0 equals 0, and NaN not even itself` + useFunc},
		{compile[complex64]("f:{x}"), `complex64 cannot be in a key: -0 equals 0, and NaN not even itself` + useFunc},
		{compile[scoreKey]("f:{score}"), `field Score of key_test.scoreKey: float64 cannot be in a key: -0 equals 0, and NaN not even itself` + useFunc},
		{compile[*int]("f:{x}"), `*int cannot be in a key: it is compared by its address` + useFunc},
		{compile[*netip.Addr]("f:{x}"), `*netip.Addr cannot be in a key: it is compared by its address` + useFunc},
		{compile[chan int]("f:{x}"), `chan int cannot be in a key: it is compared by its address` + useFunc},
		{compile[unsafe.Pointer]("f:{x}"), `unsafe.Pointer cannot be in a key: it is compared by its address` + useFunc},
		{compile[pointerKey]("f:{id}"), `field ID of key_test.pointerKey: *int cannot be in a key: it is compared by its address` + useFunc},
		{compile[any]("f:{x}"), `interface {} cannot be in a key: values of different types may render alike` + useFunc},
		{compile[encoding.TextMarshaler]("f:{x}"), `encoding.TextMarshaler cannot be in a key: values of different types may render alike` + useFunc},
		{compile[[2]int]("f:{x}"), `[2]int cannot be in a key: of arrays only those of bytes can` + useFunc},
		{compile[[2]string]("f:{x}"), `[2]string cannot be in a key: of arrays only those of bytes can` + useFunc},
		{compile[time.Time]("f:{x}"), `time.Time cannot be in a key: one instant has many values, by zone and monotonic clock` + useFunc},
		{compile[atKey]("f:{at}"), `field At of key_test.atKey: time.Time cannot be in a key: one instant has many values, by zone and monotonic clock` + useFunc},
		{compile[stamp]("f:{x}"), `in key_test.stamp, embedded time.Time cannot be in a key: one instant has many values, by zone and monotonic clock` + useFunc},
		{compile[stampKey]("f:{at}"), `field At of key_test.stampKey: in key_test.stamp, embedded time.Time cannot be in a key: one instant has many values, by zone and monotonic clock` + useFunc},
		{compile[nestedKey]("f:{user}"), `field User of key_test.nestedKey: key_test.userKey cannot be in a key: a struct inside a struct needs the method MarshalText, of the value and not of its pointer` + useFunc},
		{compile[embedOpen]("f:{embed_me}"), `field EmbedMe of key_test.embedOpen: key_test.EmbedMe cannot be in a key: a struct inside a struct needs the method MarshalText, of the value and not of its pointer` + useFunc},
		{compile[embedAddrToo]("f:{addr}:{port}"), `key_test.embedAddrToo embeds netip.Addr, whose text may leave out the other fields: give that field a name, or use Spec.KeyFunc`},
		{compile[embedIface]("f:{x}"), `in key_test.embedIface, embedded encoding.TextMarshaler cannot be in a key: values of different types may render alike` + useFunc},

		// Literals that would not end the value before them.
		{compile[pairKey]("{a}{b}"), `{a} and {b} touch, so two keys could collide: put ":" between them`},
		{compile[octets]("{a}{b}"), `{a} and {b} touch, so two keys could collide: put ":" between them`},
		{compile[pairKey]("{a}:{b}{a}"), `{b} and {a} touch, so two keys could collide: put ":" between them`},
		{compile[pairKey]("{a}%3A{b}"), `the "%3A" between {a} and {b} could be part of {a}, so two keys could collide: begin it with ":"`},
		{compile[addrPair]("{a}%{b}"), `the "%" between {a} and {b} could be part of {a}, so two keys could collide: begin it with ":"`},
		{compile[intPair]("{a}0:{b}"), `the "0:" between {a} and {b} could be part of {a}, so two keys could collide: begin it with ":"`},
		{compile[intPair]("{b}9{a}"), `the "9" between {b} and {a} could be part of {b}, so two keys could collide: begin it with ":"`},
		{compile[intPair]("{a}7{{b}}"), `the "7" between {a} and {b} could be part of {a}, so two keys could collide: begin it with ":"`},
	} {
		require.Equal(t, row.want, row.got)
	}
}

func TestCompileTakesWhatIsSafe(t *testing.T) {
	t.Parallel()
	for template, err := range map[string]string{
		"a literal of the greatest length": compile[string](strings.Repeat("x", key.MaxLen) + "{id}"),
		"glob characters":                  compile[string](`a*?[x]\^$:{id}`),
		"other scripts":                    compile[string]("größe→{größe}"),
		"a name that begins with a digit":  compile[string]("{0}"),
		"a dash after an integer":          compile[intPair]("{a}-{b}"),
		"a digit after a bool":             compile[boolPair]("{a}0{b}"),
		"a digit after an array":           compile[octets]("{a}0{b}"),
		"a digit after a string":           compile[pairKey]("{a}0{b}"),
		"a hash tag after a value":         compile[intPair]("{a}{{b}}"),
		"a value after a hash tag":         compile[intPair]("{{a}}{b}"),
		"a digit after a hash tag":         compile[intPair]("{{a}}0{b}"),
		"a digit after the last":           compile[int]("{a}0"),
		"a percent sign after the last":    compile[string]("{a}%"),
		"a field twice":                    compile[pairKey]("{a}:{b}:{a}"),
		"an embedded scalar":               compile[embedScalar]("{id}:{lang}"),
		"a text embedded beside a blank":   compile[embedAddrBlank]("{addr}"),
		"two texts embedded":               compile[twoTexts]("{addr}:{prefix}"),
		"no placeholder for no field":      compile[struct{}]("config"),
	} {
		require.Empty(t, err, template)
	}
}

func TestPlaceholdersFindFieldsByTagGoNameOrSnakeCaseInAnyCase(t *testing.T) {
	t.Parallel()
	for _, template := range []string{
		"{user_id}:{lang}", "{UserID}:{Lang}", "{userid}:{LANG}", "{User_Id}:{lang}", "{{USERID}}:{lang}",
	} {
		require.Empty(t, compile[userKey](template), template)
	}
	for _, template := range []string{"{user}:{locale}", "{USER}:{Locale}"} {
		require.Empty(t, compile[taggedKey](template), template)
	}
	require.Empty(t, compile[acronymKey]("{http_port}:{id2_a}:{http_user_name}:{o_auth_id}"))
	require.Empty(t, compile[acronymKey]("{httpport}:{ID2A}:{http_username}:{oauthid}"))
	require.NotEmpty(t, compile[acronymKey]("{http_port}:{id2_a}:{httpusername}:{o_auth_id}"))
	require.Empty(t, compile[blankKey]("{id}"))
}
