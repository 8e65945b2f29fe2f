package redistest

import (
	"context"
	"io"
	"math"
	"slices"
	"sync"

	"github.com/redis/go-redis/v9"
)

// Faults is a go-redis hook that fails chosen commands like a connection that
// is cut at a chosen moment. Its zero value fails nothing and is ready to use.
// It is safe for concurrent use.
//
// Hooks run above the retries of go-redis. So the caller gets the error at
// once, and no command is sent twice. To see go-redis retry, use a [Proxy].
type Faults struct {
	mu     sync.Mutex
	faults []Fault // guarded by mu; Skip and Times count down
}

// Fault says which commands of a client fail, and how.
type Fault struct {
	// Match selects the commands. Defaults to all commands except those that
	// open a connection. See [Named].
	Match func(cmd redis.Cmder) bool

	// Skip is the number of matching commands that pass before the first that
	// fails. Defaults to 0.
	Skip int

	// Times is the number of commands that then fail. [Always] means all.
	// Defaults to 1.
	Times int

	// Executed says that the server executes the command before the connection
	// is cut, so that only the reply is lost. Defaults to false: the command
	// does not reach the server.
	Executed bool

	// Err is the error that the caller gets. Defaults to io.EOF, which go-redis
	// returns if a connection is cut.
	Err error

	// Reply replaces the server's answer to the command, as from a broken
	// proxy. The command is executed, and the commands around it are not
	// affected. It must be a command that accepts any reply, as go-redis' Eval
	// does. Defaults to nil: the connection is cut.
	Reply any
}

// garble gives cmd, which was answered, another reply.
func (f *Fault) garble(cmd redis.Cmder) {
	cmd.(interface{ SetVal(any) }).SetVal(f.Reply)
	cmd.SetErr(nil)
}

// Always is the Times of a Fault with which every matching command fails.
const Always = math.MaxInt

// Named returns a Match for commands with one of the names, in lower case.
func Named(names ...string) func(redis.Cmder) bool {
	return func(cmd redis.Cmder) bool { return slices.Contains(names, cmd.Name()) }
}

// Add adds a fault. If several faults match a command, the one that was added
// first applies.
func (f *Faults) Add(fault Fault) {
	if fault.Match == nil {
		fault.Match = func(cmd redis.Cmder) bool { return !opensConnection(cmd) }
	}
	if fault.Times == 0 {
		fault.Times = 1
	}
	if fault.Err == nil {
		fault.Err = io.EOF
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, fault)
}

// Clear removes all faults.
func (f *Faults) Clear() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = nil
}

// DialHook implements redis.Hook.
func (f *Faults) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (f *Faults) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		fault, at := f.strike([]redis.Cmder{cmd})
		if at < 0 {
			return next(ctx, cmd)
		}
		if fault.Reply != nil {
			err := next(ctx, cmd)
			if err == nil {
				fault.garble(cmd)
			}
			return err
		}
		if fault.Executed {
			// The reply is lost, whatever it is.
			_ = next(ctx, cmd)
		}
		cmd.SetErr(fault.Err)
		return fault.Err
	}
}

// ProcessPipelineHook implements redis.Hook. The commands before the one that
// fails are executed and answered. The commands after it fail too, since they
// share its connection. A MULTI transaction is executed as a whole or not at
// all.
func (f *Faults) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		fault, at := f.strike(cmds)
		if at < 0 {
			return next(ctx, cmds)
		}
		if fault.Reply != nil {
			err := next(ctx, cmds)
			if cmds[at].Err() == nil {
				fault.garble(cmds[at])
			}
			return err
		}
		if transaction(cmds) {
			at = 0
		}
		sent := cmds[:at]
		if fault.Executed {
			sent = cmds
		}
		var first error
		if len(sent) > 0 {
			_ = next(ctx, sent)
			for _, cmd := range cmds[:at] {
				if first == nil {
					first = cmd.Err()
				}
			}
		}
		for _, cmd := range cmds[at:] {
			cmd.SetErr(fault.Err)
		}
		if first == nil {
			first = fault.Err
		}
		return first
	}
}

// strike returns the fault that applies to one of cmds, and the index of that
// command. The index is -1 if no fault applies.
func (f *Faults) strike(cmds []redis.Cmder) (Fault, int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for at, cmd := range cmds {
		for i := range f.faults {
			fault := &f.faults[i]
			switch {
			case fault.Times == 0 || !fault.Match(cmd):
			case fault.Skip > 0:
				fault.Skip--
			default:
				if fault.Times != Always {
					fault.Times--
				}
				return *fault, at
			}
		}
	}
	return Fault{}, -1
}
