package cachex

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// books are a system of record.
type books struct {
	mu   sync.Mutex
	rows map[int]string // guarded by mu
	fail func(id int) error
}

func newBooks() *books { return &books{rows: map[int]string{}} }

func (l *books) down(_ context.Context, id int, v string) error {
	if l.fail != nil {
		if err := l.fail(id); err != nil {
			return err
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[id] = v
	return nil
}

func (l *books) up(_ context.Context, id int) (string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if v, ok := l.rows[id]; ok {
		return v, nil
	}
	return "", ErrNotFound
}

func (l *books) all() map[int]string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return maps.Clone(l.rows)
}

func TestDown_PersistsBeforeTheValueIsStored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var log []string // of one goroutine after the other
		writer := faulty(t, rdb, redistest.Fault{Match: redistest.Named("none")})
		writer.AddHook(&redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			for name, s := range map[string]*script.Script{"acquire": script.Acquire, "store": script.Store, "write": script.Write} {
				if runs(cmd, s) {
					log = append(log, name)
				}
			}
		}})
		spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease}
		reader := newCache(t, rdb, spec)
		spec.Down = func(ctx context.Context, id int, v string) error {
			_, there, err := reader.Lookup(ctx, id)
			log = append(log, fmt.Sprintf("down %s, in Redis %v %v", v, there, err))
			return nil
		}
		c := newCache(t, writer, spec)
		require.NoError(t, c.Set(t.Context(), 1, "first"))
		require.Equal(t, []string{"acquire", "down first, in Redis false <nil>", "store"}, log)
		log = nil
		require.NoError(t, c.Set(t.Context(), 1, "second"))
		require.Equal(t, []string{"acquire", "down second, in Redis true <nil>", "store"}, log)
		gets(t, "second", asking(t.Context(), reader, 1))
		requireFree(t, rdb, c, 1)
	})
}

func TestDown_FailureStoresNothingAndTheNextReaderLoads(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		down func() error
		err  func(*testing.T, error)
	}{
		"an error": {func() error { return errSource }, is(errSource)},
		"a panic":  {func() error { panic("a secret") }, func(t *testing.T, err error) { require.NotContains(t, err.Error(), "secret") }},
		"Goexit":   {func() error { runtime.Goexit(); return nil }, nil},
	} {
		for _, before := range []string{"", "old"} {
			t.Run(name+", before "+before, func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
					s := newSource(t)
					spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease, Up: s.up}
					other := newCache(t, again(t, rdb), spec)
					spec.Down = func(context.Context, int, string) error { return row.down() }
					c := newCache(t, rdb, spec)
					if before != "" {
						require.NoError(t, other.Set(t.Context(), 1, before))
					}
					for _, set := range map[string]func() error{
						"set":     func() error { return c.Set(t.Context(), 1, "new") },
						"setmany": func() error { return c.SetMany(t.Context(), map[int]string{1: "new"}) },
					} {
						returned := make(chan error, 1)
						go func() {
							defer close(returned) // also by Goexit
							returned <- set()
						}()
						err := receive(t, returned)
						if row.err == nil {
							require.NoError(t, err, "it has not returned")
						} else {
							require.ErrorContains(t, err, "Spec.Down")
							e, ok := errors.AsType[*Error](err)
							require.True(t, ok)
							require.Equal(t, c.Key(1), e.Key)
							row.err(t, err)
						}
						requireFree(t, rdb, c, 1)
						_, there, err := other.Lookup(t.Context(), 1)
						require.NoError(t, err)
						require.False(t, there)
						for _, reader := range []*Cache[int, string]{c, other} {
							ch := asking(t.Context(), reader, 1)
							s.next(t).returns("", errSource) // what is there now, nobody knows
							require.ErrorIs(t, receive(t, ch).err, errSource)
						}
						if before != "" {
							require.NoError(t, other.Set(t.Context(), 1, before))
						}
					}
				})
			})
		}
	}
}

