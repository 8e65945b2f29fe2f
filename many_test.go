package cachex

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

// A shop is an UpMany whose every call waits for the test to answer it, as source
// is an Up.
type shop struct {
	calls chan *order
	end   <-chan struct{} // of the test, however it ends
}

// An order is one call of UpMany.
type order struct {
	ctx    context.Context
	ids    []int
	answer chan func() (map[int]string, error)
}

func newShop(t *testing.T) *shop {
	return &shop{calls: make(chan *order, 1000), end: t.Context().Done()}
}

func (s *shop) upMany(ctx context.Context, ids []int) (map[int]string, error) {
	o := &order{ctx: ctx, ids: slices.Clone(ids), answer: make(chan func() (map[int]string, error), 1)}
	s.calls <- o
	select {
	case f := <-o.answer:
		return f()
	case <-s.end:
		return nil, errors.New("the test has ended")
	}
}

// next returns the next call of UpMany, which must be for ids.
func (s *shop) next(t *testing.T, ids ...int) *order {
	t.Helper()
	o := receive(t, s.calls)
	require.ElementsMatch(t, ids, o.ids)
	return o
}

// delivers answers the call with a value for each key, v and its id.
func (o *order) delivers(v string) {
	o.answer <- func() (map[int]string, error) { return goods(v, o.ids...), nil }
}

// goods has the value v and the id for each id.
func goods(v string, ids ...int) map[int]string {
	m := make(map[int]string, len(ids))
	for _, id := range ids {
		m[id] = fmt.Sprint(v, id)
	}
	return m
}

// numbers returns the n numbers from first on.
func numbers(first, n int) []int {
	ids := make([]int, n)
	for i := range ids {
		ids[i] = first + i
	}
	return ids
}

// An armful is what a GetMany returned.
type armful struct {
	values map[int]string
	err    error
}

// askingMany calls GetMany in a goroutine of its own.
func askingMany(ctx context.Context, c *Cache[int, string], ids ...int) <-chan armful {
	ch := make(chan armful, 1)
	go func() { // ends with GetMany
		values, err := c.GetMany(ctx, ids)
		ch <- armful{values, err}
	}()
	return ch
}

// getsMany requires that a GetMany returns want.
func getsMany(t *testing.T, want map[int]string, ch <-chan armful) {
	t.Helper()
	got := receive(t, ch)
	require.NoError(t, got.err)
	require.Equal(t, want, got.values)
}

// requireFree requires that Redis holds no lease on ids.
func requireFree(t *testing.T, rdb *redis.Client, c *Cache[int, string], ids ...int) {
	t.Helper()
	for _, id := range ids {
		b, err := rdb.Get(t.Context(), c.Key(id)).Bytes()
		if !errors.Is(err, redis.Nil) {
			require.NoError(t, err)
			require.Equal(t, "V", string(b[3]), "what key %d holds is not a value", id)
		}
	}
}

func TestGetMany_LoadsMissingKeysInOneCall(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
		require.NoError(t, c.Set(t.Context(), 1, "set1"))
		var how Outcome
		ch := askingMany(WithOutcome(t.Context(), &how), c, 3, 1, 2, 3, 9, 1, 2)
		s.next(t, 2, 3, 9).answer <- func() (map[int]string, error) { return goods("up", 2, 3), nil }
		want := map[int]string{1: "set1", 2: "up2", 3: "up3"}
		getsMany(t, want, ch)
		require.Equal(t, Loaded, how)

		ch = askingMany(WithOutcome(t.Context(), &how), c, 1, 2, 3)
		getsMany(t, want, ch)
		require.Equal(t, Hit, how)
		require.Empty(t, s.calls)
		values, err := c.LookupMany(t.Context(), []int{9, 3, 3, 1, 2})
		require.NoError(t, err)
		require.Equal(t, want, values)
		require.Zero(t, rdb.Exists(t.Context(), c.Key(9)).Val(), "what has no value is not remembered")
		require.Equal(t, int64(1), c.Stats().Loads)
	})
}

func TestLookupMany_NeitherLoadsNorWaits(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
		ch := askingMany(t.Context(), c, 1, 2)
		o := s.next(t, 1, 2)
		values, err := c.LookupMany(t.Context(), []int{1, 2, 3})
		require.NoError(t, err)
		require.Empty(t, values)
		o.delivers("up")
		getsMany(t, goods("up", 1, 2), ch)
		require.Empty(t, s.calls)
	})
}

func TestGetMany_WithoutUpIsLookupMany(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		c := newCache(t, rdb, Spec[int, string]{})
		require.NoError(t, c.SetMany(t.Context(), goods("set", 1, 2)))
		getsMany(t, goods("set", 1, 2), askingMany(t.Context(), c, 1, 2, 3))
	})
}

