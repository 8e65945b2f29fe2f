package collection

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// someLease is the default LeaseTTL of the tests. A busy machine does not lose
// it, and it is shorter than the TTL.
const someLease = 30 * time.Second

// someTTL is the default TTL of the tests. A busy machine does not meet its end.
const someTTL = time.Hour

// again returns another client of the server of rdb.
func again(t testing.TB, rdb *redis.Client) *redis.Client {
	t.Helper()
	opts := *rdb.Options()
	opts.PushNotificationProcessor = nil // NewClient has set it, and each client needs its own
	second := redis.NewClient(&opts)
	t.Cleanup(func() { _ = second.Close() })
	return second
}

// closedClient returns a client without a server, for tests that must not call
// Redis.
func closedClient(t testing.TB) *redis.Client {
	t.Helper()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	require.NoError(t, rdb.Close())
	return rdb
}

// closing closes a collection when the test ends, within patience.
func closing(t testing.TB, c interface{ Close(context.Context) error }) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, c.Close(ctx), "a load is left behind")
	})
}

// recent returns a Recent that is closed when the test ends. Key defaults to a
// key of this test alone, TTL to someTTL, Len to 3.
func recent[E any](t testing.TB, rdb redis.UniversalClient, spec RecentSpec[int, E]) *Recent[int, E] {
	t.Helper()
	if spec.Key == "" {
		spec.Key = redistest.Key(t) + ":{id}"
	}
	if spec.TTL == 0 {
		spec.TTL = someTTL
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = someLease
	}
	if spec.Len == 0 {
		spec.Len = 3
	}
	r, err := NewRecent(rdb, spec)
	require.NoError(t, err)
	closing(t, r)
	return r
}

// name returns the Redis key of the collection of id.
func name[T any](t testing.TB, h *store[int, T], id int) string {
	t.Helper()
	k, err := h.begin(t.Context(), "test", id)
	require.NoError(t, err)
	return k
}

// has fails unless the collection of id equals want.
func has[T any](t testing.TB, h *store[int, T], id int, want T, msg ...any) {
	t.Helper()
	got, err := h.get(t.Context(), id)
	require.NoError(t, err, msg...)
	require.Equal(t, fmt.Sprint(want), fmt.Sprint(got), msg...)
}

// receive returns the next value of ch, and fails the test if none comes.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing happened", "after %v", patience)
		panic("unreachable")
	}
}

// answer is the result of a call.
type answer[T any] struct {
	v   T
	err error
}

// asking calls Get on another goroutine.
func asking[T any](ctx context.Context, h *store[int, T], id int) <-chan answer[T] {
	ch := make(chan answer[T], 1)
	go func() { // ends with Get
		v, err := h.get(ctx, id)
		ch <- answer[T]{v, err}
	}()
	return ch
}

// source is an Up whose loads wait for the test.
type source[T any] struct{ began chan *load[T] }

// load is a call of Up.
type load[T any] struct {
	ctx context.Context
	id  int
	out chan answer[T]
}

func newSource[T any]() *source[T] { return &source[T]{make(chan *load[T], 100)} }

func (s *source[T]) up(ctx context.Context, id int) (T, error) {
	l := &load[T]{ctx, id, make(chan answer[T], 1)}
	s.began <- l
	a := <-l.out
	return a.v, a.err
}

func (l *load[T]) returns(v T, err error) { l.out <- answer[T]{v, err} }

// idle fails if Up was called and the test has not received the call.
func (s *source[T]) idle(t testing.TB) {
	t.Helper()
	require.Empty(t, s.began, "Up was called")
}
