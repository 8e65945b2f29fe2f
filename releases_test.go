package cachex

import (
	"context"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

// Three releases of one program, of which the first two do not understand each
// other.
type (
	release1 struct{ ID, Name string }
	release2 struct {
		ID   int64
		Name []string
	}
	release3 struct {
		ID    int64
		Email string
	}
)

// A rolling deploy must be neither an outage nor wrong values: sturdyc returns an
// error until the TTL is over, gocache a zero value.
func TestGet_ValueOfAChangedStructIsLoadedAgain(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), redistest.Key(t)+":{id}"
		first := newCache(t, rdb, Spec[int, release1]{Key: key, Up: func(context.Context, int) (release1, error) {
			return release1{"one", "Ann"}, nil
		}})
		second := newCache(t, process(t, rdb), Spec[int, release2]{Key: key, Up: func(context.Context, int) (release2, error) {
			return release2{1, []string{"Ann"}}, nil
		}})
		third := newCache(t, process(t, rdb), Spec[int, release3]{Key: key}) // no Up: it has what is there
		for i := range 3 {                                                   // side by side, each overwrites the other's
			v1, err := first.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, release1{"one", "Ann"}, v1)
			v2, err := second.Get(ctx, 1)
			require.NoError(t, err)
			require.Equal(t, release2{1, []string{"Ann"}}, v2)
			require.EqualValues(t, i+1, second.Stats().DecodeFailures)
			require.EqualValues(t, i+1, second.Stats().Loads)
			v3, err := third.Get(ctx, 1)
			require.NoError(t, err, "fields may come and go")
			require.Equal(t, release3{ID: 1}, v3)
		}
	})
}

func TestGet_OtherCodecVersionIsAMiss(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, key := t.Context(), redistest.Key(t)+":{id}"
		cents := newCache(t, rdb, Spec[int, int]{Key: key, Codec: codec.Version(codec.Int[int](), 1)})
		euros := newCache(t, rdb, Spec[int, int]{Key: key, Codec: codec.Version(codec.Int[int](), 2), Up: func(context.Context, int) (int, error) {
			return 5, nil
		}})
		require.NoError(t, cents.Set(ctx, 1, 500))
		_, ok, err := euros.Lookup(ctx, 1)
		require.NoError(t, err)
		require.False(t, ok, "the bytes are fine, and mean something else")
		v, err := euros.Get(ctx, 1)
		require.NoError(t, err)
		require.Equal(t, 5, v)
		_, err = cents.Get(ctx, 1)
		require.ErrorIs(t, err, ErrNotFound)
	})
}

func TestGet_WaiterLoadsAValueThatItCannotRead(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s, key := newSource(t), redistest.Key(t)+":{id}"
		older := newCache(t, rdb, Spec[int, release2]{Key: key, LeaseTTL: longLease, Up: func(ctx context.Context, id int) (release2, error) {
			_, err := s.up(ctx, id)
			return release2{ID: 1}, err
		}})
		newer := newCache(t, again(t, rdb), Spec[int, string]{Key: key, Codec: codec.JSON[string](), Up: func(context.Context, int) (string, error) {
			return "up", nil
		}})
		var both sync.WaitGroup
		both.Go(func() {
			if _, err := older.Get(t.Context(), 1); err != nil {
				t.Error(err)
			}
		})
		load := s.next(t)
		late := asking(t.Context(), newer, 1)
		waiting(t, newer, 1)
		load.returns("", nil)
		gets(t, "up", late)
		both.Wait()
		require.EqualValues(t, 1, newer.Stats().DecodeFailures)
	})
}
