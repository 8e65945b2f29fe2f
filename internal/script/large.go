package script

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"

	"github.com/redis/go-redis/v9"
)

// mostArg is the longest argument that every server accepts: Redis refuses a
// proto-max-bulk-len below 1 MB.
const mostArg = 1 << 20

// mostBytes is the maximum number of bytes of arguments in one pipeline. It
// bounds the time of a round trip on a slow line.
const mostBytes = 4 << 20

// Lots splits all into parts, each for one pipeline. A part has at most most
// elements, and at most mostBytes of arguments, which args returns. An element
// with an argument above mostArg is a part of its own.
func Lots[T any](all []T, most int, args func(T) []any) iter.Seq[[]T] {
	return func(yield func([]T) bool) {
		from, sum := 0, 0
		for i, one := range all {
			longest, bytes := weight(args(one))
			if i > from && (i-from == most || sum+bytes > mostBytes || longest > mostArg) {
				if !yield(all[from:i:i]) {
					return
				}
				from, sum = i, 0
			}
			if sum += bytes; longest > mostArg {
				sum = mostBytes // so the next element is not in this part
			}
		}
		if from < len(all) {
			yield(all[from:])
		}
	}
}

// weight returns the length of the longest of args, and the approximate number
// of bytes of all of them.
func weight(args []any) (longest, bytes int) {
	bytes = len(args)
	for _, arg := range args {
		n := 0
		switch arg := arg.(type) {
		case []byte:
			n = len(arg)
		case string:
			n = len(arg)
		}
		longest, bytes = max(longest, n), bytes+n
	}
	return longest, bytes
}

// isLarge reports whether a server may close the connection on cmd.
func isLarge(cmd redis.Cmder) bool {
	longest, _ := weight(cmd.Args())
	return longest > mostArg
}

// sendLarge sends a command with an argument above mostArg, in a pipeline of
// its own. The command then has its reply or its error.
//
// If the connection breaks but the server is there, the error is an answer: a
// server that refuses an argument is not down.
func sendLarge(ctx context.Context, rdb redis.UniversalClient, cmd redis.Cmder) {
	o, _ := cmd.(*Once)
	l := newLone(cmd)
	for attempt := 0; ; attempt++ {
		if o != nil {
			o.stamp.direct, o.stamp.alone = direct(rdb), true
		}
		_ = exec(ctx, rdb, []redis.Cmder{l}) // the error is in cmd
		err, most := cmd.Err(), retries(rdb)
		if unfinished(err) {
			most = min(most, 1) // Redis may have refused the argument
		}
		if l.refusal != nil || ctx.Err() != nil || o != nil && o.stamp.gate.left() ||
			!resend(cmd, err, true) || attempt >= most || !pause(ctx, attempt) {
			break
		}
		cmd.SetErr(nil)
	}
	if o != nil && l.refusal != nil {
		o.stamp.state.Store(answered) // go-redis may have written the stamp again
	}
	err := l.refusal
	if err == nil && ctx.Err() == nil && Broken(cmd.Err()) && serves(ctx, rdb, cmd) {
		err = cmd.Err()
	}
	if err != nil {
		l.keep(&tooLarge{l.longest, err})
	}
}

// serves reports whether Redis answers a read of the key of cmd.
func serves(ctx context.Context, rdb redis.UniversalClient, cmd redis.Cmder) bool {
	err := Do(ctx, rdb, redis.NewCmd(ctx, "getrange", KeyOf(cmd), 0, 0))
	return Answered(err) && !refused(err)
}

// KeyOf returns the first key of cmd, if cmd has it where most commands or
// scripts do. Otherwise it returns "", or an argument that is not a key.
func KeyOf(cmd redis.Cmder) string {
	at, args := 1, cmd.Args()
	switch cmd.Name() {
	case "eval", "evalsha", "eval_ro", "evalsha_ro", "fcall", "fcall_ro":
		at = 3
	}
	if at >= len(args) {
		return ""
	}
	key, _ := args[at].(string)
	return key
}

// A lone is a command that has a pipeline of its own, since Redis may close the
// connection on it.
//
// Redis answers with an error before it closes the connection. After an answer,
// go-redis puts the connection back into its pool. The next command on it
// fails, of cachex or of another package. So a lone reports that the connection
// broke. A ClusterClient believes this only for a command that it resends, so a
// lone allows that; the large argument then refuses to be written.
//
// Until then go-redis never retries a lone, and so an AutoPipeline does not
// send it together with other commands.
type lone struct {
	redis.Cmder
	args    []any
	longest int   // number of bytes of the longest argument
	refusal error // the answer of Redis before it closed the connection; nil if it has not
}

func newLone(cmd redis.Cmder) *lone {
	l := &lone{Cmder: cmd, args: slices.Clone(cmd.Args())}
	for i, arg := range l.args {
		if n, _ := weight(l.args[i : i+1]); n > mostArg {
			l.args[i], l.longest = &bulk{l, arg}, max(l.longest, n)
		}
	}
	return l
}

// Args implements redis.Cmder.
func (l *lone) Args() []any { return l.args }

// NoRetry implements redis.Cmder.
func (l *lone) NoRetry() bool { return l.refusal == nil }

// SetErr implements redis.Cmder. go-redis calls it for every copy that was
// answered.
func (l *lone) SetErr(err error) {
	switch {
	case l.refusal != nil: // errRefused
	case err != nil && redis.HasErrorPrefix(err, "Protocol error"):
		l.Cmder.SetErr(err)
		l.refusal = err
		l.keep(errCloses)
	default:
		l.Cmder.SetErr(err)
	}
}

// keep sets the error. It does not change the state of a Once about its copies.
func (l *lone) keep(err error) {
	if c := Inner(l.Cmder); c != nil {
		c.SetErr(err)
	} else {
		l.Cmder.SetErr(err)
	}
}

var (
	errCloses  = fmt.Errorf("cachex: Redis closes the connection: %w", io.EOF) // only go-redis and its hooks see it
	errRefused = errors.New("cachex: Redis has refused the command")           // likewise
)

// A bulk is a large argument of a lone.
type bulk struct {
	of  *lone
	arg any
}

// MarshalBinary implements encoding.BinaryMarshaler. go-redis calls it to write
// the command to the buffer of a connection.
func (b *bulk) MarshalBinary() ([]byte, error) {
	if b.of.refusal != nil {
		return nil, errRefused
	}
	if arg, ok := b.arg.([]byte); ok {
		return arg, nil
	}
	return fmt.Append(nil, b.arg), nil
}

// String returns the argument for hooks that print arguments.
func (b *bulk) String() string { return fmt.Sprintf("%s", b.arg) }

// A tooLarge is the error of a command that Redis refused by closing the
// connection. It is an answer: Redis is there.
type tooLarge struct {
	bytes int
	err   error
}

// Error names the setting of the server that is the likely cause.
func (e *tooLarge) Error() string {
	return fmt.Sprintf("Redis may refuse an argument of %d bytes, see its proto-max-bulk-len: %v", e.bytes, e.err)
}

// Unwrap returns the error of the connection, or the answer of Redis.
func (e *tooLarge) Unwrap() error { return e.err }

// RedisError implements redis.Error.
func (*tooLarge) RedisError() {}
