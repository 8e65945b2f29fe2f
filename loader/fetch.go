package loader

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

// A fetch reads keys by commands in a pipeline: by one MGET for each Most of them
// from a single server, which costs a fraction of as many GETs; and by a GET each
// from anything else, so that a Cluster or a Ring can spread them. Packed entries are
// read by one HMGET for each hash.
type fetch struct {
	keys []string
	gets []*redis.StringCmd // one for each key
	many []*gather.MGet     // or one for each Most
	deal func()             // of packed entries: gives gets what their hashes were answered
}

// fetch queues on p what reads keys.
func (l *Loader[V]) fetch(ctx context.Context, p redis.Pipeliner, keys []string) fetch {
	if l.leases.packed {
		f := fetch{keys: keys}
		f.gets, f.deal = l.leases.hashes(ctx, p, keys)
		return f
	}
	if len(keys) > 1 && l.gather.Together() {
		return fetchMany(ctx, p, keys)
	}
	return fetchEach(ctx, p, keys)
}

func fetchEach(ctx context.Context, p redis.Pipeliner, keys []string) fetch {
	f := fetch{keys: keys, gets: make([]*redis.StringCmd, len(keys))}
	for i, key := range keys {
		f.gets[i] = p.Get(ctx, key)
	}
	return f
}

func fetchMany(ctx context.Context, p redis.Pipeliner, keys []string) fetch {
	f := fetch{keys: keys, many: make([]*gather.MGet, 0, 1+(len(keys)-1)/convoy.Most)}
	for some := range slices.Chunk(keys, convoy.Most) {
		m := gather.NewMGet(ctx, len(some), func(i int) string { return some[i] })
		_ = p.Process(ctx, m) // it only queues
		f.many = append(f.many, m)
	}
	return f
}

// sort gives each key its own answer. It is called when the commands have ended, where
// err is what became of all of them.
func (f *fetch) sort(err error) {
	if f.deal != nil && err == nil {
		f.deal()
	}
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
// for each, in their order. The bytes are good until end is called.
func (f *fetch) next(i int) ([]byte, error) {
	if f.many == nil {
		return f.gets[i].Bytes()
	}
	return f.many[i/convoy.Most].Next()
}

// failed returns the error of the i-th key, if it was not answered.
func (f *fetch) failed(i int) error {
	if f.many == nil {
		return f.gets[i].Err()
	}
	return f.many[i/convoy.Most].Err()
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
func (l *Loader[V]) again(ctx context.Context, f *fetch) (fetch, error) {
	p := l.rdb.Pipeline()
	each := fetchEach(ctx, p, f.keys)
	err := l.sendAll(ctx, p)
	refused := slices.ContainsFunc(f.many, func(m *gather.MGet) bool { return script.Answered(m.Err()) })
	if err == nil && refused && slices.ContainsFunc(each.gets, func(cmd *redis.StringCmd) bool {
		return cmd.Err() == nil || errors.Is(cmd.Err(), redis.Nil)
	}) {
		l.gather.Apart(time.Now().Add(gather.ApartFor))
	}
	return each, err
}
