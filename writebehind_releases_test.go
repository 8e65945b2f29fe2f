package cachex

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

// Two releases side by side, in both directions: neither persists what it cannot read,
// loses it, or lets what it can read wait for it.
func TestWriteBehind_TwoReleasesRunSideBySide(t *testing.T) {
	t.Parallel()
	secret := func(id byte) codec.Key { return codec.Key{ID: uint32(id), Secret: bytes.Repeat([]byte{id}, 32)} }
	text := codec.String[string]()
	for name, codecs := range map[string][2]codec.Codec[string]{
		"an older version": {codec.Version(text, 2), codec.Version(text, 3)},
		"a newer version":  {codec.Version(text, 3), codec.Version(text, 2)},
		"an older key":     {codec.Encrypt(text, secret(1)), codec.Encrypt(text, secret(2))},
		"a newer key":      {codec.Encrypt(text, secret(2)), codec.Encrypt(text, secret(1))},
	} {
		for _, many := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, DownMany: %v", name, many), func(t *testing.T) {
				t.Parallel()
				redistest.Each(t, func(t *testing.T, rdb *redis.Client) { twoReleases(t, rdb, codecs, many) })
			})
		}
	}
}

func twoReleases(t *testing.T, rdb *redis.Client, codecs [2]codec.Codec[string], many bool) {
	table := &rows{values: map[int]string{}}
	spec := Spec[int, string]{Key: redistest.Key(t) + ":{id}", Up: table.up, WriteBehind: 100 * patience}
	spec.WriteBehindOptions.Buckets = 1 // all keys are in the way of each other
	if many {
		spec.DownMany = table.downMany
	} else {
		spec.Down = func(ctx context.Context, id int, v string) error { return table.downMany(ctx, map[int]string{id: v}) }
	}
	spec.Codec = codecs[0]
	old := newCache(t, rdb, spec)
	spec.Codec = codecs[1]
	young := newCache(t, again(t, rdb), spec)
	ctx := t.Context()

	require.NoError(t, young.SetMany(ctx, map[int]string{1: "young", 2: "young"}))
	requireAside(t, old.Flush(ctx), 0, 2)
	_, ok := table.get(1)
	require.False(t, ok)
	refused, err := old.Refused(ctx)
	require.NoError(t, err)
	require.Empty(t, refused, "another release can read it")
	require.Equal(t, int64(2), old.Stats().WriteBehind.Unread)
	backlog, err := old.keyed.core.writeBehind.Backlog(ctx)
	require.NoError(t, err)
	require.Equal(t, int64(2), backlog.Unread)
	require.Positive(t, backlog.OldestUnread)
	require.Zero(t, backlog.IDs+backlog.InFlight)
	require.NoError(t, young.Delete(ctx, 1, 2))
	requireValue(t, young, 1, "young") // which is read from what is not persisted

	require.NoError(t, old.SetMany(ctx, map[int]string{2: "old", 3: "old"}))
	requireAside(t, old.Flush(ctx), 0, 1)
	require.Equal(t, map[int]string{2: "old", 3: "old"}, table.values, "they do not wait")
	require.NoError(t, young.Flush(ctx))
	require.Equal(t, map[int]string{1: "young", 2: "old", 3: "old"}, table.values, "the last of 2 was set by the old one")
	require.NoError(t, old.Flush(ctx))

	require.NoError(t, young.Set(ctx, 4, "young"))
	err = old.Close(ctx)
	requireAside(t, err, 0, 1)
	require.ErrorContains(t, err, "1 ids are not persisted and still in Redis")
	require.NoError(t, young.Close(ctx))
	requireRow(t, table, 4, "young")
}

func requireRow(t *testing.T, table *rows, id int, want string) {
	t.Helper()
	v, ok := table.get(id)
	require.True(t, ok)
	require.Equal(t, want, v)
}

// The sweeper of either release finds what the other one left to it.
func TestWriteBehind_TwoReleasesPersistInTheBackground(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		table := &rows{values: map[int]string{}}
		spec := Spec[int, string]{Key: "k:{id}", Up: table.up, DownMany: table.downMany, WriteBehind: time.Second}
		var all []*Cache[int, string]
		for i := range 6 { // one of them is new
			spec.Codec = codec.Version(codec.String[string](), uint32(2+i/5))
			all = append(all, newCache(t, again(t, rdb), spec))
		}
		for i, c := range all {
			require.NoError(t, c.Set(t.Context(), i, "set"))
		}
		time.Sleep(time.Minute)
		for i, c := range all {
			requireRow(t, table, i, "set")
			require.NoError(t, c.Set(t.Context(), 10+i, "set"))
		}
		time.Sleep(time.Minute)
		for i, c := range all {
			requireRow(t, table, 10+i, "set")
			require.NoError(t, c.Close(t.Context()))
		}
	})
}

