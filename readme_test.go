package cachex

import (
	"fmt"
	"go/ast"
	"go/importer"
	"go/parser"
	"go/token"
	"go/types"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
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
	"crypto/tls"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/loader"
	"github.com/cachex-go/cachex/middleware"
	"github.com/cachex-go/cachex/httpcache"
	"github.com/cachex-go/cachex/sentinel"
	"github.com/cachex-go/cachex/twemproxy"
	"github.com/cachex-go/cachex/writebehind"
	"github.com/redis/go-redis/v9"
)

type User struct { ID int64; Name string }

type database struct{}

func (database) UserByID(context.Context, int64) (User, error) { return User{}, nil }
func (database) UsersByID(context.Context, []int64) (map[int64]User, error) { return nil, nil }
func (database) SaveUser(context.Context, int64, User) error { return nil }
func (database) SaveUsers(context.Context, map[int64]User) error { return nil }
func (database) Views(context.Context, int64) (int64, error) { return 0, nil }
func (database) AddViews(context.Context, counter.Flush[int64]) error { return nil }

func sample() {
	var (
		ctx     context.Context
		db      database
		rdb     redis.UniversalClient
		users   *cachex.Cache[int64, User]
		sessions *cachex.Cache[int64, string]
		secret  []byte
		retired []byte
		ids     []int64
		pool    *sql.DB
		applied *ledger.Ledger
		views   *counter.Counter[int64]

		addViews func(context.Context, *sql.Tx, ledger.Batch, []string) error
	)
	_, _, _, _ = ctx, db, rdb, users
	_, _, _, _ = pool, applied, addViews, views
	_, _, _, _ = secret, retired, ids, sessions
	{
%s
	}
	_ = errors.Is
	_ = fmt.Sprint
	_ = time.Second
	_ = tls.VersionTLS12
	_ = cachex.Forever
	_ = batch.ErrUsed
	_ = codec.ErrFormat
	_ = collection.ErrForeign
	_ = gate.ErrForeign
	_ = loader.ErrClosed
	_ = middleware.ErrOpen
	_ = slog.Default
	_ = http.MethodGet
	_ = net.ErrClosed
	_ = rand.Perm
	_ = httpcache.Options{}
	_ = writebehind.ErrClosed
	_ = sentinel.MaxLag
	_ = twemproxy.Knows
}
`

// The samples are type-checked against what go build has made of the packages already:
// to compile them, each with types of Cache of its own, would take minutes.
func TestDocs_EverySampleCompiles(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("docs/*.md")
	require.NoError(t, err)
	pages = append(pages, "README.md")
	exports, fset := exported(t), token.NewFileSet()
	imports := importer.ForCompiler(fset, "gc", func(path string) (io.ReadCloser, error) { return os.Open(exports[path]) })
	samples := 0
	for _, page := range pages {
		if filepath.Base(page) == "testing-your-code.md" {
			continue // its samples are tests that run: see cachextest/recipes_test.go
		}
		text, err := os.ReadFile(page)
		require.NoError(t, err)
		for _, m := range goBlock.FindAllSubmatch(text, -1) {
			samples++
			program := string(m[1])
			if !strings.HasPrefix(program, "package ") {
				program = fmt.Sprintf(fragment, program)
			}
			failed := func(err error) {
				// A fragment does not use all that it declares, and imports more than it uses.
				if text := err.Error(); !strings.Contains(text, "declared and not used") {
					t.Errorf("%s: %s\n%s", page, text, m[1])
				}
			}
			file, err := parser.ParseFile(fset, page, program, parser.SkipObjectResolution)
			if err != nil {
				failed(err)
				continue
			}
			conf := types.Config{Importer: imports, Error: failed}
			_, _ = conf.Check("sample", fset, []*ast.File{file}, nil) // every error is told to failed
		}
	}
	require.GreaterOrEqual(t, samples, 5, "the samples were not found")
}

// exported returns the files with the types of the packages that a sample may import.
func exported(t *testing.T) map[string]string {
	t.Helper()
	args := []string{"list", "-export", "-deps", "-f", "{{if .Export}}{{.ImportPath}}={{.Export}}{{end}}"}
	if raceEnabled { // then it is there already
		args = append(args, "-race")
	}
	out, err := exec.Command("go", append(args, "./...")...).Output()
	require.NoError(t, err)
	exports := map[string]string{}
	for line := range strings.Lines(string(out)) {
		path, file, _ := strings.Cut(strings.TrimSpace(line), "=")
		exports[path] = file
	}
	return exports
}

func TestDocs_ReadmeProgramRunsAsItSays(t *testing.T) {
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
