package gather

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// An MGet reads several keys of one server by one command, which costs a fraction of as
// many GETs. Its reply is taken as it comes over the wire, into a buffer that is used
// again: go-redis would make two allocations for each value.
type MGet struct {
	*redis.RawWriteToCmd
	reply *reply
	begun bool
}

// NewMGet returns the command that reads what keys returns for each number below n.
func NewMGet(ctx context.Context, n int, keys func(int) string) *MGet {
	args := make([]any, 1, 1+n)
	args[0] = "mget"
	for i := range n {
		args = append(args, keys(i))
	}
	r := replies.Get().(*reply)
	return &MGet{RawWriteToCmd: redis.NewRawWriteToCmd(ctx, r, args...), reply: r}
}

// Unfit reports whether the keys have to be read each by itself: the server may have
// refused the command for the sake of one key; and the client does not repeat it, as it
// does a GET, when the connection breaks.
func (m *MGet) Unfit() bool {
	if err := m.Err(); err != nil {
		return script.Answered(err) || script.Broken(err)
	}
	return !m.reply.isArray()
}

// Next returns what the next of the keys holds, or redis.Nil or another error. The bytes
// are good until Release is called.
func (m *MGet) Next() ([]byte, error) {
	if err := m.Err(); err != nil {
		return nil, err
	}
	if !m.begun {
		m.begun = true
		m.reply.line() // how many they are
	}
	return m.reply.value()
}

// Release says that nobody looks any more at what came, and that no more comes.
func (m *MGet) Release() { m.reply.release() }

// ApartFor is for how long keys are read each by itself after an MGet was refused
// that was good for some of its keys: a proxy may have lost one of its servers.
const ApartFor = time.Minute

// Apart has keys be read each by itself until then.
func (c *Client) Apart(until time.Time) { c.apart.Store(until.UnixNano()) }

// Together reports whether several keys are to be read by an MGet.
func (c *Client) Together() bool {
	return c.oneNode && time.Now().UnixNano() >= c.apart.Load()
}
