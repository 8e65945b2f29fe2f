package cachex_test

import (
	"context"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/cachextest"
	"github.com/cachex-go/cachex/counter"
)

// opsSeen is an Observer of the ops that it is told.
type opsSeen struct {
	mu  sync.Mutex
	ops map[string]bool
}

func (o *opsSeen) Begin(ctx context.Context, e cachex.Event) context.Context {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ops[e.Op] = true
	return ctx
}

func (o *opsSeen) End(context.Context, cachex.Event, cachex.Result) {}

// constants returns the values of the constants Op… of observe.go.
func constants(t *testing.T) (ops []string) {
	file, err := parser.ParseFile(token.NewFileSet(), "observe.go", nil, 0)
	require.NoError(t, err)
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if ok && strings.HasPrefix(spec.Names[0].Name, "Op") {
			op, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
			require.NoError(t, err)
			require.Equal(t, strings.ToLower(spec.Names[0].Name), "op"+op)
			ops = append(ops, op)
		}
		return true
	})
	return ops
}

func TestObserver_SeesEachDocumentedOp(t *testing.T) {
	t.Parallel()
	doc, err := os.ReadFile("docs/observing.md")
	require.NoError(t, err)
	_, table, ok := strings.Cut(string(doc), "| op | the event |")
	require.True(t, ok)
	table, _, _ = strings.Cut(table, "\n\n")
	var documented []string
	for _, row := range strings.Split(table, "\n") {
		if cells := strings.Split(row, "|"); len(cells) > 2 {
			for _, op := range regexp.MustCompile("`([a-z]+)`").FindAllStringSubmatch(cells[1], -1) {
				documented = append(documented, op[1])
			}
		}
	}
	require.ElementsMatch(t, constants(t), documented)

	seen := &opsSeen{ops: map[string]bool{}}
	ctx, rdb := t.Context(), cachextest.Redis(t)
	c := cachex.Must(cachex.New(rdb, cachex.Spec[int, int]{
		Key: "ops:{id}", TTL: time.Minute, Observer: seen, Up: func(_ context.Context, id int) (int, error) { return id, nil },
	}))
	count := cachex.Must(counter.New(rdb, counter.Spec[int]{
		Key: "counts:{id}", TTL: time.Minute, FlushEvery: time.Hour, Observer: seen,
		Up:   func(context.Context, int) (int64, error) { return 0, nil },
		Down: func(context.Context, counter.Flush[int]) error { return nil },
	}))
	for _, call := range []func() error{
		func() error { _, err := c.Get(ctx, 1); return err },
		func() error { _, err := c.GetMany(ctx, []int{1, 2}); return err },
		func() error { _, _, err := c.Lookup(ctx, 1); return err },
		func() error { _, err := c.LookupMany(ctx, []int{1, 2}); return err },
		func() error { _, err := c.Refresh(ctx, 1); return err },
		func() error { return c.Set(ctx, 1, 1) },
		func() error { return c.SetMany(ctx, map[int]int{1: 1, 2: 2}) },
		func() error { return c.Expire(ctx, 1) },
		func() error { return c.Delete(ctx, 1) },
		func() error { _, err := c.Clear(ctx); return err },
		func() error { _, err := count.Inc(ctx, 1); return err },
		func() error { _, err := count.AddOnce(ctx, 1, 1, "op"); return err },
		func() error { return count.Flush(ctx) },
		func() error { return c.Close(ctx) },
		func() error { return count.Close(ctx) },
	} {
		require.NoError(t, call())
	}
	require.ElementsMatch(t, documented, slices.Collect(maps.Keys(seen.ops)))
}
