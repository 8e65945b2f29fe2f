package conformance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/collection"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A lateCase is a write of which a copy arrives late, and a later write.
type lateCase struct {
	first, later func(ctx context.Context) error
	key          string                                    // of both, in Redis
	state        func(ctx context.Context) (string, error) // what stands
	stands       string                                    // after later alone
	both         string                                    // after later, and first after it
}

// lateCases make a case for a prefix of keys: first is sent by a, later by b.
var lateCases = map[string]func(t *testing.T, w *world) lateCase{
	"Set, Set": func(t *testing.T, w *world) lateCase {
		a, b := w.caches(t, cachex.Spec[int, string]{})
		return lateCase{
			first: func(ctx context.Context) error { return a.Set(ctx, 1, "first") },
			later: func(ctx context.Context) error { return b.Set(ctx, 1, "later") },
			key:   b.Key(1), state: lookup(b), stands: "later", both: "first",
		}
	},
	"Set, Delete": func(t *testing.T, w *world) lateCase {
		a, b := w.caches(t, cachex.Spec[int, string]{})
		return lateCase{
			first: func(ctx context.Context) error { return a.Set(ctx, 1, "first") },
			later: func(ctx context.Context) error { return b.Delete(ctx, 1) },
			key:   b.Key(1), state: lookup(b), stands: absent, both: "first",
		}
	},
	"Set, Delete, with StaleWhileRevalidate": func(t *testing.T, w *world) lateCase {
		up := func(context.Context, int) (string, error) { return "", missing }
		a, b := w.caches(t, cachex.Spec[int, string]{Up: up, StaleWhileRevalidate: time.Hour})
		return lateCase{
			first: func(ctx context.Context) error { return a.Set(ctx, 1, "first") },
			later: func(ctx context.Context) error { return b.Delete(ctx, 1) },
			key:   b.Key(1), state: lookup(b), stands: absent, both: "first",
		}
	},
	"SetMany, Set": func(t *testing.T, w *world) lateCase {
		a, b := w.caches(t, cachex.Spec[int, string]{})
		return lateCase{
			first: func(ctx context.Context) error { return a.SetMany(ctx, map[int]string{1: "first", 2: "first"}) },
			later: func(ctx context.Context) error { return b.Set(ctx, 1, "later") },
			key:   b.Key(1), state: lookup(b), stands: "later", both: "first",
		}
	},
	"Set of a count, Inc": func(t *testing.T, w *world) lateCase {
		a, b := w.counters(t, counter.Spec[int]{})
		return lateCase{
			first: func(ctx context.Context) error { return a.Set(ctx, 1, 41) },
			later: func(ctx context.Context) error { _, err := b.Inc(ctx, 1); return err },
			key:   b.Key(1), state: count(b), stands: "1", both: "41",
		}
	},
	"Inc, Inc": func(t *testing.T, w *world) lateCase {
		a, b := w.counters(t, counter.Spec[int]{})
		return lateCase{
			first: func(ctx context.Context) error { _, err := a.Inc(ctx, 1); return err },
			later: func(ctx context.Context) error { _, err := b.Inc(ctx, 1); return err },
			key:   b.Key(1), state: count(b), stands: "1", both: "2",
		}
	},
	"Ranking.Set, Remove": func(t *testing.T, w *world) lateCase {
		spec := collection.RankingSpec[int, string]{Key: w.prefix + ":{id}", TTL: time.Hour, Top: 2}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Ranking[int, string], error) {
			return collection.NewRanking(rdb, spec)
		})
		return lateCase{
			first: func(ctx context.Context) error { return a.Set(ctx, 1, "m", 5) },
			later: func(ctx context.Context) error { return b.Remove(ctx, 1, "m") },
			key:   w.prefix + ":1", stands: "[]", both: "[{m 5}]",
			state: func(ctx context.Context) (string, error) { got, err := b.Get(ctx, 1); return fmt.Sprint(got), err },
		}
	},
	"Recent.Push, Remove": func(t *testing.T, w *world) lateCase {
		spec := collection.RecentSpec[int, string]{Key: w.prefix + ":{id}", TTL: time.Hour, Len: 2}
		a, b := pair(t, w, func(rdb redis.UniversalClient) (*collection.Recent[int, string], error) {
			return collection.NewRecent(rdb, spec)
		})
		return lateCase{
			first: func(ctx context.Context) error { return a.Push(ctx, 1, "e") },
			later: func(ctx context.Context) error { return b.Remove(ctx, 1, "e") },
			key:   w.prefix + ":1", stands: "[]", both: "[e]",
			state: func(ctx context.Context) (string, error) { got, err := b.Get(ctx, 1); return fmt.Sprint(got), err },
		}
	},
}

