package writebehind

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

func init() {
	redistest.Register("persister", func() {
		rdb := redis.NewClient(&redis.Options{Addr: os.Getenv("REDIS"), ReadTimeout: redistest.Patience})
		e, err := New(rdb, persister(rdb, os.Getenv("NAME")))
		if err != nil {
			panic(err)
		}
		e.Start()
		if os.Getenv("WRITES") != "" {
			if err := e.Add(context.Background(), "x", 1); err != nil {
				panic(err)
			}
		}
		fmt.Println("ready")
		select {}
	})
}

// persistOnce adds to a total in Redis, once for each batch.
var persistOnce = redis.NewScript(`
if redis.call('SADD', KEYS[1] .. ':tokens', ARGV[1]) == 1 then redis.call('INCRBY', KEYS[1], ARGV[2]) end
return 1`)

func persister(rdb *redis.Client, name string) Options {
	return Options{
		Name: name, Merge: Sum, Every: 200 * time.Millisecond, Buckets: 4,
		LeaseTTL: time.Second, // the others wait until the lease of a killed process ends
		Persist: func(ctx context.Context, b ledger.Batch) error {
			return persistOnce.Run(ctx, rdb, []string{name + ":total"}, b.Token, b.Deltas["x"]).Err()
		},
	}
}

// A process writes and is killed. An idle process, perhaps the one that has the
// turns, is killed too, until only one process is left.
func TestEngine_PersistsWhatKilledProcessesHaveWritten(t *testing.T) {
	t.Parallel()
	server, name := redistest.Shared(t), redistest.Key(t)
	rdb := server.Client(nil)
	env := []string{"REDIS=" + server.Addr(), "NAME=" + name}
	var resting []*redistest.Process
	for range 3 {
		p := redistest.Child(t, "persister", env...)
		p.WaitLine("ready")
		resting = append(resting, p)
	}
	o := persister(rdb, name)
	o.LeaseTTL = someLease // it does not die
	e, err := New(rdb, o)
	require.NoError(t, err)
	e.Start()
	for n, p := range resting {
		writer := redistest.Child(t, "persister", append(env, "WRITES=1")...)
		writer.WaitLine("ready")
		writer.Kill()
		p.Kill()
		require.Eventually(t, func() bool {
			total, _ := rdb.Get(t.Context(), name+":total").Int()
			return total == n+1
		}, patience, 10*time.Millisecond, "what writer %d has written is not persisted", n)
	}
	require.NoError(t, e.Close(bounded(t)))
	total, err := rdb.Get(t.Context(), name+":total").Int()
	require.NoError(t, err)
	require.Equal(t, len(resting), total)
}
