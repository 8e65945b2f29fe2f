package script_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

var seed = flag.Uint64("seed", 0, "seed of the random walk; 0 takes one at random")

// A walk takes one key through random steps.
type walk struct {
	*cell
	packed *packing // nil: the entry is not packed
	slow   int64    // milliseconds that a script may take
	rnd    *rand.Rand
	reg    register
	tokens []entry.Token // tokens that were issued lately
	pick   func(kind string) int64
	trace  []string
	seen   map[string]int // replies, by script
}

// step runs one script on the server and in the model. The test does not know
// the server's time to the millisecond, so the model may choose it within
// bounds.
func (w *walk) step(name string, args []any, model func(*register, moment) any) {
	w.t.Helper()
	ctx := w.t.Context()
	w.t0 = w.t1 // the script runs after the last look
	reply, err := w.run(name, args)
	require.NoError(w.t, err, w.story())
	var get *redis.StringCmd
	var pttl *redis.DurationCmd
	var clock *redis.TimeCmd
	_, _ = w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { // errors of GET have a meaning here
		get, pttl, clock = p.Get(ctx, w.key), p.PTTL(ctx, w.key), p.Time(ctx)
		if at := w.packed; at != nil {
			get, pttl = p.HGet(ctx, at.hash, at.field), p.PTTL(ctx, at.hash)
		}
		return nil
	})
	require.NoError(w.t, clock.Err())
	w.t1 = clock.Val().UnixMilli()
	raw := get.Val()
	if redis.HasErrorPrefix(get.Err(), "WRONGTYPE") {
		raw = "list"
	}
	if raw == "" && w.packed != nil && w.reg.held == "foreign" {
		w.reg = register{packed: w.packed} // the hash has ended with the entry that it was
	}
	before, soft := w.reg, int64(0)
	if len(raw) >= entry.Size {
		soft = h48(raw[6:])
	}
	for at := w.t0; at <= w.t1; at++ {
		w.reg = before
		m := moment{at, w.t0, w.t1, soft}
		if w.packed != nil {
			m = moment{at, at, at, soft}
			if w.reg.hi != 0 && w.reg.hi <= at {
				w.reg = register{packed: w.packed}
			}
		}
		raw := w.there(raw, at)
		if want := model(&w.reg, m); fmt.Sprintf("%q", want) == fmt.Sprintf("%q", reply) && w.reg.bytes() == raw {
			break
		} else if at == w.t1 {
			require.Equal(w.t, want, reply, w.story())
			require.Equal(w.t, w.reg.bytes(), raw, w.story())
		}
	}
	w.reg.settle()
	if w.reg.short() {
		w.seen["short"]++
	}
	kind := fmt.Sprint(reply)
	if list, ok := reply.([]any); ok {
		kind = list[0].(string)
	}
	w.seen[name+" "+kind]++
	w.look(name+" "+kind, &before.header, &w.reg.header)
	w.trace = append(w.trace, fmt.Sprintf("%s(%q) = %s", name, args, kind))
	w.requireTTL(pttl.Val())
}

// look distinguishes outcomes that have the same reply, by the header before
// and after.
func (w *walk) look(what string, before, after *entry.Header) {
	switch {
	case what == "acquire S" && after.Paused():
		w.seen["acquire S, a pause"]++
	case what == "acquire W" && after.State == entry.Value:
		w.seen["acquire W, too old"]++
	case what == "acquire G" && before.State == entry.Value:
		w.seen["acquire G, too old"]++
	case what == "acquire R" && before.Soft == entry.Forever && after.Soft != entry.Forever:
		w.seen["acquire R, fresh until its end"]++
	case what == "acquire R" && before.State == entry.Value && before.Soft > w.t1 && before.Flags&entry.Stale == 0:
		w.seen["acquire R, fresh"]++
	case what == "acquire R" && before.Paused() && before.Till > w.t1:
		w.seen["acquire R, a pause too long"]++
	case what == "acquire V" && after.Soft <= w.t0:
		w.seen["acquire V, until it is gone"]++
	case what == "store 1" && after.State == entry.Absent:
		w.seen["store 1, none"]++
	case what == "store 3" && after.State == 0:
		w.seen["store 3, none"]++
	case what == "release 1" && after.Paused():
		w.seen["release 1, a pause"]++
	case what == "release 1" && before.State == entry.Value && after.State == 0:
		w.seen["release 1, dropped"]++
	case what == "expire 1" && before.Paused():
		w.seen["expire 1, a pause"]++
	case what == "expire 1" && before.State == entry.Absent:
		w.seen["expire 1, none"]++
	}
}

