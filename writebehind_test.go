package cachex

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// rows are a table that values are written behind to.
type rows struct {
	mu      sync.Mutex
	values  map[int]string // guarded by mu
	batches []ledger.Batch // guarded by mu
	err     error          // guarded by mu: of Down
}

func (r *rows) up(_ context.Context, id int) (string, error) {
	if v, ok := r.get(id); ok {
		return v, nil
	}
	return "", ErrNotFound
}

func (r *rows) downMany(ctx context.Context, values map[int]string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	b, ok := ledger.FromContext(ctx)
	if !ok {
		return errors.New("ctx has no batch")
	}
	r.batches = append(r.batches, b)
	if _, refuses := errors.AsType[*ledger.RefusedError](r.err); r.err != nil && !refuses {
		return r.err
	}
	for id, v := range values {
		if v != "poison" {
			r.values[id] = v
		}
	}
	return r.err
}

func (r *rows) get(id int) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	v, ok := r.values[id]
	return v, ok
}

func (r *rows) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// newBehind returns two caches, as of two processes, of a table that is written behind
// by Flush and Close alone.
func newBehind(t *testing.T, rdb *redis.Client, change func(s *Spec[int, string])) (a, b *Cache[int, string], table *rows) {
	t.Helper()
	table = &rows{values: map[int]string{}}
	spec := Spec[int, string]{
		Key: redistest.Key(t) + ":{id}", Up: table.up, DownMany: table.downMany, WriteBehind: 100 * patience,
	}
	if change != nil {
		change(&spec)
	}
	return newCache(t, rdb, spec), newCache(t, again(t, rdb), spec), table
}

// requireAside fails unless err says that so many ids are refused, and so many unread.
func requireAside(t *testing.T, err error, refused, unread int64) {
	t.Helper()
	aside, ok := errors.AsType[*writebehind.AsideError](err)
	require.True(t, ok, "%v", err)
	require.Equal(t, writebehind.AsideError{Refused: refused, Unread: unread}, *aside)
}

func requireValue(t *testing.T, c *Cache[int, string], id int, want string) {
	t.Helper()
	v, err := c.Get(t.Context(), id)
	require.NoError(t, err)
	require.Equal(t, want, v)
}

func TestWriteBehind_ValueIsReadAtOnceAndPersistedLater(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b, table := newBehind(t, rdb, nil)
		ctx := t.Context()
		require.NoError(t, a.Set(ctx, 1, "old"))
		require.NoError(t, b.Set(ctx, 1, "new"))
		require.NoError(t, a.SetMany(ctx, map[int]string{2: "two", 3: "three"}))
		want := map[int]string{1: "new", 2: "two", 3: "three"}
		check := func(c *Cache[int, string]) {
			t.Helper()
			many, err := c.GetMany(ctx, []int{1, 2, 3})
			require.NoError(t, err)
			require.Equal(t, want, many)
			requireValue(t, c, 1, "new")
		}
		check(b)
		_, ok := table.get(1)
		require.False(t, ok, "nothing is persisted yet")
		require.NoError(t, a.Delete(ctx, 1, 2, 3)) // of what is pending it takes nothing
		check(b)
		require.NoError(t, rdb.Del(ctx, a.Key(1), a.Key(2)).Err()) // nor does an eviction
		check(a)
		require.NoError(t, b.Flush(ctx))
		require.Equal(t, want, table.values)
		require.Equal(t, int64(3), b.Stats().WriteBehind.Persisted)
		require.NoError(t, a.Delete(ctx, 1, 2, 3))
		check(a)
		n, err := a.Clear(ctx)
		require.NoError(t, err)
		require.Equal(t, int64(3), n)
		require.NoError(t, a.Set(ctx, 1, "last"))
		require.NoError(t, a.Close(ctx), "persists what is left")
		v, _ := table.get(1)
		require.Equal(t, "last", v)
		requireValue(t, b, 1, "last")
	})
}

func TestWriteBehind_LargeValueIsPersisted(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b, table := newBehind(t, rdb, nil)
		for _, large := range []string{strings.Repeat("x", 20_000), strings.Repeat("y", 20_001)} {
			require.NoError(t, a.Set(t.Context(), 7, large))
			require.NoError(t, a.Delete(t.Context(), 7)) // of Redis: the pending value stays
			v, err := b.Get(t.Context(), 7)
			require.NoError(t, err)
			require.Equal(t, large, v)
		}
		require.NoError(t, a.Flush(t.Context()))
		v, ok := table.get(7)
		require.True(t, ok)
		require.Len(t, v, 20_001)
	})
}