func TestGetMany_InvalidCallSendsNothing(t *testing.T) {
	t.Parallel()
	ended, cancel := context.WithCancelCause(t.Context())
	cancel(errSource)
	for _, row := range []struct {
		name string
		ctx  context.Context
		shut bool
		is   error
	}{
		{"without a ctx", nil, false, errNilContext},
		{"whose ctx has ended", ended, false, errSource},
		{"of a cache that is closed", t.Context(), true, ErrClosed},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			s := newShop(t)
			rdb, commands := counted(t, redistest.StartEmbedded(t).Client(nil))
			c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany})
			if row.shut {
				require.NoError(t, c.Close(t.Context()))
			}
			for _, ids := range [][]int{{1, 2}, {}, nil} {
				got, get := c.GetMany(row.ctx, ids)
				require.Empty(t, got)
				_, lookup := c.LookupMany(row.ctx, ids)
				set := c.SetMany(row.ctx, goods("set", ids...))
				for op, err := range map[string]error{"getmany": get, "lookupmany": lookup, "setmany": set} {
					require.Equal(t, &Error{Op: op, Cache: c.Name(), Err: row.is}, err)
				}
			}
			require.Empty(t, s.calls)
			require.Zero(t, commands.Count())
		})
	}
}

func TestGetMany_NoKeysSendsNothing(t *testing.T) {
	t.Parallel()
	rdb := closedClient(t)
	s := newShop(t)
	c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany})
	for _, ids := range [][]int{{}, nil} {
		values, err := c.GetMany(t.Context(), ids)
		require.NoError(t, err)
		require.NotNil(t, values)
		require.Empty(t, values)
		values, err = c.LookupMany(t.Context(), ids)
		require.NoError(t, err)
		require.NotNil(t, values)
		require.NoError(t, c.SetMany(t.Context(), goods("set", ids...)))
	}
	require.Empty(t, s.calls)
}

func TestGetMany_InvalidKeyIsTheErrorAndOthersAreAnswered(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		prefix := redistest.Key(t)
		c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease, KeyFunc: func(id int) string {
			if id < 0 {
				panic("negative")
			}
			return fmt.Sprint(prefix, ":", id)
		}})
		ch := askingMany(t.Context(), c, 1, -1, 2, -2)
		s.next(t, 1, 2).delivers("up")
		got := receive(t, ch)
		require.Equal(t, goods("up", 1, 2), got.values)
		e, ok := errors.AsType[*Error](got.err)
		require.True(t, ok)
		require.Equal(t, Error{Op: "getmany", Cache: c.Name(), Err: e.Err}, *e)
		require.ErrorContains(t, e, "Spec.KeyFunc panicked")

		values, err := c.LookupMany(t.Context(), []int{-1, 1, 2})
		require.Equal(t, goods("up", 1, 2), values)
		require.ErrorContains(t, err, "Spec.KeyFunc panicked")
		values, err = c.GetMany(t.Context(), []int{-1})
		require.Empty(t, values)
		require.ErrorContains(t, err, "Spec.KeyFunc panicked")
		require.Error(t, c.SetMany(t.Context(), map[int]string{-1: "", 5: "set"}))
		require.Zero(t, rdb.Exists(t.Context(), c.Key(5)).Val(), "nothing is set")

		// The first that failed is the error, not that which cannot be rendered.
		ch = askingMany(t.Context(), c, 3, -1)
		s.next(t, 3).answer <- func() (map[int]string, error) { return nil, errSource }
		require.ErrorIs(t, receive(t, ch).err, errSource)
		ch = askingMany(t.Context(), c, 1, -1, 3)
		s.next(t, 3).answer <- func() (map[int]string, error) { return nil, errSource }
		require.ErrorContains(t, receive(t, ch).err, "Spec.KeyFunc panicked")
	})
}

