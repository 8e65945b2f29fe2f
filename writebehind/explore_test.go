package writebehind

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// exploreSeed names an environment variable that makes the random orders repeat a
// run that failed.
const exploreSeed = "CACHEX_EXPLORE_SEED"

// scenario describes the orders to explore. The deltas that its writers add are
// powers of ten, so a sum tells which deltas are in it, and how often.
type scenario struct {
	all     bool // every order is tried on the real server
	sample  int  // otherwise the number of random orders
	flusher int  // processes that flush
	writer  int  // processes that add
	mishaps int
	kinds   []mishap
	most    int  // ids of a batch
	atOnce  int  // ids that one call takes; 0 for the default
	seeds   int  // ids besides x and y
	setter  int  // processes that set
	last    bool // Merge is Last, and writers put the deltas as values
	one     int  // further processes that flush, with a MaxBatch of one

	cannot []string // for each further process that flushes, the ids that it cannot read: see cannotRead
}

var mishapsOfAll = []mishap{killBefore, killAfter, cutBefore, cutAfter, copied}

var scenarios = map[string]scenario{
	"two flushers":                        {all: true, flusher: 2},
	"two flushers and a writer":           {sample: 300, flusher: 2, writer: 1},
	"a flusher that is killed":            {all: true, flusher: 1, writer: 1, mishaps: 1, kinds: []mishap{killBefore, killAfter}},
	"a flusher that is cut off":           {all: true, flusher: 1, writer: 1, mishaps: 1, kinds: []mishap{cutBefore, cutAfter}},
	"two flushers of which one is killed": {all: true, flusher: 2, mishaps: 1, kinds: []mishap{killBefore, killAfter}},
	"two flushers and a copy":             {sample: 300, flusher: 2, writer: 1, mishaps: 1, kinds: []mishap{copied}},
	"two flushers, three writers, and three mishaps": {
		sample: 500, flusher: 2, writer: 3, mishaps: 3, kinds: mishapsOfAll,
	},
	"three flushers, three writers, and small batches": {
		sample: 300, flusher: 3, writer: 3, mishaps: 3, kinds: mishapsOfAll, most: 1,
	},
	"a flusher that is killed while it takes": {
		all: true, flusher: 1, mishaps: 1, kinds: []mishap{killBefore, killAfter}, atOnce: 1,
	},
	"three flushers, three writers, and batches that are taken by parts": partly,
	"counts that are set": setting,
}

var setting = scenario{sample: 300, flusher: 2, writer: 2, setter: 2, mishaps: 2, kinds: mishapsOfAll}

var partly = scenario{
	sample: 300, flusher: 3, writer: 3, mishaps: 3, kinds: mishapsOfAll, most: 5, atOnce: 1, seeds: 1,
}

// A written delta is in the database, or pending, or in flight and not in the
// database. This holds at every point of every order, whichever process dies at
// any step.
func TestNothingIsLostOrAppliedTwiceWhoeverDiesAtWhateverStep(t *testing.T) {
	t.Parallel()
	for name, sc := range scenarios {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				if strings.HasSuffix(t.Name(), "embedded") { // scripts are slow there
					sc.all, sc.sample = false, 30
				}
				newLab(t, rdb).explore(sc, sc.play)
			})
		})
	}
}

// Without a ledger, some orders count twice. So the explorer finds such faults,
// and the ledger prevents them.
func TestWithoutALedgerAKillMayCountTwice(t *testing.T) {
	t.Parallel()
	sc := scenarios["two flushers of which one is killed"]
	l := newLab(t, redistest.Shared(t).Client(nil))
	l.naive, l.tolerant = true, true
	l.explore(sc, sc.play)
	require.Positive(t, l.bad)
	t.Logf("%d bad orders", l.bad)
}

// The explorer finds the ids that a mutant of TakeBatch loses or counts twice.
func TestExplorer_FindsMutantsOfTakingByParts(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]string{
		"an id in flight is overwritten": {" and not (resumed and redis.call('HEXISTS', I, id) == 1) then", " then"},
		"an open batch is handed out to one half of the callers": {
			"if not open then return", "if not open or string.byte(ARGV[1]) % 2 == 0 then return",
			"'#open', '1',", "'#open', '1', '#tok', ARGV[1],",
			"redis.call('HSET', I, '#tok', token)", "token = redis.call('HGET', I, '#tok')",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, redistest.Shared(t).Client(nil))
			l.mutate("take", changes...)
			sc := partly
			sc.sample = 200
			l.explore(sc, sc.play)
			require.Positive(t, l.bad)
			t.Logf("%d bad orders", l.bad)
		})
	}
}

