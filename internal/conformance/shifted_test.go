package conformance

import (
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A reply that comes once more after the next command was sent is taken for the answer to
// that, and nothing in the protocol of Redis tells.
func TestTheValueOfOneKeyIsNeverTakenForThatOfAnotherOne(t *testing.T) {
	t.Parallel()
	for name, spec := range map[string]cachex.Spec[int, string]{
		"plain":  {},
		"packed": {Packed: 8, Expected: 40},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server, source := redistest.Start(t), newSource(40)
			proxy := redistest.NewProxy(t, server.Addr())
			spec.Up = source.up
			through := server.Client(func(o *redis.Options) {
				// One connection, so that each command has the reply of the one before.
				o.Addr, o.PoolSize, o.PipelinePoolSize = proxy.Addr(), 1, -1
			})
			w := &world{a: server.Client(nil), b: through, prefix: redistest.Key(t)}
			straight, c := w.caches(t, spec)
			for id := range 40 {
				_, err := straight.Get(t.Context(), id)
				require.NoError(t, err)
			}
			asked := source.asked()
			for id := 0; id < 40; id += 2 {
				v, err := c.Get(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, source.value(id), v)
				proxy.RepeatLate(1)
				v, err = c.Get(t.Context(), id)
				require.NoError(t, err)
				require.Equal(t, source.value(id), v)
				before := c.Stats().DecodeFailures
				v, err = c.Get(t.Context(), id+1)
				require.NoError(t, err)
				require.Equal(t, source.value(id+1), v, "the value of key %d", id)
				require.Equal(t, before+1, c.Stats().DecodeFailures)
			}
			require.Equal(t, asked, source.asked(), "who is told nonsense asks again")
		})
	}
}
