package cachex

import (
	"testing"
	"testing/synctest"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// A Refresh that comes during another one waits for the next load. If a deletion lets
// readers begin one of their own meanwhile, that is not it, nor is the value that those
// who come after them find.
func TestRefresh_DuringAnotherIsNotSatisfiedByALoadOfReaders(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		ctx, s := t.Context(), newSource(t)
		c := newCache(t, rdb, Spec[int, string]{Up: s.up})
		refresh := func() <-chan answer {
			ch := make(chan answer, 1)
			go func() { // ends with Refresh
				v, err := c.Refresh(ctx, 1)
				ch <- answer{v, err}
			}()
			return ch
		}
		first := refresh()
		one := s.next(t)
		second := refresh()
		synctest.Wait() // until it has joined the first one
		require.NoError(t, c.Delete(ctx, 1))
		reader := asking(ctx, c, 1)
		two := s.next(t)
		one.returns("one", nil)
		gets(t, "one", first)
		synctest.Wait() // until the second one has boarded with the reader
		two.returns("two", nil)
		gets(t, "two", reader)
		s.next(t).returns("three", nil)
		gets(t, "three", second)
	})
}
