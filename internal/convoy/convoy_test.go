package convoy

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

const ms = time.Millisecond

func TestPartiesSendTogetherWhenTheLastHasSomethingToSend(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		first := s.sends(t.Context(), false, time.Minute, "a", "b")
		time.Sleep(10 * ms)
		second := s.sends(t.Context(), false, time.Minute, "c")
		time.Sleep(10 * ms)
		first.waits(t)
		third := s.sends(t.Context(), false, time.Minute, "d")
		first.answered(t, 20*ms)
		second.answered(t, 10*ms)
		third.answered(t, 0)
		require.Equal(t, []int{4}, s.sizes)
	})
}

func TestAPartyByItselfDoesNotWait(t *testing.T) {
	t.Parallel()
	inStreet(t, 1, func(t *testing.T, s *street) {
		s.sends(t.Context(), true, time.Minute, "a").answered(t, 0)
		s.sends(t.Context(), false, time.Minute, "b", "c").answered(t, 0)
		require.Equal(t, []int{1, 2}, s.sizes)
	})
}

func TestNobodyWaitsForWhoHasLeft(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		first := s.sends(t.Context(), true, time.Minute, "a")
		second := s.sends(t.Context(), false, time.Minute, "b")
		time.Sleep(30 * ms)
		s.Leave()
		first.answered(t, 30*ms)
		second.answered(t, 30*ms)
		s.Leave()
		s.sends(t.Context(), true, time.Minute, "c").answered(t, 0)
		require.Equal(t, []int{2, 1}, s.sizes)
	})
}

func TestNobodyWaitsLongerThanHisPatience(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		first := s.sends(t.Context(), true, 40*ms, "a")
		time.Sleep(10 * ms)
		second := s.sends(t.Context(), true, time.Minute, "b") // is sent together with it
		first.answered(t, 40*ms)
		second.answered(t, 30*ms)
		require.Equal(t, []int{2}, s.sizes)
		require.Equal(t, []time.Duration{40 * ms}, s.at)
	})
}

// A party that asks for leases does not wait for parties that load: these may
// take long.
func TestWhoHasNotLoadedWaitsForThoseAloneWhoDoNotLoad(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		s.Load()
		first := s.sends(t.Context(), false, time.Minute, "a")
		time.Sleep(10 * ms)
		first.waits(t) // for the third
		s.Load()
		first.answered(t, 10*ms)

		// If a party begins to load while all others load, the waiting party
		// has no other to wait for.
		s.Loaded()
		s.sends(t.Context(), false, time.Minute, "b").waits(t)
		s.sends(t.Context(), false, time.Minute, "c").answered(t, 0)
		require.Equal(t, []int{1, 2}, s.sizes)
	})
}

func TestWhoHasLoadedWaitsForThoseWhoLoad(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		for range 3 {
			s.Load()
		}
		time.Sleep(10 * ms)
		s.Loaded()
		first := s.sends(t.Context(), true, 50*ms, "a")
		time.Sleep(20 * ms)
		s.Loaded()
		second := s.sends(t.Context(), true, 50*ms, "b")
		time.Sleep(20 * ms)
		first.waits(t)
		s.Loaded()
		third := s.sends(t.Context(), true, 50*ms, "c")
		first.answered(t, 40*ms)
		second.answered(t, 20*ms)
		third.answered(t, 0)
		require.Equal(t, []int{3}, s.sizes)
	})
}

// A lease that no party waits for any more would keep others waiting.
func TestWhatIsSentByWhoLeavesBeforeItGoesOutIsNotSent(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		cause := errors.New("changed my mind")
		ctx, cancel := context.WithCancelCause(t.Context())
		first := s.sends(ctx, false, time.Minute, "a", "b")
		second := s.sends(t.Context(), false, time.Minute, "c")
		time.Sleep(10 * ms)
		cancel(cause)
		require.Equal(t, 10*ms, <-first.took)
		for _, call := range first.calls {
			require.ErrorIs(t, call.Err, cause)
		}
		second.waits(t)
		s.Leave() // as a party that has left does
		third := s.sends(t.Context(), false, time.Minute, "d")
		second.answered(t, 10*ms)
		third.answered(t, 0)
		require.Equal(t, []int{2}, s.sizes)

		gone := s.sends(ctx, false, time.Minute, "e")
		require.Zero(t, <-gone.took)
		require.ErrorIs(t, gone.calls[0].Err, cause)
		require.Equal(t, []int{2}, s.sizes)
	})
}

