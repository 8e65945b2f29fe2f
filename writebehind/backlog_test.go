package writebehind

import (
	"context"
	"flag"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

var backlogs = flag.Bool("backlogs", false, "measure batches of backlogs up to 1,000,000 ids")

// pile makes ids pending in bucket 0, many at a time.
func pile(t *testing.T, rdb *redis.Client, e *Engine, ids int) {
	t.Helper()
	const fill = `for i = ARGV[1], ARGV[2] do redis.call('HSET', KEYS[1], 'id' .. i, i) end
return redis.call('HSETNX', KEYS[1], '#t0', 1)`
	for from := 1; from <= ids; from += 5000 {
		require.NoError(t, rdb.Eval(t.Context(), fill, []string{e.Keys(0).Pending}, from, min(from+4999, ids)).Err())
	}
}

// calls returns how often the server has executed a command, including calls by
// scripts.
func calls(t *testing.T, rdb *redis.Client, command string) int {
	t.Helper()
	info, err := rdb.Info(t.Context(), "commandstats").Result()
	require.NoError(t, err)
	m := regexp.MustCompile(`cmdstat_` + command + `:calls=(\d+)`).FindStringSubmatch(info)
	if m == nil {
		return 0
	}
	n, err := strconv.Atoi(m[1])
	require.NoError(t, err)
	return n
}

// processor returns the processor time of the server's main thread.
func processor(t *testing.T, rdb *redis.Client) (sum time.Duration) {
	t.Helper()
	info, err := rdb.Info(t.Context(), "cpu").Result()
	require.NoError(t, err)
	for _, m := range regexp.MustCompile(`used_cpu_(?:sys|user)_main_thread:([0-9.]+)`).FindAllStringSubmatch(info, -1) {
		d, err := time.ParseDuration(m[1] + "s")
		require.NoError(t, err)
		sum += d
	}
	return sum
}

// timing is a hook that records the processor time of the longest script. It
// reads the time of a server that does nothing else, so a busy machine does not
// lengthen it.
type timing struct {
	t   *testing.T
	rdb *redis.Client              // another client
	all map[string][]time.Duration // by script
}

func (h *timing) DialHook(next redis.DialHook) redis.DialHook { return next }

func (h *timing) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (h *timing) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		before := processor(h.t, h.rdb)
		err := next(ctx, cmd)
		name := stepNames[cmd.Args()[1].(string)]
		h.all[name] = append(h.all[name], processor(h.t, h.rdb)-before)
		return err
	}
}

// cost takes and acknowledges batches of a backlog until none is left, or most
// of them are done. It returns the number of HSCANs for each batch.
func cost(t *testing.T, rdb *redis.Client, e *Engine, most int) (batches int, scans float64) {
	t.Helper()
	before := calls(t, rdb, "hscan")
	for again := true; again && batches < most; batches++ {
		var err error
		again, _, err = e.step(context.WithoutCancel(t.Context()), 0, true)
		require.NoError(t, err)
	}
	return batches, float64(calls(t, rdb, "hscan")-before) / float64(batches)
}

// The work of a batch does not depend on the other pending ids. No script
// handles more than a few hundred ids.
func TestTakeBatch_CostsTheSameWhateverIsPending(t *testing.T) {
	t.Parallel()
	server := redistest.Start(t)
	rdb := server.Client(nil)
	e := engine(t, rdb, options(t, newDatabase(), Sum))
	pile(t, rdb, e, 60_000)
	evals := calls(t, rdb, "evalsha")
	batches, scans := cost(t, rdb, e, 1000)
	require.Less(t, batches, 63)
	require.Less(t, scans, 20., "HSCANs a batch")
	require.Less(t, float64(calls(t, rdb, "evalsha")-evals)/float64(batches), 20., "scripts a batch: ten to take, five to read, one to acknowledge")
	require.Zero(t, rdb.Exists(t.Context(), e.Keys(0).Pending).Val())

	// One id in a table that once had many: TakeBatch passes the empty part in
	// several calls.
	pile(t, rdb, e, 60_000)
	for from := 1; from <= 60_000; from += 5000 {
		require.NoError(t, rdb.Eval(t.Context(), `for i = ARGV[1], ARGV[2] do redis.call('HDEL', KEYS[1], 'id' .. i) end
return 1`, []string{e.Keys(0).Pending}, from, min(from+4999, 59_999)).Err())
	}
	before, evals := calls(t, rdb, "hscan"), calls(t, rdb, "evalsha")
	_, _, err := e.step(t.Context(), 0, true)
	require.NoError(t, err)
	require.LessOrEqual(t, calls(t, rdb, "hscan")-before, 6*(calls(t, rdb, "evalsha")-evals))
	require.Zero(t, rdb.Exists(t.Context(), e.Keys(0).Pending).Val())
}

// The reported age is not the age of the first id that was ever pending,
// although writers keep some id pending at all times.
func TestBacklog_OldestIsBoundedWhileWritersGoOn(t *testing.T) {
	t.Parallel()
	rdb := redistest.Shared(t).Client(nil)
	d := newDatabase()
	o := options(t, d, Sum)
	o.MaxBatch = 10
	e := engine(t, rdb, o)
	ctx := bounded(t)
	pile(t, rdb, e, 1000)
	require.NoError(t, rdb.HSet(ctx, e.Keys(0).Pending, "#t0", time.Now().Add(-24*time.Hour).UnixMicro()).Err())
	oldest := func() time.Duration {
		b, err := e.Backlog(ctx)
		require.NoError(t, err)
		return b.Oldest
	}
	require.Greater(t, oldest(), 23*time.Hour)
	for i := range 250 {
		for j := range 10 {
			require.NoError(t, e.Add(ctx, fmt.Sprint("new", 10*i+j), 1))
		}
		_, _, err := e.step(ctx, 0, true)
		require.NoError(t, err)
		require.Positive(t, e.Stats().Batches)
		if oldest() < 12*time.Hour {
			return
		}
	}
	require.Fail(t, "it is as old as the first id that there ever was")
}

// String returns the median, the 99th percentile and the longest, by script.
func (h *timing) String() (text string) {
	for _, name := range slices.Sorted(maps.Keys(h.all)) {
		all := slices.Sorted(slices.Values(h.all[name]))
		text += fmt.Sprintf(" %s %v/%v/%v", name, all[len(all)/2], all[len(all)*99/100], all[len(all)-1])
	}
	return text
}

func TestTheBacklogIsMeasured(t *testing.T) {
	if !*backlogs {
		t.Skip("-backlogs")
	}
	for _, ids := range []int{20_000, 300_000, 1_000_000} {
		server := redistest.Start(t)
		rdb := server.Client(nil)
		d := newDatabase()
		e := engine(t, rdb, options(t, d, Sum))
		pile(t, rdb, e, ids)
		h := &timing{t, server.Client(nil), map[string][]time.Duration{}}
		rdb.AddHook(h)
		evals := calls(t, rdb, "evalsha")
		began := time.Now()
		n, scans := cost(t, rdb, e, ids/1000+5)
		t.Logf("%8d ids, %4d batches: %6.1f HSCANs and %.1f scripts a batch, processor time%v, in all %v",
			ids, n, scans, float64(calls(t, rdb, "evalsha")-evals)/float64(n), h, time.Since(began).Round(time.Millisecond))
		require.Len(t, d.sums, ids)

	}
}
