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
)

func TestReadsThatComeWhileTwoAreUnderWayAreOneMGET(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		all := r.get(t.Context(), "a", "b", "c", "d", "none", "e")
		for i, want := range []answer{
			{"value of a", nil, trip}, {"value of b", nil, trip},
			{"value of c", nil, 2 * trip}, {"value of d", nil, 2 * trip}, {"", redis.Nil, 2 * trip}, {"value of e", nil, 2 * trip},
		} {
			require.Equal(t, want, <-all[i])
		}
		require.Equal(t, []string{"get a", "get b", "mget c d none e"}, r.sent())
	})
}

func TestALoneReadThatHasToWaitIsAGET(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		all := r.get(t.Context(), "a", "b", "c")
		require.Equal(t, answer{"value of c", nil, 2 * trip}, <-all[2])
		require.Equal(t, "get c", r.sent()[2])
	})
}

func TestFieldsOfHashesLeaveTogetherWithTheOthers(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		require.NoError(t, r.rdb.HSet(t.Context(), "hash", "f", "of f", "g", "of g").Err())
		r.sent()
		all := r.get(t.Context(), "a", "b", "hash.f", "c", "hash.g", "d", "hash.none")
		for i, want := range []string{"value of a", "value of b", "of f", "value of c", "of g", "value of d", ""} {
			require.Equal(t, want, (<-all[i]).value)
		}
		require.Equal(t, "[mget c d, hget hash f, hget hash g, hget hash none]", r.sent()[2])
		all = r.get(t.Context(), "hash.f", "hash.f", "hash.g", "a")
		for i, want := range []string{"of f", "of f", "of g", "value of a"} {
			require.Equal(t, want, (<-all[i]).value)
		}
		require.Equal(t, "[hget hash g, get a]", r.sent()[2])
	})
}

func TestAReaderLeavesOnItsOwnCtxAndHarmsNobody(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		busy := r.get(t.Context(), "a", "b")
		early, late := errors.New("early"), errors.New("late")
		ctx, leave := context.WithCancelCause(t.Context())
		gone := r.get(ctx, "c")[0]
		then, leaveThen := context.WithCancelCause(t.Context())
		goneThen := r.get(then, "d")[0]
		stays := r.get(t.Context(), "e")[0]
		leave(early)
		synctest.Wait()
		require.Equal(t, answer{"", early, 0}, <-gone)
		time.Sleep(trip + trip/2)
		leaveThen(late)
		require.Equal(t, answer{"", late, trip + trip/2}, <-goneThen)
		require.Equal(t, answer{"value of e", nil, 2 * trip}, <-stays)
		require.Equal(t, "mget d e", r.sent()[2])
		<-busy[0]
	})
}

func TestAKeyThatIsNoStringIsTheMatterOfItsReader(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		require.NoError(t, r.rdb.HSet(t.Context(), "hash", "f", "of f").Err())
		all := r.get(t.Context(), "a", "b", "c", "hash", "a.field", "d")
		require.Equal(t, "value of c", (<-all[2]).value)
		require.Equal(t, redis.Nil, (<-all[3]).err, "as MGET has it")
		require.ErrorContains(t, (<-all[4]).err, "WRONGTYPE")
		require.Equal(t, "value of d", (<-all[5]).value)
	})
}

func TestReadsThatAreRefusedTogetherAreReadEachByItself(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		faults := new(redistest.Faults)
		r.rdb.AddHook(faults)
		refused := refusal("NOPERM this user has no permissions to access one of the keys")
		faults.Add(redistest.Fault{Match: redistest.Named("mget"), Err: refused})
		faults.Add(redistest.Fault{Match: func(cmd redis.Cmder) bool { return text(cmd) == "get d" }, Err: refused})
		all := r.get(t.Context(), "a", "b", "c", "e", "d")
		require.Equal(t, "value of c", (<-all[2]).value)
		require.Equal(t, "value of e", (<-all[3]).value)
		require.ErrorIs(t, (<-all[4]).err, refused)
		r.sent()
		all = r.get(t.Context(), "a", "b", "c", "d")
		require.Equal(t, "value of d", (<-all[3]).value)
		require.Equal(t, []string{"get a", "get b", "[get c, get d]"}, r.sent(), "for a while")
		time.Sleep(ApartFor)
		all = r.get(t.Context(), "a", "b", "c", "d")
		require.Equal(t, "value of d", (<-all[3]).value)
		require.Equal(t, "mget c d", r.sent()[2])
	})
}

// refusal is an answer of Redis.
type refusal string

func (e refusal) Error() string { return string(e) }
func (refusal) RedisError()     {}

func TestReadsAreRepeatedWhenTheConnectionBreaks(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		faults := new(redistest.Faults)
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("mget"), Executed: true})
		all := r.get(t.Context(), "a", "b", "c", "d")
		require.Equal(t, answer{"value of c", nil, 3 * trip}, <-all[2])
		require.Equal(t, "value of d", (<-all[3]).value)
		require.True(t, r.c.Together(), "nobody has refused anything")
	})
}

