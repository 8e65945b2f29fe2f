package counter_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// adds is a hook that counts the answered calls of scripts that add.
type adds struct {
	all    int64
	done   atomic.Int64
	played chan struct{} // closed when all are answered
}

func (a *adds) DialHook(next redis.DialHook) redis.DialHook { return next }

func (a *adds) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		err := next(ctx, cmd) // go-redis puts it into cmd only after all hooks have returned
		if err == nil {
			a.see(cmd)
		}
		return err
	}
}

func (a *adds) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		err := next(ctx, cmds)
		for _, cmd := range cmds {
			a.see(cmd)
		}
		return err
	}
}

func (a *adds) see(cmd redis.Cmder) {
	add := script.AddCount(false, false)
	if args := cmd.Args(); len(args) > 1 && (args[1] == add.SHA() || args[1] == add.Source()) && cmd.Err() == nil {
		by, _ := strconv.ParseInt(fmt.Sprint(args[4]), 10, 64) // several Adds of 1 may be one command
		if n := a.done.Add(by); n >= a.all && n-by < a.all {
			close(a.played)
		}
	}
}

// If several events find no count, each is counted once: by the first load,
// which began after some of them, or by another one.
func TestUpCounts_CountsABurstOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		clients, each := crowd(t)
		var table atomic.Int64
		missed := &adds{all: int64(clients * each), played: make(chan struct{})}
		spec := counter.Spec[int]{
			Key: redistest.Key(t) + ":{id}", UpCounts: true,
			Up: func(ctx context.Context, _ int) (int64, error) {
				n := table.Load()
				select {
				case <-missed.played:
				case <-ctx.Done():
					return 0, ctx.Err()
				}
				return n, nil
			},
		}
		var wg sync.WaitGroup
		for range clients {
			client := again(t, rdb)
			client.AddHook(missed)
			c := newCounter(t, client, spec)
			for range each {
				wg.Go(func() {
					table.Add(1)
					if _, err := c.Inc(t.Context(), 7); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		c := newCounter(t, rdb, spec)
		requireCount(t, c, 7, int64(clients*each))
		table.Add(1)
		n, err := c.Inc(t.Context(), 7)
		require.NoError(t, err)
		require.Equal(t, int64(clients*each)+1, n)
	})
}

// Inc adds to a present count. The count may already include the event if it
// was inserted before the source was read, and added after the lease was
// granted. All other events are counted once.
func TestUpCounts_DoublesOnlyEventsInsertedBeforeAndAddedAfterALoad(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		tb := newTable(map[int]int64{1: 100})
		c := newCounter(t, rdb, counter.Spec[int]{Up: tb.up, UpCounts: true})
		requireCount(t, c, 1, 100)
		insert := func() { tb.set(1, tb.get(1)+1) }
		inc := func() {
			_, err := c.Inc(t.Context(), 1)
			require.NoError(t, err)
		}
		insert()
		inc() // before the restore: once
		insert()
		insert() // two in flight
		stops := tb.slow()
		refreshed := async(t, func() (int64, error) { return c.Refresh(t.Context(), 1) })
		goOn := <-stops // it has read 103
		inc()           // the first one, during the restore
		insert()
		inc() // inserted after the source was read: once
		tb.fast()
		close(goOn)
		require.Equal(t, int64(103+2), refreshed())
		inc() // the second one, after the restore
		insert()
		inc()
		require.Equal(t, int64(105), tb.get(1))
		requireCount(t, c, 1, 105+2)
		n, err := c.Refresh(t.Context(), 1)
		require.NoError(t, err)
		require.Equal(t, int64(105), n)
	})
}

// The load that has counted an event loses its lease to one that then fails.
// The older count lacks the event, and must not stay.
func TestUpCounts_LosesNoEventToAFailedRecount(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		ctx, tb := t.Context(), newTable(map[int]int64{1: 100})
		spec := counter.Spec[int]{Key: redistest.Key(t) + ":{id}", Up: tb.up, UpCounts: true}
		first, second := newCounter(t, again(t, rdb), spec), newCounter(t, again(t, rdb), spec)
		sick, fail := errors.New("sick"), make(chan struct{})
		failing := make(chan struct{})
		spec.Up = func(context.Context, int) (int64, error) {
			close(failing)
			<-fail
			return 0, sick
		}
		third := newCounter(t, rdb, spec)

		stops := tb.slow()
		one := async(t, func() (int64, error) { return first.Get(ctx, 1) })
		goOnOne := <-stops // it has read 100
		tb.set(1, 101)
		two := async(t, func() (int64, error) { return second.Inc(ctx, 1) })
		require.Eventually(t, func() bool { return second.Stats().Waits > 0 }, patience, time.Millisecond)
		close(goOnOne)
		require.Equal(t, int64(100), one())
		goOnTwo := <-stops // it has read 101: the load of the first one may lack the event
		tb.fast()
		three := make(chan error, 1)
		go func() {
			_, err := third.Refresh(ctx, 1)
			three <- err
		}()
		<-failing // and it has the lease
		close(goOnTwo)
		close(fail)
		require.ErrorIs(t, <-three, sick)
		require.Equal(t, int64(101), two())
		requireCount(t, first, 1, 101)
	})
}

// Events, recounts and deletions at random: no count ever lacks an event that
// was counted, or exceeds the events by more than those in flight. After a
// restoration it is exact.
func TestUpCounts_NeverLacksAnEvent(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		clients, each := crowd(t)
		var table, counted atomic.Int64
		spec := counter.Spec[int]{
			Key: redistest.Key(t) + ":{id}", UpCounts: true,
			Up: func(context.Context, int) (int64, error) { return table.Load(), nil },
		}
		var all []*counter.Counter[int]
		for range clients {
			all = append(all, newCounter(t, again(t, rdb), spec))
		}
		for range 3 {
			var wg sync.WaitGroup
			for i := range clients * each {
				c := all[i%clients]
				wg.Go(func() {
					table.Add(1)
					if _, err := c.Inc(t.Context(), 7); err != nil {
						t.Error(err)
						return
					}
					counted.Add(1)
					least := counted.Load()
					var n int64
					var err error
					switch rand.N(10) {
					case 0:
						n, err = c.Refresh(t.Context(), 7)
					case 1:
						if err = c.Delete(t.Context(), 7); err == nil {
							n, err = c.Get(t.Context(), 7)
						}
					default:
						n, err = c.Get(t.Context(), 7)
					}
					if err != nil {
						t.Error(err)
					} else if n < least {
						t.Errorf("the count is %d, of %d events that were counted", n, least)
					}
				})
			}
			wg.Wait()
			n, err := all[0].Get(t.Context(), 7)
			require.NoError(t, err)
			require.GreaterOrEqual(t, n, table.Load())
			require.LessOrEqual(t, n, table.Load()+int64(clients*each), "each at most twice, since the last restore")
			for _, c := range all {
				n, err := c.Refresh(t.Context(), 7)
				require.NoError(t, err)
				require.Equal(t, table.Load(), n)
			}
		}
	})
}
