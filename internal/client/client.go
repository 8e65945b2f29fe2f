// Package client finds out the kind of a Redis client.
//
// Users wrap clients, for example in a struct that embeds
// redis.UniversalClient, to trace them. So a client is recognised by its
// behaviour. Its type is conclusive only if it is one of go-redis' own.
package client

import (
	"cmp"
	"context"
	"errors"
	"reflect"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redact"
)

// Topology says to which servers a client sends commands.
type Topology uint8

const (
	// OneServer is a client that sends every command to the same server or
	// proxy.
	OneServer Topology = iota

	// Cluster is a client that sends a command to the node that has the slot of
	// its key. A client whose kind cannot be found out counts as Cluster.
	Cluster

	// Ring is a client that sends a command to the shard of its key. The shards
	// do not know of each other.
	Ring
)

// TopologyOf returns the topology of rdb. It sends nothing.
//
// Asked to watch no keys, a client of several servers refuses, and a client of
// one server calls the function. Asked to subscribe to no channel, a Ring
// panics with a string, since it has no shard for that. A wrapper passes all
// this on.
func TopologyOf(rdb redis.UniversalClient) Topology {
	switch rdb := rdb.(type) {
	case *redis.Client:
		return OneServer
	case masters:
		return Cluster
	case shards:
		return Ring
	default:
		if watchesNothing(rdb) == nil {
			return OneServer
		}
	}
	err := guard.Call(guard.Client, func() error {
		_ = rdb.Subscribe(context.Background()).Close()
		return nil
	})
	// A test fake around a nil client panics with a runtime.Error.
	if p, ok := errors.AsType[*guard.PanicError](err); ok {
		if _, ok := p.Value.(string); ok {
			return Ring
		}
	}
	return Cluster
}

// masters is a ClusterClient or a type that embeds one, and shards a Ring. A
// ClusterClient has the method of a Ring too, but that one also visits
// replicas.
type (
	masters interface {
		ForEachMaster(ctx context.Context, fn Visit) error
	}
	shards interface {
		ForEachShard(ctx context.Context, fn Visit) error
	}
)

// Visit is called with the client of one server.
type Visit = func(ctx context.Context, node *redis.Client) error

var errNotWatched = errors.New("Watch has not called its function")

// watchesNothing returns nil if rdb accepts a Watch of no keys.
func watchesNothing(rdb redis.UniversalClient) (err error) {
	defer guard.Catch(guard.Client, &err)
	called := errNotWatched
	if err := rdb.Watch(context.Background(), func(*redis.Tx) error { called = nil; return nil }); err != nil {
		return err
	}
	return called
}

// ErrHidden says that a client of several servers does not name them. It is an
// AutoPipeline, or a wrapper that hides the methods of its inner client.
var ErrHidden = errors.New("Clear has to reach every master, and the client hides them: make the cache with the ClusterClient or Ring itself")

// EachMaster returns the topology of rdb, and a function that calls a Visit
// with every master at the same time. That function returns the first error. If
// a Visit panics or calls runtime.Goexit, that is its error. The error of
// EachMaster is ErrHidden.
func EachMaster(rdb redis.UniversalClient) (t Topology, each func(context.Context, Visit) error, err error) {
	var all func(context.Context, Visit) error
	switch rdb := rdb.(type) {
	case masters:
		t, all = Cluster, rdb.ForEachMaster
	case shards:
		t, all = Ring, rdb.ForEachShard
	default:
		return OneServer, nil, hidden(rdb)
	}
	return t, func(ctx context.Context, visit Visit) error {
		var mu sync.Mutex
		var first error // a Visit that exits its goroutine returns no error to go-redis
		err := guard.Call(guard.Client, func() error {
			return all(ctx, func(ctx context.Context, node *redis.Client) (failed error) {
				guard.Run(guard.Client, func() error { return visit(ctx, node) }, func(err error) {
					mu.Lock()
					defer mu.Unlock()
					first, failed = cmp.Or(first, err), err
				})
				return failed
			})
		})
		return cmp.Or(first, err)
	}, nil
}

func hidden(rdb redis.UniversalClient) error {
	if err := watchesNothing(rdb); err != nil {
		return redact.Error(ErrHidden.Error(), errors.Join(ErrHidden, err))
	}
	return nil
}

// Master returns the client of the server that has key if rdb is a client of
// go-redis, and nil otherwise. Commands sent through the returned client bypass
// the hooks of rdb: use it only to tell servers apart.
func Master(ctx context.Context, rdb redis.UniversalClient, key string) (node *redis.Client) {
	var err error
	switch rdb := rdb.(type) {
	case *redis.Client:
		return rdb
	case *redis.ClusterClient:
		node, err = rdb.MasterForKey(ctx, key)
	case *redis.Ring:
		node, err = rdb.GetShardClientForKey(key)
	}
	if err != nil {
		return nil
	}
	return node
}

// Plain reports whether rdb is go-redis' own client of one server, without a
// wrapper.
func Plain(rdb redis.UniversalClient) bool {
	_, ok := rdb.(*redis.Client)
	return ok
}

// Nil reports whether rdb is nil, or an interface around a nil pointer.
func Nil(rdb redis.UniversalClient) bool {
	if rdb == nil {
		return true
	}
	v := reflect.ValueOf(rdb)
	return v.Kind() == reflect.Pointer && v.IsNil()
}

// Comparable reports whether rdb can be a map key. For a user's struct that has
// a field of an interface type, that depends on the value of the field.
func Comparable(rdb redis.UniversalClient) bool { return reflect.ValueOf(rdb).Comparable() }

// Same reports whether a and b are the same client. If one is not comparable,
// Same returns false.
func Same(a, b redis.UniversalClient) bool { return Comparable(a) && Comparable(b) && a == b }
