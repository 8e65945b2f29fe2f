package engine

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/redistest"
)

// away returns a client of a port without a server. Its dials are counted.
func (l *lab) away() (*redis.Client, *atomic.Int64) {
	dials := new(atomic.Int64)
	rdb := redis.NewClient(&redis.Options{
		Dialer: func(context.Context, string, string) (net.Conn, error) {
			dials.Add(1)
			return nil, &net.OpError{Op: "dial", Net: "tcp", Err: syscall.ECONNREFUSED}
		},
		MaxRetries: -1, DialerRetries: 1,
		MaintNotificationsConfig: &maintnotifications.Config{Mode: maintnotifications.ModeDisabled},
	})
	l.closers = append(l.closers, func() { _ = rdb.Close() })
	return rdb, dials
}

func TestOutage_LoadsWithoutStoring(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb, dials := t.away()
		p := quiet(newLoader(t, rdb, typedOptions[string]{}))
		gets(t, "v", get(t, p, gives("v")))
		stats := p.Stats()
		require.EqualValues(t, 1, stats.Loads)
		require.EqualValues(t, 1, stats.StoreFailures, "the value counts as not stored, without an attempt")
		require.EqualValues(t, 1, dials.Load(), "Redis is asked once a call")
		require.EqualValues(t, 1, stats.RedisFailures)

		_, err := p.Get(t.Context(), t.key, func(context.Context) (string, Life, error) { return "", Life{}, ErrNotFound })
		require.ErrorIs(t, err, ErrNotFound)
		_, _, err = p.Lookup(t.Context(), t.key)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
	})
}

func TestOutage_LoadsOneAtATimeForEarlierCallers(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb, _ := t.away()
		p := quiet(newLoader(t, rdb, still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b, c := get(t, p, source.load), get(t, p, source.load)
		synctest.Wait()
		source.idle(t)
		source.value <- "first"
		gets(t, "first", a)
		within(t, source.began)
		d := get(t, p, source.load)
		synctest.Wait()
		source.idle(t)
		require.True(t, b.running() && c.running(), "they came after that load had begun")
		source.value <- "second"
		gets(t, "second", b, c)
		within(t, source.began)
		source.value <- "third"
		gets(t, "third", d)
		require.EqualValues(t, 3, p.Stats().Loads)
	})
}

func TestOutage_BusyKeyReturnsToRedisAfterwards(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		var faults redistest.Faults
		p := quiet(newLoader(t, t.client(&faults), still[string]()))
		source := newSource[string]()
		faults.Add(redistest.Fault{Times: redistest.Always})
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, p, source.load) // there is always a waiter
		synctest.Wait()
		faults.Clear()
		source.value <- "alone"
		gets(t, "alone", a)
		within(t, source.began)
		source.value <- "shared"
		gets(t, "shared", b)
		t.holds("shared")
	})
}

func TestLease_OfALostGrantIsGivenBack(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		var faults redistest.Faults
		faults.Add(redistest.Fault{Match: named("acquire"), Executed: true})
		p := quiet(newLoader(t, t.client(&faults), still[string]()))
		gets(t, "v", get(t, p, gives("v")))
		synctest.Wait()
		t.absent()
		require.EqualValues(t, 1, p.Stats().Loads)
		require.EqualValues(t, 1, p.Stats().RedisFailures)
	})
}

func TestStore_RefusedReturnsTheValueAndLeaseIsGivenBack(t *testing.T) {
	t.Parallel()
	for name, executed := range map[string]bool{"refused": false, "reply lost": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				var faults redistest.Faults
				faults.Add(redistest.Fault{Match: named("store"), Executed: executed})
				p := quiet(newLoader(t, t.client(&faults), still[string]()))
				gets(t, "v", get(t, p, gives("v")))
				synctest.Wait()
				if executed {
					t.holds("v") // the release must not remove it
				} else {
					t.absent()
				}
				stats := p.Stats()
				require.EqualValues(t, 1, stats.StoreFailures)
				require.EqualValues(t, 1, stats.RedisFailures)
				require.Zero(t, stats.LoadFailures)
			})
		})
	}
}

// A load that was not stored does not answer callers that came while it ran.
func TestStore_RefusedDoesNotAnswerLaterCallersNotTaken(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		var faults redistest.Faults
		faults.Add(redistest.Fault{Match: named("store")})
		p := quiet(newLoader(t, t.client(&faults), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		b := get(t, p, source.load)
		synctest.Wait()
		source.value <- "old"
		gets(t, "old", a)
		within(t, source.began)
		require.True(t, b.running())
		source.value <- "new"
		gets(t, "new", b)
		t.holds("new")
	})
}

