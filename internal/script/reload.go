package script

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Failed takes the error of a command of rdb, nil if it succeeded; scripts call
// it themselves. A ClusterClient asks which node serves which slots once a
// minute, and when a node redirects it. A dead node does not redirect. Without
// Failed, for up to that minute, a client would not find a replica that took
// over. So after an error that is not an answer, Failed asks the client to ask
// again. The client does so in the background, at most five times a second,
// however often it is asked.
func Failed(rdb redis.UniversalClient, err error) {
	if err == nil || errors.Is(err, context.Canceled) {
		return
	}
	if _, answered := errors.AsType[redis.Error](err); answered && !redis.IsClusterDownError(err) {
		return
	}
	if cluster, ok := rdb.(interface{ ReloadState(ctx context.Context) }); ok {
		cluster.ReloadState(context.Background())
	}
}