func TestAFailureIsThatOfAllWhoWereTogether(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		faults, failed := new(redistest.Faults), errors.New("it failed")
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("mget"), Err: failed})
		all := r.get(t.Context(), "a", "b", "c", "d")
		require.Equal(t, answer{"value of a", nil, trip}, <-all[0])
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[2])
		require.Equal(t, answer{"", failed, 2 * trip}, <-all[3])
	})
}

func TestAPanicOfAHookIsAnErrorOfThoseWhoWereTogether(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		oops := errors.New("oops")
		r.rdb.AddHook(&redistest.Gate{Before: func(_ context.Context, cmd redis.Cmder) {
			if cmd.Name() == "mget" {
				panic(oops)
			}
		}})
		all := r.get(t.Context(), "a", "b", "c", "d")
		require.ErrorIs(t, (<-all[2]).err, oops)
		require.ErrorIs(t, (<-all[3]).err, oops)
		require.Equal(t, "value of a", (<-all[0]).value)
	})
}

func TestLargeValuesGoAlone(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		big := strings.Repeat("x", huge)
		require.NoError(t, r.rdb.Set(t.Context(), "big", big, 0).Err())
		r.sent()
		all := r.get(t.Context(), "a", "b", "c", "big", "d")
		require.Equal(t, big, (<-all[3]).value)
		require.Equal(t, "mget c big d", r.sent()[2], "nobody knew")
		all = r.get(t.Context(), "a", "b", "c", "big", "d")
		require.Equal(t, big, (<-all[3]).value)
		<-all[4]
		require.Equal(t, []string{"get a", "get b", "get big", "mget c d"}, r.sent())

		faults := new(redistest.Faults)
		r.rdb.AddHook(faults)
		faults.Add(redistest.Fault{Match: redistest.Named("get")})
		require.Error(t, (<-r.get(t.Context(), "big")[0]).err)
		r.sent()
		all = r.get(t.Context(), "a", "b", "c", "big")
		require.Equal(t, big, (<-all[3]).value)
		<-all[2]
		require.Equal(t, []string{"get a", "get b", "get big", "get c"}, r.sent(), "a read that failed says nothing of it")

		require.NoError(t, r.rdb.Set(t.Context(), "big", "small", 0).Err())
		r.sent()
		<-r.get(t.Context(), "big")[0]
		all = r.get(t.Context(), "a", "b", "c", "big")
		require.Equal(t, "small", (<-all[3]).value)
		require.Equal(t, "mget c big", r.sent()[3], "it is not any more")

		r.sent()
		all = r.get(t.Context(), "a", "b", "c", "d")
		v, err := r.c.Get(t.Context(), "e", "", huge)
		require.NoError(t, err)
		require.Equal(t, "value of e", string(v.B))
		<-all[3]
		require.Equal(t, []string{"get a", "get b", "get e", "mget c d"}, r.sent())
	})
}

func TestReleaseWaitsForReadsThatTheirCallersHaveLeft(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		require.Same(t, r.c, For(r.rdb))
		ctx, leave := context.WithCancel(t.Context())
		r.get(t.Context(), "a", "b")
		gone := r.get(ctx, "c", "d")
		time.Sleep(trip + trip/2)
		leave()
		<-gone[0]
		<-gone[1]
		<-r.c.Release() // somebody else uses it
		require.Equal(t, trip+trip/2, time.Since(r.began))
		<-r.c.Release()
		require.Equal(t, 2*trip, time.Since(r.began))
		r.c = For(r.rdb)
	})
}

func TestOtherClientsSendEachReadByItself(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		for _, other := range []redis.UniversalClient{struct{ redis.UniversalClient }{rdb}, struct {
			redis.UniversalClient
			notComparable []int
		}{rdb, nil}} {
			c := For(other)
			require.Nil(t, c.lanes(t.Context(), "a"))
			_, err := c.Get(t.Context(), "a", "", 0)
			require.ErrorIs(t, err, redis.Nil)
			<-c.Release()
		}
	})
}

// One that is kept would have its lot be kept, and no memory be used again.
func TestAValueThatIsKeptIsACopyWhereItWasReadWithOthers(t *testing.T) {
	t.Parallel()
	atTheRiver(t, func(t *testing.T, r *river) {
		values := make(chan Value)
		for _, key := range []string{"a", "b", "c", "d"} {
			go func() {
				v, err := r.c.Get(t.Context(), key, "", 10)
				if err != nil {
					t.Error(err)
				}
				values <- v
			}()
			synctest.Wait()
		}
		for range 2 {
			v := <-values
			require.Nil(t, v.of, "it was read alone")
			require.Same(t, &v.B[0], &v.Own()[0])
		}
		one, two := <-values, <-values
		require.Same(t, one.of, two.of)
		kept, was := one.Own(), string(one.B)
		require.Equal(t, int64(1), one.of.left.Load())
		clear(one.B) // as who reads next may
		require.Equal(t, was, string(kept))
		two.Release()
		require.Zero(t, one.of.left.Load())
	})
}
