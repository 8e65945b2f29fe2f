package batch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
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

func TestBatch_MisuseIsAnError(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		require.NoError(t, names.Set(t.Context(), 1, "one"))
		is := func(want, err error) {
			t.Helper()
			require.ErrorIs(t, err, want)
		}
		var none *batch.Batch
		_, err := batch.Get(none, names, 1).Get()
		is(batch.ErrNilBatch, err)
		is(batch.ErrNilBatch, none.Run(t.Context()))

		var b batch.Batch
		var nothing *cachex.Cache[int, string]
		_, err = batch.Get(&b, nothing, 1).Get()
		is(batch.ErrNilSource, err)
		_, err = batch.Get[int, string](&b, nil, 1).Get()
		is(batch.ErrNilSource, err)
		_, err = batch.GetMany(&b, nothing, []int{1}).Get()
		is(batch.ErrNilSource, err)
		_, err = new(batch.Value[int]).Get()
		is(batch.ErrNotRun, err)

		name := batch.Get(&b, names, 1)
		many := batch.GetMany(&b, names, []int{1})
		_, err = name.Get()
		is(batch.ErrNotRun, err)
		_, err = many.Get()
		is(batch.ErrNotRun, err)
		y := &toy{rdb: rdb, answer: func(context.Context, func(int, int, error), error) {
			_, err := name.Get() // Run has not returned
			is(batch.ErrNotRun, err)
			is(batch.ErrUsed, b.Run(t.Context()))
			_, err = batch.Get(&b, names, 1).Get()
			is(batch.ErrUsed, err)
		}}
		batch.Get(&b, y, 1)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, "one", name)
		requireValue(t, map[int]string{1: "one"}, many)
		is(batch.ErrUsed, b.Run(t.Context()))
		_, err = batch.GetMany(&b, names, []int{1}).Get()
		is(batch.ErrUsed, err)
		requireValue(t, "one", name)
	})
}

func TestRun_OfAnEmptyBatchSendsNothing(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		var empty, b batch.Batch
		require.NoError(t, empty.Run(t.Context()))
		none := batch.GetMany(&b, names, nil)
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, map[int]string{}, none)
		require.Zero(t, trips.RoundTrips())
	})
}

func TestRun_NilOrEndedCtxIsTheErrorOfAllKeys(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		trips := new(redistest.Counter)
		rdb.AddHook(trips)
		names := newCache(t, rdb, "names", cachex.Spec[int, string]{})
		y := &toy{rdb: rdb, read: func() { t.Error("it was read") }}
		ended, end := context.WithCancelCause(t.Context())
		end(errToy)
		for text, ctx := range map[string]context.Context{"ctx is nil": nil, errToy.Error(): ended} {
			var b batch.Batch
			name, n := batch.Get(&b, names, 1), batch.Get(&b, y, 1)
			all := batch.GetMany(&b, names, []int{1, 2})
			require.EqualError(t, b.Run(ctx), "cachex: batch: "+text)
			_, err := name.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			_, err = n.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			values, err := all.Get()
			require.EqualError(t, err, "cachex: batch: "+text)
			require.Empty(t, values)
		}
		require.Zero(t, trips.RoundTrips())
	})
}

func TestRun_ReadsOfOneSourceAreOneCallOfUpMany(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 32, 33, 70} { // few keys are searched in another way than many
		redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
			var calls [][]int
			names := newCache(t, rdb, "names", cachex.Spec[int, string]{UpMany: func(_ context.Context, ids []int) (map[int]string, error) {
				calls = append(calls, slices.Sorted(slices.Values(ids)))
				m := map[int]string{}
				for _, id := range ids {
					m[id] = fmt.Sprint("name", id)
				}
				return m, nil
			}})
			var b batch.Batch
			var all []*batch.Value[string]
			var ids []int
			want := map[int]string{}
			for range 2 {
				for id := range n {
					all = append(all, batch.Get(&b, names, id))
				}
			}
			for id := range n {
				ids = append(ids, id)
				want[id] = fmt.Sprint("name", id)
			}
			many := batch.GetMany(&b, names, append(ids, ids...))
			require.NoError(t, b.Run(t.Context()))
			for i, v := range all {
				requireValue(t, want[i%n], v)
			}
			requireValue(t, want, many)
			require.Equal(t, [][]int{ids}, calls)
		})
	}
}

// A views is a counter of the views of jobs: a type of another package that is made
// of a cache.
type views struct{ *cachex.Cache[int64, int64] }

// That this compiles is the test: nowhere is a type given.
func TestGet_InfersTypes(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		v := views{newCache(t, rdb, "views", cachex.Spec[int64, int64]{Up: func(context.Context, int64) (int64, error) { return 10, nil }})}
		names := newCache(t, rdb, "names", cachex.Spec[string, []string]{})
		var src batch.Source[int64, int64] = v
		var b batch.Batch
		one := batch.Get(&b, v, 42)
		some := batch.GetMany(&b, &v, []int64{42})
		any := batch.Get(&b, src, 42)
		name := batch.Get(&b, names, "x")
		require.NoError(t, b.Run(t.Context()))
		requireValue(t, 10, one)
		requireValue(t, map[int64]int64{42: 10}, some)
		requireValue(t, 10, any)
		_, err := name.Get()
		require.ErrorIs(t, err, cachex.ErrNotFound)
	})
}

func TestRun_WaitsForRedisAsLongAsTheMostPatientSource(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		leases []time.Duration // of caches
		own    bool            // there is a Source that is none of ours
		want   time.Duration
	}{
		"caches":                  {leases: []time.Duration{5 * time.Second, time.Minute, 10 * time.Second}, want: time.Minute},
		"a lease below a second":  {leases: []time.Duration{200 * time.Millisecond}, want: time.Second},
		"a source of one's own":   {own: true, want: 3 * time.Second},
		"that beside a cache":     {leases: []time.Duration{200 * time.Millisecond}, own: true, want: 3 * time.Second},
		"that beside a long wait": {leases: []time.Duration{time.Hour}, own: true, want: time.Hour},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
				hangs := make(chan struct{})
				rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { <-hangs }})
				var b batch.Batch
				for i, lease := range row.leases {
					c := newCache(t, rdb, fmt.Sprint(i), cachex.Spec[int, string]{LeaseTTL: lease})
					batch.Get(&b, c, 1)
				}
				if row.own {
					batch.Get(&b, &hash{rdb, "h"}, "f")
				}
				began := time.Now()
				require.ErrorContains(t, b.Run(t.Context()), "did not answer in time")
				require.Equal(t, row.want, time.Since(began))
				close(hangs)
			})
		})
	}
}
