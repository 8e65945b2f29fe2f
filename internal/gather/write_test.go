package gather

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// set has a goroutine each write to keys, one after the other, and returns what they were
// answered: what was there.
func (r *river) set(ctx context.Context, value string, keys ...string) []<-chan answer {
	var all []<-chan answer
	for _, key := range keys {
		ch := make(chan answer, 1)
		all = append(all, ch)
		go func() {
			cmd := redis.NewCmd(ctx, "set", key, value, "get")
			err := r.c.Write(ctx, key, len(value), script.NewOnce(cmd, 3))
			a := answer{"", err, time.Since(r.began)}
			if err == nil {
				a.value, a.err = cmd.Text()
			}
			ch <- a
		}()
		synctest.Wait()
	}
	return all
}

// A server that pauses writes answers reads all the same.
func TestWritesLeaveTogetherAndApartFromReads(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		writes := r.set(t.Context(), "new", "a", "b", "c", "d", "none")
		reads := r.get(t.Context(), "x", "y", "z", "w")
		for i, want := range []answer{
			{"value of a", nil, trip}, {"value of b", nil, trip},
			{"value of c", nil, 2 * trip}, {"value of d", nil, 2 * trip}, {"", redis.Nil, 2 * trip},
		} {
			require.Equal(t, want, <-writes[i])
		}
		require.Equal(t, answer{"value of x", nil, trip}, <-reads[0])
		require.Equal(t, answer{"value of w", nil, 2 * trip}, <-reads[3])
		require.ElementsMatch(t, []string{
			"set a new get", "set b new get", "[set c new get, set d new get, set none new get]",
			"get x", "get y", "mget z w",
		}, r.sent())
	})
}

func TestWhoWritesLeavesOnItsOwnCtx(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		r.set(t.Context(), "new", "a", "b")
		early, late := errors.New("early"), errors.New("late")
		ctx, leave := context.WithCancelCause(t.Context())
		gone := r.set(ctx, "new", "c")[0]
		then, leaveThen := context.WithCancelCause(t.Context())
		goneThen := r.set(then, "new", "d")[0]
		stays := r.set(t.Context(), "new", "e")[0]
		leave(early)
		require.Equal(t, answer{"", early, 0}, <-gone)
		time.Sleep(trip + trip/2)
		leaveThen(late)
		left := <-goneThen
		require.ErrorIs(t, left.err, late)
		require.ErrorIs(t, left.err, script.ErrOutcomeUnknown, "it is under way")
		require.Equal(t, trip+trip/2, left.after)
		require.Equal(t, answer{"value of e", nil, 2 * trip}, <-stays)
		require.Equal(t, "[set d new get, set e new get]", r.sent()[2], "who left before is not sent")
		require.Equal(t, "value of c", r.rdb.Get(t.Context(), "c").Val())
	})
}

func TestAWriteThatIsRefusedIsTheMatterOfItsCaller(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		all := r.set(t.Context(), "new", "list1", "a", "list2", "b")
		require.ErrorContains(t, (<-all[0]).err, "WRONGTYPE", "it went alone")
		require.ErrorContains(t, (<-all[2]).err, "WRONGTYPE")
		require.Equal(t, answer{"value of b", nil, 2 * trip}, <-all[3])
	})
}

func TestAFailureOrAPanicIsThatOfWritesToo(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		faults, failed, oops := new(redistest.Faults), errors.New("it failed"), errors.New("oops")
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("set"), Err: failed, Skip: 2, Times: 2})
		all := r.set(t.Context(), "new", "a", "b", "c", "d")
		require.Equal(t, answer{"value of a", nil, trip}, <-all[0])
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[2])
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[3])
		faults.Clear()
		r.rdb.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if cmd.Name() == "set" && cmd.Args()[1] == "c" {
				panic(oops)
			}
		}})
		all = r.set(t.Context(), "new", "a", "b", "c", "d")
		require.NoError(t, (<-all[0]).err)
		require.ErrorIs(t, (<-all[2]).err, oops)
		require.ErrorIs(t, (<-all[3]).err, oops)
	})
}

func TestWhatIsLargeIsWrittenAlone(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		large := strings.Repeat("v", huge)
		r.set(t.Context(), "new", "a", "b")
		require.Equal(t, answer{"value of c", nil, trip}, <-r.set(t.Context(), large, "c")[0], "it waits for nobody")
		r.get(t.Context(), "x", "y")
		require.Equal(t, answer{large, nil, 2 * trip}, <-r.get(t.Context(), "c")[0], "and is read alone")
	})
}
