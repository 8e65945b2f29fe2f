package engine

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/entry"
)

func TestNew_NamesTheWrongOption(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	for want, o := range map[string]typedOptions[string]{
		"LeaseTTL is 99ms, must be at least 100ms":        {LeaseTTL: 99 * time.Millisecond},
		"LeaseTTL is -1s, must be at least 100ms":         {LeaseTTL: -time.Second},
		"LeaseTTL is 100.5ms, must be whole milliseconds": {LeaseTTL: 100500 * time.Microsecond},
		"Timeout is -1ns, must not be negative":           {Timeout: -1},
		"MaxLoads is -1, must not be negative":            {MaxLoads: -1},
	} {
		_, err := newTyped(rdb, o)
		require.EqualError(t, err, want)
	}
	for _, none := range []redis.UniversalClient{nil, (*redis.Client)(nil), (*redis.ClusterClient)(nil)} {
		_, err := newTyped(none, typedOptions[string]{})
		require.EqualError(t, err, "client is nil")
		_, err = NewLeases(none, time.Second)
		require.EqualError(t, err, "client is nil")
	}
	_, err := NewLeases(rdb, 0)
	require.EqualError(t, err, "LeaseTTL is 0s, must be at least 100ms")
}

func TestNew_DefaultsMatchTheDocs(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	t.Cleanup(func() { _ = rdb.Close() })
	l, err := newTyped(rdb, typedOptions[string]{})
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close(context.Background()) })
	require.Equal(t, defaults.LeaseTTL(), l.engine.leases.ttl)
	require.Equal(t, time.Minute, l.engine.flights.timeout)
	require.Nil(t, l.engine.loadSlots)
	require.Equal(t, boxed[string]{codec: codec.Bind(codec.For[string]())}, l.engine.codec)
}

func TestCheckLife_WholeMillisecondsUpToTenYears(t *testing.T) {
	t.Parallel()
	for _, d := range []time.Duration{time.Millisecond, time.Second, maxLifetime, Forever} {
		require.NoError(t, CheckLife(d), d)
	}
	for want, d := range map[string]time.Duration{
		"0s is too short, must be at least 1ms":                0,
		"-1s is too short, must be at least 1ms":               -time.Second,
		"999µs is too short, must be at least 1ms":             999 * time.Microsecond,
		"1.5ms is not whole milliseconds":                      1500 * time.Microsecond,
		"87600h0m0.001s is longer than ten years: use Forever": maxLifetime + time.Millisecond,
	} {
		require.EqualError(t, CheckLife(d), want)
	}
	require.NoError(t, Life{time.Second, time.Second}.check())
	require.NoError(t, Life{time.Second, Forever}.check())
	require.NoError(t, Life{Forever, Forever}.check())
	require.EqualError(t, Life{time.Minute, time.Second}.check(), "Keep is 1s, must be at least Fresh, 1m0s")
	require.EqualError(t, Life{Forever, time.Second}.check(), "Keep is 1s, must be at least Fresh, 2562047h47m16.854775807s")
	require.Error(t, Life{time.Second, maxLifetime + time.Second}.check())
}

func TestAcquire_GivesWaitersTheCostOfTheHolder(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		now, err := t.rdb.Time(t.Context()).Result()
		require.NoError(t, err)
		p, q := t.leases(), t.leases()
		a, err := p.Acquire(t.Context(), t.key, nil, 1234*time.Millisecond)
		require.NoError(t, err)
		require.Equal(t, Granted, a.Grant)
		require.NotZero(t, a.Token)
		b, err := q.Acquire(t.Context(), t.key, nil, time.Hour)
		require.NoError(t, err)
		require.Equal(t, Held, b.Grant)
		require.NotEqual(t, a.Token, b.Token)
		require.Equal(t, 1234*time.Millisecond, b.Cost)
		require.WithinDuration(t, now, b.Began, patience)
		h, _ := t.entry()
		require.Zero(t, h.Flags, "no waiter has asked for a message")
	})
}

func TestAcquire_ReplacesAnUnusableEntryByItsToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := t.proc()
		p.write("unfit")
		h, _ := t.entry()
		p.write("fit")
		a, err := p.leases.Acquire(t.Context(), t.key, &h.Token, 0)
		require.NoError(t, err)
		require.Equal(t, Hit, a.Grant, "another one is there meanwhile")
		require.Equal(t, "fit", p.payload(a))
		h, _ = t.entry()
		a, err = p.leases.Acquire(t.Context(), t.key, &h.Token, 0)
		require.NoError(t, err)
		require.Equal(t, Granted, a.Grant)
		t.leased(a.Token)
	})
}

func TestLease_HoldsForItsTTLAndForEveryExtend(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		leases, err := NewLeases(t.client(), time.Second)
		require.NoError(t, err)
		a, err := leases.Acquire(t.Context(), t.key, nil, 0)
		require.NoError(t, err)
		for range 3 {
			time.Sleep(900 * time.Millisecond)
			held, err := leases.Extend(t.Context(), t.key, a.Token)
			require.NoError(t, err)
			require.True(t, held)
		}
		time.Sleep(999 * time.Millisecond)
		t.leased(a.Token)
		time.Sleep(time.Millisecond)
		t.absent()
		held, err := leases.Extend(t.Context(), t.key, a.Token)
		require.NoError(t, err)
		require.False(t, held)
		t.absent()
	})
}

