package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

func TestGet_LoadsOnceForAllEngines(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		source := newSource[string]()
		var calls []*call[string]
		for range 3 {
			p := quiet(newLoader(t, t.client(), still[string]()))
			for range 5 {
				calls = append(calls, get(t, p, source.load))
			}
		}
		synctest.Wait()
		within(t, source.began)
		source.value <- "v"
		gets(t, "v", calls...)
		source.idle(t)
		t.holds("v")
	})
}

func TestStore_RecordsLifeAndCost(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{}))
		now, err := t.rdb.Time(t.Context()).Result()
		require.NoError(t, err)
		v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
			time.Sleep(1500 * time.Millisecond)
			return "v", Life{Fresh: time.Minute, Keep: time.Hour}, nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
		h := t.holds("v")
		began := now.UnixMilli()
		require.Equal(t, 1500*time.Millisecond, h.Cost)
		require.Equal(t, began, h.Born, "as old as what the load may have read")
		require.Equal(t, began+1500+60_000, h.Soft, "fresh for a minute from when it was stored")
		require.Equal(t, time.Hour, t.rdb.PTTL(t.Context(), t.key).Val())
	})
}

func TestStore_ValueMayLiveForever(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := newLoader(t, t.client(), typedOptions[string]{})
		_, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
			return "v", Life{Fresh: Forever, Keep: Forever}, nil
		})
		require.NoError(t, err)
		require.Equal(t, entry.Forever, t.holds("v").Soft)
		require.Equal(t, time.Duration(-1), t.rdb.PTTL(t.Context(), t.key).Val(), "it has no TTL")
	})
}

// A lease is given back at once, whatever the load returned, so that the next
// caller need not wait until it lapses.
func TestLease_IsGivenBackAtOnceWithoutAValue(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		load   typedFunc[string]
		want   error
		failed int64
	}{
		"not found": {func(context.Context) (string, Life, error) {
			return "", Life{}, fmt.Errorf("user 7: %w", ErrNotFound)
		}, ErrNotFound, 0},
		"an error": {func(context.Context) (string, Life, error) { return "", Life{}, errBroken }, errBroken, 1},
		"a panic":  {func(context.Context) (string, Life, error) { panic(errBroken) }, errBroken, 1},
		"Goexit": {func(context.Context) (string, Life, error) {
			runtime.Goexit()
			return "", Life{}, nil
		}, ErrGoexit, 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				p := quiet(newLoader(t, t.client(), still[string]()))
				_, err := p.Get(t.Context(), t.key, test.load)
				require.ErrorIs(t, err, test.want)
				t.absent()
				stats := p.Stats()
				require.EqualValues(t, 1, stats.Loads)
				require.Equal(t, test.failed, stats.LoadFailures)

				t.stale("stale")
				_, err = p.Get(t.Context(), t.key, test.load)
				require.ErrorIs(t, err, test.want)
				t.absent() // without StaleIfError it is of no use
			})
		})
	}
}

// unable is a codec that always fails.
type unable struct{ codec.Codec[string] }

func (unable) Append(dst []byte, _ string) ([]byte, error) { return dst, errBroken }

type explosive struct{ codec.Codec[string] }

func (explosive) Append([]byte, string) ([]byte, error) { panic("boom") }
func (explosive) Decode([]byte, *string) error          { panic("boom") }

func TestStore_UnstorableValueIsReturned(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		codec codec.Codec[string]
		life  Life
	}{
		"a codec that fails":      {unable{codec.String[string]()}, hour},
		"a codec that panics":     {explosive{codec.String[string]()}, hour},
		"half a life":             {nil, Life{Keep: time.Hour}},
		"a negative life":         {nil, Life{Fresh: -time.Second, Keep: time.Second}},
		"kept shorter than fresh": {nil, Life{Fresh: time.Hour, Keep: time.Minute}},
		"less than a millisecond": {nil, Life{Fresh: 1500 * time.Microsecond, Keep: time.Minute}},
		"too long":                {nil, Life{Fresh: time.Hour, Keep: Forever - 1}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				o := still[string]()
				o.Codec = test.codec
				p := quiet(newLoader(t, t.client(), o))
				v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) { return "v", test.life, nil })
				require.NoError(t, err)
				require.Equal(t, "v", v)
				t.absent()
				stats := p.Stats()
				require.EqualValues(t, 1, stats.StoreFailures)
				require.Zero(t, stats.LoadFailures)
				require.Zero(t, stats.RedisFailures)
			})
		})
	}
}