func TestDown_FailureKeepsTheStaleValue(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s, db := newSource(t), newBooks()
		c := newCache(t, rdb, Spec[int, string]{LeaseTTL: longLease, Up: s.up, Down: db.down, StaleWhileRevalidate: time.Hour})
		require.NoError(t, c.Set(t.Context(), 1, "old"))
		db.fail = func(int) error { return errSource }
		require.ErrorIs(t, c.Set(t.Context(), 1, "new"), errSource)
		var how Outcome
		gets(t, "old", asking(WithOutcome(t.Context(), &how), c, 1))
		require.Equal(t, Stale, how)
		s.next(t).returns("whatever it is", nil)
		eventually(t, "it should be stored", func() bool { return c.Stats().Loads == 1 && c.Stats().Hits == 0 })
		eventually(t, "it should be served", func() bool {
			v, _, err := c.Lookup(t.Context(), 1)
			return err == nil && v == "whatever it is"
		})
	})
}

func TestDown_RedisDownPersistsTheValueAndIsAnError(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		fault redistest.Fault
		err   error
		left  bool // what was there before may be there still
	}{
		"always":                        {redistest.Fault{Times: redistest.Always}, io.EOF, true},
		"from the lease on":             {redistest.Fault{Match: sends(script.Acquire)}, nil, false},
		"at the lease, granted":         {redistest.Fault{Match: sends(script.Acquire), Executed: true}, nil, false},
		"from the value on":             {redistest.Fault{Skip: 1, Times: redistest.Always}, io.EOF, true},
		"from the value on, stored":     {redistest.Fault{Skip: 1, Times: redistest.Always, Executed: true}, io.EOF, false},
		"at the value":                  {redistest.Fault{Match: sends(script.Store)}, nil, false},
		"at the value, which is stored": {redistest.Fault{Match: sends(script.Store), Executed: true}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				db := newBooks()
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease, Up: db.up, Down: db.down}
				other := newCache(t, again(t, rdb), spec)
				require.NoError(t, other.Set(t.Context(), 1, "old"))
				c := newCache(t, faulty(t, rdb, row.fault), spec)
				err := c.Set(t.Context(), 1, "new")
				require.Equal(t, map[int]string{1: "new"}, db.all(), "it is persisted")
				if row.err != nil {
					require.ErrorIs(t, err, row.err)
					require.Equal(t, c.Key(1), err.(*Error).Key)
					require.NotContains(t, err.Error(), "Spec.Down")
				} else {
					require.NoError(t, err)
				}
				if !row.left {
					gets(t, "new", asking(t.Context(), other, 1))
				}
				require.NoError(t, other.Set(t.Context(), 1, "again"), "which mends it")
				gets(t, "again", asking(t.Context(), other, 1))
			})
		})
	}
}

func TestDown_ValueThatCannotBeEncodedIsNotPersisted(t *testing.T) {
	t.Parallel()
	rdb, commands := counted(t, redistest.StartEmbedded(t).Client(nil))
	for name, spec := range map[string]Spec[int, string]{
		"the codec": {Codec: picky{codec.For[string]()}},
		"TTLFor": {TTLFor: func(_ int, v string) time.Duration {
			if v == "bad" {
				return -1
			}
			return 0
		}},
	} {
		db := newBooks()
		spec.Down = db.down
		spec.DownMany = func(context.Context, map[int]string) error { return errors.New("it is called") }
		c := newCache(t, rdb, spec)
		require.ErrorContains(t, c.Set(t.Context(), 1, "bad"), c.Key(1), name)
		require.ErrorContains(t, c.SetMany(t.Context(), map[int]string{1: "good", 2: "bad", 3: "good"}), c.Key(2), name)
		require.Empty(t, db.all())
	}
	require.Zero(t, commands.Count())
}

func TestDownMany_IsOneCallForAllValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var given []map[int]string
		fail := error(nil)
		c := newCache(t, rdb, Spec[int, string]{
			LeaseTTL: longLease,
			Down:     func(context.Context, int, string) error { return errors.New("it is called") },
			DownMany: func(_ context.Context, values map[int]string) error {
				given = append(given, maps.Clone(values))
				return fail
			},
		})
		require.NoError(t, c.SetMany(t.Context(), goods("set", 1, 2, 3)))
		require.Equal(t, []map[int]string{goods("set", 1, 2, 3)}, given)
		getsMany(t, goods("set", 1, 2, 3), lookingUp(t, c, 1, 2, 3))
		fail = errSource
		require.ErrorIs(t, c.SetMany(t.Context(), goods("new", 2, 3)), errSource)
		getsMany(t, goods("set", 1), lookingUp(t, c, 1, 2, 3))
		requireFree(t, rdb, c, 1, 2, 3)
	})
}

