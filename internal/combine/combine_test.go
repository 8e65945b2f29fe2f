package combine_test

import (
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/combine"
	"github.com/cachex-go/cachex/internal/guard"
)

const ms = time.Millisecond

// post is a Combiner of names. Each of its lots takes ten milliseconds.
type post struct {
	combine.Combiner[string]
	begun time.Time

	mu   sync.Mutex
	lots [][]string      // guarded by mu
	at   []time.Duration // guarded by mu
	ctx  context.Context // guarded by mu: of the last lot
}

// inTown runs f in a bubble with a post.
func inTown(t *testing.T, most int, f func(t *testing.T, p *post)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		p := &post{begun: time.Now()}
		p.Most = most
		p.Send = func(ctx context.Context, items []string) {
			p.mu.Lock()
			p.lots, p.at, p.ctx = append(p.lots, slices.Clone(items)), append(p.at, time.Since(p.begun)), ctx
			p.mu.Unlock()
			time.Sleep(10 * ms)
		}
		f(t, p)
	})
}

// brings starts a goroutine that brings each item, one after another in time.
func (p *post) brings(t *testing.T, ctx context.Context, items ...string) (done chan time.Duration) {
	done = make(chan time.Duration, len(items))
	for _, item := range items {
		go func() {
			sent, err := p.Do(ctx, item)
			if sent && err == nil {
				done <- time.Since(p.begun)
			}
		}()
		synctest.Wait()
	}
	return done
}

// rest waits until no lot is in flight.
func rest() {
	time.Sleep(time.Second)
	synctest.Wait()
}

func TestALoneCallerWaitsForNobody(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		for range 3 {
			sent, err := p.Do(t.Context(), "a")
			require.True(t, sent)
			require.NoError(t, err)
		}
		require.Equal(t, []time.Duration{0, 10 * ms, 20 * ms}, p.at)
	})
}

func TestWhoComesWhileTwoAreUnderWayLeavesTogetherInTheNext(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		p.brings(t, t.Context(), "a")
		time.Sleep(4 * ms)
		p.brings(t, t.Context(), "b", "c", "d", "e")
		time.Sleep(7 * ms) // a has ended, and c, d and e are in flight
		p.brings(t, t.Context(), "f", "g")
		rest()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "d", "e"}, {"f", "g"}}, p.lots)
		require.Equal(t, []time.Duration{0, 4 * ms, 10 * ms, 14 * ms}, p.at)
		p.brings(t, t.Context(), "h", "i", "j")
		rest()
		require.Equal(t, [][]string{{"h"}, {"i"}, {"j"}}, p.lots[4:], "idle again")
	})
}

func TestEverybodyReturnsWhenHisOwnLotHasEnded(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		first := p.brings(t, t.Context(), "a", "b")
		second := p.brings(t, t.Context(), "c", "d")
		rest()
		require.Equal(t, 10*ms, <-first)
		require.Equal(t, 10*ms, <-first)
		require.Equal(t, 20*ms, <-second)
		require.Equal(t, 20*ms, <-second)
	})
}

func TestNoMoreThanSoManyLeaveTogether(t *testing.T) {
	t.Parallel()
	inTown(t, 2, func(t *testing.T, p *post) {
		p.brings(t, t.Context(), "a", "b", "c", "d", "e", "f", "g")
		rest()
		slices.SortFunc(p.lots, slices.Compare) // two of them leave at the same moment
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "d"}, {"e", "f"}, {"g"}}, p.lots)
	})
}

func TestWhoLeavesBeforeItIsSentIsNotSent(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		gone := errors.New("gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		p.brings(t, t.Context(), "a", "b")
		type answer struct {
			sent bool
			err  error
		}
		answers := make(chan answer, 2)
		for _, item := range []string{"leaves first", "leaves too"} {
			go func() {
				sent, err := p.Do(ctx, item)
				answers <- answer{sent, err}
			}()
			synctest.Wait()
		}
		p.brings(t, t.Context(), "c")
		cancel(gone)
		synctest.Wait()
		require.Equal(t, answer{false, gone}, <-answers)
		require.Equal(t, answer{false, gone}, <-answers)
		rest()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c"}}, p.lots)
		p.brings(t, t.Context(), "d", "e", "f") // nothing is stuck
		rest()
		require.Len(t, p.lots, 6)
	})
}

func TestALotThatAllHaveLeftIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	inTown(t, 1, func(t *testing.T, p *post) {
		ctx, cancel := context.WithCancel(t.Context())
		p.brings(t, t.Context(), "a", "b")
		p.brings(t, ctx, "leaves")
		p.brings(t, t.Context(), "c")
		cancel()
		synctest.Wait()
		rest()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c"}}, p.lots)
		require.Equal(t, 10*ms, p.at[2])
	})
}

