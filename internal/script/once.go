package script

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// A Once is a command that is sent at most once. After its first byte may have
// left, go-redis does not resend it. Before that, go-redis retries it like any
// command: after a failed dial, or after a wait for the pool that timed out.
//
// go-redis asks a command for NoRetry when it decides on a retry. It asks an
// argument for its bytes when it writes the command to a connection. So a Once
// replaces one argument of the command with an argument of its own.
//
// A copy that Redis refused before it ran, with LOADING for example, does not
// count: go-redis follows MOVED and ASK, and the other refusals are retried as
// usual.
type Once struct {
	*redis.Cmd
	stamp stamp
}

// A stamp is an argument that knows whether its command may have left.
type stamp struct {
	arg    any // nil: the argument is number
	number int64
	buf    [20]byte
	gate   *gate // nil: the caller waits as long as necessary
	direct bool  // go-redis asks for the bytes only to send them
	alone  bool  // no other command is written to the connection after this one
	state  atomic.Int32
	copies atomic.Int32 // how many copies were written
	moved  atomic.Bool  // the last answer said that another node has the slot
}

// The states of a stamp.
const (
	unsent   = iota // not sent, or refused before it ran
	written         // a byte may have left, and Redis has not answered
	answered        // Redis has answered, and may have carried out the command
)

// NewOnce returns cmd as a command that is sent once. The stamp replaces the
// argument at index at, which should be neither a key nor a value.
func NewOnce(cmd *redis.Cmd, at int) *Once {
	o := &Once{Cmd: cmd}
	args := cmd.Args()
	o.stamp.arg = args[at]
	args[at] = &o.stamp
	return o
}

// NewSet returns a SET with GET of a value that lives for ttl; 0 means forever.
// It makes fewer allocations than NewOnce.
func NewSet(ctx context.Context, key string, value []byte, ttl time.Duration) *Once {
	o := new(setOnce)
	args := append(o.args[:0], "set", key, value)
	switch {
	case ttl == 0:
		o.stamp.arg = "get"
		args = append(args, &o.stamp)
	case ttl%time.Second == 0:
		o.stamp.number = int64(ttl / time.Second)
		args = append(args, "ex", &o.stamp, "get")
	default:
		o.stamp.number = ttl.Milliseconds()
		args = append(args, "px", &o.stamp, "get")
	}
	o.Cmd = redis.NewCmd(ctx, args...)
	return &o.Once
}

// A setOnce is a Once with its arguments.
type setOnce struct {
	Once
	args [6]any
}

// NoRetry implements redis.Cmder. A redirection needs no retry. If another
// command asked for a retry of the whole pipeline, a redirected Once would be
// sent twice.
func (o *Once) NoRetry() bool { return o.stamp.state.Load() != unsent || o.stamp.moved.Load() }

// SetErr implements redis.Cmder. go-redis calls it for every copy that was
// answered.
func (o *Once) SetErr(err error) {
	s := &o.stamp
	s.moved.Store(redirected(err))
	if s.state.Load() == written {
		switch {
		case err == nil:
			s.state.Store(answered)
		case refused(err), s.alone && unfinished(err):
			s.state.Store(unsent)
		case definite(err):
			s.state.Store(answered)
		}
	}
	o.Cmd.SetErr(err)
}

// unknown reports whether a copy may have been carried out, or may still be.
func (o *Once) unknown() bool { return o.stamp.state.Load() == written }

// answered reports whether Redis has answered, and may have carried out a copy.
func (o *Once) answered() bool { return o.stamp.state.Load() == answered }

// MarshalBinary implements encoding.BinaryMarshaler. go-redis calls it to write
// the command to the buffer of a connection.
func (s *stamp) MarshalBinary() ([]byte, error) {
	if !s.direct && sizing() {
		return s.bytes(), nil
	}
	if !s.gate.enter() {
		return nil, errAbandoned
	}
	s.copies.Add(1)
	s.state.Store(written)
	return s.bytes(), nil
}

func (s *stamp) bytes() []byte {
	switch v := s.arg.(type) {
	case nil:
		return strconv.AppendInt(s.buf[:0], s.number, 10)
	case string:
		return append(s.buf[:0], v...)
	case []byte:
		return v
	case bool:
		if v {
			return []byte("1")
		}
		return []byte("0")
	}
	return fmt.Append(nil, s.arg) // a whole number
}

// String returns the argument as a hook that prints arguments would print it
// without the stamp.
func (s *stamp) String() string {
	switch v := s.arg.(type) {
	case nil:
		return strconv.FormatInt(s.number, 10)
	case []byte:
		return string(v)
	default:
		return fmt.Sprint(v)
	}
}

// sizing reports whether the caller of MarshalBinary only needs the number of
// bytes of the command. An AutoPipeline does so before it queues a command.
func sizing() bool {
	var pc [1]uintptr
	if runtime.Callers(3, pc[:]) == 0 {
		return false
	}
	f, _ := runtime.CallersFrames(pc[:]).Next()
	return strings.HasSuffix(f.Function, ".cmdApproxBytes")
}

// direct reports whether rdb sends a command itself, to a connection to which
// no other command is written meanwhile. Any other client may hide an
// AutoPipeline.
func direct(rdb redis.UniversalClient) bool {
	switch rdb.(type) {
	case *redis.Client, *redis.ClusterClient, *redis.Ring:
		return true
	}
	return false
}

// A gate covers the commands that one caller sends in one pipeline. Before any
// of them is written, the caller may leave; then none of them ever is. A nil
// gate is always open.
type gate struct{ state atomic.Int32 }

const (
	closed    = iota // nothing is written
	open             // something is written, or several callers share the pipeline
	abandoned        // nothing is written, and nothing will be
)

// enter opens the gate. It reports false if the gate was abandoned.
func (g *gate) enter() bool {
	return g == nil || g.state.CompareAndSwap(closed, open) || g.state.Load() == open
}

// abandon reports whether nothing was written. If so, nothing ever is.
func (g *gate) abandon() bool {
	return g != nil && (g.state.CompareAndSwap(closed, abandoned) || g.state.Load() == abandoned)
}

// left reports whether the gate was abandoned.
func (g *gate) left() bool { return g != nil && g.state.Load() == abandoned }

// errAbandoned is seen only by go-redis and its hooks. go-redis closes the
// connection that returns it, because part of the command is in its buffer.
var errAbandoned = errors.New("cachex: the caller has left before the command was sent")

// unfinished reports whether err says that a command was not completely handed
// to the operating system. Redis does not run a command that lacks a byte.
func unfinished(err error) bool {
	failed, ok := errors.AsType[*net.OpError](err)
	return ok && failed.Op == "write"
}
