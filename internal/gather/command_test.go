package gather

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// atTheFork is atTheRiver, where list1 holds 1 and 2, and list2 holds 3.
func atTheFork(t *testing.T, f func(t *testing.T, r *river)) {
	t.Helper()
	atTheRiver(t, func(t *testing.T, r *river) {
		require.NoError(t, r.rdb.RPush(t.Context(), "list1", 1, 2).Err())
		require.NoError(t, r.rdb.RPush(t.Context(), "list2", 3).Err())
		f(t, r)
	})
}

func TestOtherCommandsLeaveBesideTheMGET(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		all := r.get(t.Context(), "a", "#list1", "#list1", "c", "#list2", "d", "#none", "hash.f")
		for i, want := range []answer{
			{"value of a", nil, trip}, {"1,2", nil, trip},
			{"1,2", nil, 2 * trip}, {"value of c", nil, 2 * trip}, {"3", nil, 2 * trip}, {"value of d", nil, 2 * trip},
			{"", nil, 2 * trip}, {"", redis.Nil, 2 * trip},
		} {
			require.Equal(t, want, <-all[i])
		}
		require.Equal(t, []string{
			"get a", "lrange list1 0 -1",
			"[mget c d, lrange list1 0 -1, lrange list2 0 -1, lrange none 0 -1, hget hash f]",
		}, r.sent())
		all = r.get(t.Context(), "#list1", "#list2", "#list2")
		require.Equal(t, answer{"3", nil, 4 * trip}, <-all[2])
		require.Equal(t, "lrange list2 0 -1", r.sent()[2])
	})
}

func TestWhoReadsByACommandLeavesOnItsOwnCtx(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		r.get(t.Context(), "a", "b")
		early, late := errors.New("early"), errors.New("late")
		ctx, leave := context.WithCancelCause(t.Context())
		gone := r.get(ctx, "#list1")[0]
		then, leaveThen := context.WithCancelCause(t.Context())
		goneThen := r.get(then, "#list1")[0]
		stays := r.get(t.Context(), "#list2")[0]
		leave(early)
		synctest.Wait()
		require.Equal(t, answer{"", early, 0}, <-gone)
		time.Sleep(trip + trip/2)
		leaveThen(late)
		require.Equal(t, answer{"", late, trip + trip/2}, <-goneThen)
		require.Equal(t, answer{"3", nil, 2 * trip}, <-stays)
		require.Equal(t, "[lrange list1 0 -1, lrange list2 0 -1]", r.sent()[2])
	})
}

func TestACommandThatIsRefusedIsTheMatterOfItsReader(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		all := r.get(t.Context(), "#b", "a", "#b", "c", "#list1", "d")
		require.ErrorContains(t, (<-all[0]).err, "WRONGTYPE", "it went alone")
		require.ErrorContains(t, (<-all[2]).err, "WRONGTYPE")
		require.Equal(t, answer{"value of c", nil, 2 * trip}, <-all[3])
		require.Equal(t, answer{"1,2", nil, 2 * trip}, <-all[4])
		require.Equal(t, answer{"value of d", nil, 2 * trip}, <-all[5])
		require.Len(t, r.sent(), 3, "nothing was read again")
	})
}

func TestCommandsAreRepeatedWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		faults := new(redistest.Faults)
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("mget"), Executed: true})
		all := r.get(t.Context(), "a", "b", "c", "#list1", "d")
		require.Equal(t, "value of c", (<-all[2]).value)
		require.Equal(t, "1,2", (<-all[3]).value)
		require.Equal(t, "value of d", (<-all[4]).value)
		require.Equal(t, []string{"get a", "get b", "[mget c d, lrange list1 0 -1]", "[lrange list1 0 -1]", "[get c, get d]"}, r.sent())
	})
}

func TestAFailureOrAPanicIsThatOfCommandsToo(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		faults, failed, oops := new(redistest.Faults), errors.New("it failed"), errors.New("oops")
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("lrange"), Err: failed, Times: 2})
		all := r.get(t.Context(), "a", "b", "#list1", "#list2")
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[2])
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[3])
		faults.Clear()
		r.rdb.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if cmd.Name() == "lrange" {
				panic(oops)
			}
		}})
		all = r.get(t.Context(), "a", "b", "c", "#list1")
		require.ErrorIs(t, (<-all[2]).err, oops)
		require.ErrorIs(t, (<-all[3]).err, oops)
	})
}

