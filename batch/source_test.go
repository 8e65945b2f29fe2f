package batch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A hash is a Source of a user's own: the fields of one hash.
type hash struct {
	rdb redis.UniversalClient
	key string
}

func (h *hash) BatchRead(_ context.Context, fields []string, got func(int, string, error)) batch.Reading {
	return &hashRead{hash: h, fields: fields, got: got}
}

type hashRead struct {
	*hash
	fields []string
	got    func(int, string, error)
	cmds   []*redis.StringCmd
}

func (r *hashRead) Client() redis.UniversalClient { return r.rdb }

func (r *hashRead) Ask(ctx context.Context, p redis.Pipeliner) {
	for _, field := range r.fields {
		r.cmds = append(r.cmds, p.HGet(ctx, r.key, field))
	}
}

func (r *hashRead) Answer(_ context.Context, err error) {
	if err != nil {
		return
	}
	for i, cmd := range r.cmds {
		v, err := cmd.Result()
		if errors.Is(err, redis.Nil) {
			err = fmt.Errorf("hash %s: %w", r.key, cachex.ErrNotFound)
		}
		r.got(i, v, err)
	}
}

func TestSource_CustomSourceSharesTheRoundTrip(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		h := &hash{rdb, redistest.Key(t)}
		require.NoError(t, rdb.HSet(t.Context(), h.key, "a", "1", "b", "2").Err())
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		require.NoError(t, names.Set(t.Context(), 7, "seven"))
		trips := new(redistest.Counter)
		rdb.AddHook(trips)

		var b batch.Batch
		one := batch.Get(&b, h, "a")
		name := batch.Get(&b, names, 7)
		all := batch.GetMany(&b, h, []string{"b", "none", "a", "b"})
		none := batch.Get(&b, h, "none")
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, "1", one)
		requireValue(t, "seven", name)
		requireValue(t, map[string]string{"a": "1", "b": "2"}, all)
		_, err := none.Get()
		require.ErrorIs(t, err, cachex.ErrNotFound)
		require.Equal(t, 1, trips.RoundTrips())
		require.Equal(t, 3, trips.Count("hget"), "a key that comes twice is read once")
		require.Equal(t, 1, trips.Count("get"))
	})
}

// A toy is a Source that does as it is told.
type toy struct {
	rdb    redis.UniversalClient
	read   func()                                                          // in BatchRead; may be nil
	ask    func(ctx context.Context, p redis.Pipeliner)                    // may be nil
	answer func(ctx context.Context, got func(int, int, error), err error) // may be nil
}

func (y *toy) BatchRead(_ context.Context, _ []int, got func(int, int, error)) batch.Reading {
	if y.read != nil {
		y.read()
	}
	return &toyRead{y, got}
}

type toyRead struct {
	*toy
	got func(int, int, error)
}

func (r *toyRead) Client() redis.UniversalClient { return r.rdb }

func (r *toyRead) Ask(ctx context.Context, p redis.Pipeliner) {
	if r.ask != nil {
		r.ask(ctx, p)
	}
}

func (r *toyRead) Answer(ctx context.Context, err error) {
	if r.answer != nil {
		r.answer(ctx, r.got, err)
	}
}

var errToy = errors.New("broken toy")

// What one source does wrong is its own matter.
func TestSource_MisbehaviourAffectsNoOtherSource(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name        string
		toy         toy
		first, both string // the errors of its two keys; "": the value 10, or 20
	}{
		{"answers", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil); got(1, 20, nil) }}, "", ""},
		{"panics in BatchRead", toy{read: func() { panic(errToy) }}, "the source panicked with a *errors.errorString", "the source panicked with a *errors.errorString"},
		{"panics in Ask", toy{ask: func(context.Context, redis.Pipeliner) { panic("secret") }}, "the source panicked with a string", "the source panicked with a string"},
		{"panics when it has answered a key", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil); panic("secret") }},
			"", "the source panicked with a string"},
		{"exits when it has answered a key", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil); runtime.Goexit() }},
			"", "the source called runtime.Goexit"},
		{"answers one key alone", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil) }},
			"", "the source did not answer"},
		{"answers twice", toy{answer: func(_ context.Context, got func(int, int, error), _ error) {
			got(0, 10, nil)
			got(0, 11, nil)
			got(0, 0, errToy)
			got(1, 20, nil)
		}}, "", ""},
		{"answers a key that was not asked for", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil); got(2, 30, nil) }},
			"", "the source panicked: runtime error: index out of range [2] with length 2"},
		{"gives an error with a value", toy{answer: func(_ context.Context, got func(int, int, error), _ error) { got(0, 10, nil); got(1, 20, errToy) }},
			"", "broken toy"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				names := newCache(t, rdb, "names", cachex.Spec[int, string]{Up: func(context.Context, int) (string, error) { return "up", nil }})
				toy := row.toy
				toy.rdb = rdb
				var b batch.Batch
				before := batch.Get(&b, names, 1)
				first, second := batch.Get(&b, &toy, 1), batch.Get(&b, &toy, 2)
				both := batch.GetMany(&b, &toy, []int{1, 2})
				require.NoError(t, b.Run(t.Context()))
				requireValue(t, "up", before)
				want := map[int]int{}
				for i, v := range []*batch.Value[int]{first, second} {
					n, err := v.Get()
					if text := []string{row.first, row.both}[i]; text != "" {
						require.ErrorContains(t, err, text)
						require.NotContains(t, err.Error(), "secret")
						require.Zero(t, n)
						continue
					}
					require.NoError(t, err)
					require.Equal(t, 10*(i+1), n)
					want[i+1] = n
				}
				values, err := both.Get()
				require.Equal(t, want, values)
				if row.both != "" {
					require.ErrorContains(t, err, row.both)
				}
			})
		})
	}
}

