package redistest

import (
	"testing"

	"github.com/redis/go-redis/v9"
)

// Sharded reports whether the server of rdb supports sharded channels, which
// the embedded one does not.
func Sharded(t testing.TB, rdb redis.UniversalClient) bool {
	t.Helper()
	err := rdb.SPublish(t.Context(), Key(t)+":no channel", "").Err()
	if redis.HasErrorPrefix(err, "unknown command") {
		return false
	}
	must(t, err)
	return true
}

// Subscribe returns a confirmed subscription to sharded channels, or to plain
// ones if the server does not support sharded channels. The caller must close
// it.
func Subscribe(t testing.TB, rdb redis.UniversalClient, channels ...string) *redis.PubSub {
	t.Helper()
	subscribe := rdb.Subscribe
	if Sharded(t, rdb) {
		subscribe = rdb.SSubscribe
	}
	sub := subscribe(t.Context(), channels...)
	for range channels {
		_, err := sub.Receive(t.Context())
		must(t, err)
	}
	return sub
}

// Publish sends a message to subscriptions of Subscribe.
func Publish(t testing.TB, rdb redis.UniversalClient, channel, message string) {
	t.Helper()
	publish := rdb.Publish
	if Sharded(t, rdb) {
		publish = rdb.SPublish
	}
	must(t, publish(t.Context(), channel, message).Err())
}

// Subscribers returns the number of connections that have subscribed to
// channel.
func Subscribers(t testing.TB, rdb redis.UniversalClient, channel string) int64 {
	t.Helper()
	count := rdb.PubSubNumSub
	if Sharded(t, rdb) {
		count = rdb.PubSubShardNumSub
	}
	n, err := count(t.Context(), channel).Result()
	must(t, err)
	return n[channel]
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
