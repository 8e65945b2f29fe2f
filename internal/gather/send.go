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

// read is the read of one caller.
type read struct {
	key, field string
	size       int      // approximate number of bytes to expect
	by         *command // nil: GET, or HGET if field is set
	v          Value    // unless by has the value
	err        error
}

// The size of a batch is limited: while a server answers it, other clients
// wait, and so do the callers of the batch.
const (
	most = 128     // of weight: one for each key, plus
	unit = 1 << 10 // one for each unit of bytes

	huge = 1 << 14 // bytes: larger values are sent alone
)

func (r *read) weight() int { return 1 + r.size/unit }

// lot is the shared reply of a batch. Its memory is reused when all callers
// have released it.
type lot struct {
	left atomic.Int64
	m    *MGet
}

func (l *lot) release() {
	if l.left.Add(-1) == 0 {
		l.m.Release()
	}
}

// failAll sets the error of reads whose send panicked or called runtime.Goexit.
func failAll(reads []*read, err error) {
	for _, r := range reads {
		r.v, r.err = Value{}, err
	}
}

// send sends the reads of several callers.
func (c *Client) send(ctx context.Context, reads []*read) {
	c.ask(ctx, reads)
	c.noteAll(reads)
}

func (c *Client) ask(ctx context.Context, reads []*read) {
	if len(reads) == 1 { // the others have left, or have other nodes
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

// split separates the reads that one MGET serves from the others.
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

// queue queues a command for each read, or sends it if p is not a pipeline. It
// returns the commands of the reads without by.
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

// deal sets the result of each read; or err, if the whole round trip failed.
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

// take sets the result of each read from the reply of m. If m is unfit, the
// keys are read one by one.
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

// noteAll records which values are large.
func (c *Client) noteAll(reads []*read) {
	for _, r := range reads {
		if r.by != nil {
			r.by.note(&c.large)
		} else if r.err == nil { // after an error the size is unknown
			c.large.note(r.key, r.field, len(r.v.B))
		}
	}
}
