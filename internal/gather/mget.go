package gather

import (
	"context"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/script"
)

// MGet reads several keys of one server with one command, at a fraction of the
// cost of as many GETs. Its reply is copied as it arrives into a reusable
// buffer: go-redis would make two allocations for each value.
type MGet struct {
	*redis.RawWriteToCmd
	reply  *reply
	begun  bool
	weight int
}

// NewMGet returns the command that reads the keys that keys returns for 0 to
// n-1.
func NewMGet(ctx context.Context, n int, keys func(int) string) *MGet {
	args := make([]any, 1, 1+n)
	args[0] = "mget"
	for i := range n {
		args = append(args, keys(i))
	}
	r := replies.Get().(*reply)
	return &MGet{RawWriteToCmd: redis.NewRawWriteToCmd(ctx, r, args...), reply: r, weight: n}
}

// Weigh sets for how many commands m counts. The default is its number of keys.
func (m *MGet) Weigh(n int) { m.weight = n }

// Weight returns for how many commands m counts.
func (m *MGet) Weight() int { return m.weight }

// Unfit reports whether the keys must be read one by one. The server may have
// rejected the command because of one key. If the connection breaks, the client
// does not retry it as it retries a GET.
func (m *MGet) Unfit() bool {
	if err := m.Err(); err != nil {
		return script.Answered(err) || script.Broken(err)
	}
	return !m.reply.isArray()
}

// Next returns the value of the next key, or redis.Nil or another error. The
// bytes are valid until Release is called.
func (m *MGet) Next() ([]byte, error) {
	if err := m.Err(); err != nil {
		return nil, err
	}
	if !m.begun {
		m.begun = true
		m.reply.line() // the number of values
	}
	return m.reply.value()
}

// Release says that the caller no longer uses the reply, and that no more of it
// arrives.
func (m *MGet) Release() { m.reply.release() }

// ApartFor is the time for which keys are read one by one after an MGet was
// rejected that worked for some of its keys: a proxy may have lost one of its
// servers.
const ApartFor = time.Minute

// Apart makes keys be read one by one until then.
func (c *Client) Apart(until time.Time) { c.apart.Store(until.UnixNano()) }

// Together reports whether several keys may be read by an MGet.
func (c *Client) Together() bool {
	return c.oneNode && time.Now().UnixNano() >= c.apart.Load()
}
