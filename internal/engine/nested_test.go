package engine

import (
	"context"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// A family is a load of parents, each of which asks for its child, key + "c".
type family struct {
	get   func(ctx context.Context, key string, load typedFunc[string]) (string, error)
	loads atomic.Int64
	took  time.Duration
}

func (f *family) load(ctx context.Context, key string) (string, Life, error) {
	f.loads.Add(1)
	time.Sleep(f.took)
	if strings.HasSuffix(key, "c") {
		return key, hour, nil
	}
	child, err := f.get(ctx, key+"c", f.of(key+"c"))
	return "of " + child, hour, err
}

func (f *family) of(key string) typedFunc[string] {
	return func(ctx context.Context) (string, Life, error) { return f.load(ctx, key) }
}

// all loads the keys of a GetMany.
func (f *family) all(keys []string) typedManyFunc[string] {
	return func(ctx context.Context, is []int) []typedLoaded[string] {
		v, life, err := f.load(ctx, keys[is[0]])
		return []typedLoaded[string]{{v, life, err}}
	}
}

func requireAnswers(t testing.TB, keys []string, answers []typedAnswer[string]) {
	t.Helper()
	for i, a := range answers {
		require.NoError(t, a.Err, keys[i])
		require.True(t, a.Value == keys[i] || a.Value == "of "+keys[i]+"c", a.Value)
	}
}

func TestGetMany_OfParentsAndTheirChildrenDoesNotWaitForItself(t *testing.T) {
	t.Parallel()
	for _, most := range []int{0, 1, 3} {
		t.Run(fmt.Sprint("MaxLoads ", most), func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: most}))
				f := &family{get: p.Get, took: time.Millisecond}
				var keys []string
				for i := range 16 {
					keys = append(keys, fmt.Sprint(t.key, ":", i))
				}
				for _, key := range keys[:16] {
					keys = append(keys, key+"c")
				}
				began := time.Now()
				requireAnswers(t, keys, p.GetMany(t.Context(), keys, 16, f.all(keys)))
				require.Less(t, time.Since(began), time.Second)
				require.EqualValues(t, len(keys), f.loads.Load(), "each once")
			})
		})
	}
}

func TestMaxLoads_OfALoadThatWaitsForAQueuedFlightIsNotInItsWay(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: 1}))
		goOn := make(chan struct{})
		child := func(context.Context) (string, Life, error) { return "child", hour, nil }
		parent := func(ctx context.Context) (string, Life, error) {
			<-goOn
			v, err := p.Get(ctx, t.key+"c", child)
			return "of " + v, hour, err
		}
		a := get(t, p, parent)
		synctest.Wait()
		b := start(func() (string, error) { return p.Get(t.Context(), t.key+"c", child) })
		synctest.Wait()
		require.True(t, b.running(), "it waits for the one of MaxLoads")
		began := time.Now()
		close(goOn)
		gets(t, "of child", a)
		gets(t, "child", b)
		require.Less(t, time.Since(began), time.Second)
	})
}

// The only load of each of two caches waits for a queued load of the other.
func TestMaxLoads_OfTwoCachesThatAskEachOther(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		one := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: 1}))
		two := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: 1}))
		goOn := make(chan struct{})
		asks := func(of *Loader[string], key string) typedFunc[string] {
			return func(ctx context.Context) (string, Life, error) {
				<-goOn
				v, err := of.Get(ctx, key, gives("leaf"))
				return v, hour, err
			}
		}
		a := start(func() (string, error) { return one.Get(t.Context(), t.key+":1", asks(two, t.key+":2b")) })
		b := start(func() (string, error) { return two.Get(t.Context(), t.key+":2", asks(one, t.key+":1b")) })
		synctest.Wait()
		began := time.Now()
		close(goOn)
		gets(t, "leaf", a, b)
		require.Less(t, time.Since(began), time.Second)
	})
}

