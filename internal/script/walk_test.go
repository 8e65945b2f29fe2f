package script_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

var seed = flag.Uint64("seed", 0, "seed of the random walk; 0 takes one at random")

// A walk takes one key through random steps.
type walk struct {
	*cell
	rnd    *rand.Rand
	reg    register
	tokens []entry.Token // that were issued lately
	pick   func(kind string) int64
	trace  []string
	seen   map[string]int // replies, by script
}

// step runs one script on the server and in the model. The server's time is not
// known to the millisecond, so the model may choose it within what is known.
func (w *walk) step(name string, args []any, model func(*register, moment) any) {
	w.t.Helper()
	ctx := w.t.Context()
	w.t0 = w.t1 // it is later than the last look
	reply, err := scripts[name].Run(ctx, w.rdb, w.key, args...)
	require.NoError(w.t, err, w.story())
	var get *redis.StringCmd
	var pttl *redis.DurationCmd
	var clock *redis.TimeCmd
	_, _ = w.rdb.Pipelined(ctx, func(p redis.Pipeliner) error { // errors of GET mean something
		get, pttl, clock = p.Get(ctx, w.key), p.PTTL(ctx, w.key), p.Time(ctx)
		return nil
	})
	require.NoError(w.t, clock.Err())
	w.t1 = clock.Val().UnixMilli()
	raw := get.Val()
	if redis.HasErrorPrefix(get.Err(), "WRONGTYPE") {
		raw = "list"
	}
	before := w.reg
	for at := w.t0; at <= w.t1; at++ {
		w.reg = before
		m := moment{at, w.t0, w.t1}
		if want := model(&w.reg, m); fmt.Sprintf("%q", want) == fmt.Sprintf("%q", reply) && w.reg.bytes() == raw {
			break
		} else if at == w.t1 {
			require.Equal(w.t, want, reply, w.story())
			require.Equal(w.t, w.reg.bytes(), raw, w.story())
		}
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

// look tells apart what has the same reply, by the header before and after.
func (w *walk) look(what string, before, after *entry.Header) {
	switch {
	case what == "acquire S" && after.Paused():
		w.seen["acquire S, a pause"]++
	case what == "acquire W" && after.State == entry.Value:
		w.seen["acquire W, too old"]++
	case what == "acquire G" && before.State == entry.Value:
		w.seen["acquire G, too old"]++
	case what == "acquire R" && before.State == entry.Value && before.Soft > w.t1 && before.Flags&entry.Stale == 0:
		w.seen["acquire R, fresh"]++
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

func (w *walk) requireTTL(left time.Duration) {
	w.t.Helper()
	switch {
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

// fresh returns a token that is new, and remembers it.
func (w *walk) fresh() entry.Token {
	var token entry.Token
	for i := range token {
		token[i] = byte(w.rnd.Uint32())
	}
	w.tokens = append(w.tokens, token)
	w.tokens = w.tokens[max(0, len(w.tokens)-4):]
	return token
}

// known returns a token that was issued lately, most often the one that is there
// or the last.
func (w *walk) known() entry.Token {
	if there := w.reg.header.Token; there != (entry.Token{}) && w.rnd.IntN(3) > 0 {
		return there
	}
	if len(w.tokens) == 0 {
		return w.fresh()
	}
	return w.tokens[len(w.tokens)-1-min(w.rnd.IntN(len(w.tokens)), w.rnd.IntN(len(w.tokens)))]
}

// some returns a token in one of four cases, of an entry that is there or not.
func (w *walk) some() (seen *entry.Token, arg []byte) {
	switch w.rnd.IntN(4) {
	case 0:
		token := w.known()
		seen = &token
	case 1:
		if w.reg.held != "entry" {
			return nil, nil
		}
		token := w.reg.header.Token // the right one, which may be zero
		seen = &token
	default:
		return nil, nil
	}
	return seen, seen[:]
}

func (w *walk) script() {
	w.t.Helper()
	what := w.rnd.IntN(14)
	if w.reg.header.Paused() && w.rnd.IntN(3) == 0 {
		what = 0 // or few would see that
	}
	switch what {
	case 0, 1, 2, 3, 4:
		w.acquire()
	case 5, 6, 7:
		w.store()
	case 8:
		token, l := w.fresh(), life{w.pick("keep"), w.pick("fresh")}
		args := writing(w.key, token, 0, 0)
		args[1], args[2] = millisOr(l.keep, 0), millisOr(l.fresh, -1)
		w.step("write", args, func(r *register, m moment) any { return r.write(w.key, m, token, l) })
	case 9:
		token, lease := w.known(), w.pick("lease")
		w.step("extend", []any{token[:], lease}, func(r *register, m moment) any { return r.extend(m, token, lease) })
	case 10, 11:
		token, drop, pause, most := w.known(), w.rnd.IntN(8) == 0, w.pick("pause"), w.pick("most")
		args := []any{token[:], millisOr(pause, -1), most}
		if drop {
			args = dropping(token)
		}
		w.step("release", args, func(r *register, m moment) any { return r.release(m, token, drop, pause, most) })
	case 12, 13:
		w.step("expire", nil, func(r *register, m moment) any { return r.expire(m) })
	}
}

// millisOr returns milliseconds as the scripts take them.
func millisOr(ms, none int64) any {
	if ms == none {
		return ""
	}
	return ms
}

func (w *walk) acquire() {
	w.t.Helper()
	p := plea{
		token: w.fresh(), hint: w.rnd.IntN(2) == 0, suspect: w.rnd.IntN(3) == 0,
		want:  []string{script.Missing, script.Missing, script.Missing, script.Unfit, script.Due, script.Due, script.Now}[w.rnd.IntN(7)],
		lease: w.pick("lease"), use: w.pick("use"),
	}
	if w.rnd.IntN(8) == 0 {
		p.token = w.known() // a copy that is late
	}
	seen, arg := w.some()
	p.seen = seen
	args := acquiring(p.token, ask{want: p.want, seen: arg, hint: p.hint, suspect: p.suspect})
	args[1], args[6] = p.lease, millisOr(p.use, -1)
	w.step("acquire", args, func(r *register, m moment) any { return r.acquire(m, p) })
}

func (w *walk) store() {
	w.t.Helper()
	token, l := w.known(), life{w.pick("keep"), w.pick("fresh")}
	run := func(name string, args []any, model func(*register, moment) any) {
		args[1], args[2] = millisOr(l.keep, 0), millisOr(l.fresh, -1)
		w.step(name, args, model)
	}
	what := w.rnd.IntN(3)
	if w.reg.leased() && w.reg.header.State == entry.Value && w.rnd.IntN(2) == 0 {
		what = 2 // which is seldom possible
	}
	switch what {
	case 0:
		run("store", storing(w.key, token, 0, 0), func(r *register, m moment) any {
			return r.store(w.key, m, token, entry.Value, loaded, l)
		})
	case 1:
		run("store", storingNone(w.key, token, 0, 0), func(r *register, m moment) any {
			return r.store(w.key, m, token, entry.Absent, "", l)
		})
	case 2:
		run("renew", renewing(token, 0, 0), func(r *register, m moment) any { return r.renew(w.key, m, token, l) })
	}
}

// meddle does to the key what other programs, operators and time may do.
func (w *walk) meddle() {
	w.t.Helper()
	ctx, what := w.t.Context(), w.rnd.IntN(8)
	w.trace = append(w.trace, fmt.Sprint("meddle ", what))
	set := func(raw string) { require.NoError(w.t, w.rdb.Set(ctx, w.key, raw, redis.KeepTTL).Err()) }
	switch {
	case what == 0:
		w.rdb.Del(ctx, w.key)
		w.reg = register{}
	case what == 1:
		w.reg = register{held: "foreign", foreign: "hello"}
		require.NoError(w.t, w.rdb.Set(ctx, w.key, "hello", 0).Err())
	case what == 2:
		w.rdb.Del(ctx, w.key)
		w.rdb.LPush(ctx, w.key, "a")
		w.reg = register{held: "list"}
	case what == 3:
		w.rdb.Persist(ctx, w.key)
		w.reg.lo, w.reg.hi = 0, 0
	case w.reg.held != "entry":
	case what == 4: // one byte of the header
		b := []byte(w.reg.bytes())
		b[w.rnd.IntN(entry.Size)]++
		w.reg = register{held: "foreign", foreign: string(b), lo: w.reg.lo, hi: w.reg.hi}
		set(string(b))
	case w.reg.header.State == entry.Lease:
	case what == 5: // the value is stale by now
		w.reg.header.Soft = 1
		set(w.reg.bytes())
	case w.reg.header.State == entry.Absent:
	case what == 6 && w.reg.header.Till != 0: // the lease has lapsed by now, or the pause is over
		w.reg.header.Till = 1
		set(w.reg.bytes())
	case what == 7: // so many loads have failed
		w.reg.header.Fails = w.rnd.IntN(entry.MaxFails + 1)
		set(w.reg.bytes())
	}
}

// outcomes are all the replies that there are.
var outcomes = []string{
	"acquire G", "acquire R", "acquire V", "acquire N", "acquire S", "acquire W",
	"store 0", "store 1", "store 2", "store 3", "renew 0", "renew 1", "renew 2", "renew 3", "write 1",
	"extend 0", "extend 1", "release 0", "release 1", "expire 0", "expire 1",
	"acquire S, a pause", "acquire W, too old", "acquire G, too old", "acquire R, fresh", "store 1, none", "store 3, none",
	"release 1, a pause", "release 1, dropped", "expire 1, a pause", "expire 1, none",
}

// requireAll fails unless all the outcomes were there.
func (w *walk) requireAll() {
	w.t.Helper()
	w.t.Log(w.seen)
	for _, o := range outcomes {
		require.Positive(w.t, w.seen[o], "the walk never came to %s", o)
	}
}

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

func TestARandomWalkOnRedisIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	w := newWalk(t, redistest.Shared(t).Client(nil))
	// Times are far apart or nothing: no step depends on how fast the test is.
	choices := map[string][]int64{
		"keep": {0, hour, 4 * hour}, "fresh": {-1, 0, hour}, "lease": {hour, 2 * hour},
		"use": {-1, 0, hour}, "pause": {-1, 0, hour, 1 << 40}, "most": {hour, 100 * hour, 1 << 40},
	}
	w.pick = func(kind string) int64 { return choices[kind][w.rnd.IntN(len(choices[kind]))] }
	for range steps {
		if w.rnd.IntN(12) == 0 {
			w.meddle()
		}
		w.script()
	}
	w.requireAll()
}

func TestARandomWalkThroughTimeIsThatOfTheModel(t *testing.T) {
	t.Parallel()
	server := redistest.StartEmbedded(t)
	w := newWalk(t, server.Client(nil))
	now := int64(stoppedAt)
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
		default: // fresh, use
			return n - 1
		}
	}
	for range steps {
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
			w.reg = register{}
		}
		w.script()
	}
	w.requireAll()
}