const absent = "nothing"

func lookup(c *cachex.Cache[int, string]) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		v, there, err := c.Lookup(ctx, 1)
		if err == nil && !there {
			return absent, nil
		}
		return v, err
	}
}

func count(c *counter.Counter[int]) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) { n, err := c.Get(ctx, 1); return fmt.Sprint(n), err }
}

type dialer func(ctx context.Context, network, addr string) (net.Conn, error)

// copies counts how often a key is written to the connections that it dials.
type copies struct {
	key atomic.Pointer[string] // nil: none is counted
	n   atomic.Int64
}

func (c *copies) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &copied{conn, c}, nil
}

type copied struct {
	net.Conn
	c *copies
}

// Write implements net.Conn.
func (c *copied) Write(b []byte) (int, error) {
	if key := c.c.key.Load(); key != nil {
		c.c.n.Add(int64(bytes.Count(b, argument(*key))))
	}
	return c.Conn.Write(b)
}

// argument returns how an argument of a command is written.
func argument(arg string) []byte { return fmt.Appendf(nil, "\r\n%s\r\n", arg) }

// A write that returned nil is not carried out again after a later one, and no write
// is sent twice. Only a write that returned ErrOutcomeUnknown may be carried out late.
func TestLateCopy_OfAWriteNeverUndoesALaterOne(t *testing.T) {
	t.Parallel()
	for topology, start := range lateLines {
		t.Run(topology, func(t *testing.T) {
			t.Parallel()
			sent := new(copies)
			line := start(t, sent.dial)
			for name, open := range lateCases {
				t.Run(name, func(t *testing.T) { // one after the other: a proxy holds the next request
					arriveLate(t, line, sent, open)
				})
			}
		})
	}
}

func arriveLate(t *testing.T, line lateLine, sent *copies, open func(*testing.T, *world) lateCase) {
	ctx, prefix := t.Context(), redistest.Key(t)
	// The server is to know the scripts, or it would refuse the copy.
	known := open(t, &world{a: line.free, b: line.free, prefix: prefix})
	require.NoError(t, known.first(ctx))
	require.NoError(t, known.later(ctx))
	require.NoError(t, line.free.Unlink(ctx, known.key).Err())

	held := line.held(t)
	eventually(t, "the client has a connection to the server of the key", func() bool {
		return errors.Is(held.Get(ctx, known.key).Err(), redis.Nil)
	})
	c := open(t, &world{a: held, b: line.free, prefix: prefix})
	proxy, server := line.proxy(c.key), line.server(c.key)
	sent.n.Store(0)
	sent.key.Store(&c.key)
	defer sent.key.Store(nil)
	proxy.HoldNext(1, func(request []byte) bool { return bytes.Contains(request, argument(c.key)) })
	err := c.first(ctx)
	// The client may have given up before the proxy has read it.
	eventually(t, "the proxy should hold the write", func() bool { return proxy.Caught() == 1 })
	require.NoError(t, c.later(ctx))

	before := server.CommandCount("set", "evalsha")
	require.Equal(t, 1, proxy.Release())
	eventually(t, "the copy should arrive", func() bool { return server.CommandCount("set", "evalsha") > before })
	state, lookErr := c.state(ctx)
	require.NoError(t, lookErr)
	if err == nil {
		require.Equal(t, c.stands, state, "a write that returned nil was carried out again")
	} else {
		require.ErrorIs(t, err, cachex.ErrOutcomeUnknown)
		require.Contains(t, []string{c.stands, c.both}, state)
	}
	require.EqualValues(t, 1, sent.n.Load(), "copies of the write")
}
