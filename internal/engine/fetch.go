package engine

import (
	"context"
	"errors"
	"slices"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/convoy"
	"github.com/cachex-go/cachex/internal/gather"
	"github.com/cachex-go/cachex/internal/script"
)

// A fetch reads keys by commands in a pipeline: by one MGET for each Most of them,
// or mostReply bytes, from a single server, which costs a fraction of as many GETs; and by a GET each
// from anything else, so that a Cluster or a Ring can spread them. Packed entries are
// read by one HMGET for each hash.
type fetch struct {
	keys []string
	gets []*redis.StringCmd // one for each key
	many []*gather.MGet     // or one for each per
	per  int                // keys of an MGET
	of   []int              // of packed entries: which command reads each key
	deal func(n int)        // of packed entries: gives gets what a command was answered
	done []bool             // of packed entries: which commands were dealt
}

// fetch queues on p what reads keys.
func (l *Engine) fetch(ctx context.Context, p redis.Pipeliner, keys []string) fetch {
	if l.leases.packed {
		f := fetch{keys: keys}
		f.gets, f.of, f.deal = l.leases.hashes(ctx, p, keys)
		f.done = make([]bool, 1+slices.Max(f.of))
		return f
	}
	per := keysOf(l.size.About())
	if len(keys) > 1 && l.gather.Together() {
		return fetchMany(ctx, p, keys, per)
	}
	return fetchEach(ctx, p, keys, per)
}

// mostReply is how many bytes the entries of one round trip have, about. Redis takes 2
// to 3 ms for them in one MGET.
const mostReply = 4 << 20

// keysOf returns how many entries of a size go out in one round trip.
func keysOf(size int) int { return min(max(mostReply/max(size, 1), 1), convoy.Most) }

// weight returns for how many commands a key counts, if so many go out together.
func weight(per int) int { return (convoy.Most + per - 1) / per }

// A heavy is a GET of a large entry.
type heavy struct {
	*redis.StringCmd
	weight int
}

// Weight returns for how many commands it counts, see convoy.Most.
func (h *heavy) Weight() int { return h.weight }

func fetchEach(ctx context.Context, p redis.Pipeliner, keys []string, per int) fetch {
	f := fetch{keys: keys, gets: make([]*redis.StringCmd, len(keys))}
	for i, key := range keys {
		if per == convoy.Most {
			f.gets[i] = p.Get(ctx, key)
			continue
		}
		f.gets[i] = redis.NewStringCmd(ctx, "get", key)
		_ = p.Process(ctx, &heavy{f.gets[i], weight(per)}) // it only queues
	}
	return f
}

func fetchMany(ctx context.Context, p redis.Pipeliner, keys []string, per int) fetch {
	f := fetch{keys: keys, many: make([]*gather.MGet, 0, 1+(len(keys)-1)/per), per: per}
	for some := range slices.Chunk(keys, per) {
		m := gather.NewMGet(ctx, len(some), func(i int) string { return some[i] })
		m.Weigh(weight(per) * len(some))
		_ = p.Process(ctx, m) // it only queues
		f.many = append(f.many, m)
	}
	return f
}

// at returns which of the commands reads the i-th key.
func (f *fetch) at(i int) int {
	switch {
	case f.many != nil:
		return i / f.per
	case f.of != nil:
		return f.of[i]
	}
	return i
}

// unfit reports whether an MGET was not answered as it should, where err is what
// became of all commands.
func (f *fetch) unfit(err error) bool {
	if err != nil {
		return f.many != nil && script.Broken(err)
	}
	return slices.ContainsFunc(f.many, (*gather.MGet).Unfit)
}

// next returns what the i-th key holds, or redis.Nil or another error. It is called
// for each, when its command has ended, and in their order if there is an MGET. The bytes
// are good until end is called.
func (f *fetch) next(i int) ([]byte, error) {
	if f.deal != nil {
		if n := f.of[i]; !f.done[n] {
			f.done[n] = true
			f.deal(n)
		}
	}
	if f.many == nil {
		return f.gets[i].Bytes()
	}
	return f.many[i/f.per].Next()
}

// failed returns the error of the i-th key, if it was not answered.
func (f *fetch) failed(i int) error {
	if f.many == nil {
		return f.gets[i].Err()
	}
	return f.many[i/f.per].Err()
}

// end is called when the commands have ended, and what they returned is used.
func (f *fetch) end() {
	for _, m := range f.many {
		m.Release()
	}
	f.many = nil
}

// again reads by a GET each what an MGET was not answered for, in a round trip of its
// own. It leaves when ctx is done or Redis is silent for too long.
func (l *Engine) again(ctx context.Context, f *fetch) (fetch, error) {
	p := l.rdb.Pipeline()
	each := fetchEach(ctx, p, f.keys, keysOf(l.size.About()))
	err := l.sendAll(ctx, p)
	refused := slices.ContainsFunc(f.many, func(m *gather.MGet) bool { return script.Answered(m.Err()) })
	if err == nil && refused && slices.ContainsFunc(each.gets, func(cmd *redis.StringCmd) bool {
		return cmd.Err() == nil || errors.Is(cmd.Err(), redis.Nil)
	}) {
		l.gather.Apart(time.Now().Add(gather.ApartFor))
	}
	return each, err
}