// run runs a script on the key of the walk.
func (w *walk) run(name string, args []any) (any, error) {
	if at := w.packed; at != nil {
		args = append(slices.Clone(args), at.beyond, at.field)
		return scripts[name].Packed().Run(w.t.Context(), w.rdb, at.hash, args...)
	}
	return scripts[name].Run(w.t.Context(), w.rdb, w.key, args...)
}

// there returns the part of raw that is there at a moment: "" if it is packed
// and has ended.
func (w *walk) there(raw string, at int64) string {
	if w.packed == nil || raw == "list" {
		return raw
	}
	h, _, _ := entry.ParsePacked(w.key, []byte(raw))
	end := entry.Forever
	switch {
	case raw == "":
	case raw[0] == 0xC1 && h.State != 0:
		end = h48(raw[entry.Size:])
	case raw[0] == 0xC1: // not an entry
	case raw[0] >= 0x80 && h.State == entry.Absent:
		end = h.Soft
	case raw[0] >= 0x80 && h.Soft != entry.Forever:
		end = h.Soft + w.packed.beyond
	}
	if end <= at {
		return ""
	}
	return raw
}

func h48(s string) (n int64) {
	for _, c := range []byte(s[:6]) {
		n = n<<8 | int64(c)
	}
	return n
}

func (w *walk) requireTTL(left time.Duration) {
	w.t.Helper()
	switch {
	case w.packed != nil && w.reg.held != "entry":
	case w.packed != nil && w.reg.hi == 0:
		require.Equal(w.t, time.Duration(-1), left, w.story())
	case w.packed != nil: // the hash lives as long as any of its entries
		require.True(w.t, left == -1 || left.Milliseconds() >= w.reg.hi-w.t1-w.slow, w.story())
	case w.reg.held == "":
		require.Equal(w.t, time.Duration(-2), left, w.story())
	case w.reg.hi == 0:
		require.Equal(w.t, time.Duration(-1), left, w.story())
	default:
		require.GreaterOrEqual(w.t, left.Milliseconds(), w.reg.lo-w.t1, w.story())
		require.LessOrEqual(w.t, left.Milliseconds(), w.reg.hi-w.t0, w.story())
	}
}

func (w *walk) story() string {
	return "the last steps were\n" + strings.Join(w.trace[max(0, len(w.trace)-12):], "\n")
}

// outcomes has all possible replies.
var outcomes = []string{
	"acquire G", "acquire R", "acquire V", "acquire N", "acquire S", "acquire W",
	"store 0", "store 1", "store 2", "store 3", "renew 0", "renew 1", "renew 2", "renew 3", "write 1",
	"extend 0", "extend 1", "extend 2", "release 0", "release 1", "release 2", "expire 0", "expire 1",
	"acquire S, a pause", "acquire W, too old", "acquire G, too old", "acquire R, fresh", "acquire R, a pause too long",
	"acquire V, until it is gone", "store 1, none", "store 3, none",
	"release 1, a pause", "release 1, dropped", "expire 1, a pause", "expire 1, none",
}

// requireAll fails unless all outcomes came up within this number of steps.
func (w *walk) requireAll(steps int) {
	w.t.Helper()
	w.t.Log(w.seen)
	if w.packed != nil {
		require.Greater(w.t, w.seen["short"], steps/20)
	} else { // no script writes such packed entries
		require.Positive(w.t, w.seen["acquire R, fresh until its end"])
	}
	require.Empty(w.t, w.missing(), "the walk never came to it")
}

