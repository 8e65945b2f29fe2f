package cachex

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

var modelSeed = flag.Uint64("seed", 0, "seed of the random walks through a cache; 0 takes one at random")

// A modelEntry is what a cache knows of a key: the rules of the documentation, and
// nothing of how they are kept.
type modelEntry struct {
	kind   string    // "" nothing, "value", "none" known to have none
	value  int64     // of the source, when it was loaded or set
	soft   time.Time // it is fresh until then
	end    time.Time // it is of use until then
	fails  int       // loads that failed since it was stored
	paused [2]time.Time
}

// A modelWalk takes two caches of one Spec, on clients of their own, through
// random calls on a few keys, on a clock that stands still between them.
type modelWalk struct {
	*testing.T
	rnd    *rand.Rand
	spec   Spec[int, int64]
	caches [2]*Cache[int, int64]

	source map[int]int64 // what the source has; a key that is not there has no value
	next   int64
	down   bool        // the source fails
	mu     sync.Mutex  // a reload in the background and one that is waited for come together
	loads  map[int]int // guarded by mu while a call is made: how often a key was loaded

	entries map[int]*modelEntry
	trace   []string
	seen    map[string]int
}

var errSourceDown = errors.New("the source is down")

func (w *modelWalk) up(_ context.Context, key int) (int64, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.loads[key]++
	if w.down {
		return 0, errSourceDown
	}
	if v, ok := w.source[key]; ok {
		return v, nil
	}
	return 0, fmt.Errorf("key %d: %w", key, ErrNotFound)
}

func (w *modelWalk) upMany(ctx context.Context, keys []int) (map[int]int64, error) {
	values := make(map[int]int64)
	var failed error
	for _, key := range keys {
		switch v, err := w.up(ctx, key); {
		case err == nil:
			values[key] = v
		case !errors.Is(err, ErrNotFound):
			failed = err
		}
	}
	return values, failed
}

// keep is how long a value is of use after it is stale.
func (w *modelWalk) keep() time.Duration { return w.spec.StaleWhileRevalidate + w.spec.StaleIfError }

func (w *modelWalk) store(key int, v int64) {
	now := time.Now()
	w.entries[key] = &modelEntry{kind: "value", value: v, soft: now.Add(w.spec.TTL), end: now.Add(w.spec.TTL + w.keep())}
}

// at returns what is known of key now.
func (w *modelWalk) at(key int) *modelEntry {
	e := w.entries[key]
	if e == nil || e.kind != "" && !time.Now().Before(e.end) {
		e = &modelEntry{}
		w.entries[key] = e
	}
	return e
}

// loaded is what a load of key comes to, which finds what is known in e.
func (w *modelWalk) loaded(key int, e *modelEntry) (v int64, err error) {
	v, ok := w.source[key]
	switch {
	case w.down && e.kind == "value":
		pause := min(w.spec.Backoff<<e.fails, time.Minute)
		now := time.Now()
		e.fails++
		e.paused = [2]time.Time{now.Add(pause * 8 / 10), now.Add(pause*12/10 + time.Millisecond)}
		return 0, errSourceDown
	case w.down:
		w.entries[key] = nil
		return 0, errSourceDown
	case ok:
		w.store(key, v)
		return v, nil
	case w.spec.NotFoundTTL > 0:
		w.entries[key] = &modelEntry{kind: "none", end: time.Now().Add(w.spec.NotFoundTTL)}
	default:
		w.entries[key] = nil
	}
	return 0, ErrNotFound
}

// answer is what a reader of key gets, and what becomes of the key. loaded says
// whether it was loaded: the end of a pause is not known exactly.
func (w *modelWalk) answer(key int, loaded bool) (v int64, must, may bool, err error) {
	now, e := time.Now(), w.at(key)
	switch {
	case e.kind == "":
		v, err = w.loaded(key, e)
		return v, true, true, err
	case e.kind == "none":
		return 0, false, false, ErrNotFound
	case now.Before(e.soft):
		return e.value, false, false, nil
	}
	must, may = !now.Before(e.paused[1]), !now.Before(e.paused[0])
	old := e.value
	w.saw(fmt.Sprintf("stale, to be reloaded: %v, source down: %v", may, w.down))
	if !loaded {
		return old, must, may, nil
	}
	v, err = w.loaded(key, e)
	swr := now.Sub(e.soft) < w.spec.StaleWhileRevalidate
	if swr || errors.Is(err, errSourceDown) && w.spec.StaleIfError > 0 {
		return old, must, may, nil
	}
	return v, must, may, err
}

func (w *modelWalk) saw(what string) { w.seen[what]++ }

// reads checks what a reader got for key, before which it had been loaded so often.
func (w *modelWalk) reads(key int, v int64, err error, before int) {
	w.Helper()
	n := w.loads[key] - before
	want, must, may, wantErr := w.answer(key, n > 0)
	require.LessOrEqual(w, n, 1, w.story())
	require.True(w, n == 1 || !must, "a load was due: "+w.story())
	require.True(w, n == 0 || may, "nobody should have loaded: "+w.story())
	require.Equal(w, wantErr == nil, err == nil, "%v, and not %v: %s", err, wantErr, w.story())
	if wantErr != nil {
		require.ErrorIs(w, err, wantErr, w.story())
	}
	require.Equal(w, want, v, w.story())
}

func (w *modelWalk) story() string {
	return "the last steps were\n" + strings.Join(w.trace[max(0, len(w.trace)-15):], "\n")
}

const modelKeys = 4

