// Package gather batches the reads and writes of concurrent callers on one
// Redis client. A single command is sent immediately. Commands issued while
// others are in flight share one pipeline for each node; keys that are read by
// GET share one MGET.
package gather

import (
	"bytes"
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/combine"
	"github.com/cachex-go/cachex/internal/guard"
)

// Client batches the reads and writes of all users of one Redis client. It is
// safe for concurrent use.
//
// A batched command behaves like one sent alone. Each caller leaves on its own
// ctx and gets its own error, and never a value that was read before the caller
// came. Values that are known to be large are sent alone, and so are keys that
// recently had one: the others would wait for them.
type Client struct {
	rdb     redis.UniversalClient
	oneNode bool         // rdb is a client of one server
	apart   atomic.Int64 // Unix time in nanoseconds until which no MGET is sent
	large   large

	alone *lanes   // of all keys; nil if nodes has the lanes
	nodes sync.Map // from *redis.Client to *lanes
	count atomic.Int64

	mu      sync.Mutex
	running int           // guarded by mu: number of goroutines
	idle    chan struct{} // guarded by mu: closed when none is left; nil if no caller waits for that

	users int // accessed only within calls of clients
}

// lanes are the batchers of one node. Writes have their own: a server that
// pauses writes, or rejects them so that the client retries, still answers
// reads.
type lanes struct{ reads, writes lane }

type lane = combine.Combiner[*read]

// clients has the Client of every redis client in use.
var clients client.Shared[Client]

// For returns the Client of rdb. The caller must call Release later. If redis
// clients cannot be compared, each call returns a new Client.
func For(rdb redis.UniversalClient) *Client {
	return clients.For(rdb, func() *Client { return newClient(rdb) }, func(c *Client) { c.users++ })
}

func newClient(rdb redis.UniversalClient) *Client {
	c := &Client{rdb: rdb}
	if c.oneNode = client.Plain(rdb); c.oneNode {
		c.alone = c.newLanes()
	}
	return c
}

func (c *Client) newLanes() *lanes {
	l := new(lanes)
	for _, one := range []*lane{&l.reads, &l.writes} {
		one.Send, one.Fail, one.Weigh, one.Most, one.Go = c.send, failAll, (*read).weight, most, c.spawn
	}
	return l
}

// Release undoes one For. The caller may still use the Client. If it was the
// last user, the returned channel is closed when nothing is in flight any more;
// otherwise it is closed at once.
func (c *Client) Release() <-chan struct{} {
	last := clients.Release(c.rdb, c, func() bool {
		c.users--
		return c.users <= 0
	})
	c.mu.Lock()
	defer c.mu.Unlock()
	if last && c.running > 0 {
		if c.idle == nil {
			c.idle = make(chan struct{})
		}
		return c.idle
	}
	idle := make(chan struct{})
	close(idle)
	return idle
}

// spawn is guard.Go on a goroutine that Release waits for.
func (c *Client) spawn(code guard.Code, fn func() error, done func(error)) {
	c.mu.Lock()
	c.running++
	c.mu.Unlock()
	guard.Go(code, fn, func(err error) {
		defer c.landed()
		done(err)
	})
}

func (c *Client) landed() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.running--; c.running == 0 && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
}

// Value is the value of a key.
type Value struct {
	B  []byte
	of *lot // nil: B is not shared
}

// Release says that the caller no longer uses B. It need not be called.
func (v Value) Release() {
	if v.of != nil {
		v.of.release()
	}
}

// Own returns B, or a copy of it that the caller may keep, and releases B. A
// retained B would keep the memory of the whole batch, and prevent its reuse.
func (v Value) Own() []byte {
	if v.of == nil {
		return v.B
	}
	defer v.of.release()
	return bytes.Clone(v.B)
}

// Get returns the value of a key, or of a field of a hash unless field is
// empty; or redis.Nil or another error. size is the expected number of bytes.
//
// If the read is sent alone, it respects ctx as far as the client does. If
// others are in flight, it is batched; then Get returns the cause of the end of
// ctx at once.
func (c *Client) Get(ctx context.Context, key, field string, size int) (Value, error) {
	at := c.lanes(ctx, key)
	if at == nil {
		return c.one(ctx, key, field)
	}
	l := &at.reads
	if idle, ok := l.Alone(); ok {
		began := time.Now()
		defer func() { l.Over(idle, time.Since(began)) }()
		return c.one(ctx, key, field)
	}
	if size >= huge || c.large.has(key, field) {
		return c.one(ctx, key, field)
	}
	r := &read{key: key, field: field, size: size}
	if _, err := l.Join(ctx, r); err != nil {
		return Value{}, err
	}
	return r.v, r.err
}

// one sends a read alone.
func (c *Client) one(ctx context.Context, key, field string) (v Value, err error) {
	defer guard.Catch(guard.Client, &err)
	cmd := get(ctx, c.rdb, key, field)
	b, err := cmd.Bytes()
	if err == nil { // after an error the size is unknown
		c.large.note(key, field, len(b))
	}
	return Value{B: b}, err
}

// get sends on c, or queues, the command that reads a key or a field of it.
func get(ctx context.Context, c redis.Cmdable, key, field string) *redis.StringCmd {
	if field == "" {
		return c.Get(ctx, key)
	}
	return c.HGet(ctx, key, field)
}

// maxNodes limits the nodes that a Client knows. A Cluster has fewer, but each
// replaced node adds one.
const maxNodes = 1 << 10

// lanes returns the lanes of key, or nil for clients that must not be batched:
// unknown types and AutoPipeline.
//
// Each node has its own lanes, since batched commands wait for the slowest of
// them.
func (c *Client) lanes(ctx context.Context, key string) *lanes {
	if c.alone != nil {
		return c.alone
	}
	node := client.Master(ctx, c.rdb, key)
	if node == nil {
		return nil
	}
	if l, ok := c.nodes.Load(node); ok {
		return l.(*lanes)
	}
	if c.count.Add(1) > maxNodes {
		c.nodes.Clear()
		c.count.Store(1)
	}
	l, _ := c.nodes.LoadOrStore(node, c.newLanes())
	return l.(*lanes)
}
