// Package twemproxy makes go-redis clients that go through a twemproxy, also known
// as nutcracker.
//
//	rdb := twemproxy.NewClient(&redis.Options{Addr: "localhost:22121"})
//
// A client that go-redis makes cannot connect to one: it opens each connection
// with HELLO, whatever its options, and twemproxy hangs up on a command that it
// does not know. So [Dialer] answers what a connection opens with in place of the
// proxy, and NewClient refuses whatever else the proxy would hang up on, for that
// would end everything else in the pipeline, too.
//
// It was made for, and is tested with, twemproxy 0.5. What of cachex works through
// it is in docs/twemproxy.md.
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

// NewClient returns a client of the twemproxy at o.Addr. o is not changed. Of it,
// Protocol and what go-redis tells a server of itself are of no effect; DB and
// ClientName make every connection fail, and so does Username, since twemproxy
// knows a password at most. The Dialer may be set.
//
// A command that twemproxy does not know is not sent. Its error is the [Error] with
// which a server refuses it; other commands of the same pipeline are sent all the
// same, but those of a MULTI are refused together. A Subscribe fails when it is
// read from. For several proxies set a Dialer that dials one of them. As
// RingOptions.NewClient it gives each proxy a share of the keys.
func NewClient(o *redis.Options) *redis.Client {
	c := *o
	c.Protocol = 2
	c.DisableIdentity = true
	c.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
	c.PushNotificationProcessor = nil // a client's own; o may be that of another one
	c.DialTimeout = cmp.Or(c.DialTimeout, 5*time.Second)
	if c.Dialer == nil {
		c.Dialer = redis.NewDialer(&c)
	}
	c.Dialer = Dialer(c.Dialer)
	rdb := redis.NewClient(&c)
	rdb.AddHook(guard{})
	return rdb
}

// An Error is the answer to a command that twemproxy does not know and was not
// sent. To go-redis it is an answer of the server.
type Error struct{ Command string }

// Error returns the text of the error.
func (e *Error) Error() string {
	return fmt.Sprintf("ERR unknown command '%s': twemproxy does not have it, and it was not sent", e.Command)
}

// RedisError marks it as an answer, after which a connection is still good.
func (*Error) RedisError() {}

// guard is a hook that refuses what twemproxy does not know. What a connection opens
// with passes, since the Dialer answers that.
type guard struct{}

// DialHook implements redis.Hook.
func (guard) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessHook implements redis.Hook.
func (guard) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if err := refusal(cmd); err != nil {
			cmd.SetErr(err)
			return err
		}
		return next(ctx, cmd)
	}
}

// ProcessPipelineHook implements redis.Hook.
func (guard) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		if !slices.ContainsFunc(cmds, func(cmd redis.Cmder) bool { return refusal(cmd) != nil }) {
			return next(ctx, cmds)
		}
		transaction := cmds[0].Name() == "multi"
		var sent []redis.Cmder
		var first error
		for _, cmd := range cmds {
			err := refusal(cmd)
			if transaction {
				err = refusal(cmds[0])
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
					return err // the connection broke, which says more
				}
			}
		}
		return first
	}
}

// refusal returns the error of a command that must not be sent, nil of others.
func refusal(cmd redis.Cmder) error {
	name := strings.ToLower(cmd.Name())
	args := cmd.Args()
	switch {
	case answeredHere(name):
		return nil
	case !Knows(name),
		name == "auth" && len(args) > 2, // with a user
		name == "ping" && len(args) > 1,
		(name == "eval" || name == "evalsha") && len(args) > 2 && fmt.Sprint(args[2]) == "0": // goes nowhere
		return &Error{Command: strings.ToUpper(name)}
	}
	return nil
}
