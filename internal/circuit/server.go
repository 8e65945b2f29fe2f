package circuit

import (
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
)

// servers returns a function that names the server to which rdb sends the
// commands of a key. It sends nothing.
func servers(rdb redis.UniversalClient) func(key string) string {
	if server := client.Servers(rdb); server != nil {
		return server
	}
	if client.TopologyOf(rdb) == client.Cluster {
		return func(key string) string { return ranges[slot(key)/(slots/ofCluster)] }
	}
	return func(string) string { return unknown }
}

const unknown = client.Unknown

// ofCluster is the number of circuits of a Cluster whose client does not reveal
// its masters. Each covers a range of slots.
const ofCluster = 64

var ranges = func() (names [ofCluster]string) {
	for i := range names {
		const each = slots / ofCluster
		names[i] = fmt.Sprintf("slots %d to %d", i*each, (i+1)*each-1)
	}
	return names
}()