func TestOutage_SilentRedisIsLeftSoon(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		silent := t.fence(named("acquire"))
		p := quiet(newLoader(t, t.client(silent.before()), typedOptions[string]{LeaseTTL: 2 * time.Second}))
		begin := time.Now()
		gets(t, "v", get(t, p, gives("v")))
		require.Equal(t, 2*time.Second, time.Since(begin))
		require.EqualValues(t, 1, p.Stats().RedisFailures)
	})
}

func TestOutage_CallerLeavesSilentRedisOnItsContext(t *testing.T) {
	t.Parallel()
	for _, command := range []string{"acquire", "store"} {
		t.Run(command, func(t *testing.T) {
			t.Parallel()
			embedded(t, func(t *lab) {
				silent := t.fence(named(command))
				p := quiet(newLoader(t, t.client(silent.before()), typedOptions[string]{LeaseTTL: time.Minute}))
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errBroken)
				defer cancel()
				begin := time.Now()
				_, err := p.Get(ctx, t.key, gives("v"))
				require.Equal(t, errBroken, err)
				require.Equal(t, time.Second, time.Since(begin))
			})
		})
	}
}

// Redis may hold anything.
func TestGet_OverwritesUnusableBytes(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(*lab) error{
		"foreign bytes": func(t *lab) error { return t.rdb.Set(t.Context(), t.key, "hello", 0).Err() },
		"nothing":       func(t *lab) error { return t.rdb.Set(t.Context(), t.key, "", 0).Err() },
		"a list":        func(t *lab) error { return t.rdb.RPush(t.Context(), t.key, 1, 2).Err() },
		"a value that does not decode": func(t *lab) error {
			return t.leases().Write(t.Context(), t.key, []byte("not a number"), hour)
		},
		"an entry of another key": func(t *lab) error {
			if err := t.leases().Write(t.Context(), t.key+":2", []byte("7"), hour); err != nil {
				return err
			}
			return t.rdb.Rename(t.Context(), t.key+":2", t.key).Err()
		},
		"a part of an entry": func(t *lab) error {
			b := "\xc1X\x01V\x00"
			return t.rdb.Set(t.Context(), t.key, b, 0).Err()
		},
		"an entry with a byte changed": func(t *lab) error {
			if err := t.leases().Write(t.Context(), t.key, []byte("7"), hour); err != nil {
				return err
			}
			return t.rdb.SetRange(t.Context(), t.key, 40, "8").Err()
		},
		"a lease and more": func(t *lab) error {
			dies(t, time.Hour, Granted)
			return t.rdb.Append(t.Context(), t.key, "more").Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			bubbles(t, func(t *lab) {
				require.NoError(t, put(t))
				p := quiet(newLoader(t, t.client(), still[int]()))
				_, there, err := p.Lookup(t.Context(), t.key)
				require.NoError(t, err)
				require.False(t, there)
				require.EqualValues(t, 1, p.Stats().DecodeFailures)
				gets(t, 9, get(t, p, gives(9)))
				t.holds("9")
				require.EqualValues(t, 2, p.Stats().DecodeFailures)
				require.EqualValues(t, 1, p.Stats().Loads)
				require.Zero(t, p.Stats().RedisFailures)
			})
		})
	}
}

func TestWaiter_TakesOverALeaseThatBecameUnusable(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		lease := t.proc().acquire(Granted)
		p := quiet(newLoader(t, t.client(), still[string]()))
		a := get(t, p, gives("v"))
		synctest.Wait()
		require.NoError(t, t.rdb.Append(t.Context(), t.key, "more").Err())
		gets(t, "v", a)
		t.holds("v")
		t.proc().store(lease.Token, "late", Fenced)
	})
}

// picky decodes only the values it was told to.
type picky struct {
	codec.Codec[string]
	good string
}

func (p picky) Decode(src []byte, v *string) error {
	if *v = string(src); *v != p.good {
		return errBroken
	}
	return nil
}

func TestGet_LoadsThoughUnusableBytesKeepComing(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		other := t.leases()
		var written int
		rewrite := &redistest.Gate{Before: func(ctx context.Context, cmd redis.Cmder) {
			if scriptName(cmd) == "acquire" {
				written++
				require.NoError(t, other.Write(t.Context(), t.key, fmt.Append(nil, "unusable ", written), hour))
			}
		}}
		o := still[string]()
		o.Codec = picky{codec.String[string](), "v"}
		p := quiet(newLoader(t, t.client(rewrite), o))
		gets(t, "v", get(t, p, gives("v")))
		require.Equal(t, maxBadEntries, written)
		t.holds(fmt.Sprint("unusable ", maxBadEntries)) // the value was loaded without a lease
	})
}

func TestGet_CodecPanicOnDecodeIsAMiss(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		t.proc().write("v")
		o := still[string]()
		o.Codec = explosive{codec.String[string]()}
		p := quiet(newLoader(t, t.client(), o))
		gets(t, "loaded", get(t, p, gives("loaded")))
	})
}
