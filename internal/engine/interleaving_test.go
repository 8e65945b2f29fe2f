package engine

import (
	"context"
	"io"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// The tests of this file play the interleavings that a lease protocol can get
// wrong, step by step, with the real scripts. The letters are processes. M1 to
// M21 are the names of the interleavings; the explorer tries all orders of the
// steps of most of them.

// A proc is one process that speaks the lease protocol by hand.
type proc struct {
	*lab
	leases *Leases
}

func (l *lab) proc(hooks ...redis.Hook) proc { return proc{l, l.leases(hooks...)} }

// acquire asserts the result of Acquire.
func (p proc) acquire(want Grant) AcquireResult {
	p.Helper()
	a, err := p.leases.Acquire(p.Context(), p.key, nil, 0)
	require.NoError(p, err)
	require.Equal(p, want, a.Grant)
	return a
}

// store asserts the result of storing value.
func (p proc) store(token Token, value string, want StoreResult) {
	p.Helper()
	v, err := p.leases.Store(p.Context(), p.key, token, []byte(value), hour, time.Now(), 0)
	require.NoError(p, err)
	require.Equal(p, want, v)
}

// release asserts whether the lease was still there.
func (p proc) release(token Token, want bool) {
	p.Helper()
	held, err := p.leases.Release(p.Context(), p.key, token)
	require.NoError(p, err)
	require.Equal(p, want, held)
}

// write stores value whatever the key holds.
func (p proc) write(value string) {
	p.Helper()
	require.NoError(p, p.leases.Write(p.Context(), p.key, []byte(value), kept))
}

// expire makes the value stale.
func (p proc) expire() {
	p.Helper()
	found, err := p.leases.Expire(p.Context(), p.key)
	require.NoError(p, err)
	require.True(p, found)
}

// payload returns the value of an entry that Acquire returned.
func (p proc) payload(a AcquireResult) string {
	p.Helper()
	_, payload, ok := entry.Parse(p.key, a.Entry)
	require.True(p, ok)
	return string(payload)
}

// M1.
func TestDeletion_OvertookALoadThatIsNotStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a := t.proc()
		lease := a.acquire(Granted)
		t.leased(lease.Token)
		t.delete()
		a.store(lease.Token, "old", Fenced)
		t.absent()
	})
}

// M2.
func TestDeletion_OvertookALoadThatLeavesTheNextLease(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		leaseA := a.acquire(Granted)
		t.delete()
		leaseB := b.acquire(Granted)
		a.store(leaseA.Token, "old", Fenced)
		a.release(leaseA.Token, false)
		t.leased(leaseB.Token)
		b.store(leaseB.Token, "new", Stored)
		t.holds("new")
	})
}

// M3.
func TestDeletion_OvertookALoadThatLeavesTheNewValue(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		leaseA := a.acquire(Granted)
		t.delete()
		leaseB := b.acquire(Granted)
		b.store(leaseB.Token, "new", Stored)
		a.store(leaseA.Token, "old", Fenced)
		t.holds("new")
	})
}

// M4.
func TestDeletion_OvertookARefreshThatIsNotStored(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, c := t.proc(), t.proc()
		t.stale("stale")
		leaseA := a.acquire(GrantedStale)
		require.Equal(t, "stale", a.payload(leaseA))
		t.delete()
		leaseC := c.acquire(Granted)
		a.store(leaseA.Token, "old", Fenced)
		t.leased(leaseC.Token)
		c.store(leaseC.Token, "new", Stored)
		t.holds("new")
	})
}

// M5.
func TestExpire_DuringARefreshStoresItStale(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		t.stale("stale")
		lease := a.acquire(GrantedStale)
		require.Equal(t, "stale", b.payload(b.acquire(HeldStale)), "the others have it meanwhile")
		b.expire()
		a.store(lease.Token, "newer", StoredStale)
		require.Equal(t, entry.Stale, t.holds("newer").Flags)
		again := b.acquire(GrantedStale)
		require.Equal(t, "newer", b.payload(again), "the next reader loads, and loses nothing")
		b.store(again.Token, "newest", Stored)
		require.Zero(t, t.holds("newest").Flags)
	})
}

// M6.
func TestExpire_DuringALoadStoresItStale(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		lease := a.acquire(Granted)
		b.expire()
		t.leased(lease.Token)
		b.acquire(Held)
		a.store(lease.Token, "new", StoredStale)
		require.Equal(t, entry.Stale, t.holds("new").Flags)
		b.acquire(GrantedStale)
	})
}

// M7.
func TestLease_TakenOverFencesTheLoad(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		leaseA := a.acquire(Granted)
		b.acquire(Held)
		t.lapse()
		leaseB := b.acquire(Granted)
		a.store(leaseA.Token, "of A", Fenced)
		t.leased(leaseB.Token)
		b.store(leaseB.Token, "of B", Stored)
		a.store(leaseA.Token, "of A", Fenced)
		t.holds("of B")
	})
}