func TestSetMany_WithOnlyDownStoresThePersistedValues(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		db := newBooks()
		c := newCache(t, rdb, Spec[int, string]{LeaseTTL: longLease, Down: db.down})
		require.NoError(t, c.SetMany(t.Context(), goods("old", 1, 2, 3)))
		db.fail = func(id int) error {
			switch id {
			case 2:
				return errSource
			case 3:
				panic("boom")
			}
			return nil
		}
		err := c.SetMany(t.Context(), goods("new", 1, 2, 3, 4))
		e, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		require.Contains(t, []string{c.Key(2), c.Key(3)}, e.Key)
		require.Equal(t, e.Key == c.Key(2), errors.Is(err, errSource))
		require.Equal(t, map[int]string{1: "new1", 2: "old2", 3: "old3", 4: "new4"}, db.all())
		getsMany(t, goods("new", 1, 4), lookingUp(t, c, 1, 2, 3, 4))
		requireFree(t, rdb, c, 1, 2, 3, 4)
	})
}

func TestDown_SetFencesALoadInFlight(t *testing.T) {
	t.Parallel()
	for _, from := range []string{"this cache", "another cache"} {
		t.Run(from, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s, db := newSource(t), newBooks()
				spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease, Up: s.up, Down: db.down}
				c, by := newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)
				if from == "this cache" {
					by = c
				}
				first := asking(t.Context(), c, 1)
				load := s.next(t)
				require.NoError(t, by.Set(t.Context(), 1, "set"))
				late := asking(t.Context(), c, 1)
				eventually(t, "the late caller should have begun", func() bool {
					return c.Stats().Misses == 2 || c.Stats().Hits == 1
				})
				load.returns("old", nil)
				gets(t, "old", first)
				gets(t, "set", late)
				gets(t, "set", asking(t.Context(), by, 1))
				require.EqualValues(t, 1, c.Stats().Fenced)
				require.Empty(t, s.calls)
			})
		})
	}
}

// A shuffle lets those who wait in it go on in an order of its own.
type shuffle struct {
	mu      sync.Mutex
	waiting []chan bool // guarded by mu
	active  int         // guarded by mu: how many may still come, or come back
}

const writers = 9

func (s *shuffle) hold() {
	ch := make(chan bool)
	s.mu.Lock()
	s.waiting = append(s.waiting, ch)
	s.next()
	s.mu.Unlock()
	<-ch
}

func (s *shuffle) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.active--
	s.next()
}

// next lets one go on if all who could come are waiting, or enough of them. The
// caller holds mu.
func (s *shuffle) next() {
	if n := len(s.waiting); n > 0 && n >= min(writers, s.active) {
		i := rand.IntN(n)
		close(s.waiting[i])
		s.waiting[i] = s.waiting[n-1]
		s.waiting = s.waiting[:n-1]
	}
}

func TestDown_ConcurrentSetsLeaveTheValueOfTheSource(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	db := newBooks()
	var order shuffle
	spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", LeaseTTL: longLease, Up: db.up}
	spec.Down = func(ctx context.Context, id int, v string) error {
		defer order.leave()
		order.hold()
		defer order.hold() // between what it does and what it says
		return db.down(ctx, id, v)
	}
	caches := []*Cache[int, string]{newCache(t, rdb, spec), newCache(t, again(t, rdb), spec)}
	for round := range 5 {
		const writers = 100
		order.active = writers
		var all sync.WaitGroup
		for w := range writers {
			all.Go(func() {
				if err := caches[w%2].Set(t.Context(), 1, fmt.Sprint(round, " ", w)); err != nil {
					t.Error(err)
				}
			})
			if w%10 == 0 {
				all.Go(func() {
					if _, err := caches[w/10%2].Get(t.Context(), 1); err != nil && !errors.Is(err, ErrNotFound) {
						t.Error(err)
					}
				})
			}
		}
		all.Wait()
		requireFree(t, rdb, caches[0], 1)
		for _, c := range caches {
			gets(t, db.all()[1], asking(t.Context(), c, 1))
		}
	}
}
