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
)

var seed = flag.Uint64("seed", 0, "seed of the random walk; 0 takes one at random")

// A register is what the scripts make of one key, in Go: the same rules, told by
// the fields of a header and not by bytes.
type register struct {
	held    string // "" nothing, "foreign" bytes that are no entry, "list", "entry"
	foreign string
	header  entry.Header
	payload string
	lo, hi  int64 // the key expires between these two moments; 0 never
}

// A moment is when a script runs: at, by its own clock, and for TTLs, which may
// be counted from another reading of it, not before t0 and not after t1.
type moment struct{ at, t0, t1 int64 }

func (r *register) bytes() string {
	switch r.held {
	case "foreign":
		return r.foreign
	case "entry":
		return string(r.header.Append(nil)) + r.payload
	}
	return r.held
}

func (r *register) keep(m moment, ms int64) {
	r.lo, r.hi = m.t0+ms, m.t1+ms
	if ms == 0 {
		r.lo, r.hi = 0, 0
	}
}

func (r *register) prolong(m moment, ms int64) {
	if r.hi != 0 {
		r.lo, r.hi = max(r.lo, m.t0+ms), max(r.hi, m.t1+ms)
	}
}

func (r *register) leased() bool {
	return r.held == "entry" && (r.header.State == entry.Lease || r.header.Till != 0)
}

func (r *register) acquire(m moment, token, unfit entry.Token, lease int64, hint, suspect bool) any {
	h := &r.header
	entered := r.held == "entry" && (unfit == entry.Token{} || h.Token != unfit)
	mine := h.Token == token
	switch {
	case !entered, h.State == entry.Lease && mine:
		*r = register{held: "entry", header: entry.Header{State: entry.Lease, Token: token, Born: m.at, Cost: expected}}
		r.keep(m, lease)
		return []any{"G"}
	case h.State == entry.Lease:
		if suspect && r.hi == 0 {
			r.keep(m, lease)
		}
		if hint {
			h.Flags |= entry.Awaited
		}
		return []any{"W", r.bytes()[26:36]}
	case h.Soft > m.at:
		return []any{"V", r.bytes()}
	case h.Till > m.at && !mine:
		if hint {
			h.Flags |= entry.Awaited
		}
		return []any{"S", r.bytes()}
	}
	h.Flags, h.Token, h.Till = 0, token, m.at+lease
	r.prolong(m, lease)
	return []any{"R", r.bytes()}
}

func (r *register) put(key string, m moment, h entry.Header, keep, fresh int64) {
	h.State, h.Soft, h.Sum = entry.Value, entry.Forever, entry.Sum(key, []byte(loaded))
	if fresh >= 0 {
		h.Soft = m.at + fresh
	}
	*r = register{held: "entry", header: h, payload: loaded}
	r.keep(m, keep)
}

func (r *register) store(key string, m moment, token entry.Token, keep, fresh int64) any {
	if r.held != "entry" || r.header.Token != token {
		return int64(0)
	}
	if !r.leased() {
		return int64(2)
	}
	expired := r.header.Flags&entry.Expired != 0
	r.put(key, m, entry.Header{Token: token, Born: m.at - age.Milliseconds(), Cost: took}, keep, fresh)
	if expired {
		r.header.Soft = 0
		return int64(3)
	}
	return int64(1)
}

func (r *register) extend(m moment, token entry.Token, lease int64) any {
	if !r.leased() || r.header.Token != token {
		return int64(0)
	}
	if r.header.State == entry.Value {
		r.header.Till = m.at + lease
	}
	r.prolong(m, lease)
	return int64(1)
}

func (r *register) release(token entry.Token) any {
	switch {
	case !r.leased() || r.header.Token != token:
		return int64(0)
	case r.header.State == entry.Lease:
		*r = register{}
	default:
		r.header.Flags, r.header.Token, r.header.Till = 0, entry.Token{}, 0
	}
	return int64(1)
}

