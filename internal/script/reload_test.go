package script

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// asked counts how often a client is asked to reload its slots.
type asked struct {
	redis.UniversalClient
	n int
}

func (a *asked) ReloadState(context.Context) { a.n++ }

// reply is an error in the reply of a server.
type reply string

func (r reply) Error() string { return string(r) }
func (reply) RedisError()     {}

func TestAClusterIsAskedForItsSlotsWhereANodeDoesNotAnswer(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]int{
		nil: 0, context.Canceled: 0, redis.Nil: 0, reply("MOVED 1 127.0.0.1:1"): 0, reply("OOM"): 0,
		reply("CLUSTERDOWN The cluster is down"): 1, io.EOF: 1, context.DeadlineExceeded: 1, os.ErrDeadlineExceeded: 1,
		&net.OpError{Op: "dial", Err: errors.New("refused")}: 1,
	} {
		a := new(asked)
		Failed(a, err)
		require.Equal(t, want, a.n, "%v", err)
	}
	Failed(nil, io.EOF)
}