// M7, with a stale value.
func TestLease_TakenOverFencesTheRefresh(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		t.stale("stale")
		leaseA := a.acquire(GrantedStale)
		t.lapse()
		leaseB := b.acquire(GrantedStale)
		a.store(leaseA.Token, "of A", Fenced)
		a.release(leaseA.Token, false)
		b.store(leaseB.Token, "of B", Stored)
		t.holds("of B")
	})
}

// M8.
func TestLease_LapsedButFreeStoresTheRefresh(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a := t.proc()
		t.stale("stale")
		lease := a.acquire(GrantedStale)
		t.lapse()
		a.store(lease.Token, "new", Stored)
		t.holds("new")
	})
}

// M9. Acquire is sent once, and every attempt has a token of its own. Reason: a
// copy that was delayed in the network takes effect after the deletion that
// should have fenced the load.
func TestToken_SentTwiceStoresAnOldValueAndFreshOnesDoNot(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		second Token // of the attempt that gets a reply
		want   StoreResult
	}{
		"resent": {Token{1}, Stored},
		"fresh":  {Token{2}, Fenced},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *lab) {
				a, network := t.proc(), t.leases()
				acquire := func(token Token) Grant {
					got, err := network.acquire(t.Context(), t.key, acquireRequest{token: token})
					require.NoError(t, err)
					return got.Grant
				}
				// The first attempt, with Token{1}, hangs in the network.
				require.Equal(t, Granted, acquire(test.second))
				// A reads the old value. Another process commits the new one,
				// and deletes the key.
				t.delete()
				require.Equal(t, Granted, acquire(Token{1}), "the first attempt arrives")
				a.store(test.second, "old", test.want)
				if test.want == Stored {
					t.holds("old") // after the deletion: the worst fault of a cache
					return
				}
				t.leased(Token{1}) // held by no process. It runs out:
				left, err := t.rdb.PTTL(t.Context(), t.key).Result()
				require.NoError(t, err)
				require.Positive(t, left)
				require.LessOrEqual(t, left, time.Hour)
			})
		})
	}
}

// M9, prevented: go-redis does not send the command again.
func TestAcquire_IsSentOnceThoughTheClientRetries(t *testing.T) {
	t.Parallel()
	s := redistest.Start(t)
	p := redistest.NewProxy(t, s.Addr())
	rdb := redis.NewClient(&redis.Options{Addr: p.Addr(), MaxRetries: 3, MinRetryBackoff: -1, PoolSize: 1, ReadTimeout: patience})
	defer func() { _ = rdb.Close() }()
	leases, err := NewLeases(rdb, time.Hour)
	require.NoError(t, err)
	_, err = leases.Acquire(t.Context(), "warm", nil, 0) // opens the connection, loads the script
	require.NoError(t, err)

	p.LoseReplies(1)
	a, err := leases.Acquire(t.Context(), "key", nil, 0)
	require.Error(t, err, "the reply is lost, and the command is not sent again")
	require.NotZero(t, a.Token, "but the lease can be given back")
	held, err := leases.Release(t.Context(), "key", a.Token)
	require.NoError(t, err)
	require.True(t, held, "the command had been executed")
}

// M10.
func TestStore_WithALostReplyIsDoneOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		var faults redistest.Faults
		a, b := t.proc(&faults), t.proc()
		lose := func(token Token, value string) {
			faults.Add(redistest.Fault{Match: redistest.Named("evalsha"), Executed: true})
			_, err := a.leases.Store(t.Context(), t.key, token, []byte(value), hour, time.Now(), 0)
			require.ErrorIs(t, err, io.EOF)
		}
		lease := a.acquire(Granted)
		lose(lease.Token, "v")
		before := t.holds("v")
		a.store(lease.Token, "v", StoredTwice)
		require.Equal(t, before, t.holds("v"), "the second one changes nothing")

		t.delete()
		a.store(lease.Token, "v", Fenced)
		t.absent()

		lease = a.acquire(Granted)
		lose(lease.Token, "v")
		b.write("w")
		a.store(lease.Token, "v", Fenced)
		t.holds("w")
	})
}

// M11.
func TestStore_AfterADeletionAndANewValueDoesNothing(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		lease := a.acquire(Granted)
		a.store(lease.Token, "old", Stored) // its first copy
		t.delete()
		b.store(b.acquire(Granted).Token, "new", Stored)
		a.store(lease.Token, "old", Fenced) // and its second
		b.expire()
		a.store(lease.Token, "old", Fenced)
		next := b.acquire(GrantedStale)
		a.store(lease.Token, "old", Fenced)
		b.store(next.Token, "newest", Stored)
		t.holds("newest")
	})
}

// M12. Write does not compare tokens: the last to arrive stays, perhaps a copy
// of an older write. Two concurrent writes can do the same, for the write whose
// copy is still on its way has not returned. So a cache whose source of truth
// is elsewhere deletes rather than writes.
func TestWrite_LateCopyReplacesANewerWrite(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a := t.leases()
		token := entry.NewToken()
		write := func(token Token, value string) {
			h := entry.Header{State: entry.Value, Token: token, Sum: entry.Sum(t.key, []byte(value))}
			_, err := script.Write.Run(t.Context(), t.rdb, t.key, h.Append(nil), hour.Keep.Milliseconds(), hour.Fresh.Milliseconds(), value)
			require.NoError(t, err)
		}
		write(token, "one")
		require.NoError(t, a.Write(t.Context(), t.key, []byte("two"), hour))
		t.holds("two")
		write(token, "one")
		t.holds("one")
	})
}

