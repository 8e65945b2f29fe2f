// Package sentinel makes go-redis clients of a master that Redis Sentinels
// watch.
//
//	rdb, err := sentinel.NewClient(&redis.FailoverOptions{
//		MasterName: "users",
//		SentinelAddrs: []string{
//			"10.0.0.1:26379", "10.0.0.2:26379", "10.0.0.3:26379",
//		},
//	})
//
// A client of redis.NewFailoverClient listens to one Sentinel. If a partition
// cuts that Sentinel and the master off from the others, the others elect a new
// master. The client goes on with the old one, and reads values that were
// deleted, until the partition ends. A client of this package asks all
// Sentinels. It uses a server only while most of them say that the server is
// the master.
package sentinel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"reflect"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// MaxLag is the maximum age of an answer of a Sentinel.
const MaxLag = 2 * time.Second

// NewClient returns a client of the master of o, like redis.NewFailoverClient.
// It makes no call and does not change o. o must list all Sentinels.
//
// The client sends a command only to a server that most Sentinels have named as
// the master within the last MaxLag. Suppose that all processes use such
// clients, and that the new master has a deletion. Then no read that begins
// MaxLag or more after Delete returned nil returns the deleted value. If a
// connection leads to another server, it is closed with an error that wraps
// ErrMaster, and the next connection leads to the new master. While most
// Sentinels do not answer, every call fails with that error: a cache then loads
// directly, as it does while Redis is down.
//
// While a client is used, it asks each Sentinel about once a second, over one
// connection. After a pause of MaxLag, a command first waits for their answers.
//
// The error names the wrong option: MasterName and SentinelAddrs are required,
// and options that read from replicas are refused.
func NewClient(o *redis.FailoverOptions) (*redis.Client, error) {
	if err := check(o); err != nil {
		return nil, fmt.Errorf("cachex: new sentinel client: %w", err)
	}
	w := newWatch(o)
	c := clientOptions(o)
	c.Addr = "sentinel:" + o.MasterName // for errors; the Dialer finds the address
	c.Dialer = w.dial
	return redis.NewClient(c), nil
}

// ErrMaster says that no server is known to be the master, or that a connection
// leads to another server.
var ErrMaster = errors.New("the Sentinels do not say that it is the master")

func check(o *redis.FailoverOptions) error {
	switch {
	case o == nil:
		return errors.New("the options are nil")
	case o.MasterName == "":
		return errors.New("MasterName is required")
	case len(o.SentinelAddrs) == 0:
		return errors.New("SentinelAddrs is required")
	case o.ReplicaOnly:
		return errors.New("ReplicaOnly reads from replicas")
	case o.RouteByLatency:
		return errors.New("RouteByLatency reads from replicas")
	case o.RouteRandomly:
		return errors.New("RouteRandomly reads from replicas")
	}
	return nil
}

// clientOptions returns the options of o that a client of one server also has:
// fields of the same name mean the same.
func clientOptions(o *redis.FailoverOptions) *redis.Options {
	c := &redis.Options{MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}}
	from, to := reflect.ValueOf(o).Elem(), reflect.ValueOf(c).Elem()
	for i := range from.NumField() {
		if f := to.FieldByName(from.Type().Field(i).Name); f.IsValid() {
			f.Set(from.Field(i))
		}
	}
	return c
}

// sentinelOptions returns the options of the client of one Sentinel. That
// client fails at once, because the other Sentinels answer.
func sentinelOptions(o *redis.FailoverOptions, addr string) *redis.Options {
	return &redis.Options{
		Addr: addr, ClientName: o.ClientName, Dialer: o.Dialer, OnConnect: o.OnConnect, TLSConfig: o.TLSConfig,
		Username: o.SentinelUsername, Password: o.SentinelPassword, Protocol: o.Protocol,
		DisableIdentity: o.DisableIdentity, IdentitySuffix: o.IdentitySuffix,
		DialTimeout: askTimeout, ReadTimeout: askTimeout, WriteTimeout: askTimeout, ContextTimeoutEnabled: true,
		MaxRetries: -1, DialerRetries: 1, PoolSize: 1, PipelinePoolSize: -1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	}
}

// dialServer connects to the master.
func dialServer(ctx context.Context, o *redis.FailoverOptions, network, addr string) (net.Conn, error) {
	if o.Dialer != nil {
		return o.Dialer(ctx, network, addr)
	}
	d := &net.Dialer{Timeout: o.DialTimeout}
	if o.TLSConfig == nil {
		return d.DialContext(ctx, network, addr)
	}
	return (&tls.Dialer{NetDialer: d, Config: o.TLSConfig}).DialContext(ctx, network, addr)
}