func TestGet_OfLoadsThatWaitForEachOtherIsReentrantAtOnce(t *testing.T) {
	t.Parallel()
	for name, two := range map[string]bool{"of one cache": false, "of two caches": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), still[string]()))
				q := p
				if two {
					q = quiet(newLoader(t, t.client(), still[string]()))
				}
				goOn := make(chan struct{})
				var load func(of *Loader[string], key string) typedFunc[string]
				load = func(of *Loader[string], key string) typedFunc[string] {
					return func(ctx context.Context) (string, Life, error) {
						<-goOn
						v, err := of.Get(ctx, key, load(of, key))
						return v, hour, err
					}
				}
				began := time.Now()
				a := start(func() (string, error) { return p.Get(t.Context(), t.key+"a", load(q, t.key+"b")) })
				b := start(func() (string, error) { return q.Get(t.Context(), t.key+"b", load(p, t.key+"a")) })
				synctest.Wait()
				close(goOn)
				for _, c := range []*call[string]{a, b} {
					_, err := c.wait(t)
					require.ErrorIs(t, err, ErrReentrant)
				}
				require.Zero(t, time.Since(began))
				// No slot is left taken.
				gets(t, "v", start(func() (string, error) { return p.Get(t.Context(), t.key+"a", gives("v")) }))
			})
		})
	}
}

// Two caches of one template, whose loads meet at the lease.
func TestGet_OfTheKeyThatAnotherCacheOfTheTemplateLoadsIsReentrantAtOnce(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*lab){"absent": func(*lab) {}, "stale": func(t *lab) { t.stale("old") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				begin(t)
				o := still[string]()
				o.StaleIfError = 1000 * time.Hour
				p, q := quiet(newLoader(t, t.client(), o)), quiet(newLoader(t, t.client(), o))
				goOn := make(chan struct{})
				began := time.Now()
				a := get(t, p, func(ctx context.Context) (string, Life, error) {
					<-goOn
					_, err := q.Get(ctx, t.key, never[string](t))
					require.ErrorIs(t, err, ErrReentrant)
					return "v", hour, nil
				})
				synctest.Wait()
				b := get(t, q, never[string](t)) // a caller that waits, and is not a load
				synctest.Wait()
				close(goOn)
				gets(t, "v", a, b)
				require.Less(t, time.Since(began), 10*time.Second, "but for the polls of b")
			})
		})
	}
}

func TestWriteThrough_OfADownThatLoadsItsKeyIsReentrant(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		w, err := p.Writing(t.key, "v", hour)
		require.NoError(t, err)
		errs := p.WriteThrough(context.Background(), []Write{w}, single(func(ctx context.Context) error {
			_, err := p.Get(ctx, t.key, never[string](t))
			return err
		}))
		require.ErrorIs(t, errs[0], ErrReentrant)
	})
}

func single(down func(context.Context) error) func(context.Context) []error {
	return func(ctx context.Context) []error { return []error{down(ctx)} }
}

// A background refresh asks for nothing on behalf of a caller.
func TestBackgroundRefresh_MayAskForTheLoadThatStartedIt(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		o := still[string]()
		o.StaleWhileRevalidate = time.Hour
		p := quiet(newLoader(t, t.client(), o))
		t.stale("old")
		asks := make(chan struct{})
		parent := start(func() (string, error) {
			return p.Get(t.Context(), t.key+"p", func(ctx context.Context) (string, Life, error) {
				v, err := p.Get(ctx, t.key, func(ctx context.Context) (string, Life, error) {
					v, err := p.Get(ctx, t.key+"p", never[string](t))
					close(asks)
					return "new " + v, hour, err
				})
				time.Sleep(time.Second)
				return v, hour, err
			})
		})
		gets(t, "old", parent)
		<-asks
		synctest.Wait()
		t.holds("new old")
	})
}

