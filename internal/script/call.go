package script

import (
	"context"
	"fmt"
	"iter"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
)

// A Call is one run of a script.
type Call struct {
	Script *Script
	Key    string   // KEYS[1], which routes the call
	More   []string // KEYS[2] and so on, of the same hash tag
	Args   []any
	Once   bool // sent once, even if the row of the script does not say so

	// Reply and Err are the result. Run sets them. A nil Reply is not an error.
	Reply any
	Err   error

	gate *gate // nil: the caller waits as long as necessary
}

// CallLots splits calls as [Lots] splits commands.
func CallLots(calls []*Call, most int) iter.Seq[[]*Call] {
	return Lots(calls, most, func(c *Call) []any { return c.Args })
}

// SentOnce reports whether the call is sent once.
func (c *Call) SentOnce() bool { return c.Once || c.Script.late.Once }

// Command returns the command of the call: EVAL if source is set, else EVALSHA.
// If the call is sent once, the command is a [Once].
func (c *Call) Command(ctx context.Context, source bool) redis.Cmder {
	all := make([]any, 0, 4+len(c.More)+len(c.Args))
	if source {
		all = append(all, "eval", c.Script.src, 1+len(c.More), c.Key)
	} else {
		all = append(all, "evalsha", c.Script.sha, 1+len(c.More), c.Key)
	}
	for _, key := range c.More {
		all = append(all, key)
	}
	cmd := redis.NewCmd(ctx, append(all, c.Args...)...)
	cmd.SetFirstKeyPos(3)
	if !c.SentOnce() {
		return cmd
	}
	o := NewOnce(cmd, stamped(cmd.Args(), len(all)))
	o.stamp.gate = c.gate
	return o
}

// stamped returns the index of the argument that the stamp replaces. It is the
// last number or bool at or after index from, or else the number of keys.
func stamped(args []any, from int) int {
	for i := len(args) - 1; i >= from; i-- {
		switch args[i].(type) {
		case int, int64, bool:
			return i
		}
	}
	return 2
}

// take sets the result from cmd. It reports whether the call must be sent again
// with the source.
func (c *Call) take(cmd redis.Cmder) (unknown bool) {
	c.Reply, c.Err = c.Script.Reply(cmd)
	return NotKnown(c.Err)
}

// Run runs one call alone and returns its error. If the server does not know
// the script, Run sends the source by EVAL. It never sends SCRIPT LOAD: a proxy
// closes the connection on it, and a Cluster would need it on every node.
//
// If the call is sent once, the error wraps ErrOutcomeUnknown unless Redis has
// answered or no byte has left. Otherwise the client may send the call again
// when the connection breaks.
func (c *Call) Run(ctx context.Context, rdb redis.UniversalClient) error {
	for _, source := range []bool{false, true} {
		if c.gate.left() {
			c.Reply, c.Err = nil, c.Script.fail(errAbandoned)
			return c.Err
		}
		cmd := c.Command(ctx, source)
		_ = Do(ctx, rdb, cmd) // the error is in cmd
		if !c.take(cmd) {
			return c.Err
		}
	}
	c.Reply, c.Err = nil, fmt.Errorf("script %s: %w", c.Script.name, redis.ErrNoScript)
	return c.Err
}

// Pipeline runs the calls in one round trip, or in two if a server did not know
// one of the scripts. In the second, it sends by EVAL only the calls that were
// refused for this reason. Every call has its own Reply and Err. Pipeline
// returns an error only if a round trip failed; calls that another node
// answered still have their replies.
//
// The client does not resend calls that have several keys and may go to a
// Cluster. There, a move of their slot may answer TRYAGAIN. On that, go-redis
// sends the pipeline again, and sends the commands that were told MOVED twice
// at once. The two copies race for their replies.
func Pipeline(ctx context.Context, rdb redis.UniversalClient, calls []*Call) error {
	var failed error
	several := sync.OnceValue(func() bool { return client.TopologyOf(rdb) != client.OneServer })
	for _, source := range []bool{false, true} {
		calls = slices.DeleteFunc(slices.Clone(calls), func(c *Call) bool {
			if c.gate.left() {
				c.Reply, c.Err = nil, c.Script.fail(errAbandoned)
			}
			return c.gate.left()
		})
		if len(calls) == 0 {
			break
		}
		cmds := make([]redis.Cmder, len(calls))
		for i, c := range calls {
			cmds[i] = c.Command(ctx, source)
			if len(c.More) > 0 && !c.SentOnce() && several() {
				cmds[i] = noRetry{Inner(cmds[i])}
			}
		}
		_ = Exec(ctx, rdb, cmds) // every command has its own error
		var again []*Call
		for i, c := range calls {
			if c.take(cmds[i]) && !source {
				again = append(again, c)
			}
			if !Answered(c.Err) {
				failed = fmt.Errorf("pipeline of %d scripts: %w", len(calls), c.Err)
			}
		}
		if calls = again; len(calls) == 0 {
			break
		}
	}
	return failed
}

// noRetry is a command that go-redis does not resend.
type noRetry struct{ *redis.Cmd }

// NoRetry implements redis.Cmder.
func (noRetry) NoRetry() bool { return true }

// Inner returns the go-redis command that has the reply to cmd. It returns nil
// if cmd is neither a command of a script nor a [Once].
func Inner(cmd redis.Cmder) *redis.Cmd {
	switch cmd := cmd.(type) {
	case *redis.Cmd:
		return cmd
	case *Once:
		return cmd.Cmd
	case noRetry:
		return cmd.Cmd
	}
	return nil
}

// Leaving prepares calls, which one caller sends by rdb, for [Call.Left], which
// can then tell whether they were sent. The calls of one pipeline, which is one
// of their Lots, share a gate.
func Leaving(rdb redis.UniversalClient, calls []*Call, most int) {
	if !direct(rdb) {
		return // the pipeline belongs to the client, and all in it would fail
	}
	for some := range CallLots(calls, most) {
		g := new(gate)
		for _, c := range some {
			c.gate = g
		}
	}
}

// Shared marks calls that leave in a pipeline with calls of other callers,
// which would lose their calls if [Call.Left] abandoned the pipeline. It drops
// calls that were abandoned.
func Shared(calls []*Call) []*Call {
	return slices.DeleteFunc(calls, func(c *Call) bool { return !c.gate.enter() })
}

// Left returns the error of a call whose caller leaves because of cause, while
// the call may still be in flight. If no byte of the call has left, none ever
// does. If one may have left and the call is sent once, the error wraps
// ErrOutcomeUnknown.
func (c *Call) Left(cause error) error {
	if c.gate.abandon() || !c.SentOnce() {
		return cause
	}
	return unknown(cause)
}
