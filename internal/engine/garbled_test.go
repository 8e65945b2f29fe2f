package engine

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// garbage is the replies that a broken proxy may send in place of a small
// number.
var garbage = []any{int64(7), int64(-1), "QUEUED", []any{"1"}}

func TestReply_UnexpectedEntitlesNoWaiter(t *testing.T) {
	t.Parallel()
	for _, script := range []string{"store", "extend"} {
		for _, reply := range garbage {
			bubbles(t, func(t *lab) {
				var faults redistest.Faults
				p := quiet(newLoader(t, t.client(&faults), still[string]()))
				s := newSource[string]()
				first := get(t, p, s.load)
				within(t, s.began)
				t.delete() // by another program
				late := get(t, p, s.load)
				synctest.Wait()
				faults.Add(redistest.Fault{Match: named(script), Reply: reply})
				if script == "extend" {
					time.Sleep(p.engine.leases.ttl) // heartbeats
					synctest.Wait()
				}
				s.value <- "old"
				gets(t, "old", first)
				// the deletion came before this caller, and no reply proves
				// otherwise
				within(t, s.began)
				s.value <- "new"
				gets(t, "new", late)
				t.holds("new")
			})
		}
	}
}

func TestReply_UnexpectedIsAnError(t *testing.T) {
	t.Parallel()
	lasting := Life{Fresh: time.Second, Keep: time.Minute}
	embedded(t, func(t *lab) {
		var faults redistest.Faults
		leases, err := NewLeases(t.client(&faults), time.Second)
		require.NoError(t, err)
		ctx := t.Context()
		for _, reply := range garbage {
			faults.Clear()
			faults.Add(redistest.Fault{Match: redistest.Named("eval", "evalsha"), Times: redistest.Always, Reply: reply})
			_, err = leases.Store(ctx, t.key, Token{1}, nil, hour, time.Now(), 0)
			require.ErrorIs(t, err, errReply)
			_, err = leases.Renew(ctx, t.key, Token{1}, hour, time.Now(), 0)
			require.ErrorIs(t, err, errReply)
			_, err = leases.Extend(ctx, t.key, Token{1})
			require.ErrorIs(t, err, errReply)
			_, err = leases.Release(ctx, t.key, Token{1})
			require.ErrorIs(t, err, errReply)
			_, err = leases.Expire(ctx, t.key)
			require.ErrorIs(t, err, errReply)
			require.ErrorIs(t, leases.Write(ctx, t.key, nil, lasting), errReply)
			require.ErrorIs(t, leases.WriteMany(ctx, []Write{{Key: t.key, Life: lasting}})[0], errReply)
			_, err = leases.Acquire(ctx, t.key, nil, 0)
			require.ErrorIs(t, err, errReply)
		}
	})
}
