package loader_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/loader"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

var hour = loader.Life{Fresh: time.Hour, Keep: time.Hour}

func returns(v string) func(context.Context) (string, loader.Life, error) {
	return func(context.Context) (string, loader.Life, error) { return v, hour, nil }
}

// each runs f with a new Loader on an embedded server and on a real one.
func each(t *testing.T, o loader.Options[string], f func(t *testing.T, l *loader.Loader[string], key string)) {
	t.Helper()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		l, err := loader.New(rdb, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close(context.Background())) }()
		f(t, l, redistest.Key(t))
	})
}

func TestNew_NamesTheOptionThatIsWrong(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "localhost:1"})
	defer func() { _ = rdb.Close() }()
	for name, o := range map[string]loader.Options[string]{
		"LeaseTTL":             {LeaseTTL: time.Millisecond},
		"Timeout":              {Timeout: -1},
		"MaxLoads":             {MaxLoads: -1},
		"StaleWhileRevalidate": {StaleWhileRevalidate: -1},
		"StaleIfError":         {StaleIfError: -1},
	} {
		_, err := loader.New(rdb, o)
		require.ErrorContains(t, err, name)
	}
	_, err := loader.New[string](nil, loader.Options[string]{})
	require.Error(t, err)
}

func TestGet_LoadsOnceAndStores(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		v, err := l.Get(t.Context(), key, returns("first"))
		require.NoError(t, err)
		require.Equal(t, "first", v)
		v, err = l.Get(t.Context(), key, returns("second"))
		require.NoError(t, err)
		require.Equal(t, "first", v)
		s := l.Stats()
		require.Equal(t, loader.Stats{Hits: 1, Misses: 1, Loads: 1, LoadTime: s.LoadTime}, s)
	})
}

func TestGet_DoesNotStoreAValueWhoseLifeIsZero(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		v, err := l.Get(t.Context(), key, func(context.Context) (string, loader.Life, error) {
			return "first", loader.Life{}, nil
		})
		require.NoError(t, err)
		require.Equal(t, "first", v)
		_, found, err := l.Lookup(t.Context(), key)
		require.NoError(t, err)
		require.False(t, found)
	})
}

func TestGet_DoesNotStoreWhatWasLoadedBeforeADelete(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		v, err := l.Get(t.Context(), key, func(ctx context.Context) (string, loader.Life, error) {
			return "old", hour, l.Delete(ctx, key)
		})
		require.NoError(t, err)
		require.Equal(t, "old", v)
		require.EqualValues(t, 1, l.Stats().Fenced)
		v, err = l.Get(t.Context(), key, returns("new"))
		require.NoError(t, err)
		require.Equal(t, "new", v)
	})
}

func TestGet_RemembersErrNotFoundForItsLife(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		absent := func(context.Context) (string, loader.Life, error) { return "", hour, loader.ErrNotFound }
		for range 2 {
			_, err := l.Get(t.Context(), key, absent)
			require.ErrorIs(t, err, loader.ErrNotFound)
		}
		require.EqualValues(t, 1, l.Stats().Loads)
		require.EqualValues(t, 1, l.Stats().NotFoundHits)
	})
}

func TestGet_GivesAPanicOfALoadAsAnError(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		_, err := l.Get(t.Context(), key, func(context.Context) (string, loader.Life, error) { panic("boom") })
		broken, ok := errors.AsType[*loader.PanicError](err)
		require.True(t, ok, "%v", err)
		require.Equal(t, "boom", broken.Value)
	})
}

func TestSet_ReplacesAValueAndARefreshTheSetOne(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		require.NoError(t, l.Set(t.Context(), key, "set", hour))
		v, found, err := l.Lookup(t.Context(), key)
		require.NoError(t, err)
		require.True(t, found)
		require.Equal(t, "set", v)
		v, err = l.Refresh(t.Context(), key, returns("refreshed"))
		require.NoError(t, err)
		require.Equal(t, "refreshed", v)
		v, _, err = l.Lookup(t.Context(), key)
		require.NoError(t, err)
		require.Equal(t, "refreshed", v)
	})
}

func TestSet_RefusesAWrongLifeAndStoresNothing(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		for _, life := range []loader.Life{
			{}, {Fresh: time.Microsecond, Keep: time.Hour}, {Fresh: time.Hour, Keep: -1}, {Fresh: time.Hour, Keep: time.Minute},
		} {
			require.ErrorContains(t, l.Set(t.Context(), key, "set", life), "Life.")
		}
		_, found, err := l.Lookup(t.Context(), key)
		require.NoError(t, err)
		require.False(t, found)
	})
}

func TestClose_MakesAMissErrClosed(t *testing.T) {
	t.Parallel()
	each(t, loader.Options[string]{}, func(t *testing.T, l *loader.Loader[string], key string) {
		require.NoError(t, l.Close(t.Context()))
		_, err := l.Get(t.Context(), key, returns("late"))
		require.ErrorIs(t, err, loader.ErrClosed)
	})
}
