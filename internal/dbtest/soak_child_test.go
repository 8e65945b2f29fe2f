package dbtest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/ledger"
)

func init() { redistest.Register("soaked", soaked) }

// The sizes of the site.
const (
	soakValues = 40 // per cache and slot
	soakCounts = 4
)

// worker runs one operation after the other, and keeps a journal. Each value
// has one worker, so that its possible versions are known. A process that
// replaces another continues with its values.
type worker struct {
	*site
	j       *journal
	name    string // of the process
	slot    string
	life    int64 // number of processes that had the slot before
	release uint32
	r       *rand.Rand
}

// soaked is a process that writes until it is killed or interrupted. If
// interrupted, it ends as a program should.
func soaked() {
	redis.SetLogger(silent{}) // errors are in the journal
	env := func(name string) int64 {
		n, err := strconv.ParseInt(os.Getenv(name), 10, 64)
		if err != nil {
			panic(err)
		}
		return n
	}
	db, err := openChild(ledger.Dialect(env("DIALECT")), os.Getenv("DSN"), int(env("LIES")))
	if err != nil {
		panic(err)
	}
	rdb := redis.NewClient(soakClient(os.Getenv("REDIS")))
	release := uint32(env("RELEASE"))
	// A batch is leased for as long as users have it by default.
	s, err := openSite(rdb, db, os.Getenv("NAME"), release, 5*time.Second)
	if err != nil {
		panic(err)
	}
	j, err := openJournal(os.Getenv("JOURNAL"))
	if err != nil {
		panic(err)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	var wg sync.WaitGroup
	life, slot := env("LIFE"), os.Getenv("SLOT")
	for i, work := range []func(*worker, int64){
		func(w *worker, n int64) { w.value(eachCache, n) },
		func(w *worker, n int64) { w.value(manyCache, n) },
		(*worker).add,
		(*worker).once,
		(*worker).buffered,
	} {
		w := &worker{s, j, fmt.Sprint(slot, ".", life, ".", i), slot, life, release, rand.New(rand.NewPCG(uint64(env("SEED")), uint64(i)))}
		wg.Go(func() {
			for n := life * 1_000_000; ctx.Err() == nil; n++ {
				work(w, n+1)
				if n%100 == 0 {
					fmt.Println("worked")
				}
			}
		})
	}
	wg.Wait()
	fmt.Println("closing")
	w := &worker{site: s, j: j, name: fmt.Sprint(slot, ".", life, ".close"), release: release}
	_ = w.notes(note{Op: opClose}, func(ctx context.Context) error {
		// It does not retry the failures of Down. Ids that only another release
		// can read are left to that release. The test waits for the process.
		ctx, cancel := context.WithTimeout(ctx, patience/2)
		defer cancel()
		const tries = 10
		for n := 1; ; n++ {
			err := s.close(ctx)
			if err == nil || n == tries {
				return err
			}
			pause(ctx)
		}
	})
}

type silent struct{}

func (silent) Printf(context.Context, string, ...any) {}

// soakClient returns the options that docs/client.md recommends.
func soakClient(addr string) *redis.Options {
	return &redis.Options{
		Addr: addr, ContextTimeoutEnabled: true, DialTimeout: 500 * time.Millisecond, ReadTimeout: 500 * time.Millisecond,
		WriteTimeout: 500 * time.Millisecond, PoolTimeout: 200 * time.Millisecond, MaxRetries: 1, DialerRetries: 1,
	}
}

// notes runs do between two notes. It trusts an error other than
// ErrOutcomeUnknown: nothing has changed.
func (w *worker) notes(n note, do func(ctx context.Context) error) error {
	n.Worker, n.Release = w.name, w.release
	w.j.add(n)
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := do(ctx)
	n = note{Worker: w.name, Op: n.Op, Release: w.release, Outcome: done}
	if err != nil {
		n.Outcome, n.Err = refused, err.Error()
	}
	if errors.Is(err, counter.ErrOutcomeUnknown) {
		n.Outcome = unknown
	}
	w.j.add(n)
	if err != nil {
		pause(ctx)
	}
	return err
}

// value writes and reads the values of a cache.
func (w *worker) value(cache string, n int64) {
	c := w.cache(cache)
	id := func() string { return fmt.Sprint(cache, "-", w.slot, "-", w.r.IntN(soakValues)) }
	switch w.r.IntN(10) {
	case 0:
		one := id()
		w.delete(c, one)
		w.read(c, one)
	case 1, 2:
		w.read(c, id())
	case 3:
		values := map[string]int64{}
		for range soakValues {
			values[id()] = n
		}
		// After an error, each of them may be set or not.
		_ = w.notes(note{Op: opSet, Keys: slices.Collect(maps.Keys(values)), N: n}, func(ctx context.Context) error {
			err := c.SetMany(ctx, values)
			if err != nil {
				err = errors.Join(counter.ErrOutcomeUnknown, err)
			}
			return err
		})
	default:
		one := id()
		_ = w.notes(note{Op: opSet, Keys: []string{one}, N: n}, func(ctx context.Context) error { return c.Set(ctx, one, n) })
	}
}

// delete removes the value from Redis, and leaves the pending one.
func (w *worker) delete(c *cachex.Cache[string, int64], id string) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	_ = c.Delete(ctx, id)
}