func TestWriteBehind_SetFencesALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		reading, goOn := make(chan struct{}), make(chan struct{})
		a, b, _ := newBehind(t, rdb, func(s *Spec[int, string]) {
			s.Up = func(context.Context, int) (string, error) {
				close(reading)
				<-goOn
				return "from before", nil
			}
		})
		done := make(chan error, 1)
		go func() { _, err := a.Get(t.Context(), 1); done <- err }()
		receive(t, reading)
		require.NoError(t, b.Set(t.Context(), 1, "set"))
		close(goOn)
		require.NoError(t, receive(t, done))
		requireValue(t, a, 1, "set")
		requireValue(t, b, 1, "set")
	})
}

func TestWriteBehind_PendingValueIsBoundToItsKey(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b, table := newBehind(t, rdb, func(s *Spec[int, string]) {
			s.Codec = codec.Encrypt(codec.String[string](), codec.Key{ID: 7, Secret: bytes.Repeat([]byte{7}, 32)})
		})
		require.NoError(t, a.Set(t.Context(), 1, "secret"))
		require.NoError(t, a.Delete(t.Context(), 1))
		requireValue(t, b, 1, "secret")
		for _, text := range rdb.HGetAll(t.Context(), a.keyed.core.writeBehind.Keys(a.keyed.core.writeBehind.Bucket(withoutTag(a.Key(1)))).Pending).Val() {
			require.NotContains(t, text, "secret")
		}
		require.NoError(t, b.Flush(t.Context()))
		v, _ := table.get(1)
		require.Equal(t, "secret", v)
	})
}

// What is pending and cannot be decoded keeps no other key from being read or persisted,
// and waits for a process that can.
func TestWriteBehind_UnreadablePendingValueIsKept(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b, table := newBehind(t, rdb, func(s *Spec[int, string]) {
			s.Codec = codec.JSON[string]()
			s.UpMany = func(context.Context, []int) (map[int]string, error) { return map[int]string{}, nil }
		})
		ids := []int{1, 2, 3, 4, 5}
		want := map[int]string{}
		for _, id := range ids {
			want[id] = fmt.Sprint("value ", id)
			require.NoError(t, a.Set(t.Context(), id, want[id]))
		}
		id := withoutTag(a.Key(1))
		require.NoError(t, a.keyed.core.writeBehind.Put(t.Context(), id, []byte("no JSON")))
		require.NoError(t, a.Delete(t.Context(), ids...))
		delete(want, 1)
		many, _ := b.GetMany(t.Context(), ids)
		require.Equal(t, want, many)
		requireAside(t, b.Flush(t.Context()), 0, 1)
		require.Equal(t, want, table.values)
		refused, err := b.Refused(t.Context())
		require.NoError(t, err)
		require.Empty(t, refused)
		require.NoError(t, a.Set(t.Context(), 1, "a newer value"))
		require.NoError(t, b.Flush(t.Context()))
	})
}

func TestWriteBehind_RefusedValueIsPutAsideAndFailedOneIsRetried(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, _, table := newBehind(t, rdb, nil)
		require.NoError(t, a.Set(t.Context(), 1, "good"))
		table.fail(errors.New("the database is away"))
		err := a.Flush(t.Context())
		require.ErrorContains(t, err, "the database is away")
		_, ok := errors.AsType[*Error](err)
		require.True(t, ok)
		table.fail(nil)
		require.NoError(t, a.Flush(t.Context()))
		v, _ := table.get(1)
		require.Equal(t, "good", v)

		require.NoError(t, a.Set(t.Context(), 2, "poison"))
		table.fail(fmt.Errorf("a row: %w", &ledger.RefusedError{IDs: []string{withoutTag(a.Key(2))}}))
		requireAside(t, a.Flush(t.Context()), 1, 0)
		require.Equal(t, int64(1), a.Stats().WriteBehind.Refused)
		for _, b := range table.batches {
			require.NotEmpty(t, b.Token)
			require.Len(t, b.IDs(), 1)
		}
	})
}