func TestHeartbeat_KeepsTheLeaseOfALongLoad(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		o := typedOptions[string]{LeaseTTL: 150 * time.Millisecond}
		p, q := quiet(newLoader(t, t.client(), o)), quiet(newLoader(t, t.client(), o))
		a := get(t, p, func(context.Context) (string, Life, error) {
			time.Sleep(10 * time.Second)
			return "v", hour, nil
		})
		synctest.Wait()
		b := get(t, q, never[string](t)) // it asks again and again
		gets(t, "v", a, b)
		t.holds("v")
		require.Zero(t, p.Stats().Fenced)
	})
}

// The lease is so long that a machine that stands still for a while does not
// lose it.
func TestHeartbeat_KeepsTheLeaseOfALongLoadInRealTime(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		extended := make(chan struct{}, 64)
		beats := &redistest.Gate{After: func(_ context.Context, cmd redis.Cmder) {
			if scriptName(cmd) == "extend" {
				extended <- struct{}{}
			}
		}}
		p := newLoader(t, t.client(beats), typedOptions[string]{LeaseTTL: patience})
		v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
			granted := t.rdb.PExpireTime(t.Context(), t.key).Val()
			for t.rdb.PExpireTime(t.Context(), t.key).Val() <= granted {
				within(t, extended)
			}
			return "v", hour, nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
		t.holds("v")
	})
}

func TestHeartbeat_GoesOnAfterAFailure(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		var faults redistest.Faults
		faults.Add(redistest.Fault{Match: named("extend"), Times: 1})
		p := quiet(newLoader(t, t.client(&faults), typedOptions[string]{LeaseTTL: 300 * time.Millisecond}))
		v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
			time.Sleep(5 * time.Second)
			return "v", hour, nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
		t.holds("v")
		require.EqualValues(t, 1, p.Stats().RedisFailures)
	})
}

// A heartbeat that hangs must not delay the result of the load.
func TestHeartbeat_DoesNotDelayItsLoad(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		hangs := t.fence(named("extend"))
		p := quiet(newLoader(t, t.client(hangs.before()), typedOptions[string]{LeaseTTL: 30 * time.Second}))
		begin := time.Now()
		v, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) {
			within(t, hangs.arrived)
			return "v", hour, nil
		})
		require.NoError(t, err)
		require.Equal(t, "v", v)
		require.Equal(t, 10*time.Second, time.Since(begin))
		t.holds("v")
	})
}

func TestLease_IsFreeOnceTheHoldersCallersLeft(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p, q := quiet(newLoader(t, t.client(), still[string]())), quiet(newLoader(t, t.client(), still[string]()))
		ctx, cancel := context.WithCancel(t.Context())
		source := newSource[string]()
		a := start(func() (string, error) { return p.Get(ctx, t.key, source.load) })
		within(t, source.began)
		cancel()
		_, err := a.wait(t)
		require.ErrorIs(t, err, context.Canceled)
		synctest.Wait()
		t.absent()
		v, err := q.Get(t.Context(), t.key, gives("v"))
		require.NoError(t, err)
		require.Equal(t, "v", v)
	})
}

func TestLease_IsFreeOnceTheLoadTimedOut(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{Timeout: 5 * time.Second}))
		begin := time.Now()
		a := get(t, p, func(context.Context) (string, Life, error) {
			time.Sleep(time.Minute) // it ignores its ctx
			return "late", hour, nil
		})
		_, err := a.wait(t)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.EqualError(t, err, "load took longer than 5s: context deadline exceeded")
		require.Equal(t, 5*time.Second, time.Since(begin))
		t.absent()
		gets(t, "v", get(t, p, gives("v")))
		time.Sleep(time.Minute)
		t.holds("v") // the result of the load left behind is not stored
	})
}

// dies takes the lease for a process that is never heard of again.
func dies(t *lab, ttl time.Duration, want Grant) {
	leases, err := NewLeases(t.client(), ttl)
	require.NoError(t, err)
	a, err := leases.Acquire(t.Context(), t.key, nil, 0)
	require.NoError(t, err)
	require.Equal(t, want, a.Grant)
}