func TestTheTurnOfWhoLeavesGoesToTheNext(t *testing.T) {
	t.Parallel()
	inStreet(t, 3, func(t *testing.T, s *street) {
		// All parties have something to send when the first one leaves.
		ctx, cancel := context.WithTimeout(t.Context(), 10*ms)
		defer cancel()
		first := s.sends(ctx, false, time.Minute, "a")
		second := s.sends(t.Context(), true, time.Minute, "b")
		time.AfterFunc(10*ms, s.Leave)
		time.Sleep(10 * ms)
		<-first.took
		s.Leave()
		second.answered(t, 10*ms)
	})
}

// The party that happens to send may leave. The other parties have not asked
// for that.
func TestTheEndOfTheCtxOfWhoSendsIsNoMatterToTheOthers(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		long, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		short, leave := context.WithTimeout(t.Context(), time.Minute)
		defer leave()
		arrived, goOn := make(chan bool), make(chan bool)
		s.rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { arrived <- true; <-goOn }})
		first := s.sends(long, false, time.Minute, "a")
		time.Sleep(time.Second)
		second := s.sends(short, false, time.Minute, "b") // it sends
		<-arrived
		leave()
		goOn <- true
		<-arrived
		goOn <- true
		first.answered(t, time.Second)
		second.answered(t, 0)
		require.Equal(t, []time.Duration{time.Hour - time.Second}, s.within, "the longest deadline counts")
	})
}

func TestASendWithoutADeadlineIsBoundedByNobodyElses(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		short, leave := context.WithTimeout(t.Context(), time.Minute)
		defer leave()
		first := s.sends(t.Context(), false, time.Minute, "a")
		second := s.sends(short, false, time.Minute, "b")
		first.answered(t, 0)
		second.answered(t, 0)
		require.Equal(t, []time.Duration{0}, s.within)
	})
}

func TestMoreCallsThanGoIntoOnePipelineGoOutInSeveral(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		words := make([]string, 700)
		for i := range words {
			words[i] = fmt.Sprint(i)
		}
		first := s.sends(t.Context(), false, time.Minute, words...)
		second := s.sends(t.Context(), false, time.Minute, words[:301]...)
		first.answered(t, 0)
		second.answered(t, 0)
		require.Equal(t, []int{500, 500, 1}, s.sizes)
	})
}

func TestWhatAServerDoesNotKnowIsSentAgainInOnePipeline(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		require.NoError(t, s.rdb.ScriptFlush(t.Context()).Err())
		s.sizes = nil
		first := s.sends(t.Context(), false, time.Minute, "a")
		second := s.sends(t.Context(), false, time.Minute, "b")
		first.answered(t, 0)
		second.answered(t, 0)
		require.Equal(t, []int{2, 2}, s.sizes)
	})
}

func TestEveryCallHasItsOwnError(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		first := s.sends(t.Context(), false, time.Minute, "a")
		call := &script.Call{Script: script.New("fails", "return redis.error_reply('NOPE no')"), Key: "k"}
		s.Send(t.Context(), guard.Go, []*script.Call{call}, false, time.Minute)
		first.answered(t, 0)
		require.ErrorContains(t, call.Err, "NOPE no")
	})
}

// badHook is a hook of the client that refuses a pipeline, or panics, and may
// leave the commands untouched.
type badHook struct {
	street
	do func() error
}

func (h *badHook) ProcessHook(redis.ProcessHook) redis.ProcessHook {
	return func(context.Context, redis.Cmder) error { return h.do() }
}

func (h *badHook) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(context.Context, []redis.Cmder) error { return h.do() }
}

func TestAHookThatRefusesFailsEveryCall(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		refused := errors.New("refused")
		s.rdb.AddHook(&badHook{do: func() error { return refused }})
		first := s.sends(t.Context(), false, time.Minute, "a", "b")
		second := s.sends(t.Context(), false, time.Minute, "c")
		<-first.took
		<-second.took
		for _, call := range append(first.calls, second.calls...) {
			require.ErrorIs(t, call.Err, refused)
		}
	})
}

func TestAHookThatPanicsLetsTheOthersGo(t *testing.T) {
	t.Parallel()
	inStreet(t, 2, func(t *testing.T, s *street) {
		s.rdb.AddHook(&badHook{do: func() error { panic("hook") }})
		first := s.sends(t.Context(), false, time.Minute, "a")
		time.Sleep(10 * ms)
		call := says("b")
		s.Send(t.Context(), guard.Go, []*script.Call{call}, false, time.Minute)
		require.Equal(t, 10*ms, <-first.took)
		require.ErrorContains(t, first.calls[0].Err, "client panicked with a string")
		require.ErrorContains(t, call.Err, "client panicked with a string")
		synctest.Wait()
	})
}
