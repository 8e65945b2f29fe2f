package cachex

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestObserver_SeesCallsAndLoadsInOrder(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d := new(diary)
		var inUp []any
		up := func(ctx context.Context, ids []int) (map[int]string, error) {
			<-time.After(time.Second)
			for _, op := range []string{"get", "getmany", "load"} {
				if v := ctx.Value(diaryKey{op}); v != nil {
					inUp = append(inUp, op, v)
				}
			}
			if ids[0] == 9 {
				return nil, errSource
			}
			return map[int]string{1: "one", 2: "two", 3: "three"}, nil
		}
		c := newCache(t, rdb, Spec[int, string]{
			Name: "c", Key: "k:{id}", Observer: d, UpMany: up, StaleWhileRevalidate: time.Minute, NotFoundTTL: time.Minute,
			Down: func(context.Context, int, string) error { return nil },
		})
		ctx := t.Context()
		for _, row := range []struct {
			what  string
			call  func() error
			lines []string
			inUp  []any
		}{
			{"a miss", func() error { _, err := c.Get(ctx, 1); return err }, []string{
				"begin get c k:1 1", "begin load c k:1 1",
				`end load c k:1 1 (2): "" 1s <nil>`, `end get c k:1 1 (1): "loaded" 1s <nil>`,
			}, []any{"get", 1, "load", 2}},
			{"a hit", func() error { _, err := c.Get(ctx, 1); return err }, []string{
				"begin get c k:1 1", `end get c k:1 1 (1): "hit" 0s <nil>`,
			}, nil},
			{"an error", func() error { _, err := c.Get(ctx, 9); require.Error(t, err); return nil }, []string{
				"begin get c k:9 1", "begin load c k:9 1", `end load c k:9 1 (2): "" 1s the source is away`,
				`end get c k:9 1 (1): "" 1s cachex: get k:9: the source is away`,
			}, []any{"get", 1, "load", 2}},
			{"an absence", func() error { _, err := c.Get(ctx, 4); require.ErrorIs(t, err, ErrNotFound); return nil }, []string{
				"begin get c k:4 1", "begin load c k:4 1", `end load c k:4 1 (2): "" 1s not found`,
				`end get c k:4 1 (1): "loaded" 1s cachex: get k:4: not found`,
			}, []any{"get", 1, "load", 2}},
			{"many", func() error { _, err := c.GetMany(ctx, []int{1, 2, 3, 2}); return err }, []string{
				"begin getmany c k:1 3", "begin load c k:2 2",
				`end load c k:2 2 (2): "" 1s <nil>`, `end getmany c k:1 3 (1): "loaded" 1s <nil>`,
			}, []any{"getmany", 1, "load", 2}},
			{"a lookup", func() error { _, _, err := c.Lookup(ctx, 5); return err }, []string{
				"begin lookup c k:5 1", `end lookup c k:5 1 (1): "" 0s <nil>`,
			}, nil},
			{"a lookup of many", func() error { _, err := c.LookupMany(ctx, []int{1, 4}); return err }, []string{
				"begin lookupmany c k:1 2", `end lookupmany c k:1 2 (1): "not found" 0s <nil>`,
			}, nil},
			{"a refresh", func() error { _, err := c.Refresh(ctx, 1); return err }, []string{
				"begin refresh c k:1 1", "begin load c k:1 1",
				`end load c k:1 1 (2): "" 1s <nil>`, `end refresh c k:1 1 (1): "loaded" 1s <nil>`,
			}, []any{"load", 2}},
			{"a set", func() error { return c.Set(ctx, 1, "set") }, []string{
				"begin set c k:1 1", `end set c k:1 1 (1): "" 0s <nil>`,
			}, nil},
			{"a set of many", func() error { return c.SetMany(ctx, map[int]string{7: "seven"}) }, []string{
				"begin setmany c k:7 1", `end setmany c k:7 1 (1): "" 0s <nil>`,
			}, nil},
			{"an expire", func() error { return c.Expire(ctx, 1, 2) }, []string{
				"begin expire c k:1 2", `end expire c k:1 2 (1): "" 0s <nil>`,
			}, nil},
			{"a stale value", func() error { // whose load is told of when it comes
				_, err := c.Get(ctx, 1)
				lines := d.read()
				require.Contains(t, lines, "begin get c k:1 1")
				require.Contains(t, lines, `end get c k:1 1 (1): "stale" 0s <nil>`)
				synctest.Wait()
				time.Sleep(time.Second)
				synctest.Wait()
				return err
			}, nil, []any{"get", 1, "load"}},
			{"a delete", func() error { return c.Delete(ctx, 1, 2, 3) }, []string{
				"begin delete c k:1 3", `end delete c k:1 3 (1): "" 0s <nil>`,
			}, nil},
		} {
			_, _ = d.read(), ctx
			inUp = nil
			require.NoError(t, row.call(), row.what)
			lines := d.read()
			if row.lines == nil { // when a load in the background begins is its own affair
				require.Equal(t, row.inUp, inUp[:3], row.what)
				continue
			}
			require.Equal(t, row.lines, lines, row.what)
			require.Equal(t, row.inUp, inUp, row.what)
		}
	})
}

// Where nothing is done there is nothing to tell.
func TestObserver_DoesNotSeeRefusedCalls(t *testing.T) {
	t.Parallel()
	d := new(diary)
	c := newCache(t, closedClient(t), Spec[int, string]{Observer: d})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Get(ended, 1)
	require.ErrorIs(t, err, context.Canceled)
	_, err = c.Refresh(t.Context(), 1)
	require.ErrorIs(t, err, errNoUp)
	require.NoError(t, c.Delete(t.Context()))
	require.NoError(t, c.SetMany(t.Context(), nil))
	require.NoError(t, c.Close(t.Context()))
	_, err = c.Get(t.Context(), 1)
	require.ErrorIs(t, err, ErrClosed)
	require.Empty(t, d.read())
}

// What begins ends, with the error of Redis too.
func TestObserver_SeesFailuresOfRedis(t *testing.T) {
	t.Parallel()
	d := new(diary)
	c := newCache(t, closedClient(t), Spec[int, string]{Observer: d, Key: "k:{id}"})
	for op, call := range map[string]func() error{
		"get":    func() error { _, err := c.Get(t.Context(), 1); return err },
		"set":    func() error { return c.Set(t.Context(), 1, "v") },
		"delete": func() error { return c.Delete(t.Context(), 1) },
		"expire": func() error { return c.Expire(t.Context(), 1) },
	} {
		err := call()
		require.Error(t, err, op)
		lines := d.read()
		require.Len(t, lines, 2, op)
		require.Equal(t, "begin "+op+" k k:1 1", lines[0])
		require.Contains(t, lines[1], errors.Unwrap(err).Error())
	}
}