// missing returns an outcome that has not come up yet, "" if all have.
func (w *walk) missing() string {
	for _, o := range outcomes {
		if w.seen[o] == 0 {
			return o
		}
	}
	return ""
}

// goesOn reports whether the walk goes on after n steps. A rare outcome may
// take longer than most walks do.
func (w *walk) goesOn(n int) bool { return n < steps || n < 10*steps && w.missing() != "" }

func newWalk(t *testing.T, rdb *redis.Client) *walk {
	s := *seed
	if s == 0 {
		s = rand.Uint64()
	}
	t.Logf("go test -run '%s' -seed %d", t.Name(), s)
	w := &walk{cell: newCell(t, rdb), rnd: rand.New(rand.NewPCG(s, 0)), seen: map[string]int{}}
	w.t1 = w.now()
	return w
}

const steps = 10_000

// pack makes the walk use a packed entry. The hash has another entry that
// stays.
func (w *walk) pack(beyond int64) {
	w.packed = &packing{w.key, "7", beyond}
	w.reg.packed = w.packed
	w.key += " 7"
	at := *w.packed
	w.packed.field = "8"
	_, err := w.run("write", writing(at.hash+" 8", w.fresh(), 24*365*time.Hour, time.Hour))
	require.NoError(w.t, err)
	*w.packed = at
}

// unpackedAndPacked runs f for an unpacked and for a packed entry.
func unpackedAndPacked(t *testing.T, f func(t *testing.T, packed bool)) {
	for _, packed := range []bool{false, true} {
		t.Run(fmt.Sprintf("packed %v", packed), func(t *testing.T) {
			t.Parallel()
			f(t, packed)
		})
	}
}

func TestARandomWalkOnRedisIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	unpackedAndPacked(t, walkOnRedis)
}

func walkOnRedis(t *testing.T, packed bool) {
	w := newWalk(t, redistest.Shared(t).Client(nil))
	if packed {
		w.pack(3 * hour)
		w.slow = time.Minute.Milliseconds() // the server counts a TTL from the start of the script
	}
	// Times are zero or far apart: no step depends on the speed of the test.
	choices := map[string][]int64{
		"keep": {0, hour, 4 * hour}, "fresh": {-1, 0, hour}, "lease": {hour, 2 * hour},
		"use": {-1, 0, hour}, "pause": {-1, 0, hour, 1 << 40}, "most": {hour, 100 * hour, 1 << 40},
	}
	w.pick = func(kind string) int64 { return choices[kind][w.rnd.IntN(len(choices[kind]))] }
	for n := 0; w.goesOn(n); n++ {
		if w.rnd.IntN(12) == 0 {
			w.meddle()
		}
		w.script()
	}
	w.requireAll(steps)
}

func TestARandomWalkThroughTimeIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	unpackedAndPacked(t, walkThroughTime)
}

func walkThroughTime(t *testing.T, packed bool) {
	server := redistest.StartEmbedded(t)
	w := newWalk(t, server.Client(nil))
	now := int64(stoppedAt)
	if packed {
		w.pack(25)
	}
	w.pick = func(kind string) int64 {
		switch n := w.rnd.Int64N(60); {
		case kind == "lease":
			return n + 1
		case kind == "keep":
			return n * 3
		case kind == "most":
			return n * n
		case kind == "pause":
			return 2*n - 1
		case kind == "use":
			return max(n-10, -1) // sometimes 0, as caches without stale windows pass
		default: // fresh
			return n - 1
		}
	}
	for n := 0; w.goesOn(n); n++ {
		if w.rnd.IntN(40) == 0 {
			w.meddle()
		}
		if w.rnd.IntN(3) > 0 {
			now += w.rnd.Int64N(30)
		}
		server.SetTime(time.UnixMilli(now))
		w.t1 = now
		if w.reg.hi != 0 && w.reg.hi <= now {
			w.trace = append(w.trace, "it expires")
			w.reg = register{packed: w.packed}
		}
		w.script()
	}
	w.requireAll(steps)
}