// In each the keys that are there are right and stored, and the others have no
// value, or the error; and no lease is left.
func TestGetMany_EachKeyHasItsOwnResultOfUpMany(t *testing.T) {
	t.Parallel()
	for _, o := range []struct {
		name   string
		does   func() (map[int]string, error)
		want   map[int]string
		failed int64
		err    func(*testing.T, error)
	}{
		{name: "all", does: func() (map[int]string, error) { return goods("up", 1, 2, 3), nil }, want: goods("up", 1, 2, 3)},
		{name: "fewer", does: func() (map[int]string, error) { return goods("up", 2), nil }, want: goods("up", 2)},
		{name: "more", does: func() (map[int]string, error) { return goods("up", 1, 2, 3, 4, 5), nil }, want: goods("up", 1, 2, 3)},
		{name: "others", does: func() (map[int]string, error) { return goods("up", 4, 5), nil }},
		{name: "none", does: func() (map[int]string, error) { return nil, nil }},
		{name: "an error", failed: 1, does: func() (map[int]string, error) { return nil, errSource }, err: is(errSource)},
		{name: "some and an error", does: func() (map[int]string, error) { return goods("up", 2, 4), errSource }, want: goods("up", 2), err: is(errSource)},
		{name: "all and an error", does: func() (map[int]string, error) { return goods("up", 1, 2, 3), errSource }, want: goods("up", 1, 2, 3)},
		{name: "a panic", failed: 1, does: func() (map[int]string, error) { panic("boom") }, err: func(t *testing.T, err error) {
			p, ok := errors.AsType[*loader.PanicError](err)
			require.True(t, ok, "%v", err)
			require.Contains(t, string(p.Stack), "many_test.go")
		}},
		{name: "Goexit", failed: 1, does: func() (map[int]string, error) { runtime.Goexit(); return nil, nil }, err: is(loader.ErrGoexit)},
		// Of which key should that be true? An error that says so of all would have
		// it taken for an answer, and remembered.
		{name: "not found", failed: 1, err: isNot(ErrNotFound), does: func() (map[int]string, error) {
			return nil, fmt.Errorf("no rows: %w", ErrNotFound)
		}},
		{name: "some and not found", want: goods("up", 1), err: isNot(ErrNotFound), does: func() (map[int]string, error) {
			return goods("up", 1), ErrNotFound
		}},
		{name: "not modified", failed: 1, err: isNot(ErrNotModified), does: func() (map[int]string, error) { return nil, ErrNotModified }},
	} {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			if o.want == nil {
				o.want = map[int]string{}
			}
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				s := newShop(t)
				c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
				ch := askingMany(t.Context(), c, 1, 2, 3)
				s.next(t, 1, 2, 3).answer <- o.does
				got := receive(t, ch)
				require.Equal(t, o.want, got.values)
				if o.err == nil {
					require.NoError(t, got.err)
				} else {
					o.err(t, got.err)
					e, ok := errors.AsType[*Error](got.err)
					require.True(t, ok)
					first := slices.Min(slices.DeleteFunc([]int{1, 2, 3}, func(id int) bool { return o.want[id] != "" }))
					require.Equal(t, Error{Op: "getmany", Cache: c.Name(), Key: c.Key(first), Err: e.Err}, *e, "the first that failed")
				}
				require.Equal(t, o.failed, c.Stats().LoadFailures)
				values, err := c.LookupMany(t.Context(), []int{1, 2, 3, 4, 5})
				require.NoError(t, err)
				require.Equal(t, o.want, values, "what is stored")
				require.EqualValues(t, len(o.want), rdb.Exists(t.Context(), c.Key(1), c.Key(2), c.Key(3), c.Key(4), c.Key(5)).Val(), "a lease is left")
			})
		})
	}
}

func isNot(target error) func(*testing.T, error) {
	return func(t *testing.T, err error) {
		require.Error(t, err)
		require.NotErrorIs(t, err, target)
	}
}

func TestGet_UsesUpManyWithoutUp(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := newShop(t)
		c := newCache(t, rdb, Spec[int, string]{UpMany: s.upMany, LeaseTTL: longLease})
		one := asking(t.Context(), c, 1)
		s.next(t, 1).delivers("up")
		gets(t, "up1", one)
		gets(t, "up1", asking(t.Context(), c, 1))
		for _, row := range []struct{ err, is error }{{nil, ErrNotFound}, {errSource, errSource}, {ErrNotFound, ErrNotFound}} {
			two := asking(t.Context(), c, 2)
			s.next(t, 2).answer <- func() (map[int]string, error) { return goods("up", 3), row.err }
			require.ErrorIs(t, receive(t, two).err, row.is)
			require.Zero(t, rdb.Exists(t.Context(), c.Key(2), c.Key(3)).Val())
		}
		both := asking(t.Context(), c, 2)
		s.next(t, 2).answer <- func() (map[int]string, error) { return goods("up", 2), errSource }
		gets(t, "up2", both)
	})
}

func TestGetMany_WithoutUpManyCallsUpConcurrently(t *testing.T) {
	t.Parallel()
	const keys = 40
	for maxLoads, most := range map[int]int{0: 16, 3: 3, 100: keys} {
		t.Run(fmt.Sprint("MaxLoads ", maxLoads), func(t *testing.T) {
			t.Parallel()
			inBubble(t, Spec[int, string]{MaxLoads: maxLoads}, func(t *testing.T, _ *redis.Client, s *source, a, _ *Cache[int, string]) {
				ch := askingMany(t.Context(), a, numbers(0, keys)...)
				for left := keys; left > 0; left-- {
					synctest.Wait()
					require.Len(t, s.calls, min(left, most))
					load := s.next(t)
					switch load.id {
					case 7:
						load.returns("", errSource)
					case 8:
						load.does(func() (string, error) { panic("boom") })
					case 9:
						load.returns("", ErrNotFound)
					default:
						load.returns(fmt.Sprint("up", load.id), nil)
					}
				}
				got := receive(t, ch)
				require.ErrorIs(t, got.err, errSource)
				want := goods("up", numbers(0, keys)...)
				maps.DeleteFunc(want, func(id int, _ string) bool { return 7 <= id && id <= 9 })
				require.Equal(t, want, got.values)
				require.True(t, strings.HasSuffix(got.err.(*Error).Key, ":7"))
			})
		})
	}
}
