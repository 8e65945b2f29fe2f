package script_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// A ClusterClient resends a pipeline whose first command was told TRYAGAIN.
// With it, it sends the commands that were told MOVED, twice at once.
func TestACallThatHasMovedIsSentOnceThoughAnotherOneOfThePipelineIsTorn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	c := redistest.StartCluster(t, 2)
	rdb := c.Client(nil)
	count := script.NewHarmless("count", "redis.call('GET', KEYS[2])\nreturn redis.call('INCR', KEYS[1])\n")
	from := c.Owner("{a}")
	to := c.OtherThan(from)
	var here, there []string // tags
	for i := 0; len(here) < 2 || len(there) < 1; i++ {
		if tag := fmt.Sprintf("{%d}", i); c.Owner(tag) == from {
			here = append(here, tag)
		} else {
			there = append(there, tag)
		}
	}
	call := func(tag string) *script.Call {
		return &script.Call{Script: count, Key: tag + "count", More: []string{tag + "other"}}
	}
	for _, tag := range append(here, there...) { // after this, both masters know the script
		require.NoError(t, call(tag).Run(ctx, rdb))
		require.NoError(t, rdb.Set(ctx, tag+"other", "", 0).Err())
	}
	c.Move(c.Slot(here[1]), to, nil)
	c.Move(c.Slot(here[0]), to, sync.OnceFunc(func() {
		torn, moved := call(here[0]), call(here[1])
		require.NoError(t, script.Pipeline(ctx, rdb, []*script.Call{torn, moved}))
		require.ErrorContains(t, torn.Err, "TRYAGAIN ")
		require.NoError(t, moved.Err)
		require.EqualValues(t, 2, moved.Reply)
	}))
	require.Equal(t, "2", rdb.Get(ctx, here[1]+"count").Val())
}