// step makes one call, or has something happen to the world.
func (w *modelWalk) step() {
	w.Helper()
	ctx, key := w.Context(), w.rnd.IntN(modelKeys)
	c := w.caches[w.rnd.IntN(2)]
	begin := w.loads[key]
	op := []string{
		"get", "get", "get", "get", "lookup", "getmany", "set", "setmany", "delete", "expire", "refresh",
		"change", "change", "remove", "break", "pass", "pass", "pass", "pass",
	}[w.rnd.IntN(19)]
	w.trace = append(w.trace, fmt.Sprintf("%s of %d at %v, source %v, down %v", op, key, time.Since(time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)), w.source, w.down))
	w.saw(op)
	switch op {
	case "get":
		v, err := c.Get(ctx, key)
		synctest.Wait() // for a reload in the background
		w.reads(key, v, err, begin)
	case "lookup":
		v, ok, err := c.Lookup(ctx, key)
		require.NoError(w, err)
		e := w.at(key)
		there := e.kind == "value" && time.Now().Before(e.soft.Add(w.spec.StaleWhileRevalidate))
		require.Equal(w, there, ok, w.story())
		if there {
			require.Equal(w, e.value, v, w.story())
		}
		require.Equal(w, begin, w.loads[key])
	case "getmany":
		before := make(map[int]int)
		keys := w.rnd.Perm(modelKeys)[:1+w.rnd.IntN(modelKeys)]
		for _, k := range keys {
			before[k] = w.loads[k]
		}
		values, failed := c.GetMany(ctx, keys)
		synctest.Wait()
		any := false
		for _, k := range keys {
			v, ok := values[k]
			err := failed
			if e := w.entries[k]; ok {
				err = nil
			} else if _, known := w.source[k]; !known && !w.down || e != nil && e.kind == "none" && time.Now().Before(e.end) {
				err = ErrNotFound
			}
			any = any || err != nil && !errors.Is(err, ErrNotFound)
			w.reads(k, v, err, before[k])
		}
		require.Equal(w, any, failed != nil, w.story())
	case "set":
		w.next++
		require.NoError(w, c.Set(ctx, key, w.next))
		w.source[key] = w.next
		w.store(key, w.next)
	case "setmany":
		values := make(map[int]int64)
		for _, k := range w.rnd.Perm(modelKeys)[:2] {
			w.next++
			values[k], w.source[k] = w.next, w.next
			w.store(k, w.next)
		}
		require.NoError(w, c.SetMany(ctx, values))
	case "delete":
		require.NoError(w, c.Delete(ctx, key))
		w.entries[key] = nil
	case "expire":
		require.NoError(w, c.Expire(ctx, key))
		switch e, now := w.at(key), time.Now(); {
		case e.kind == "none":
			w.entries[key] = nil
		case e.kind == "value":
			if now.Before(e.soft) {
				e.soft = now
			}
			e.end = e.soft.Add(w.keep())
			e.fails, e.paused = 0, [2]time.Time{}
		}
	case "refresh":
		v, err := c.Refresh(ctx, key)
		want, wantErr := w.loaded(key, w.at(key))
		require.Equal(w, begin+1, w.loads[key], w.story())
		require.ErrorIs(w, err, wantErr, w.story())
		require.Equal(w, want, v, w.story())
	case "change":
		w.next++
		w.source[key] = w.next
	case "remove":
		delete(w.source, key)
	case "break":
		w.down = !w.down
	case "pass":
		time.Sleep(time.Duration(w.rnd.Int64N(400)) * time.Millisecond)
	}
}

func TestCache_RandomWalkMatchesTheModel(t *testing.T) {
	t.Parallel()
	walkThroughCaches(t, 3000, 0, 0)
}

func TestPacked_RandomWalkMatchesTheModel(t *testing.T) {
	t.Parallel()
	t.Run("by ranges", func(t *testing.T) { walkThroughCaches(t, 400, 3, 0) })
	t.Run("by a hash", func(t *testing.T) { walkThroughCaches(t, 400, 3, modelKeys) })
}

func walkThroughCaches(t *testing.T, steps, packed, expected int) {
	for name, spec := range map[string]Spec[int, int64]{
		"fresh or nothing":       {},
		"not found":              {NotFoundTTL: 300 * time.Millisecond},
		"stale while revalidate": {StaleWhileRevalidate: 700 * time.Millisecond, NotFoundTTL: 200 * time.Millisecond},
		"stale if error":         {StaleIfError: 2 * time.Second},
		"all of it":              {StaleWhileRevalidate: 500 * time.Millisecond, StaleIfError: 2 * time.Second, NotFoundTTL: 300 * time.Millisecond},
	} {
		for _, many := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, many %v", name, many), func(t *testing.T) {
				t.Parallel()
				seed := *modelSeed
				if seed == 0 {
					seed = rand.Uint64()
				}
				t.Logf("go test -run '^%s$' -seed %d", t.Name(), seed)
				redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
					w := &modelWalk{
						T: t, rnd: rand.New(rand.NewPCG(seed, 0)), spec: spec, source: map[int]int64{}, loads: map[int]int{},
						entries: map[int]*modelEntry{}, seen: map[string]int{},
					}
					w.spec.Key, w.spec.TTL, w.spec.Jitter, w.spec.Backoff = "k:{id}", time.Second, NoJitter, 250*time.Millisecond
					w.spec.Packed, w.spec.Expected = packed, expected
					if w.spec.Up = w.up; many {
						w.spec.UpMany = w.upMany
					}
					for i := range w.caches {
						w.caches[i] = newCache(t, again(t, rdb), w.spec)
					}
					for range steps {
						w.step()
					}
					if spec.StaleIfError > 0 && steps >= 3000 {
						for _, what := range []string{
							"stale, to be reloaded: true, source down: true", "stale, to be reloaded: false, source down: true",
							"stale, to be reloaded: true, source down: false",
						} {
							require.Positive(t, w.seen[what], "the walk never came to: %s", what)
						}
					}
				})
			})
		}
	}
}