func TestLease_OfADeadProcessIsTakenOverWithinItsTTL(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		begin func(*lab)
		want  Grant
	}{
		"on a key without a value": {func(*lab) {}, Granted},
		"on a stale value":         {func(t *lab) { t.stale("stale") }, GrantedStale},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				test.begin(t)
				p := quiet(newLoader(t, t.client(), typedOptions[string]{LeaseTTL: 3 * time.Second, StaleIfError: time.Hour}))
				dies(t, 3*time.Second, test.want)
				begin := time.Now()
				gets(t, "v", get(t, p, gives("v")))
				took := time.Since(begin)
				require.GreaterOrEqual(t, took, 3*time.Second-time.Millisecond)
				require.LessOrEqual(t, took, 3*time.Second+500*time.Millisecond, "a poll later at most")
				t.holds("v")
			})
		})
	}
}

func TestWaiter_AsksOnceForTheLeaseOfALivingProcess(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(*lab){
		"on a key without a value": func(*lab) {},
		"on a stale value":         func(t *lab) { t.stale("stale") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				begin(t)
				o := typedOptions[string]{LeaseTTL: 3 * time.Second}
				var asked redistest.Counter
				p, q := quiet(newLoader(t, t.client(), o)), quiet(newLoader(t, t.client(&asked), o))
				a := get(t, p, func(context.Context) (string, Life, error) {
					time.Sleep(5 * time.Second)
					return "v", hour, nil
				})
				synctest.Wait()
				b := get(t, q, never[string](t))
				gets(t, "v", a, b)
				require.Equal(t, 1, asked.Count("evalsha"))
			})
		})
	}
}

// The value that Q waited for was replaced and has become stale, and another
// process failed to refresh it. The value is no answer.
func TestWaiter_DoesNotTakeTheStaleValueOfAFailedRefresh(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		t.stale("stale")
		a := t.proc()
		a.acquire(GrantedStale)
		var asked redistest.Counter
		poll := t.fence(func(cmd redis.Cmder) bool { return cmd.Name() == "get" && asked.Count("get") > 1 })
		q := quiet(newLoader(t, t.client(&asked, poll.before()), still[string]()))
		b := get(t, q, gives("new"))
		within(t, poll.arrived)
		require.NoError(t, a.leases.Write(t.Context(), t.key, []byte("old"), Life{Fresh: time.Second, Keep: time.Hour}))
		time.Sleep(2 * time.Second)
		a.release(a.acquire(GrantedStale).Token, true)
		close(poll.pass)
		gets(t, "new", b)
	})
}

// Includes M29: after a step back of the server's clock a lease ends that much
// later.
func TestLease_ThatEndsTooLateIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	for name, dead := range map[string]func(*lab){
		"one without a TTL": func(t *lab) {
			dies(t, time.Hour, Granted)
			require.NoError(t, t.rdb.Persist(t.Context(), t.key).Err())
		},
		"one that lasts for an hour":                  func(t *lab) { dies(t, time.Hour, Granted) },
		"one on a stale value that lasts for an hour": func(t *lab) { t.stale("stale"); dies(t, time.Hour, GrantedStale) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := typedOptions[string]{LeaseTTL: time.Second, StaleIfError: time.Hour}
			t.Run("in no time", func(t *testing.T) {
				t.Parallel()
				embedded(t, func(t *lab) {
					dead(t)
					gets(t, "v", get(t, newLoader(t, t.client(), o), gives("v")))
					t.holds("v")
				})
			})
			each(t, func(t *lab) {
				dead(t)
				p := newLoader(t, t.client(), o)
				// A machine that stands still for a second loses the new lease.
				for until := time.Now().Add(patience); ; {
					gets(t, "v", get(t, p, gives("v")))
					if h, v := t.entry(); h.State == entry.Value && h.Till == 0 && v == "v" {
						break
					}
					require.True(t, time.Now().Before(until), "the value is not stored")
				}
			})
		})
	}
}