// The explorer finds the deltas that a mutant of adding to a total loses.
func TestExplorer_FindsMutantsOfTotals(t *testing.T) {
	t.Parallel()
	for name, changes := range map[string][]string{
		"a total becomes a delta":    {"w = '=' .. redis.call('HGET', p, id)", "w = redis.call('HGET', p, id)"},
		"a total is not added to":    {"w = '=' .. redis.call('HGET', p, id)", "w = w"},
		"what is added is the total": {"redis.call('HSET', p, id, string.sub(w, 2))", "redis.call('HSET', p, id, '0')"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, redistest.Shared(t).Client(nil))
			l.mutate("add", changes...)
			sc := setting
			sc.sample = 100
			l.explore(sc, sc.play)
			require.Positive(t, l.bad)
			t.Logf("%d bad orders", l.bad)
		})
	}
}

func (sc scenario) play(w *world) {
	w.mishaps, w.kinds, w.atOnce, w.merge = sc.mishaps, sc.kinds, sc.atOnce, Sum
	o := Options{MaxBatch: sc.most}
	if sc.last {
		w.merge = Last
	}
	w.seed("x", 1)
	w.seed("y", 1)
	for i := range sc.seeds {
		w.seed(fmt.Sprint("z", i), 1)
	}
	delta := int64(10)
	for i := range sc.writer {
		add := delta
		w.startEngine(fmt.Sprint("writer ", i+1), o, func(_ *proc, e *Engine) {
			if sc.last {
				_ = e.Put(context.Background(), "x", []byte(fmt.Sprint(add)))
				return
			}
			_ = e.Add(context.Background(), "x", add)
		})
		delta *= 10
	}
	for i := range sc.setter {
		total := int64(7_000_000 * (i + 1))
		w.startEngine(fmt.Sprint("setter ", i+1), o, func(_ *proc, e *Engine) { _ = e.write(context.Background(), "set", Sum, pendSet, "x", total) })
	}
	flush := func(p *proc, e *Engine) {
		for range 2 { // again, if a command was cut off
			if e.flush(context.Background(), 0, true) == nil || p.dead {
				return
			}
		}
	}
	for i := range sc.flusher {
		w.startEngine(fmt.Sprint("flusher ", i+1), o, flush)
	}
	for i := range sc.one {
		one := o
		one.MaxBatch = 1
		w.startEngine(fmt.Sprint("flusher of one at a time ", i+1), one, flush)
	}
	for _, cannot := range sc.cannot {
		o.Check = cannotRead(cannot)
		w.startEngine("flusher that cannot read "+cannot, o, flush)
	}
}

// explore runs the orders of a scenario, and returns how many it has run.
func (l *lab) explore(sc scenario, play func(*world)) int {
	if !sc.all {
		seed := rand.Uint64()
		if s := os.Getenv(exploreSeed); s != "" {
			var err error
			seed, err = strconv.ParseUint(s, 10, 64)
			require.NoError(l.t, err)
		}
		l.t.Logf("%s=%d", exploreSeed, seed)
		random := rand.New(rand.NewPCG(seed, 0))
		for range sc.sample {
			if l.run(play, random.IntN); l.enough && l.bad > 0 {
				break
			}
		}
		return sc.sample
	}
	type node struct{ chosen, of int }
	var path []node
	for n := 1; ; n++ {
		depth := 0
		l.run(play, func(of int) int {
			if depth == len(path) {
				path = append(path, node{0, of})
			}
			require.Equal(l.t, of, path[depth].of, "an order does not repeat")
			depth++
			return path[depth-1].chosen
		})
		for len(path) > 0 && path[len(path)-1].chosen == path[len(path)-1].of-1 {
			path = path[:len(path)-1]
		}
		if len(path) == 0 {
			return n
		}
		path[len(path)-1].chosen++
	}
}