func (w *worker) read(c *cachex.Cache[string, int64], id string) {
	w.j.add(note{Worker: w.name, Op: opRead, Key: id})
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	silent := func() int64 { s := c.Stats(); return s.RedisFailures + s.Bypasses }
	before := silent()
	var how cachex.Outcome
	v, err := c.Get(cachex.WithOutcome(ctx, &how), id)
	n := note{Worker: w.name, Op: opRead, N: v, Release: w.release, Outcome: done}
	switch {
	case err != nil && !errors.Is(err, cachex.ErrNotFound):
		n.Outcome, n.Err = unknown, err.Error()
	case how != cachex.Hit && silent() > before:
		n.Outcome, n.Err = unknown, "the value may be that of the database alone"
	}
	w.j.add(n)
}

func (w *worker) add(int64) {
	id, delta := fmt.Sprint("add", w.r.IntN(soakCounts)), w.r.Int64N(7)+1
	_ = w.notes(note{Op: opAdd, Key: id, N: delta}, func(ctx context.Context) error {
		_, err := w.counts.Add(ctx, id, delta)
		return err
	})
}

func (w *worker) once(n int64) {
	id := fmt.Sprint("once", w.r.IntN(soakCounts))
	op := note{Op: opOnce, Key: id, N: w.r.Int64N(7) + 1, ID: fmt.Sprint(w.name, "-", n)}
	_ = w.notes(op, func(ctx context.Context) (failed error) {
		for ctx.Err() == nil {
			_, err := w.counts.AddOnce(ctx, id, op.N, op.ID)
			if err == nil {
				return nil
			}
			failed = errors.Join(failed, err)
			pause(ctx)
		}
		return failed
	})
	if n%16 == 0 {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		_ = w.counts.Delete(ctx, id) // it is restored
	}
}

// buffered adds to a Buffer and flushes it. If Flush certainly failed to send
// sums, they stay in the Buffer. So buffered retries until the outcome is
// clear.
func (w *worker) buffered(int64) {
	id := fmt.Sprint("buffer", w.r.IntN(soakCounts))
	add := note{Op: opBuffer, Key: id}
	for range w.r.IntN(20) + 1 {
		add.N += w.r.Int64N(7) + 1
	}
	_ = w.notes(add, func(ctx context.Context) error {
		if err := w.buffer.Add(id, add.N); err != nil {
			return err
		}
		for before := w.buffer.Stats().Unknown; ; pause(ctx) {
			switch err := w.buffer.Flush(ctx); {
			case w.buffer.Stats().Unknown > before || ctx.Err() != nil:
				return errors.Join(counter.ErrOutcomeUnknown, err)
			case err == nil:
				return nil
			}
		}
	})
}

// pause gives Redis or the database time to come back.
func pause(ctx context.Context) {
	select {
	case <-time.After(10 * time.Millisecond):
	case <-ctx.Done():
	}
}