func TestLargeRepliesGoAlone(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		// What one knows of all lists would hide what is known of this one.
		read := func(keys ...string) []string {
			r.lists = Size{}
			r.sent()
			for _, ch := range r.get(t.Context(), keys...) {
				require.NoError(t, (<-ch).err)
			}
			return r.sent()
		}
		for range huge/PerElement - 1 {
			require.NoError(t, r.rdb.RPush(t.Context(), "long", "").Err())
		}
		together := "[get c, lrange long 0 -1]"
		require.Equal(t, together, read("a", "b", "c", "#long")[2])
		require.Equal(t, together, read("a", "b", "c", "#long")[2], "it is not large")

		require.NoError(t, r.rdb.RPush(t.Context(), "long", "").Err())
		require.Equal(t, together, read("a", "b", "c", "#long")[2], "nobody knew")
		require.Equal(t, []string{"get a", "get b", "lrange long 0 -1", "mget c d"}, read("a", "b", "c", "#long", "d"))

		require.NoError(t, r.rdb.RPop(t.Context(), "long").Err())
		read("#long")
		require.Equal(t, together, read("a", "b", "c", "#long")[2], "it is not any more")

		require.NoError(t, r.rdb.RPush(t.Context(), "long", "").Err())
		read("#long")
		require.Equal(t, "lrange long 0 -1", read("a", "b", "c", "#long")[2], "it was read alone")
	})
}

func TestWhatIsExpectedToBeLargeGoesAlone(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		r.lists.Guess(huge)
		all := r.get(t.Context(), "a", "b", "c", "#list1")
		require.Equal(t, answer{"1,2", nil, trip}, <-all[3])
		<-all[2]
		all = r.get(t.Context(), "a", "b", "c", "#list1")
		require.Equal(t, answer{"1,2", nil, 4 * trip}, <-all[3], "it was not")
		require.Equal(t, []string{"get a", "get b", "lrange list1 0 -1", "get c", "get a", "get b", "[get c, lrange list1 0 -1]"}, r.sent())
	})
}

func TestExpectedBytesBoundWhatLeavesTogether(t *testing.T) {
	t.Parallel()
	atTheFork(t, func(t *testing.T, r *river) {
		r.lists.Guess(huge - 1) // 16 of 128
		var keys []string
		for range 2 + 2*8 + 1 {
			keys = append(keys, "#none") // which says nothing about others
		}
		all := r.get(t.Context(), keys...)
		for _, ch := range all {
			<-ch
		}
		var lots []int
		for _, what := range r.sent() {
			lots = append(lots, strings.Count(what, "lrange"))
		}
		require.Equal(t, []int{1, 1, 8, 8, 1}, lots)
	})
}

func TestASizeIsTheAverageOfWhatWasNotEmpty(t *testing.T) {
	t.Parallel()
	var s Size
	require.Zero(t, s.About())
	s.Guess(1 << 20)
	require.Equal(t, 1<<20, s.About())
	s.Learn(0)
	require.Equal(t, 1<<20, s.About())
	s.Learn(160)
	require.Equal(t, 160, s.About())
	s.Learn(320)
	require.Equal(t, 170, s.About())
	s.Learn(0)
	s.Learn(10)
	require.Equal(t, 160, s.About())
}

func TestMembersWithScoresAreCountedToo(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		require.Zero(t, replySize(rdb.ZRevRangeWithScores(t.Context(), "z", 0, -1)))
		for i := range 10 {
			require.NoError(t, rdb.ZAdd(t.Context(), "z", redis.Z{Score: float64(i), Member: fmt.Sprint(i)}).Err())
		}
		require.Equal(t, 10*(2*PerElement+1), replySize(rdb.ZRevRangeWithScores(t.Context(), "z", 0, -1)))
		require.Equal(t, 10*(PerElement+1), replySize(rdb.ZRange(t.Context(), "z", 0, -1)))
	})
}
