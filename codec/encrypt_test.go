package codec_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/codec/codectest"
)

func secret(n int, fill byte) []byte { return bytes.Repeat([]byte{fill}, n) }

func TestEncryptRoundTrips(t *testing.T) {
	t.Parallel()
	for _, n := range []int{16, 24, 32} {
		codectest.Run(t, codec.Encrypt(codec.For[string](), codec.Key{ID: 9, Secret: secret(n, 1)}), "", "value", text(5000))
	}
	packed := codec.Compress(codec.For[everything](), codec.Compression{Threshold: 1})
	codectest.Run(t, codec.Encrypt(packed, codec.Key{Secret: secret(32, 1)}), full())
}

func TestEncryptHidesTheValueAndNeverRepeats(t *testing.T) {
	t.Parallel()
	k := codec.Bind(codec.Encrypt(codec.For[string](), codec.Key{Secret: secret(32, 1)}))
	a, err := k.AppendKeyed(nil, "key", "attack at dawn")
	require.NoError(t, err)
	b, err := k.AppendKeyed(nil, "key", "attack at dawn")
	require.NoError(t, err)
	require.NotContains(t, string(a), "attack")
	require.NotEqual(t, a, b)
	require.Len(t, a, len("attack at dawn")+33)
}

func TestEncryptLeavesNoPlainBytesBehindWhatItReturns(t *testing.T) {
	t.Parallel()
	k := codec.Bind(codec.Encrypt(codec.For[string](), codec.Key{Secret: secret(32, 1)}))
	for _, room := range []int{0, 20, 30, 1000} { // too little for the value, too little for the tag, enough
		dst := make([]byte, 0, room)
		_, err := k.AppendKeyed(dst, "key", "attack at dawn")
		require.NoError(t, err)
		require.NotContains(t, string(dst[:cap(dst)]), "attack", "room of %d", room)
	}
}

func TestEncryptNoticesEveryChange(t *testing.T) {
	t.Parallel()
	k := codec.Bind(codec.Encrypt(codec.For[string](), codec.Key{ID: 1, Secret: secret(32, 1)}, codec.Key{ID: 2, Secret: secret(32, 1)}))
	src, err := k.AppendKeyed(nil, "key", "value")
	require.NoError(t, err)
	for i := range src {
		for bit := range 8 {
			changed := bytes.Clone(src)
			changed[i] ^= 1 << bit
			require.ErrorIs(t, k.DecodeKeyed(changed, "key", new(string)), codec.ErrFormat, "bit %d of byte %d", bit, i)
		}
		require.ErrorIs(t, k.DecodeKeyed(src[:i], "key", new(string)), codec.ErrFormat)
	}
	require.ErrorIs(t, k.DecodeKeyed(append(bytes.Clone(src), 0), "key", new(string)), codec.ErrAuth)
	swapped := bytes.Clone(src)
	swapped[4] = 2 // the ID of another key with the same secret
	require.ErrorIs(t, k.DecodeKeyed(swapped, "key", new(string)), codec.ErrAuth)

	v := "before"
	require.ErrorIs(t, k.DecodeKeyed(src, "other key", &v), codec.ErrAuth)
	require.Zero(t, v)
	require.NoError(t, k.DecodeKeyed(src, "key", &v))
	require.Equal(t, "value", v)
}

func TestEncryptRotatesKeys(t *testing.T) {
	t.Parallel()
	first, second := codec.Key{ID: 1, Secret: secret(32, 1)}, codec.Key{ID: 2, Secret: secret(16, 2)}
	with := func(keys ...codec.Key) codec.Keyed[string] {
		return codec.Bind(codec.Encrypt(codec.For[string](), keys...))
	}
	for _, step := range []struct {
		writer, reader codec.Keyed[string]
		ok             bool
	}{
		{with(first), with(first, second), true},
		{with(first, second), with(first), true},
		{with(second, first), with(first, second), true},
		{with(first), with(second, first), true},
		{with(second, first), with(second), true},
		{with(first), with(second), false},
		{with(first), with(codec.Key{ID: 1, Secret: secret(32, 3)}), false}, // another secret with that ID
	} {
		src, err := step.writer.AppendKeyed(nil, "key", "value")
		require.NoError(t, err)
		err = step.reader.DecodeKeyed(src, "key", new(string))
		if step.ok {
			require.NoError(t, err)
		} else {
			require.ErrorIs(t, err, codec.ErrAuth)
		}
	}
	src, err := with(first).AppendKeyed(nil, "key", "value")
	require.NoError(t, err)
	require.EqualError(t, with(second).DecodeKeyed(src, "key", new(string)), "codec: Encrypt: no key has the ID 1")
}

func TestEncryptChecksItsKeys(t *testing.T) {
	t.Parallel()
	for want, keys := range map[string][]codec.Key{
		"a key is required": nil,
		"Secret of key 5 has 15 bytes, want 16, 24 or 32": {{ID: 5, Secret: secret(15, 1)}},
		"Secret of key 0 has 0 bytes, want 16, 24 or 32":  {{}},
		"two keys have the ID 3":                          {{ID: 3, Secret: secret(16, 1)}, {ID: 3, Secret: secret(16, 2)}},
		"Secret of key 2 has 33 bytes, want 16, 24 or 32": {{ID: 1, Secret: secret(16, 1)}, {ID: 2, Secret: secret(33, 1)}},
	} {
		err := codec.Check(codec.Encrypt(codec.For[string](), keys...))
		require.ErrorIs(t, err, codec.ErrConfig)
		require.EqualError(t, err, "codec: Encrypt: "+want)
	}
}

func TestEncryptDoesNotNeedTheSecretOnceMade(t *testing.T) {
	t.Parallel()
	s := secret(32, 7)
	k := codec.Bind(codec.Encrypt(codec.For[string](), codec.Key{Secret: s}))
	src, err := k.AppendKeyed(nil, "key", "value")
	require.NoError(t, err)
	clear(s)
	require.NoError(t, k.DecodeKeyed(src, "key", new(string)))
}

func TestKeyNeverShowsItsSecret(t *testing.T) {
	t.Parallel()
	k := codec.Key{ID: 5, Secret: []byte("0123456789abcdef")}
	shown := []string{k.String()}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%X", "%d"} {
		shown = append(shown, fmt.Sprintf(verb, k), fmt.Sprintf(verb, &k), fmt.Sprintf(verb, []codec.Key{k}), fmt.Sprintf(verb, struct{ K codec.Key }{k}))
	}
	for _, v := range []any{k, &k, []codec.Key{k}, map[string]codec.Key{"k": k}} {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		shown = append(shown, string(b))
	}
	var log bytes.Buffer
	slog.New(slog.NewTextHandler(&log, nil)).Info("m", "key", k)
	slog.New(slog.NewJSONHandler(&log, nil)).Info("m", "key", k)
	for _, s := range append(shown, log.String()) {
		for _, leak := range []string{"0123456789", "30313233", "MDEyMzQ1", "48 49 50", "0x30, 0x31"} {
			require.NotContains(t, s, leak)
		}
		require.True(t, slices.ContainsFunc([]string{"ID: 5"}, func(id string) bool { return bytes.Contains([]byte(s), []byte(id)) }), s)
	}
}