func (r *register) expire() any {
	if r.held != "entry" {
		return int64(0)
	}
	if r.leased() {
		r.header.Flags |= entry.Expired
	}
	if r.header.State == entry.Value {
		r.header.Soft = 0
	}
	return int64(1)
}

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
	w.trace = append(w.trace, fmt.Sprintf("%s(%q) = %s", name, args, kind))
	w.requireTTL(pttl.Val())
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

// known returns a token that was issued lately, most often the last.
func (w *walk) known() entry.Token {
	if len(w.tokens) == 0 {
		return w.fresh()
	}
	return w.tokens[len(w.tokens)-1-min(w.rnd.IntN(len(w.tokens)), w.rnd.IntN(len(w.tokens)))]
}

func (w *walk) script() {
	w.t.Helper()
	keep, fresh, lease := w.pick("keep"), w.pick("fresh"), w.pick("lease")
	in := func(ms, none int64) any {
		if ms == none {
			return ""
		}
		return ms
	}
	switch w.rnd.IntN(10) {
	case 0, 1, 2, 3:
		token, hint, suspect := w.fresh(), w.rnd.IntN(2) == 0, w.rnd.IntN(3) == 0
		var unfit entry.Token
		var not []byte
		if w.rnd.IntN(4) == 0 {
			unfit = w.known()
			not = unfit[:]
		}
		if w.rnd.IntN(8) == 0 {
			token = w.known() // a copy that is late
		}
		args := acquiring(token, not, hint, suspect)
		args[1] = lease
		w.step("acquire", args, func(r *register, m moment) any { return r.acquire(m, token, unfit, lease, hint, suspect) })
	case 4, 5:
		token := w.known()
		args := storing(w.key, token, 0, 0)
		args[1], args[2] = in(keep, 0), in(fresh, -1)
		w.step("store", args, func(r *register, m moment) any { return r.store(w.key, m, token, keep, fresh) })
	case 6:
		token := w.fresh()
		args := writing(w.key, token, 0, 0)
		args[1], args[2] = in(keep, 0), in(fresh, -1)
		w.step("write", args, func(r *register, m moment) any {
			r.put(w.key, m, entry.Header{Token: token, Born: m.at}, keep, fresh)
			return int64(1)
		})
	case 7:
		token := w.known()
		w.step("extend", []any{token[:], lease}, func(r *register, m moment) any { return r.extend(m, token, lease) })
	case 8:
		token := w.known()
		w.step("release", []any{token[:]}, func(r *register, _ moment) any { return r.release(token) })
	case 9:
		w.step("expire", nil, func(r *register, _ moment) any { return r.expire() })
	}
}

// meddle does to the key what other programs, operators and time may do.
func (w *walk) meddle() {
	w.t.Helper()
	ctx, what := w.t.Context(), w.rnd.IntN(7)
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
	case w.reg.header.State != entry.Value:
	case what == 5: // the value is stale by now
		w.reg.header.Soft = 1
		set(w.reg.bytes())
	case what == 6 && w.reg.header.Till != 0: // the lease has lapsed by now
		w.reg.header.Till = 1
		set(w.reg.bytes())
	}
}

// outcomes are all the replies that there are.
var outcomes = []string{
	"acquire G", "acquire R", "acquire V", "acquire S", "acquire W", "store 0", "store 1", "store 2", "store 3", "write 1",
	"extend 0", "extend 1", "release 0", "release 1", "expire 0", "expire 1",
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
	choices := map[string][]int64{"keep": {0, hour, 4 * hour}, "fresh": {-1, 0, hour}, "lease": {hour, 2 * hour}}
	w.pick = func(kind string) int64 { return choices[kind][w.rnd.IntN(len(choices[kind]))] }
	for range steps {
		if w.rnd.IntN(12) == 0 {
			w.meddle()
		}
		w.script()
	}
	for _, o := range outcomes {
		require.Positive(t, w.seen[o], "the walk never came to %s", o)
	}
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
		default: // fresh
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
	for _, o := range outcomes {
		require.Positive(t, w.seen[o], "the walk never came to %s", o)
	}
}
