package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestPersist_EndsNoValueThatIsNotServedStale(t *testing.T) {
	t.Parallel()
	minute := Life{Fresh: time.Minute, Keep: time.Minute}
	for name, stores := range map[string]func(*lab, *Loader[string]) error{
		"written": func(t *lab, p *Loader[string]) error {
			w, err := p.Writing(t.key, "old", minute)
			require.NoError(t, err)
			return p.Write(t.Context(), w)
		},
		"loaded": func(t *lab, p *Loader[string]) error {
			_, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) { return "old", minute, nil })
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), typedOptions[string]{}))
				require.NoError(t, stores(t, p))
				gets(t, "old", get(t, p, never[string](t)))
				require.NoError(t, t.rdb.Persist(t.Context(), t.key).Err())
				time.Sleep(59 * time.Second)
				gets(t, "old", get(t, p, never[string](t)))
				time.Sleep(time.Hour + 2*time.Second)
				_, there, err := p.Lookup(t.Context(), t.key)
				require.NoError(t, err)
				require.False(t, there)
				gets(t, "new", get(t, p, gives("new")))
				require.Positive(t, t.rdb.PTTL(t.Context(), t.key).Val())
			})
		})
	}
}

// A SET states the end of its value by the writer's clock. A wrong clock must
// not cause loads of values that are there.
func TestWrite_OfAProcessWhoseClockIsWrongLastsAsLongAsItsTTL(t *testing.T) {
	t.Parallel()
	// of the server and the readers
	for name, off := range map[string]time.Duration{"fast": -time.Hour, "slow": time.Hour} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				h := entry.Header{State: entry.Value, Token: entry.NewToken(), Sum: entry.Sum(t.key, []byte("v"))}
				h.Born = time.Now().Add(-off).UnixMilli()
				h.Soft = h.Born + time.Minute.Milliseconds()
				require.NoError(t, t.rdb.Set(t.Context(), t.key, append(h.Append(nil), 'v'), time.Minute).Err())
				p := quiet(newLoader(t, t.client(), typedOptions[string]{}))
				gets(t, "v", get(t, p, never[string](t)))
				time.Sleep(59 * time.Second)
				gets(t, "v", get(t, p, never[string](t)))
				time.Sleep(2 * time.Second)
				gets(t, "new", get(t, p, gives("new")))
			})
		})
	}
}

// If a server's clock steps back, pauses last that much longer.
func TestBackoff_OutlivingAClockStepIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	work(t, server.Client(nil), func(t *lab) {
		now := time.Now()
		server.SetTime(now.Add(-time.Minute)) // so that the value is old by the reader's clock, too
		p := newLoader(t, t.client(), typedOptions[string]{StaleIfError: 100 * time.Hour})
		require.NoError(t, t.leases().Write(t.Context(), t.key, []byte("old"), Life{Fresh: time.Millisecond, Keep: 100 * time.Hour}))
		server.SetTime(now.Add(2 * time.Hour))
		fails := func(context.Context) (string, Life, error) { return "", hour, errBroken }
		gets(t, "old", get(t, p, fails))
		gets(t, "old", get(t, p, never[string](t))) // the back-off has not ended
		h, _ := t.entry()
		require.True(t, h.Paused())

		server.SetTime(now.Add(time.Hour))
		gets(t, "new", get(t, p, gives("new")))
	})
}

// A flight that need not wait, behind a value that it cannot use.
func TestBackoff_OfAnUndecodableValueIsIgnored(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		var sent redistest.Counter
		p := quiet(newLoader(t, t.client(&sent), typedOptions[int64]{StaleIfError: time.Hour}))
		h := entry.Header{
			State: entry.Value, Soft: time.Now().Add(-time.Second).UnixMilli(), Fails: 1,
			Till: time.Now().Add(time.Second).UnixMilli(), Sum: entry.Sum(t.key, []byte("no number")),
		}
		require.NoError(t, t.rdb.Set(t.Context(), t.key, append(h.Append(nil), "no number"...), time.Hour).Err())
		began := time.Now()
		all := p.GetMany(t.Context(), []string{t.key}, 0, func(context.Context, []int) []typedLoaded[int64] {
			return []typedLoaded[int64]{{Value: 7, Life: hour}}
		})
		require.NoError(t, all[0].Err)
		require.EqualValues(t, 7, all[0].Value)
		require.Zero(t, time.Since(began))
		require.LessOrEqual(t, sent.Count(), 3, "acquire, acquire what is unfit, store")
	})
}

func TestWriteThrough_OfADownSlowerThanItsLeaseIsStored(t *testing.T) {
	t.Parallel()
	for name, before := range map[string]func(*lab){"absent": func(*lab) {}, "stale": func(t *lab) { t.stale("old") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				before(t)
				p := quiet(newLoader(t, t.client(), still[string]()))
				q := quiet(newLoader(t, t.client(), typedOptions[string]{LeaseTTL: time.Second, StaleIfError: 1000 * time.Hour}))
				w, err := q.Writing(t.key, "v", hour)
				require.NoError(t, err)
				var reader *call[string]
				errs := q.WriteThrough(t.Context(), []Write{w}, func(context.Context) []error {
					reader = get(t, p, never[string](t))
					time.Sleep(10 * time.Second)
					return []error{nil}
				})
				require.Equal(t, []error{nil}, errs)
				t.holds("v")
				gets(t, "v", reader)
				synctest.Wait()
			})
		})
	}
}