// M14 of interleaving_test.go: the life of a stale value must not end while its
// lease holds, or a failed load could not leave it as it was.
func TestLease_OfARefreshProlongsTheValue(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		leases, err := NewLeases(t.client(), time.Minute)
		require.NoError(t, err)
		short := Life{Fresh: time.Second, Keep: 2 * time.Second}
		require.NoError(t, leases.Write(t.Context(), t.key, []byte("stale"), short))
		time.Sleep(1500 * time.Millisecond)
		a, err := leases.Acquire(t.Context(), t.key, nil, 0)
		require.NoError(t, err)
		require.Equal(t, GrantedStale, a.Grant)
		for range 3 {
			time.Sleep(50 * time.Second)
			held, err := leases.Extend(t.Context(), t.key, a.Token)
			require.NoError(t, err)
			require.True(t, held)
		}
		held, err := leases.Release(t.Context(), t.key, a.Token)
		require.NoError(t, err)
		require.True(t, held)
		t.holds("stale")

		// It does not shorten a longer life.
		require.NoError(t, leases.Write(t.Context(), t.key, []byte("stale"), hour))
		found, err := leases.Expire(t.Context(), t.key)
		require.NoError(t, err)
		require.True(t, found)
		_, err = leases.Acquire(t.Context(), t.key, nil, 0)
		require.NoError(t, err)
		require.Equal(t, time.Hour, t.rdb.PTTL(t.Context(), t.key).Val())
	})
}

func TestExpire_OfOtherBytesDoesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		leases := t.leases()
		found, err := leases.Expire(t.Context(), t.key)
		require.NoError(t, err)
		require.False(t, found)
		t.absent()
		require.NoError(t, t.rdb.Set(t.Context(), t.key, "hello", 0).Err())
		found, err = leases.Expire(t.Context(), t.key)
		require.NoError(t, err)
		require.False(t, found)
		require.Equal(t, "hello", t.rdb.Get(t.Context(), t.key).Val())
	})
}

// M25 of interleaving_test.go.
func TestExpire_FasterThanLoadsStillGetsNewerValues(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		p := t.proc()
		t.stale("0")
		for _, v := range []string{"1", "2", "3"} {
			lease := p.acquire(GrantedStale)
			p.expire()
			p.expire()
			p.store(lease.Token, v, StoredStale)
			require.Equal(t, entry.Stale, t.holds(v).Flags)
		}
		p.store(p.acquire(GrantedStale).Token, "4", Stored)
		require.Zero(t, t.holds("4").Flags)
	})
}

func TestLeases_ErrorNamesTheScriptAndWrapsTheClients(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		rdb, _ := t.away()
		leases, err := NewLeases(rdb, time.Second)
		require.NoError(t, err)
		_, err = leases.Acquire(t.Context(), t.key, nil, 0)
		require.ErrorContains(t, err, "script acquire: ")
		_, err = leases.Store(t.Context(), t.key, Token{1}, nil, hour, time.Now(), 0)
		require.ErrorContains(t, err, "script store: ")
		_, err = leases.Extend(t.Context(), t.key, Token{1})
		require.ErrorContains(t, err, "script extend: ")
		_, err = leases.Release(t.Context(), t.key, Token{1})
		require.ErrorContains(t, err, "script release: ")
		_, err = leases.Expire(t.Context(), t.key)
		require.ErrorContains(t, err, "script expire: ")
		err = leases.Write(t.Context(), t.key, nil, Life{Fresh: time.Second, Keep: time.Minute})
		require.ErrorContains(t, err, "script write: ")
		err = leases.Write(t.Context(), t.key, nil, hour)
		require.EqualError(t, err, "dial tcp: connection refused", "it is a SET")
	})
}

func TestClose_LaterLoadsReturnErrClosed(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		closing := start(func() (struct{}, error) { return struct{}{}, p.Close(t.Context()) })
		synctest.Wait()
		require.True(t, closing.running(), "a load is under way")
		_, err := p.Get(t.Context(), t.key+":2", never[string](t))
		require.ErrorIs(t, err, ErrClosed)
		source.value <- "v"
		gets(t, "v", a)
		_, err = closing.wait(t)
		require.NoError(t, err)
		t.holds("v")
		require.NoError(t, p.Close(t.Context()))
		require.NoError(t, t.rdb.Ping(t.Context()).Err(), "the client stays open")
	})
}

func TestClose_EndedContextGivesLeasesBack(t *testing.T) {
	t.Parallel()
	bubbles(t, func(t *lab) {
		p := quiet(newLoader(t, t.client(), still[string]()))
		source := newSource[string]()
		a := get(t, p, source.load)
		within(t, source.began)
		t.leased(t.token())
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(errBroken)
		require.Equal(t, errBroken, p.Close(ctx))
		_, err := a.wait(t)
		require.ErrorIs(t, err, ErrClosed)
		require.NoError(t, p.Close(t.Context()))
		t.absent()
	})
}

// token returns the token of the entry of the key.
func (l *lab) token() entry.Token {
	h, _ := l.entry()
	require.NotZero(l, h.Token)
	return h.Token
}
