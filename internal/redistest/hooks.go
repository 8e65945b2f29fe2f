package redistest

import (
	"context"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Gate is a go-redis hook that calls a function before each command is sent and
// after its reply is in. A function that blocks holds the command back, which is
// how a test runs the steps of several clients in an order of its choice.
//
// A pipeline goes out one command at a time, each between its Before and its
// After, for Redis, too, may run commands of others between those of a pipeline.
// A MULTI transaction goes out whole, between the Befores and the Afters of all
// its commands. Commands that a connection opens with pass unseen.
//
// Either function may be nil. They are called by whatever goroutine sends the
// command, and by several at once if several do. The fields must not change
// while the client is in use.
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

// Counter is a go-redis hook that counts what a client sends, commands that a
// connection opens with aside. Its zero value is ready, and it is safe for
// concurrent use. What go-redis sends again after a failure is counted once:
// hooks stand above its retries. [Server.CommandCount] counts those too.
type Counter struct {
	mu     sync.Mutex
	byName map[string]int // guarded by mu
	trips  int            // guarded by mu
}

// Count returns how many commands with one of these names were sent, in
// pipelines or alone; without names, how many commands at all. Names are in
// lower case.
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

// RoundTrips returns how often the client sent something: a pipeline is one
// round trip, however long it is.
func (c *Counter) RoundTrips() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trips
}

// Reset starts counting anew.
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

// opensConnection reports whether go-redis sends cmd of its own accord when it
// opens a connection.
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
