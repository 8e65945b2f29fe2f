package script

import (
	"context"
	"errors"

	"github.com/redis/go-redis/v9"
)

// Failed is told how a command of rdb ended, nil if well; scripts tell it by themselves. A ClusterClient asks who
// serves which slots once a minute, and when a node sends it elsewhere, which one that
// died does not: without this a replica that took over long ago is not found for so
// long. So after an error that is no answer the client is asked to ask again. It does
// that in the background, at most five times a second, however often it is asked to.
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