func TestMaxLoads_BoundsLoadsAndLeases(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		o := still[string]()
		o.MaxLoads = 2
		p := quiet(newLoader(t, t.client(), o))
		source := newSource[string]()
		var running peak
		load := func(ctx context.Context) (string, Life, error) {
			running.add(1)
			defer running.add(-1)
			return source.load(ctx)
		}
		keys := make([]string, 7)
		calls := make([]*call[string], len(keys))
		for i := range keys {
			keys[i] = fmt.Sprintf("%s:%d", t.key, i)
			calls[i] = start(func() (string, error) { return p.Get(t.Context(), keys[i], load) })
		}
		for left := len(keys); left > 0; left-- {
			synctest.Wait()
			require.Len(t, source.began, min(2, left))
			var leases int
			for _, key := range keys {
				b, err := t.rdb.Get(t.Context(), key).Bytes()
				if h, _, ok := entry.Parse(key, b); err == nil && ok && h.State == entry.Lease {
					leases++
				}
			}
			require.Equal(t, min(2, left), leases, "a queued load holds a lease")
			<-source.began
			source.value <- "v"
		}
		gets(t, "v", calls...)
		require.Equal(t, 2, running.highest())
	})
}

func TestMaxLoads_CountsALoadLeftBehind(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), typedOptions[string]{MaxLoads: 1, Timeout: time.Second}))
		begin := time.Now()
		deaf := func(context.Context) (string, Life, error) {
			time.Sleep(10 * time.Second)
			return "late", hour, nil
		}
		_, err := p.Get(t.Context(), t.key, deaf)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		_, err = p.Get(t.Context(), t.key+":2", never[string](t))
		require.ErrorIs(t, err, context.DeadlineExceeded, "it has queued in vain")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 500*time.Millisecond, errBroken)
		defer cancel()
		_, err = p.Get(ctx, t.key+":3", never[string](t))
		require.ErrorIs(t, err, errBroken)
		require.Equal(t, 2500*time.Millisecond, time.Since(begin))
		time.Sleep(8 * time.Second)
		gets(t, "v", get(t, p, gives("v")))
	})
}

func TestMaxLoads_NestedLoadNeedsNoSlot(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		o := still[string]()
		o.MaxLoads = 1
		p := quiet(newLoader(t, t.client(), o))
		nested := func(key string, load typedFunc[string]) typedFunc[string] {
			return func(ctx context.Context) (string, Life, error) {
				v, err := p.Get(ctx, key, load)
				return v, hour, err
			}
		}
		begin := time.Now()
		gets(t, "v", get(t, p, nested(t.key+":2", nested(t.key+":3", gives("v")))))
		require.Zero(t, time.Since(begin), "none has waited for its own end")
		require.EqualValues(t, 3, p.Stats().Loads)
		v, err := p.Get(t.Context(), t.key+":4", gives("w"))
		require.NoError(t, err)
		require.Equal(t, "w", v, "the place is free again")
	})
}

func TestMaxLoads_WaiterForAnotherProcessTakesNoSlot(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		o := still[string]()
		o.MaxLoads = 1
		p := quiet(newLoader(t, t.client(), o))
		lease := t.proc().acquire(Granted)
		a := get(t, p, never[string](t))
		synctest.Wait()
		v, err := p.Get(t.Context(), t.key+":2", gives("of another key"))
		require.NoError(t, err)
		require.Equal(t, "of another key", v)
		t.proc().store(lease.Token, "v", Stored)
		gets(t, "v", a)
	})
}

func TestGet_LoadOfItsOwnKeyIsReentrant(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		_, err := p.Get(t.Context(), t.key, func(ctx context.Context) (string, Life, error) {
			v, err := p.Get(ctx, t.key, never[string](t))
			return v, hour, err
		})
		require.ErrorIs(t, err, ErrReentrant)
		t.absent()
		v, err := p.Get(t.Context(), t.key, func(ctx context.Context) (string, Life, error) {
			v, err := p.Get(ctx, t.key+":2", gives("of another key"))
			_, there, lookupErr := p.Lookup(ctx, t.key)
			if there {
				t.Error("there is a value")
			}
			return v, hour, errors.Join(err, lookupErr)
		})
		require.NoError(t, err)
		require.Equal(t, "of another key", v)
	})
}

// named matches commands that run a lease script.
func named(script string) func(redis.Cmder) bool {
	return func(cmd redis.Cmder) bool { return scriptName(cmd) == script }
}
