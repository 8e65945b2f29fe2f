// Package client tells what a client of Redis is.
//
// Users wrap clients, in a struct that embeds redis.UniversalClient say, to trace
// them. So a client is recognised by what it does. Its type says what it is only
// where it is one of go-redis' own.
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

// A Topology says which servers a client sends commands to.
type Topology uint8

const (
	// OneServer is a client that sends every command to the same server, or to a
	// proxy.
	OneServer Topology = iota

	// Cluster is a client that sends a command to the node that has the slot of its
	// key. A client that cannot be asked what it is counts as one.
	Cluster

	// Ring is a client that sends a command to the shard of its key. The shards do not
	// know of each other.
	Ring
)

// TopologyOf returns the topology of rdb. It sends nothing.
//
// A client of several servers refuses to watch no keys, and one of one server calls
// the function. A Ring panics with a text if it is to subscribe to no channel, since
// it has no shard for that. A wrapper passes all this on.
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
	// A fake of a test, around a nil client, panics with a runtime.Error.
	if p, ok := errors.AsType[*guard.PanicError](err); ok {
		if _, ok := p.Value.(string); ok {
			return Ring
		}
	}
	return Cluster
}

// A masters is a ClusterClient, or what embeds one, and a shards a Ring. A
// ClusterClient has the method of a Ring too, but that visits replicas as well.
type (
	masters interface {
		ForEachMaster(ctx context.Context, fn Visit) error
	}
	shards interface {
		ForEachShard(ctx context.Context, fn Visit) error
	}
)

// A Visit is called with the client of one server.
type Visit = func(ctx context.Context, node *redis.Client) error

var errNotWatched = errors.New("Watch has not called its function")

// watchesNothing returns nil if rdb watches no keys.
func watchesNothing(rdb redis.UniversalClient) (err error) {
	defer guard.Catch(guard.Client, &err)
	called := errNotWatched
	if err := rdb.Watch(context.Background(), func(*redis.Tx) error { called = nil; return nil }); err != nil {
		return err
	}
	return called
}

// ErrHidden says that a client of several servers does not tell which they are. It is
// an AutoPipeline, or a wrapper that hides the methods of the client in it.
var ErrHidden = errors.New("Clear has to reach every master, and the client hides them: make the cache with the ClusterClient or Ring itself")

// EachMaster returns what calls a Visit with every master of rdb, side by side, and
// returns the first error. A Visit that panics or calls runtime.Goexit has failed with
// that. The error of EachMaster is ErrHidden.
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
		var first error // a Visit that exits its goroutine returns none to go-redis
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

// Master returns the client of the server that has key, if rdb is a client of
// go-redis; else nil. What is sent through that client of one server passes by no hook
// of rdb: it is for telling servers apart.
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

// Plain reports whether rdb is go-redis' own client of one server, and no wrapper.
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

// Comparable reports whether rdb can be the key of a map. A struct of a user that has
// a field of an interface type may or may not, by the value of that field.
func Comparable(rdb redis.UniversalClient) bool { return reflect.ValueOf(rdb).Comparable() }

// Same reports whether a and b are one client. Clients that are not comparable are
// not.
func Same(a, b redis.UniversalClient) bool { return Comparable(a) && Comparable(b) && a == b }