func TestTheEndOfTheCtxOfWhoCameFirstIsNoMatterToTheOthers(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*ms)
		defer cancel()
		p.brings(t, t.Context(), "a", "b")
		gone := p.brings(t, ctx, "c")
		done := p.brings(t, t.Context(), "d")
		time.Sleep(12 * ms)
		synctest.Wait()
		require.Nil(t, p.ctx.Done())
		require.Equal(t, 20*ms, <-done)
		require.Empty(t, gone)
		rest()
	})
}

func TestWhoLeavesWhileItIsSentIsTold(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		p.brings(t, t.Context(), "a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 15*ms)
		defer cancel()
		p.brings(t, ctx, "c") // the first caller leaves too
		sent, err := p.Do(ctx, "d")
		require.True(t, sent)
		require.ErrorIs(t, err, context.DeadlineExceeded)
		require.Equal(t, 15*ms, time.Since(p.begun))
		rest()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "d"}}, p.lots)
	})
}

func TestWhatIsBroughtAfterALotWasSentIsNoPartOfIt(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		p.brings(t, t.Context(), "a", "b", "c")
		time.Sleep(10 * ms)
		synctest.Wait()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c"}}, p.lots)
		p.brings(t, t.Context(), "d", "e")
		rest()
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c"}, {"d"}, {"e"}}, p.lots)
		require.Equal(t, 20*ms, p.at[4], "c was one of two that were under way, and d the other")
	})
}

func TestHeavyItemsLeaveWithFewerOthers(t *testing.T) {
	t.Parallel()
	inTown(t, 3, func(t *testing.T, p *post) {
		p.Weigh = func(item string) int { return len(item) }
		p.brings(t, t.Context(), "a", "b", "c", "dd", "ee", "f", "heavier than all", "g")
		rest()
		slices.SortFunc(p.lots, slices.Compare)
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "dd"}, {"ee", "f"}, {"g"}, {"heavier than all"}}, p.lots)
	})
}

func TestAsManyAreUnderWayAsTheWayTakes(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		took  time.Duration
		ahead int
	}{
		{10 * time.Microsecond, 2}, {89 * time.Microsecond, 2}, {90 * time.Microsecond, 3}, {300 * time.Microsecond, 10}, {100 * ms, 16},
	} {
		inTown(t, 100, func(t *testing.T, p *post) {
			lots := make(chan int, 1000)
			p.Send = func(_ context.Context, items []string) {
				lots <- len(items)
				time.Sleep(row.took)
			}
			burst := func() (alone int) {
				p.brings(t, t.Context(), make([]string, 30)...)
				rest()
				for range len(lots) {
					if n := <-lots; n == 1 {
						alone++
					} else {
						require.Equal(t, 30-alone, n)
					}
				}
				return alone
			}
			require.Equal(t, 2, burst(), "nothing is known")
			for range 20 {
				_, _ = p.Do(t.Context(), "a")
			}
			for range len(lots) {
				<-lots
			}
			require.Equal(t, row.ahead, burst())
			require.Equal(t, row.ahead, burst(), "a burst teaches nothing but that it is nearer")
			row.took = 10 * time.Microsecond
			p.brings(t, t.Context(), "a")
			rest()
			<-lots
			require.Equal(t, 2, burst())
		})
	}
}

func TestCombiner_TellsFailOfAPanicWhoeverSends(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		p.Send = func(context.Context, []string) {
			time.Sleep(10 * ms)
			panic("at the disco")
		}
		var failed [][]string // by one lot at a time
		p.Fail = func(items []string, err error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			failed = append(failed, slices.Clone(items))
			require.EqualError(t, err, "client panicked with a string")
		}
		done := p.brings(t, t.Context(), "a", "b", "c", "d")
		rest()
		require.Len(t, done, 4)
		require.ElementsMatch(t, [][]string{{"a"}, {"b"}}, failed[:2], "by themselves")
		require.Equal(t, [][]string{{"c", "d"}}, failed[2:])
	})
}

func TestAGoroutineThatExitsLetsTheOthersGo(t *testing.T) {
	t.Parallel()
	inTown(t, 2, func(t *testing.T, p *post) {
		p.Send = func(_ context.Context, items []string) {
			time.Sleep(10 * ms)
			if slices.Contains(items, "exit") {
				runtime.Goexit()
			}
		}
		var failed []string
		p.Fail = func(items []string, err error) {
			failed = append(failed, items...)
			require.ErrorIs(t, err, guard.ErrGoexit)
		}
		done := p.brings(t, t.Context(), "a", "b", "exit", "c", "d", "e")
		rest()
		require.Len(t, done, 6)
		require.Contains(t, failed, "exit")
	})
}

func TestNoGoroutineIsNeeded(t *testing.T) {
	t.Parallel()
	inTown(t, 100, func(t *testing.T, p *post) {
		p.Go = guard.Run
		done := p.brings(t, t.Context(), "a", "b", "c", "d", "e")
		rest()
		require.Len(t, done, 5)
		require.Equal(t, [][]string{{"a"}, {"b"}, {"c", "d", "e"}}, p.lots)
	})
}