// UpMany may return a whole table. What it says of a key that is pending is older.
func TestUpMany_ExtraKeysDoNotUndoASet(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, b, _ := newBehind(t, rdb, func(s *Spec[int, string]) {
			s.UpMany = func(context.Context, []int) (map[int]string, error) {
				return map[int]string{1: "old", 2: "two", 3: "three"}, nil
			}
		})
		require.NoError(t, a.Set(t.Context(), 1, "new"))
		require.NoError(t, a.Delete(t.Context(), 1))
		many, err := b.GetMany(t.Context(), []int{1, 2})
		require.NoError(t, err)
		require.Equal(t, map[int]string{1: "new", 2: "two"}, many)
		requireValue(t, a, 1, "new")
	})
}

func TestObserver_SeesPersistedBatches(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		d := new(diary)
		table := &rows{values: map[int]string{}}
		c := newCache(t, rdb, Spec[int, string]{
			Name: "c", Key: "k:{id}", Observer: d, Up: table.up, DownMany: table.downMany, WriteBehind: time.Hour,
		})
		require.NoError(t, c.Set(t.Context(), 1, "one"))
		require.NoError(t, c.Flush(t.Context()))
		require.Contains(t, fmt.Sprint(d.lines), "begin persist c k:1 1")
		require.Contains(t, fmt.Sprint(d.lines), "end persist c k:1 1")
	})
}

func TestNew_RefusesInvalidWriteBehind(t *testing.T) {
	t.Parallel()
	down := func(context.Context, int, string) error { return nil }
	for want, spec := range map[string]Spec[int, string]{
		"Spec.WriteBehind needs Spec.Key in place of Spec.KeyFunc":                    {KeyFunc: func(int) string { return "k" }, Down: down},
		"Spec.WriteBehind adds its own hash tag to keys":                              {Key: "k:{{id}}", Down: down},
		"Spec.WriteBehind needs Spec.Down or Spec.DownMany, which persist the values": {Key: "k:{id}"},
		"Spec.WriteBehind is 1ms":                                                     {Key: "k:{id}", Down: down, WriteBehind: time.Millisecond},
		"Spec.WriteBehind is 10.5ms":                                                  {Key: "k:{id}", Down: down, WriteBehind: 10500 * time.Microsecond},
		"Spec.WriteBehindOptions: Name, Merge, Every":                                 {Key: "k:{id}", Down: down, WriteBehindOptions: writebehind.Options{Name: "n"}},
		"Spec.WriteBehindOptions.MaxBatch needs Spec.DownMany":                        {Key: "k:{id}", Down: down, WriteBehindOptions: writebehind.Options{MaxBatch: 7}},
		"Spec.WriteBehind: cachex: new write-behind: Options.Timeout":                 {Key: "k:{id}", Down: down, WriteBehindOptions: writebehind.Options{Timeout: -1}},
	} {
		spec.TTL = time.Minute
		if spec.WriteBehind == 0 {
			spec.WriteBehind = time.Second
		}
		_, err := New(closedClient(t), spec)
		require.ErrorContains(t, err, want)
	}
	_, err := New(closedClient(t), Spec[int, string]{
		Key: "k:{id}", TTL: time.Minute, Down: down, WriteBehindOptions: writebehind.Options{MaxBatch: 1},
	})
	require.ErrorContains(t, err, "Spec.WriteBehindOptions needs Spec.WriteBehind")
}

// No two templates that render different keys have the same buckets.
func TestNamespace_DiffersByTemplate(t *testing.T) {
	t.Parallel()
	seen := map[string]string{}
	for _, template := range []string{
		"k:{id}", "k:*", "k:{a}{b}", "k:{a}*", "k:*{a}", "k:**", "k:%2A", "k:%2a", "k:%252A", "k%3A*", "k: {id}", "k:%20{id}", "k:\t{id}",
	} {
		name := namespace(template)
		require.Empty(t, seen[name], "%q and %q have %q", template, seen[name], name)
		seen[name] = template
		require.NotContains(t, name, " ")
	}
	require.Equal(t, namespace("k:{id}"), namespace("k:{user_id}"), "a placeholder may be renamed")
	require.Equal(t, "k:*", namespace("k:{id}"))
}

func TestReconcile_DoesNothingWithoutWriteBehind(t *testing.T) {
	t.Parallel()
	c := Must(New(redistest.StartEmbedded(t).Client(nil), Spec[int, int]{Key: "k:{id}", TTL: time.Minute}))
	forks, err := c.Reconcile(t.Context(), nil)
	require.NoError(t, err)
	require.Empty(t, forks)
	require.NoError(t, c.Close(t.Context()))
	_, err = c.Reconcile(t.Context(), nil)
	require.ErrorIs(t, err, ErrClosed)
}
