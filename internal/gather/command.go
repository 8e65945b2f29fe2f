package gather

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// An Ask sends the command that reads a key, or queues it if c is a pipeline.
type Ask func(ctx context.Context, c redis.Cmdable, key string) redis.Cmder

// Do returns the command by which ask reads a key, when it has its answer; or the error of
// that, and then no command. It must read and nothing else, and be no script: the client
// may send it twice. about is what such replies are like; Do takes note of this one.
//
// If it is sent alone, it heeds ctx as far as the client does. It is sent together with
// others, by Get too, if a few are under way; then Do returns the cause of the end of ctx
// at once.
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
		return nil, err // and others may still write to own
	}
	if own.err != nil {
		return nil, own.err
	}
	about.Learn(own.got)
	return own.cmd, nil
}

// itself sends a command by itself.
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

// Write sends cmd, which writes key, and has so many bytes. The error is that of what
// kept cmd from being sent or waited for, and then it must not be looked at: others may
// still write to it. Else cmd has its answer or its error.
//
// It leaves as with Do, together with what others write.
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

// wrote sends a command that writes by itself.
func (c *Client) wrote(ctx context.Context, key string, size int, cmd redis.Cmder) (err error) {
	defer guard.Catch(guard.Client, &err)
	if script.Do(ctx, c.rdb, cmd) == nil {
		c.large.note(key, "", size)
	}
	return nil
}

// A command is a read otherwise than by GET or HGET, or a write.
type command struct {
	read
	ask Ask         // nil: it writes
	cmd redis.Cmder // as it was last sent, or is to be sent
	got int         // about how many bytes the reply has
}

// queue queues the command on p, or sends it if that is no pipeline.
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

// note notes how large the reply is.
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

// PerElement is how many bytes an element of a reply counts for, beside its own: it takes
// the server and the client as long as some bytes do.
const PerElement = 16

// replySize returns about how many bytes a reply has.
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
			n += 2*PerElement + len(member) // and the score
		}
	}
	return n
}

// A Size is about how many bytes replies of one kind have: the moving average of those
// that were not empty. Its zero value knows of none. It is safe for concurrent use; of two
// who Learn at the same time one may be forgotten.
type Size struct{ n atomic.Int64 } // negative: a guess

// Guess says how many it is to be until there was a reply.
func (s *Size) Guess(n int) { s.n.Store(-int64(n)) }

// About returns how many bytes to expect.
func (s *Size) About() int {
	n := s.n.Load()
	return int(max(n, -n))
}

// Learn takes a reply of n bytes into the average.
func (s *Size) Learn(n int) {
	switch old := s.n.Load(); {
	case n == 0 || int64(n) == old:
	case old <= 0:
		s.n.Store(int64(n))
	default:
		s.n.Store(old + (int64(n)-old)/16)
	}
}
