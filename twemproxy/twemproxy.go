// Package twemproxy makes go-redis clients that connect through twemproxy, also
// known as nutcracker.
//
//	rdb := twemproxy.NewClient(&redis.Options{Addr: "localhost:22121"})
//
// A plain go-redis client cannot connect to a twemproxy. It opens each
// connection with HELLO, whatever its options, and twemproxy closes the
// connection on an unknown command. So [Dialer] answers the opening commands in
// place of the proxy. NewClient also rejects all other commands that would
// close the connection, since that would fail all other commands of the
// pipeline too.
//
// It was made for, and is tested with, twemproxy 0.5. docs/twemproxy.md lists
// the parts of cachex that work through it.
package twemproxy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
)

// NewClient returns a client of the twemproxy at o.Addr. It does not change o.
// Protocol and the fields with which go-redis identifies itself have no effect.
// DB and ClientName make every connection fail, and so does Username, since
// twemproxy supports at most a password. The Dialer may be set.
//
// A command that twemproxy does not know is not sent. Its error is the [Error]
// with which a server would reject it. Other commands of the same pipeline are
// still sent, except the commands of a MULTI, which are rejected together. A Subscribe
// fails on its first read.
//
// For several proxies set a Dialer that dials one of them. As
// RingOptions.NewClient it gives each proxy a share of the keys.
func NewClient(o *redis.Options) *redis.Client {
	c := *o
	c.Protocol = 2
	c.DisableIdentity = true
	c.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c.PushNotificationProcessor = nil // each client needs its own; o may belong to another client
	c.DialTimeout = cmp.Or(c.DialTimeout, 5*time.Second)
	if c.Dialer == nil {
		c.Dialer = redis.NewDialer(&c)
	}
	c.Dialer = Dialer(c.Dialer)
	rdb := redis.NewClient(&c)
	rdb.AddHook(filter{})
	return rdb
}

// Error is the answer to a command that twemproxy does not know, and that was
// not sent. go-redis treats it as an answer of the server.
type Error struct{ Command string }

// Error returns the text of the error.
func (e *Error) Error() string {
	return fmt.Sprintf("ERR unknown command '%s': twemproxy does not support it; it was not sent", e.Command)
}

// RedisError marks it as an answer of a server, after which a connection is
// still usable.
func (*Error) RedisError() {}

// filter is a hook that rejects commands that twemproxy does not know. It
// passes the opening commands of a connection, which the Dialer answers.
type filter struct{}

// DialHook implements redis.Hook.
func (filter) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (filter) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := rejection(cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (filter) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return rejection(cmd) != nil }) {
			return next(ctx, cmds)
		}
		transaction := cmds[0].Name() == "multi"
		var sent []redis.Cmder
		var first error
		for _, cmd := range cmds {
			err := rejection(cmd)
			if transaction {
				err = rejection(cmds[0])
			}
			if err == nil {
				sent = append(sent, cmd)
				continue
			}
			cmd.SetErr(err)
			first = cmp.Or(first, err)
		}
		if len(sent) > 0 {
			if err := next(ctx, sent); err != nil {
				var answer redis.Error
				if !errors.As(err, &answer) {
					return err // a broken connection says more
				}
			}
		}
		return first
	}
}

// rejection returns the error of a command that must not be sent, or nil.
func rejection(cmd redis.Cmder) error {
	name := strings.ToLower(cmd.Name())
	args := cmd.Args()
	switch {
	case answeredHere(name):
		return nil
	case !Knows(name),
		name == "auth" && len(args) > 2, // with a user
		name == "ping" && len(args) > 1,
		(name == "eval" || name == "evalsha") && len(args) > 2 && fmt.Sprint(args[2]) == "0": // a script without keys has no server
		return &Error{Command: strings.ToUpper(name)}
	}
	return nil
}
