package gather

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Ask sends the command that reads a key, or queues it if c is a pipeline.
type Ask func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder

// Do returns the answered command with which ask reads a key; or its error, and
// then no command. ask must only read, and must not run a script: the client
// may send it twice. about is the expected size of such replies; Do updates it.
//
// If the command is sent alone, it respects ctx as far as the client does. If
// others are in flight, it is batched, also with Get; then Do returns the cause
// of the end of ctx at once.
func (c *Client) Do(ctx context.Context, key string, about *Size, ask Ask) (redis.Cmder, error) {
	at := c.lanes(ctx, key)
	if at == nil {
		return c.itself(ctx, key, about, ask)
	}
	l := &at.reads
	if idle, ok := l.Alone(); ok {
		began := time.Now()
		defer func() { l.Over(idle, time.Since(began)) }()
		return c.itself(ctx, key, about, ask)
	}
	size := about.About()
	if size >= huge || c.large.has(key, "") {
		return c.itself(ctx, key, about, ask)
	}
	own := &command{ask: ask}
	own.read = read{key: key, size: size, by: own}
	if _, err := l.Join(ctx, &own.read); err != nil {
		return nil, err // others may still write to own
	}
	if own.err != nil {
		return nil, own.err
	}
	about.Learn(own.got)
	return own.cmd, nil
}

// itself sends a command alone.
func (c *Client) itself(ctx context.Context, key string, about *Size, ask Ask) (cmd redis.Cmder, err error) {
	defer guard.Catch(guard.Client, &err)
	cmd = ask(ctx, c.rdb, key)
	if err := cmd.Err(); err != nil {
		return nil, err
	}
	n := replySize(cmd)
	c.large.note(key, "", n)
	about.Learn(n)
	return cmd, nil
}

// Write sends cmd, which writes key and has size bytes. The error says why cmd
// was not sent or not awaited; cmd must then not be read, since others may
// still write to it. If the error is nil, cmd has its answer or its own error.
//
// It is batched with other writes, like Do.
func (c *Client) Write(ctx context.Context, key string, size int, cmd redis.Cmder) error {
	at := c.lanes(ctx, key)
	if at == nil {
		return c.wrote(ctx, key, size, cmd)
	}
	l := &at.writes
	if idle, ok := l.Alone(); ok {
		began := time.Now()
		defer func() { l.Over(idle, time.Since(began)) }()
		return c.wrote(ctx, key, size, cmd)
	}
	if size >= huge {
		return c.wrote(ctx, key, size, cmd)
	}
	own := &command{cmd: cmd}
	own.read = read{key: key, size: size, by: own}
	switch sent, err := l.Join(ctx, &own.read); {
	case err != nil && sent:
		return script.Left(cmd, err)
	case err != nil:
		return err
	case own.err != nil && cmd.Err() == nil:
		return script.With(cmd, own.err)
	}
	return nil
}

// wrote sends a writing command alone.
func (c *Client) wrote(ctx context.Context, key string, size int, cmd redis.Cmder) (err error) {
	defer guard.Catch(guard.Client, &err)
	if script.Do(ctx, c.rdb, cmd) == nil {
		c.large.note(key, "", size)
	}
	return nil
}

// command is a write, or a read other than GET or HGET.
type command struct {
	read
	ask Ask         // nil: it writes
	cmd redis.Cmder // as last sent, or still to send
	got int         // approximate number of bytes of the reply
}

// queue queues the command on p, or sends it if p is not a pipeline.
func (own *command) queue(ctx context.Context, p redis.Cmdable) {
	if own.ask != nil {
		own.cmd = own.ask(ctx, p, own.key)
		return
	}
	switch p := p.(type) {
	case redis.Pipeliner:
		_ = p.Process(ctx, own.cmd) // it only queues
	case redis.UniversalClient:
		_ = script.Do(ctx, p, own.cmd) // the error is in it
	}
}

// note records the size of the reply.
func (own *command) note(l *large) {
	switch {
	case own.err != nil:
	case own.ask == nil:
		l.note(own.key, "", own.size)
	default:
		own.got = replySize(own.cmd)
		l.note(own.key, "", own.got)
	}
}

// PerElement is the number of bytes that an element of a reply counts in
// addition to its own, for its cost in the server and the client.
const PerElement = 16

// replySize returns the approximate number of bytes of a reply.
func replySize(cmd redis.Cmder) (n int) {
	switch cmd := cmd.(type) {
	case *redis.StringSliceCmd:
		for _, s := range cmd.Val() {
			n += PerElement + len(s)
		}
	case *redis.ScanCmd:
		all, _ := cmd.Val()
		for _, s := range all {
			n += PerElement + len(s)
		}
	case *redis.ZSliceCmd:
		for _, z := range cmd.Val() {
			member, _ := z.Member.(string)
			n += 2*PerElement + len(member) // plus the score
		}
	}
	return n
}

// Size is the approximate size of replies of one kind in bytes: the moving
// average of replies that were not empty. Its zero value is unknown. It is safe
// for concurrent use; of two concurrent calls of Learn one may be lost.
type Size struct{ n atomic.Int64 } // negative: a guess

// Guess sets the size to expect before the first reply.
func (s *Size) Guess(n int) { s.n.Store(-int64(n)) }

// About returns the number of bytes to expect.
func (s *Size) About() int {
	n := s.n.Load()
	return int(max(n, -n))
}

// Learn adds a reply of n bytes to the average.
func (s *Size) Learn(n int) {
	switch old := s.n.Load(); {
	case n == 0 || int64(n) == old:
	case old <= 0:
		s.n.Store(int64(n))
	default:
		s.n.Store(old + (int64(n)-old)/16)
	}
}