// A test double that fails its test leaves the goroutine of Run.
func TestSource_GoexitDoesNotBlockClose(t *testing.T) {
	t.Parallel()
	for _, in := range []string{"BatchRead", "Ask"} {
		t.Run(in, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				names := newCache(t, rdb, "names", cachex.Spec[int, string]{}) // closed at the end
				y := &toy{rdb: rdb, read: runtime.Goexit}
				if in == "Ask" {
					y = &toy{rdb: rdb, ask: func(context.Context, redis.Pipeliner) { runtime.Goexit() }}
				}
				var b batch.Batch
				name, n := batch.Get(&b, names, 1), batch.Get(&b, y, 1)
				gone := make(chan bool)
				go func() {
					defer close(gone)
					_ = b.Run(context.WithoutCancel(t.Context()))
				}()
				<-gone
				_, err := name.Get()
				require.EqualError(t, err, "cachex: batch: the source did not answer")
				_, err = n.Get()
				require.EqualError(t, err, "cachex: batch: the source called runtime.Goexit")
			})
		})
	}
}

func TestRun_LeavesASourceThatHangsWhenItsCtxEnds(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		require.NoError(t, names.Set(t.Context(), 1, "one"))
		goOn, gone := make(chan bool), make(chan bool)
		y := &toy{rdb: rdb, answer: func(_ context.Context, got func(int, int, error), _ error) {
			got(0, 10, nil)
			<-goOn
			got(1, 20, nil) // too late
			close(gone)
			panic("late")
		}}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var b batch.Batch
		name, first, second := batch.Get(&b, names, 1), batch.Get(&b, y, 1), batch.Get(&b, y, 2)
		began := time.Now()
		require.EqualError(t, b.Run(ctx), "cachex: batch: context deadline exceeded")
		require.Equal(t, time.Second, time.Since(began))
		close(goOn)
		<-gone
		synctest.Wait()
		requireValue(t, "one", name)
		requireValue(t, 10, first)
		_, err := second.Get()
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.NoError(t, names.Close(t.Context()))
	})
}

func TestSource_AnswersAfterAnswerReturnedAreIgnored(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		var late sync.WaitGroup
		y := &toy{rdb: rdb, answer: func(_ context.Context, got func(int, int, error), _ error) {
			late.Go(func() { got(0, 10, nil) })
		}}
		var b batch.Batch
		v := batch.Get(&b, y, 1)
		require.NoError(t, b.Run(t.Context()))
		n, err := v.Get()
		late.Wait()
		again, errAgain := v.Get()
		require.Equal(t, n, again)
		require.Equal(t, err, errAgain)
	})
}

func TestSource_WithoutAClientIsAnError(t *testing.T) {
	t.Parallel()
	var none *redis.Client
	for _, rdb := range []redis.UniversalClient{nil, none} {
		y := &toy{rdb: rdb}
		var b batch.Batch
		v := batch.Get(&b, y, 1)
		require.NoError(t, b.Run(t.Context()))
		_, err := v.Get()
		require.EqualError(t, err, "cachex: batch: the source has no client: Client returned nil")
	}
}

// A plain Source that cannot be compared, and neither can its client.
type uncomparable struct {
	toy
	_ []int
}

func (u uncomparable) BatchRead(ctx context.Context, keys []int, got func(int, int, error)) batch.Reading {
	return u.toy.BatchRead(ctx, keys, got)
}

type wrapped struct {
	redis.UniversalClient
	_ []int
}

func TestSource_IncomparableSourcesAndClientsAreRead(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		u := uncomparable{toy: toy{rdb: wrapped{UniversalClient: rdb}, answer: func(_ context.Context, got func(int, int, error), err error) { got(0, 10, err) }}}
		names := newCache(t, redis.UniversalClient(wrapped{UniversalClient: rdb}), "names", cachex.Spec[int, string]{})
		require.NoError(t, names.Set(t.Context(), 1, "one"))
		var b batch.Batch
		first, second, name := batch.Get(&b, u, 1), batch.Get(&b, u, 2), batch.Get(&b, names, 1)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, 10, first)
		requireValue(t, 10, second)
		requireValue(t, "one", name)
	})
}
