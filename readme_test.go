package cachex

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

var goBlock = regexp.MustCompile("(?s)\n```go\n(.*?)\n```\n")

// fragment is what the samples that are no whole programs stand in. It is no
// program either, so that it is compiled and not linked.
const fragment = `package sample

import (
	"context"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/loader"
	"github.com/redis/go-redis/v9"
)

type User struct { ID int64; Name string }

type database struct{}

func (database) UserByID(context.Context, int64) (User, error) { return User{}, nil }
func (database) UsersByID(context.Context, []int64) (map[int64]User, error) { return nil, nil }
func (database) SaveUser(context.Context, int64, User) error { return nil }
func (database) SaveUsers(context.Context, map[int64]User) error { return nil }

func sample() {
	var (
		ctx     context.Context
		db      database
		rdb     redis.UniversalClient
		users   *cachex.Cache[int64, User]
		secret  []byte
		retired []byte
		ids     []int64
	)
	_, _, _, _ = ctx, db, rdb, users
	_, _, _ = secret, retired, ids
	{
%s
	}
	_ = fmt.Sprint
	_ = time.Second
	_ = cachex.Forever
	_ = codec.ErrFormat
	_ = loader.ErrClosed
}
`

func TestEverySampleInTheDocsCompiles(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	pages = append(pages, "README.md")
	// All are compiled by one call of go build, as packages of this module that are
	// there by an overlay only: a call for each would take a minute.
	type sample struct{ page, code string }
	samples := map[string]sample{} // by package
	overlay := map[string]string{}
	here, err := filepath.Abs(".")
	require.NoError(t, err)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range goBlock.FindAllSubmatch(text, -1) {
			program := string(m[1])
			if !strings.HasPrefix(program, "package ") {
				program = fmt.Sprintf(fragment, program)
			}
			file := filepath.Join(t.TempDir(), "main.go")
			require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
			dir := fmt.Sprintf("internal/samples/s%d", len(samples))
			samples["github.com/cachex-go/cachex/"+dir] = sample{page, string(m[1])}
			overlay[filepath.Join(here, dir, "main.go")] = file
		}
	}
	require.GreaterOrEqual(t, len(samples), 5, "the samples were not found")
	text, err := json.Marshal(map[string]any{"Replace": overlay})
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "overlay.json")
	require.NoError(t, os.WriteFile(file, text, 0o600))

	args := append([]string{"build", "-overlay", file, "-gcflags=-e"}, slices.Collect(maps.Keys(samples))...)
	out, err := exec.Command("go", args...).CombinedOutput()
	var in sample // the one that the lines are about, after one that begins with #
	for line := range strings.Lines(string(out)) {
		if name, ok := strings.CutPrefix(line, "# "); ok {
			in, ok = samples[strings.TrimSpace(name)]
			require.True(t, ok, "%s", out)
		} else if !strings.Contains(line, "declared and not used") {
			t.Errorf("%s: %s\n%s", in.page, line, in.code)
		}
	}
	require.True(t, err == nil || in.page != "", "go build: %v", err)
}

func TestTheProgramInTheReadmeRunsAsItSays(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("README.md")
	require.NoError(t, err)
	program := string(goBlock.FindSubmatch(text)[1])
	server := redistest.StartEmbedded(t)
	require.Contains(t, program, "localhost:6379")
	program = strings.Replace(program, "localhost:6379", server.Addr(), 1)
	file := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(file, []byte(program), 0o600))
	out, err := exec.Command("go", "run", file).CombinedOutput()
	require.NoError(t, err, string(out))
	require.Equal(t, "144 <nil>\n144 <nil>\n", string(out))
}
