package gather

import (
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/script"
)

// A read is that of one caller.
type read struct {
	key, field string
	size       int      // about how many bytes are expected
	by         *command // nil: GET, or HGET if there is a field
	v          Value    // unless by has it
	err        error
}

// What leaves together is bounded: a server that answers it answers nobody else, and
// those who are together wait for all of it.
const (
	most = 128     // of weight: keys, or
	unit = 1 << 10 // so many bytes for each

	huge = 1 << 14 // bytes: larger values go alone
)

func (r *read) weight() int { return 1 + r.size/unit }

// A lot is what was read together. Its memory is used again when all have released it.
type lot struct {
	left atomic.Int64
	m    *MGet
}

func (l *lot) release() {
	if l.left.Add(-1) == 0 {
		l.m.Release()
	}
}

// failAll gives reads the error of a send that panicked or called runtime.Goexit.
func failAll(reads []*read, err error) {
	for _, r := range reads {
		r.v, r.err = Value{}, err
	}
}

// send reads what several callers ask for.
func (c *Client) send(ctx context.Context, reads []*read) {
	c.ask(ctx, reads)
	c.noteAll(reads)
}

func (c *Client) ask(ctx context.Context, reads []*read) {
	if len(reads) == 1 { // the others have left, or have nodes of their own
		deal(reads, queue(ctx, c.rdb, reads), nil)
		return
	}
	plain, others := c.split(reads)
	if len(others) == 0 {
		m := c.mget(ctx, plain)
		_ = c.rdb.Process(ctx, m) // the error is in m
		c.take(ctx, m, plain)
		return
	}
	p := c.rdb.Pipeline()
	var m *MGet
	if plain != nil {
		m = c.mget(ctx, plain)
		_ = p.Process(ctx, m) // it only queues
	}
	gets := queue(ctx, p, others)
	err := convoy.Send(ctx, c.rdb, p)
	deal(others, gets, err)
	if m != nil {
		c.take(ctx, m, plain)
	}
}

// split returns those of reads that an MGET reads, and the others.
func (c *Client) split(reads []*read) (plain, others []*read) {
	apart := func(r *read) bool { return r.field != "" || r.by != nil }
	switch {
	case !c.Together():
		return nil, reads
	case !slices.ContainsFunc(reads, apart):
		return reads, nil
	}
	for _, r := range reads {
		if apart(r) {
			others = append(others, r)
		} else {
			plain = append(plain, r)
		}
	}
	if len(plain) < 2 {
		return nil, reads
	}
	return plain, others
}

func (c *Client) mget(ctx context.Context, reads []*read) *MGet {
	return NewMGet(ctx, len(reads), func(i int) string { return reads[i].key })
}

// queue queues a command for each read, or sends it if p is no pipeline, and returns those
// that are not in by.
func queue(ctx context.Context, p redis.Cmdable, reads []*read) []*redis.StringCmd {
	cmds := make([]*redis.StringCmd, len(reads))
	for i, r := range reads {
		if r.by != nil {
			r.by.queue(ctx, p)
		} else {
			cmds[i] = get(ctx, p, r.key, r.field)
		}
	}
	return cmds
}

// deal gives each read what its command was answered; or err, if that is what became of
// all.
func deal(reads []*read, cmds []*redis.StringCmd, err error) {
	for i, r := range reads {
		switch {
		case err != nil:
			r.err = err
		case r.by != nil:
			r.err = r.by.cmd.Err()
		default:
			r.v.B, r.err = cmds[i].Bytes()
		}
	}
}

// take gives each read its part of what m was answered; if that cannot be had, they are
// read each by itself.
func (c *Client) take(ctx context.Context, m *MGet, reads []*read) {
	if !m.Unfit() {
		of := &lot{m: m}
		of.left.Store(int64(len(reads)))
		for _, r := range reads {
			var b []byte
			b, r.err = m.Next()
			r.v = Value{b, of}
		}
		return
	}
	p := c.rdb.Pipeline()
	gets := queue(ctx, p, reads)
	deal(reads, gets, convoy.Send(ctx, c.rdb, p))
	if script.Answered(m.Err()) && slices.ContainsFunc(reads, func(r *read) bool { return r.err == nil || errors.Is(r.err, redis.Nil) }) {
		c.Apart(time.Now().Add(ApartFor))
	}
}

// noteAll notes which values are large.
func (c *Client) noteAll(reads []*read) {
	for _, r := range reads {
		if r.by != nil {
			r.by.note(&c.large)
		} else if r.err == nil { // else nothing is known of it
			c.large.note(r.key, r.field, len(r.v.B))
		}
	}
}