// Down is called with one value, so that its ledger records just that.
func TestWriteBehind_DownGetsABatchOfItsValue(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		most := 1000
		if strings.HasSuffix(t.Name(), "embedded") { // which is slow at scripts
			most = 100
		}
		table := &rows{values: map[int]string{}}
		seen := map[string]bool{}
		c := newCache(t, rdb, Spec[int, string]{
			Key: redistest.Key(t) + ":{id}", WriteBehind: 100 * patience,
			Down: func(ctx context.Context, id int, v string) error {
				b, ok := ledger.FromContext(ctx)
				table.mu.Lock()
				defer table.mu.Unlock()
				if !ok || len(b.IDs()) != 1 || seen[b.Token] {
					return fmt.Errorf("batch of %d ids, seen before: %v", len(b.IDs()), seen[b.Token])
				}
				seen[b.Token] = true
				table.values[id] = v
				return nil
			},
		})
		all := map[int]string{}
		for i := range most {
			all[i] = fmt.Sprint("value ", i)
		}
		require.NoError(t, c.SetMany(t.Context(), all))
		require.NoError(t, c.Flush(t.Context()))
		require.Equal(t, all, table.values)
		require.Equal(t, int64(most), c.Stats().WriteBehind.Persisted)
	})
}

func TestWriteBehind_EveryRefusedValueIsPutAside(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		most := 1000
		if strings.HasSuffix(t.Name(), "embedded") { // which is slow at scripts
			most = 100
		}
		table := &rows{values: map[int]string{}}
		good := false
		c := newCache(t, rdb, Spec[int, string]{
			Key: redistest.Key(t) + ":{id}", WriteBehind: 100 * patience,
			Down: func(_ context.Context, id int, v string) error {
				table.mu.Lock()
				defer table.mu.Unlock()
				if !good {
					return fmt.Errorf("row: %w", &ledger.RefusedError{IDs: []string{"by another name"}})
				}
				table.values[id] = v
				return nil
			},
		})
		all := map[int]string{}
		for i := range most {
			all[i] = "value"
		}
		require.NoError(t, c.SetMany(t.Context(), all))
		requireAside(t, c.Flush(t.Context()), int64(most), 0)
		refused, err := c.Refused(t.Context())
		require.NoError(t, err)
		require.Len(t, refused, most)
		table.mu.Lock()
		good = true
		table.mu.Unlock()
		n, err := c.Retry(t.Context())
		require.NoError(t, err)
		require.Equal(t, most, n)
		require.NoError(t, c.Close(t.Context()))
		require.Equal(t, all, table.values)
	})
}

// Several refusals are all put aside. If something else failed beside one, nothing is
// lost: all of it is persisted again.
func TestWriteBehind_RefusalTogetherWithAFailureIsRetried(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		a, _, table := newBehind(t, rdb, func(s *Spec[int, string]) { s.WriteBehindOptions.Buckets = 1 })
		ctx := t.Context()
		refuse := func(id int) error { return &ledger.RefusedError{IDs: []string{withoutTag(a.Key(id))}} }
		require.NoError(t, a.SetMany(ctx, map[int]string{1: "poison", 2: "good", 3: "poison"}))
		failure := errors.New("a deadlock")
		table.fail(errors.Join(refuse(1), failure, refuse(3)))
		require.ErrorIs(t, a.Flush(ctx), failure)
		refused, err := a.Refused(ctx)
		require.NoError(t, err)
		require.Empty(t, refused)
		table.fail(errors.Join(refuse(1), fmt.Errorf("row: %w", refuse(3))))
		requireAside(t, a.Flush(ctx), 2, 0)
		require.Equal(t, map[int]string{2: "good"}, table.values)
		refused, err = a.Refused(ctx)
		require.NoError(t, err)
		require.Len(t, refused, 2)
		table.fail(nil)
		n, err := a.Retry(ctx, withoutTag(a.Key(3)))
		require.NoError(t, err)
		require.Equal(t, 1, n)

		// An id that the batch has not may mean any that it has.
		require.NoError(t, a.Set(ctx, 4, "good"))
		table.fail(&ledger.RefusedError{IDs: []string{"4"}})
		require.Error(t, a.Flush(ctx))
		table.fail(nil)
		require.NoError(t, a.Flush(ctx))
		requireRow(t, table, 4, "good")
	})
}

func TestWriteBehind_RefusedAndRetryNeedWriteBehind(t *testing.T) {
	t.Parallel()
	c, err := New(closedClient(t), Spec[int, string]{Key: "k:{id}", TTL: time.Minute})
	require.NoError(t, err)
	_, err = c.Refused(t.Context())
	require.ErrorIs(t, err, errNoWriteBehind)
	_, err = c.Retry(t.Context())
	require.ErrorIs(t, err, errNoWriteBehind)
}
