package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// readings makes each of several Loaders read ten keys at the same moment, and
// returns the commands that were sent.
func readings(t *testing.T, rdb *redis.Client, options ...typedOptions[string]) *redistest.Counter {
	t.Helper()
	var loaders []*Loader[string]
	for _, o := range options {
		l, err := newTyped(rdb, o)
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close(t.Context())) }()
		loaders = append(loaders, l)
	}
	for i := range 10 {
		for j, l := range loaders {
			value := fmt.Sprint(j, " ", i)
			_, err := l.Get(t.Context(), fmt.Sprint(j, "-", i), func(context.Context) (string, Life, error) {
				return value, Life{Fresh: time.Hour, Keep: time.Hour}, nil
			})
			require.NoError(t, err)
		}
	}
	rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { time.Sleep(10 * time.Microsecond) }})
	commands := new(redistest.Counter)
	rdb.AddHook(commands)
	var wg sync.WaitGroup
	for i := range 10 {
		for j, l := range loaders {
			wg.Go(func() {
				v, found, err := l.Lookup(t.Context(), fmt.Sprint(j, "-", i))
				require.NoError(t, err)
				require.True(t, found)
				require.Equal(t, fmt.Sprint(j, " ", i), v)
			})
			synctest.Wait()
		}
	}
	wg.Wait()
	return commands
}

func TestBatch_ReadsOfSeveralEnginesAreSentTogether(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		commands := readings(t, rdb, typedOptions[string]{}, typedOptions[string]{})
		require.Equal(t, 2, commands.Count("get"))
		require.Equal(t, 1, commands.Count("mget"))
		require.Equal(t, 3, commands.RoundTrips())
	})
}

func TestBatch_NoCombiningSendsEachReadAlone(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		commands := readings(t, rdb, typedOptions[string]{NoCombining: true})
		require.Equal(t, 10, commands.Count("get"))
		require.Equal(t, 10, commands.Count())
	})
}

// The memory of a batch is reused, but not while a caller still reads it.
func TestBatch_SharedReadGivesEachCallerItsValue(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := newLoader(t, t.client(), typedOptions[string]{})
		key := func(i int) string { return fmt.Sprint(t.key, ":", i) }
		value := func(i int) string { return strings.Repeat(fmt.Sprint(i), 100) }
		for i := range 8 {
			require.NoError(t, p.Leases().Write(t.Context(), key(i), []byte(value(i)), hour))
		}
		var wg sync.WaitGroup
		for g := range 64 {
			wg.Go(func() {
				for n := range 50 {
					i := (g + n*n) % 8
					v, found, err := p.Lookup(t.Context(), key(i))
					if err != nil || !found || v != value(i) {
						t.Errorf("%q, %v, %v in place of %q", v, found, err, value(i))
						return
					}
				}
			})
		}
		wg.Wait()
		require.Zero(t, p.Stats().DecodeFailures)
	})
}
