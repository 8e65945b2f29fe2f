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

// A multiGet reads keys by commands in a pipeline. A single server gets one MGET
// for each convoy.Most keys, or about maxReply bytes, which costs a fraction of
// as many GETs. Other clients get one GET a key, so that a Cluster or a Ring can
// spread them. Packed entries are read by HMGETs; see groupByHash.
type multiGet struct {
	keys        []string
	gets        []*redis.StringCmd // one for each key
	mgets       []*gather.MGet     // or one for each per keys
	per         int                // keys of an MGET
	commandOf   []int              // packed entries: the index of the command that reads each key
	distribute  func(n int)        // packed entries: sets gets to the reply of a command
	distributed []bool             // packed entries: the commands that were distributed
}

// queueGets queues on p the commands that read keys.
func (l *Engine) queueGets(ctx context.Context, p redis.Pipeliner, keys []string) multiGet {
	if l.leases.packed {
		f := multiGet{keys: keys}
		f.gets, f.commandOf, f.distribute = l.leases.groupByHash(ctx, p, keys)
		f.distributed = make([]bool, 1+slices.Max(f.commandOf))
		return f
	}
	per := keysOf(l.entrySize.About())
	if len(keys) > 1 && l.gather.Together() {
		return queueMGet(ctx, p, keys, per)
	}
	return queueEach(ctx, p, keys, per)
}

// maxReply is about how many bytes the entries of one round trip have. Redis
// takes 2 to 3 ms for them in one MGET.
const maxReply = 4 << 20

// keysOf returns how many entries of a size are read in one round trip.
func keysOf(size int) int { return min(max(maxReply/max(size, 1), 1), convoy.Most) }

// weight returns for how many commands a key counts, if a round trip reads per
// keys.
func weight(per int) int { return (convoy.Most + per - 1) / per }

// A heavy is a GET of a large entry.
type heavy struct {
	*redis.StringCmd
	weight int
}

// Weight returns for how many commands it counts; see convoy.Most.
func (h *heavy) Weight() int { return h.weight }

func queueEach(ctx context.Context, p redis.Pipeliner, keys []string, per int) multiGet {
	f := multiGet{keys: keys, gets: make([]*redis.StringCmd, len(keys))}
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

func queueMGet(ctx context.Context, p redis.Pipeliner, keys []string, per int) multiGet {
	f := multiGet{keys: keys, mgets: make([]*gather.MGet, 0, 1+(len(keys)-1)/per), per: per}
	for some := range slices.Chunk(keys, per) {
		m := gather.NewMGet(ctx, len(some), func(i int) string { return some[i] })
		m.Weigh(weight(per) * len(some))
		_ = p.Process(ctx, m) // it only queues
		f.mgets = append(f.mgets, m)
	}
	return f
}

// at returns the index of the command that reads the i-th key.
func (f *multiGet) at(i int) int {
	switch {
	case f.mgets != nil:
		return i / f.per
	case f.commandOf != nil:
		return f.commandOf[i]
	}
	return i
}

// needsFallback reports whether an MGET did not get a proper reply. err is the
// error of the round trip.
func (f *multiGet) needsFallback(err error) bool {
	if err != nil {
		return f.mgets != nil && script.Broken(err)
	}
	return slices.ContainsFunc(f.mgets, (*gather.MGet).Unfit)
}

// next returns the bytes of the i-th key, or redis.Nil or another error. Call
// it once for each key, after its command has ended, and in the order of keys
// if there is an MGET. The bytes are valid until release is called.
func (f *multiGet) next(i int) ([]byte, error) {
	if f.distribute != nil {
		if n := f.commandOf[i]; !f.distributed[n] {
			f.distributed[n] = true
			f.distribute(n)
		}
	}
	if f.mgets == nil {
		return f.gets[i].Bytes()
	}
	return f.mgets[i/f.per].Next()
}

// errOf returns the error of the i-th key, if it was not answered.
func (f *multiGet) errOf(i int) error {
	if f.mgets == nil {
		return f.gets[i].Err()
	}
	return f.mgets[i/f.per].Err()
}

// release is called when the commands have ended and their replies are no
// longer used.
func (f *multiGet) release() {
	for _, m := range f.mgets {
		m.Release()
	}
	f.mgets = nil
}

// readEach reads the keys of failed MGETs by one GET each, in a round trip of
// its own. It leaves when ctx is done, or when Redis is silent for too long.
func (l *Engine) readEach(ctx context.Context, f *multiGet) (multiGet, error) {
	p := l.rdb.Pipeline()
	each := queueEach(ctx, p, f.keys, keysOf(l.entrySize.About()))
	err := l.execPipeline(ctx, p)
	refused := slices.ContainsFunc(f.mgets, func(m *gather.MGet) bool { return script.Answered(m.Err()) })
	if err == nil && refused && slices.ContainsFunc(each.gets, func(cmd *redis.StringCmd) bool {
		return cmd.Err() == nil || errors.Is(cmd.Err(), redis.Nil)
	}) {
		l.gather.Apart(time.Now().Add(gather.ApartFor))
	}
	return each, err
}
