package cachex

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestNew_RefusesATemplateInUseForAnotherType(t *testing.T) {
	t.Parallel()
	rdb := redistest.InMemory(t)
	of := func(name, key string) Spec[int, User] { return Spec[int, User]{Name: name, Key: key} }
	newCache(t, rdb, of("people", "users:{id}"))
	newCache(t, rdb, of("more people", "users:{id}")) // of one type: they share their entries

	words := Spec[int, string]{Name: "words", Key: "users:{user_id}", TTL: Forever}
	_, err := New(rdb, words)
	require.EqualError(t, err, `cachex: cache "words" of string has the key "users:{user_id}" of cache "people" of cachex.User on this client: choose another key, or close the other one`)
	packed := words
	packed.Packed = 100
	newCache(t, rdb, packed) // other keys in Redis
	newCache(t, process(t, rdb), words)
	apart := words
	apart.Key = "users:{{user_id}}" // other keys too
	newCache(t, rdb, apart)
	byFunc := words
	byFunc.Key, byFunc.KeyFunc = "", func(int) string { return "users:1" }
	newCache(t, rdb, byFunc) // cannot be told
}

func TestNew_AdmitsAnotherTypeAfterClose(t *testing.T) {
	t.Parallel()
	rdb := redistest.InMemory(t)
	ctx := t.Context()
	open := func() *Cache[int, User] { return Must(New(rdb, Spec[int, User]{Key: "users:{id}", TTL: Forever})) }
	first, second := open(), open()
	words := Spec[int, string]{Key: "users:{id}", TTL: Forever}
	require.NoError(t, first.Close(ctx))
	require.NoError(t, first.Close(ctx), "a second Close releases nothing twice")
	_, err := New(rdb, words)
	require.ErrorContains(t, err, "choose another key", "the second cache is open")
	require.NoError(t, second.Close(ctx))

	// A New that fails afterwards holds no template.
	bad := words
	bad.WriteBehind, bad.WriteBehindOptions.MaxBytes = time.Second, -1
	bad.Down = func(context.Context, int, string) error { return nil }
	_, err = New(rdb, bad)
	require.ErrorContains(t, err, "MaxBytes")
	require.NoError(t, open().Close(ctx))
	newCache(t, rdb, words)
}
