// Package gather has what concurrent callers on one client of Redis read, and what they
// write, leave together: a lone caller's at once, and what comes while a few are under way
// in one pipeline for each node; of keys that are read by GET, in one MGET.
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

// A Client reads and writes on a client of Redis, for all who do on that. It is safe for
// concurrent use.
//
// What is sent together is as good as what is sent alone. Each caller leaves on its own
// ctx, gets its own error, and never what was read before it came. Values that are known
// to be large go alone, and so do the keys that had one lately: the others would wait for
// them.
type Client struct {
	rdb     redis.UniversalClient
	oneNode bool         // rdb is a client of one server
	apart   atomic.Int64 // Unix time in nanoseconds until which no MGET is sent
	large   large

	alone *lanes   // of all keys; nil if nodes has them
	nodes sync.Map // from *redis.Client to *lanes
	count atomic.Int64

	mu      sync.Mutex
	running int           // guarded by mu: goroutines of ours
	idle    chan struct{} // guarded by mu: closed when there are none; nil if nobody waits for that

	users int // changed within calls of clients alone
}

// Lanes are what goes to one node. Writes have one of their own: a server that pauses
// them, or refuses them so that the client tries again, answers reads all the same.
type lanes struct{ reads, writes lane }

type lane = combine.Combiner[*read]

// clients has the Client of every client in use.
var clients client.Shared[Client]

// For returns the Client of rdb, for whoever calls Release later. Clients that cannot be
// told apart have one of their own each time.
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

// Release undoes one For. Who still has the Client may use it on. What it returns is
// closed when nothing is under way any more, if nobody else uses the Client; at once,
// if somebody does.
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

// spawn is guard.Go in a goroutine that Release waits for.
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

// A Value is what a key holds.
type Value struct {
	B  []byte
	of *lot // nil: B is nobody else's
}

// Release says that nobody looks at B any more. It need not be called.
func (v Value) Release() {
	if v.of != nil {
		v.of.release()
	}
}

// Own returns B, or a copy of it, that is good for as long as it is needed, and says that
// nobody looks at B itself any more. One value that is kept would keep all that were read
// together, and have no memory be used again where many share what they read.
func (v Value) Own() []byte {
	if v.of == nil {
		return v.B
	}
	defer v.of.release()
	return bytes.Clone(v.B)
}

// Get returns what a key holds, or a field of a hash unless field is empty; or redis.Nil
// or another error. It is expected to be so many bytes.
//
// If it is sent alone, it heeds ctx as far as the client does. It is sent together with
// others if a few are under way; then Get returns the cause of the end of ctx at once.
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

// one sends a read by itself.
func (c *Client) one(ctx context.Context, key, field string) (v Value, err error) {
	defer guard.Catch(guard.Client, &err)
	cmd := get(ctx, c.rdb, key, field)
	b, err := cmd.Bytes()
	if err == nil { // else nothing is known of it
		c.large.note(key, field, len(b))
	}
	return Value{B: b}, err
}

// get queues on c, or sends, the command that reads a key, or a field of it.
func get(ctx context.Context, c redis.Cmdable, key, field string) *redis.StringCmd {
	if field == "" {
		return c.Get(ctx, key)
	}
	return c.HGet(ctx, key, field)
}

// maxNodes is how many nodes a Client knows. A Cluster has fewer; but each that is
// replaced is another one.
const maxNodes = 1 << 10

// lanes returns the lanes of key, or nil if what is to be done to it is sent by itself: on
// a client that we do not know, or that joins what it is given itself, as the AutoPipeline
// face of one does.
//
// Each node has its own, since those who are together wait for the slowest of them.
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
