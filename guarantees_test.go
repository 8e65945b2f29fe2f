package cachex

import (
	"context"
	"crypto/sha1"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// Each of these tests is named after what this package guarantees where another
// cache is known to go wrong.

// serverError is an error that Redis itself returned.
type serverError string

func (e serverError) Error() string { return string(e) }
func (e serverError) RedisError()   {}

// go-redis/cache and jetcache delete the bytes and begin anew: where the DEL
// fails, as after a failover, they recurse until the stack is full.
func TestGet_UndecodableBytesAreReplacedOnceEvenIfDeletesFail(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		b := newBin(t, rdb, nil, User{Name: "up"})
		deletes, all := new(redistest.Faults), new(redistest.Faults)
		rdb.AddHook(deletes)
		rdb.AddHook(all)
		readOnly := serverError("READONLY You can't write against a read only replica.")
		deletes.Add(redistest.Fault{Match: redistest.Named("del", "unlink"), Times: redistest.Always, Err: readOnly})
		b.throw([]byte("garbage"))
		b.heals("deletes fail")

		// And if nothing at all can be written, every Get is one load and no more.
		b.throw([]byte("garbage"))
		var commands redistest.Counter
		rdb.AddHook(&commands)
		all.Add(redistest.Fault{Match: redistest.Named("eval", "evalsha"), Times: redistest.Always, Err: readOnly})
		for i := range 3 {
			v, err := b.with.Get(t.Context(), 1)
			require.NoError(t, err)
			require.Equal(t, b.up, v)
			require.EqualValues(t, i+2, b.loads.Load())
		}
		require.NoError(t, b.with.Close(t.Context())) // so that what it does last is counted
		require.LessOrEqual(t, commands.Count(), 3*3, "the read, the lease, and its release")
	})
}

// gocache returns the zero value and no error.
func TestGet_ValueOfAnotherTypeIsAMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key := redistest.Key(t) + ":{id}"
		words := newCache(t, rdb, Spec[int, string]{Key: key})
		users := newCache(t, process(t, rdb), Spec[int, User]{Key: key})
		numbers := newCache(t, process(t, rdb), Spec[int, int]{Key: key, Up: func(context.Context, int) (int, error) { return 7, nil }})
		require.NoError(t, words.Set(t.Context(), 1, "a word"))
		_, err := users.Get(t.Context(), 1)
		require.ErrorIs(t, err, ErrNotFound)
		_, ok, err := users.Lookup(t.Context(), 1)
		require.NoError(t, err)
		require.False(t, ok)
		n, err := numbers.Get(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, 7, n)
	})
}

// runs reports whether cmd runs s by its digest. What is sent again as a whole, to
// a server that did not know it, does not count.
func runs(cmd redis.Cmder, s *script.Script) bool {
	sum := sha1.Sum([]byte(s.Source()))
	return cmd.Name() == "evalsha" && cmd.Args()[1] == hex.EncodeToString(sum[:])
}

// Most others store a loaded value whatever happened meanwhile; gocache stores it
// later still, out of a queue. Here the Delete, or Set, comes at the last moment:
// the load has ended, and its value is on its way to Redis.
func TestGet_DeleteOrSetBeforeAStoreWins(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		arrived, goOn := make(chan bool, 10), make(chan bool)
		slow := again(t, rdb)
		slow.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if runs(cmd, script.Store) {
				arrived <- true
				<-goOn
			}
		}})
		var version atomic.Int64
		spec := Spec[int, int64]{Key: redistest.Key(t) + ":{id}", LeaseTTL: time.Minute, Up: func(context.Context, int) (int64, error) {
			return version.Add(1), nil
		}}
		c, other := newCache(t, slow, spec), newCache(t, rdb, spec)
		for id, act := range map[int]func() error{
			1: func() error { return other.Delete(t.Context(), 1) },
			2: func() error { return other.Set(t.Context(), 2, 1000) },
		} {
			version.Store(0)
			var first sync.WaitGroup
			first.Go(func() {
				v, err := c.Get(t.Context(), id)
				if err != nil || v != 1 {
					t.Errorf("who was there before gets what was loaded: %v, %v", v, err)
				}
			})
			receive(t, arrived)
			require.NoError(t, act())
			want := map[int]int64{1: 2, 2: 1000}[id]
			v, err := other.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, want, v)
			goOn <- true
			if first.Wait(); t.Failed() {
				return
			}
			v, err = c.Get(t.Context(), id)
			require.NoError(t, err)
			require.Equal(t, want, v)
		}
		require.EqualValues(t, 2, c.Stats().Fenced)
		close(goOn)
	})
}

// After a Delete or a Set has returned, nobody gets what is older, whichever
// cache, client and moment.
func TestGet_NeverReturnsAValueOlderThanADeleteOrSet(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const keys, rounds = 3, 150
		var source, floor [keys]atomic.Int64 // the truth, and the oldest version that may still be read
		var caches []*Cache[int, int64]
		spec := Spec[int, int64]{Key: redistest.Key(t) + ":{id}", Up: func(ctx context.Context, id int) (int64, error) {
			v := source[id].Load()
			return v, rdb.Ping(ctx).Err() // and then it takes a while
		}}
		for range 3 {
			caches = append(caches, newCache(t, again(t, rdb), spec))
		}
		var writers, readers sync.WaitGroup
		written := make(chan bool)
		for id := range keys {
			writers.Go(func() {
				for range rounds {
					c, v := caches[rand.IntN(len(caches))], source[id].Add(1)
					err := c.Delete(t.Context(), id)
					if rand.IntN(4) == 0 {
						err = c.Set(t.Context(), id, v)
					}
					if err != nil {
						t.Error(err)
					}
					floor[id].Store(v)
				}
			})
			for range 6 {
				readers.Go(func() {
					for {
						select {
						case <-written:
							return
						default:
						}
						least := floor[id].Load()
						v, err := caches[rand.IntN(len(caches))].Get(t.Context(), id)
						if err != nil || v < least {
							t.Errorf("version %d, %v, after the end of the Delete or Set of %d", v, err, least)
							return
						}
					}
				})
			}
		}
		writers.Wait()
		close(written)
		readers.Wait()
	})
}

func TestSet_LaterReadersDoNotWaitForTheFencedLoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up, LeaseTTL: longLease})
		before := asking(t.Context(), c, 1)
		old := s.next(t)
		require.NoError(t, c.Set(t.Context(), 1, "set"))
		gets(t, "set", asking(t.Context(), c, 1))
		old.returns("old", nil)
		gets(t, "old", before)
		gets(t, "set", asking(t.Context(), c, 1))
	})
}

// In rueidisaside it is its client that owns a lock, and not its load: so a load
// from before a Delete, when it fails, unlocks the one from after it.
func TestDelete_FailedFencedLoadDoesNotDisturbALaterLoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newSource(t)
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: time.Minute, Up: s.up}
		c, other := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
		before := asking(t.Context(), c, 1)
		old := s.next(t)
		require.NoError(t, c.Delete(t.Context(), 1))
		after := asking(t.Context(), c, 1)
		fresh := s.next(t)
		old.returns("", io.ErrUnexpectedEOF)
		require.ErrorIs(t, receive(t, before).err, io.ErrUnexpectedEOF)
		elsewhere := asking(t.Context(), other, 1)
		waiting(t, other, 1) // the lease is still that of the second load
		fresh.returns("new", nil)
		gets(t, "new", after)
		gets(t, "new", elsewhere)
		require.Empty(t, s.calls)
	})
}