// run runs one order. A process without mishaps then flushes.
func (l *lab) run(play func(*world), pick func(n int) int) {
	w := &world{
		lab: l, d: newDatabase(), name: redistest.Key(l.t), events: make(chan event),
		written: make(map[string]int64),
	}
	w.d.naive, w.d.amnesia = l.naive, l.amnesia
	play(w)
	w.play(pick)
	w.mishaps = 0
	w.startEngine("the last flusher", Options{}, func(_ *proc, e *Engine) {
		if err := e.flush(context.Background(), 0, true); err != nil {
			w.complain("the last flusher: %v", err)
		}
	})
	w.play(func(int) int { return 0 })
	for id, n := range w.written {
		if got := w.persisted(id); !w.forks && got != n {
			w.complain("%d were written to %s, and %d persisted", n, id, got)
		}
	}
	if w.end != nil {
		w.end(w)
	}
	if w.wrong != "" {
		l.bad++
	}
	if w.wrong != "" && !l.tolerant {
		require.Fail(l.t, w.wrong, "in the order\n\t%s", strings.Join(w.taken, "\n\t"))
	}
	require.NoError(l.t, l.rdb.Del(context.Background(), w.keys()...).Err())
	for _, e := range w.engines {
		e.wait(context.Background(), true)
	}
}

func (w *world) keys() []string {
	k := (&Engine{o: Options{Name: w.name}}).Keys(0)
	return []string{k.Pending, k.InFlight, k.Refused, k.Unread, k.Parked, (&Engine{o: Options{Name: w.name}}).asideKey(0)}
}

// seed writes a delta before any process starts.
func (w *world) seed(id string, delta int64) {
	ctx := context.Background()
	pending := w.keys()[0]
	require.NoError(w.lab.t, w.lab.rdb.HIncrBy(ctx, pending, id, delta).Err())
	require.NoError(w.lab.t, w.lab.rdb.HSetNX(ctx, pending, "#t0", 1000).Err())
	w.written[id] += delta
}

func (w *world) complain(format string, args ...any) {
	if w.wrong == "" {
		w.wrong = fmt.Sprintf(format, args...)
	}
}

// check checks the invariants that hold at every point.
func (w *world) check() {
	pending, flying, unread, parked := w.hash(0), w.hash(1), w.hash(3), w.hash(4)
	row := w.d.rowOf(0, flying["#inc"])
	applied := flying["#n"] == strconv.FormatInt(row.N, 10) && flying["#tok"] == row.Token
	for id, n := range w.written {
		if flying["#n"] == flying["#a"] && flying[id] != "" {
			w.complain("%s is acknowledged, and still there", id)
		}
		// The oldest come first. A delta builds on an older total even if the
		// database has the total.
		got, set := w.persisted(id), w.merge == Last
		add := func(text string, applied bool) {
			set = set || strings.HasPrefix(text, "=")
			if text != "" && w.merge == Last {
				got = number(text)
			} else if text != "" && (set || !applied) {
				got = after(got, text)
			}
		}
		add(unread[id], false)
		batches, ok := parkedOf(parked[id])
		if !ok {
			w.complain("parked is %q", parked[id])
		}
		for _, batch := range batches {
			add(batch.value, batch.token == row.Token && !slices.Contains(row.Unread, id))
		}
		add(flying[id], applied && !slices.Contains(row.Unread, id))
		if add(pending[id], false); !w.forks && got != n {
			w.complain("%d were written to %s, but %d are persisted, %q pending, %q in flight, applied: %v",
				n, id, w.persisted(id), pending[id], flying[id], applied)
		}
	}
}

// persisted returns the value of an id in the database.
func (w *world) persisted(id string) int64 {
	if w.merge == Last {
		return number(w.d.value(id))
	}
	return w.d.sum(id)
}

// after returns a count after a delta or a total.
func after(n int64, text string) int64 {
	if total, set := strings.CutPrefix(text, "="); set {
		return number(total)
	}
	return n + number(text)
}

func (w *world) hash(i int) map[string]string {
	m, err := w.lab.rdb.HGetAll(context.Background(), w.keys()[i]).Result()
	require.NoError(w.lab.t, err)
	return m
}

func number(s string) int64 {
	n, _ := strconv.ParseInt(s, 10, 64)
	return n
}