// M12, and the promise of Write.
func TestWrite_FencesTheLoad(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		lease := a.acquire(Granted)
		b.write("written")
		a.store(lease.Token, "old", Fenced)
		a.release(lease.Token, false)
		t.holds("written")

		b.expire()
		lease = a.acquire(GrantedStale)
		b.write("again")
		a.store(lease.Token, "old", Fenced)
		t.holds("again")
	})
}

// M18.
func TestRelease_DeletionOrWriteOvertookItTouchesNothing(t *testing.T) {
	t.Parallel()
	for name, overtake := range map[string]func(*lab, proc){
		"a deletion":           func(t *lab, _ proc) { t.delete() },
		"a write":              func(_ *lab, b proc) { b.write("v") },
		"another lease":        func(t *lab, b proc) { t.delete(); b.acquire(Granted) },
		"another one's value":  func(t *lab, b proc) { t.delete(); b.store(b.acquire(Granted).Token, "v", Stored) },
		"an expired value":     func(_ *lab, b proc) { b.write("v"); b.expire() },
		"another one's update": func(_ *lab, b proc) { b.write("v"); b.expire(); b.acquire(GrantedStale) },
		"a foreign value":      func(t *lab, _ proc) { require.NoError(t, t.rdb.Set(t.Context(), t.key, "x", 0).Err()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *lab) {
				a, b := t.proc(), t.proc()
				for _, begin := range []func(){t.delete, func() { t.stale("stale") }} {
					begin()
					lease, err := a.leases.Acquire(t.Context(), t.key, nil, 0)
					require.NoError(t, err)
					require.Contains(t, []Grant{Granted, GrantedStale}, lease.Grant)
					overtake(t, b)
					before := t.raw()
					a.release(lease.Token, false)
					extended, err := a.leases.Extend(t.Context(), t.key, lease.Token)
					require.NoError(t, err)
					require.False(t, extended)
					require.Equal(t, before, t.raw())
				}
			})
		})
	}
}

// M18, where no deletion overtook it.
func TestRelease_LeavesNoLeaseAndNoToken(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		a, b := t.proc(), t.proc()
		lease := a.acquire(Granted)
		a.release(lease.Token, true)
		t.absent()
		a.release(lease.Token, false)

		t.stale("stale")
		lease = a.acquire(GrantedStale)
		a.release(lease.Token, true)
		require.Zero(t, t.holds("stale").Token)
		a.store(lease.Token, "old", Fenced)
		t.holds("stale")
		b.acquire(GrantedStale)
	})
}

// raw returns the bytes of the key and its remaining life, as far as that can
// be compared.
func (l *lab) raw() string {
	b, err := l.rdb.Get(l.Context(), l.key).Bytes()
	if err != nil {
		return err.Error()
	}
	left, err := l.rdb.PTTL(l.Context(), l.key).Result()
	require.NoError(l, err)
	return string(b) + " for " + left.Round(time.Minute).String()
}

// Any program may remove the lease.
func TestLease_RemovalOfTheKeyFencesTheLoad(t *testing.T) {
	t.Parallel()
	for name, remove := range map[string]func(context.Context, *redis.Client, string) error{
		"UNLINK":  func(ctx context.Context, rdb *redis.Client, key string) error { return rdb.Unlink(ctx, key).Err() },
		"PEXPIRE": func(ctx context.Context, rdb *redis.Client, key string) error { return rdb.PExpire(ctx, key, 0).Err() },
		"SET":     func(ctx context.Context, rdb *redis.Client, key string) error { return rdb.Set(ctx, key, "x", 0).Err() },
		"RENAME": func(ctx context.Context, rdb *redis.Client, key string) error {
			return rdb.Rename(ctx, key, key+"2").Err()
		},
		"GETDEL": func(ctx context.Context, rdb *redis.Client, key string) error { return rdb.GetDel(ctx, key).Err() },
		"SETRANGE": func(ctx context.Context, rdb *redis.Client, key string) error {
			was, err := rdb.GetRange(ctx, key, 13, 13).Bytes()
			if err != nil {
				return err
			}
			// two bytes may leave their sum unchanged
			return rdb.SetRange(ctx, key, 13, string([]byte{was[0] ^ 1})).Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			each(t, func(t *lab) {
				a := t.proc()
				lease := a.acquire(Granted)
				require.NoError(t, remove(t.Context(), t.rdb, t.key))
				before := t.raw()
				a.store(lease.Token, "old", Fenced)
				require.Equal(t, before, t.raw())
				require.Equal(t, Granted, a.acquire(Granted).Grant, "what is no entry is overwritten")
			})
		})
	}
}