func TestGet_OfAKeyThatGetManyHasQueuedBeginsAtOnce(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{Timeout: 10 * time.Second}))
		keys := make([]string, 400)
		for i := range keys {
			keys[i] = fmt.Sprint(t.key, ":", i)
		}
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		many := start(func() ([]typedAnswer[string], error) {
			return p.GetMany(ctx, keys, 16, func(ctx context.Context, is []int) []typedLoaded[string] {
				time.Sleep(9 * time.Second)
				return []typedLoaded[string]{{Value: keys[is[0]], Life: hour}}
			}), nil
		})
		synctest.Wait()
		began := time.Now()
		last := keys[len(keys)-1]
		gets(t, last, start(func() (string, error) { return p.Get(t.Context(), last, gives(last)) }))
		require.Equal(t, 9*time.Second, time.Since(began), "the load of GetMany, which began at once")
		// Another GetMany has places of its own.
		began = time.Now()
		two := keys[len(keys)-3 : len(keys)-1]
		requireAnswers(t, two, p.GetMany(t.Context(), two, 16, neverMany(t)))
		require.Equal(t, 9*time.Second, time.Since(began))
		<-many.done
		requireAnswers(t, keys, many.v)
	})
}

func neverMany(t testing.TB) typedManyFunc[string] {
	return func(_ context.Context, is []int) []typedLoaded[string] {
		t.Error("a value is loaded that is being loaded")
		return make([]typedLoaded[string], len(is))
	}
}

func TestClose_StopsWhatGetManyHasQueued(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: 2}))
		keys := make([]string, 10)
		for i := range keys {
			keys[i] = fmt.Sprint(t.key, ":", i)
		}
		var begun atomic.Int64
		goOn := make(chan struct{})
		many := start(func() ([]typedAnswer[string], error) {
			return p.GetMany(context.Background(), keys, 2, func(ctx context.Context, is []int) []typedLoaded[string] {
				begun.Add(1)
				<-goOn // it ignores its ctx
				return []typedLoaded[string]{{Value: keys[is[0]], Life: hour}}
			}), nil
		})
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		require.ErrorIs(t, p.Close(ctx), context.DeadlineExceeded)
		synctest.Wait()
		answers, _ := many.wait(t)
		for _, a := range answers {
			require.ErrorIs(t, a.Err, ErrClosed)
		}
		require.EqualValues(t, 2, begun.Load())
		close(goOn)
		require.NoError(t, p.Close(context.Background()))
		require.EqualValues(t, 2, begun.Load())
	})
}

func TestGetMany_OfKeysLeasedElsewhereKeepsNoPlaceForThem(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		q := quiet(newLoader(t, t.client(), still[string]()))
		keys := make([]string, 20)
		sources := make([]*source[string], 16)
		for i := range keys {
			if keys[i] = fmt.Sprint(t.key, ":", i); i < len(sources) {
				sources[i] = newSource[string]()
				start(func() (string, error) { return q.Get(t.Context(), keys[i], sources[i].load) })
				within(t, sources[i].began)
			}
		}
		var now peak
		began := time.Now()
		many := start(func() ([]typedAnswer[string], error) {
			return p.GetMany(t.Context(), keys, 4, func(_ context.Context, is []int) []typedLoaded[string] {
				now.add(1)
				defer now.add(-1)
				time.Sleep(time.Second)
				return []typedLoaded[string]{{Value: keys[is[0]], Life: hour}}
			}), nil
		})
		time.Sleep(2 * time.Second)
		synctest.Wait()
		require.EqualValues(t, 4, p.Stats().Loads, "those that are not leased")
		require.Less(t, time.Since(began), 3*time.Second)
		// The others fail elsewhere, all at once: then they need places again.
		for _, s := range sources {
			close(s.value)
		}
		for _, key := range keys[:16] {
			require.NoError(t, t.rdb.Del(t.Context(), key).Err())
		}
		answers, _ := many.wait(t)
		requireAnswers(t, keys, answers)
		require.LessOrEqual(t, now.highest(), 4)
	})
}
