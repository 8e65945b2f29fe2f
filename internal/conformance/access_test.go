package conformance

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// direct are the commands that cachex sends, and what go-redis opens a connection
// with. The others of the ACL line are called by scripts.
var direct = []string{"dbsize", "eval", "evalsha", "get", "hello", "hget", "mget", "ping", "scan", "set", "sscan", "ssubscribe", "subscribe", "sunsubscribe", "unlink", "unsubscribe"}

// aclLine returns the line of docs/client.md.
func aclLine(t *testing.T) string {
	t.Helper()
	doc, err := os.ReadFile("../../docs/client.md")
	require.NoError(t, err)
	block := regexp.MustCompile("(?s)```\r?\n(ACL SETUSER .*?)```").FindSubmatch(doc)
	require.NotNil(t, block)
	return strings.Join(strings.Fields(strings.ReplaceAll(string(block[1]), "\\\n", " ")), " ")
}

func TestTheLineOfTheACLGrantsWhatIsCalledAndNothingElse(t *testing.T) {
	t.Parallel()
	called := slices.Clone(direct)
	call := regexp.MustCompile(`redis\.p?call\(['"]([A-Za-z]+)['"]`)
	root := filepath.Join("..", "..")
	require.NoError(t, filepath.WalkDir(root, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(file, ".go") || strings.HasSuffix(file, "_test.go") {
			return err
		}
		if rel, _ := filepath.Rel(root, file); strings.HasPrefix(rel, "bench") || strings.HasPrefix(rel, "examples") {
			return nil
		}
		source, err := os.ReadFile(file)
		for _, match := range call.FindAllSubmatch(source, -1) {
			called = append(called, strings.ToLower(string(match[1])))
		}
		return err
	}))
	slices.Sort(called)
	var granted []string
	for word := range strings.FieldsSeq(aclLine(t)) {
		if name, ok := strings.CutPrefix(word, "+"); ok {
			granted = append(granted, name)
		}
	}
	slices.Sort(granted)
	require.Equal(t, slices.Compact(called), granted, "docs/client.md")
}

func TestEverythingWorksForAUserWhoMayDoNothingElse(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	admin := server.Client(nil)
	var args []any
	for word := range strings.FieldsSeq(aclLine(t)) {
		args = append(args, strings.Trim(word, "'"))
	}
	require.NoError(t, admin.Do(t.Context(), args...).Err())
	if admin.Do(t.Context(), "client", "setinfo", "lib-name", "test").Err() == nil {
		require.NoError(t, admin.Do(t.Context(), "acl", "setuser", "cachex", "+client|setinfo").Err(), "as docs/client.md says")
	}
	user := func(o *redis.Options) { o.Username, o.Password = "cachex", "secret" }
	require.Error(t, server.Client(user).Get(t.Context(), "other").Err(), "the line grants foreign keys")
	require.NoError(t, admin.Do(t.Context(), "acl", "log", "reset").Err())
	runRows(t, topology{name: "standalone", prefix: "app:"}, server.Client(user), server.Client(user))
	denied, err := admin.Do(t.Context(), "acl", "log").Slice()
	require.NoError(t, err)
	require.Empty(t, denied)
}

func TestEverythingWorksOverTLS(t *testing.T) {
	t.Parallel()
	addr, config := redistest.StartTLS(t)
	a := closed(t, redis.NewClient(&redis.Options{Addr: addr, TLSConfig: config, ReadTimeout: patience}))
	b := closed(t, redis.NewClient(&redis.Options{Addr: addr, TLSConfig: config, ReadTimeout: patience}))
	runRows(t, topology{name: "standalone"}, a, b)
	// And nobody is spoken to who cannot prove who he is.
	other, _ := redistest.StartTLS(t)
	stranger := closed(t, redis.NewClient(&redis.Options{Addr: other, TLSConfig: config, MaxRetries: -1, DialerRetries: 1, DialTimeout: patience}))
	require.ErrorContains(t, stranger.Ping(t.Context()).Err(), "certificate")
}
