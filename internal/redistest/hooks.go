package redistest

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Gate is a go-redis hook that calls a function before each command is sent and
// after its reply has arrived. A function that blocks holds the command back.
// So a test can run the steps of several clients in an order of its choice.
//
// A pipeline is sent one command at a time, each between its Before and its
// After. Redis, too, may run commands of other clients between those of a
// pipeline. A MULTI transaction is sent as a whole, between the Befores and the
// Afters of all its commands. Gate ignores commands that open a connection.
//
// Either function may be nil. They run in the goroutine that sends the command,
// and concurrently if several goroutines send commands. The fields must not
// change while the client is in use.
type Gate struct {
	Before, After func(ctx context.Context, cmd redis.Cmder)
}

// DialHook implements redis.Hook.
func (g *Gate) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (g *Gate) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		return g.run(ctx, []redis.Cmder{cmd}, func() error {
			err := next(ctx, cmd)
			cmd.SetErr(err) // go-redis sets it only when all hooks have returned, and After reads it
			return err
		})
	}
}

// ProcessPipelineHook implements redis.Hook.
func (g *Gate) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if transaction(cmds) {
			return g.run(ctx, cmds, func() error { return next(ctx, cmds) })
		}
		var first error
		for one := range slices.Chunk(cmds, 1) {
			err := g.run(ctx, one, func() error { return next(ctx, one) })
			if first == nil {
				first = err
			}
		}
		return first
	}
}

func (g *Gate) run(ctx context.Context, cmds []redis.Cmder, send func() error) error {
	each := func(f func(context.Context, redis.Cmder)) {
		for _, cmd := range cmds {
			if f != nil && !opensConnection(cmd) {
				f(ctx, cmd)
			}
		}
	}
	each(g.Before)
	defer each(g.After)
	return send()
}

// Counter is a go-redis hook that counts the commands of a client, except those
// that open a connection. Its zero value is ready to use, and it is safe for
// concurrent use. A command that go-redis sends again after a failure counts
// once, since hooks run above its retries. [Server.CommandCount] counts the
// retries too.
type Counter struct {
	mu     sync.Mutex
	byName map[string]int // guarded by mu
	trips  int            // guarded by mu
}

// Count returns how many commands with one of these names were sent, in
// pipelines or alone. Names are in lower case. Without names, Count returns the
// number of all commands.
func (c *Counter) Count(names ...string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for name, n := range c.byName {
		if len(names) == 0 || slices.Contains(names, name) {
			total += n
		}
	}
	return total
}

// RoundTrips returns how often the client sent commands. A pipeline is one
// round trip, whatever its length.
func (c *Counter) RoundTrips() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trips
}

// Reset sets all counts to zero.
func (c *Counter) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.byName, c.trips = nil, 0
}

// DialHook implements redis.Hook.
func (c *Counter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (c *Counter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		c.add(cmd)
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (c *Counter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		c.add(cmds...)
		return next(ctx, cmds)
	}
}

func (c *Counter) add(cmds ...redis.Cmder) {
	c.mu.Lock()
	defer c.mu.Unlock()
	trip := 0
	for _, cmd := range cmds {
		if opensConnection(cmd) {
			continue
		}
		if c.byName == nil {
			c.byName = map[string]int{}
		}
		c.byName[cmd.Name()]++
		trip = 1
	}
	c.trips += trip
}

// transaction reports whether cmds are a MULTI, its commands and an EXEC.
func transaction(cmds []redis.Cmder) bool { return len(cmds) > 0 && cmds[0].Name() == "multi" }

// opensConnection reports whether go-redis sends cmd itself when it opens a
// connection.
func opensConnection(cmd redis.Cmder) bool {
	switch cmd.Name() {
	case "hello", "auth", "select", "readonly", "command", "cluster":
		return true
	case "client":
		args := cmd.Args()
		if len(args) < 2 {
			return false
		}
		sub, _ := args[1].(string)
		return slices.Contains([]string{"setinfo", "setname", "maint_notifications"}, sub)
	}
	return false
}
