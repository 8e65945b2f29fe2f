package script_test

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// oldTurnScripts returns the scripts of releases before the queue. Their
// processes share records with ours while a fleet is upgraded. Their sources
// never change.
func oldTurnScripts(t *testing.T) map[string]*script.Script {
	old := map[string]*script.Script{}
	for name := range turnScripts {
		src, err := os.ReadFile("testdata/turn/" + name + ".lua")
		require.NoError(t, err)
		old[name] = script.New(name, string(src))
	}
	return old
}

var turnScripts = map[string]*script.Script{
	"take": script.TakeTurn, "extend": script.ExtendTurn, "end": script.EndTurn, "return": script.ReturnTurn,
}

const (
	turnLease  = int64(3_000)  // ms
	turnPeriod = int64(60_000) // ms
)

var unowned entry.Token

// A turn is a record with times relative to a moment. A till of 0 stays 0.
type turn struct {
	state      byte
	token      entry.Token
	slot, till int64
	queue      queue
}

// A queue is the part of a record that says which processes look at the turn.
type queue struct {
	watched bool
	last    int
	none    bool // the record was written by a release before the queue
}

// bytes returns the record as the scripts write it.
func (r turn) bytes(at int64) string {
	if r.till != 0 {
		r.till += at
	}
	b := append([]byte{0xC1, 'T', 1, r.state}, r.token[:]...)
	if !r.queue.none {
		b = append(b[:8], 'Q', 1, byte(r.queue.last>>8), byte(r.queue.last))
		if r.queue.watched {
			b[10] |= 0x80
		}
	}
	for _, n := range []int64{r.slot + at, r.till} {
		for shift := 40; shift >= 0; shift -= 8 {
			b = append(b, byte(n>>shift))
		}
	}
	return string(b)
}

const turnQueue = 10 // periods that a process waits at most

// turning returns the arguments of every script of the turns.
func turning(token entry.Token, bits ...int) []any {
	args := []any{token[:], turnLease, turnPeriod, turnQueue, 0}
	for _, bit := range bits {
		args[4] = args[4].(int) | bit
	}
	return args
}

// A turnRow says how a script changes the content of the key.
type turnRow struct {
	name  string
	setUp func(c *cell)
	reply func(at int64) any // at is the time from the setup of the key to the run of the script
	wants *turn              // the record after the script, relative to its run; nil: unchanged
	phase bool               // the slot is relative to the setup of the key
	bits  int                // of TakeTurn
	kept  bool               // the TTL has not changed
}

func with(r turn) func(*cell) {
	return func(c *cell) {
		at := c.now()
		c.seed(r.bytes(at), seedTTL)
		c.seeded = at // the rows count from here; a little early for the TTL
	}
}

func is(reply any) func(int64) any { return func(int64) any { return reply } }

func in(kind string, ms int64) func(int64) any {
	return func(at int64) any { return []any{kind, ms - at} }
}

func turnTable(t *testing.T, s *script.Script, rows []turnRow) {
	t.Helper()
	each(t, func(t *testing.T, rdb *redis.Client) {
		for _, row := range rows {
			c := newCell(t, rdb)
			row.setUp(c)
			before := c.snapshot()
			reply := c.do(s, turning(own, row.bits)...)
			at := 0
			for ; c.t0+int64(at) <= c.t1; at++ { // tries each moment at which the script may have run
				now := c.t0 + int64(at)
				want := before
				if row.wants != nil {
					r := *row.wants
					if row.phase {
						r.slot -= now - c.seeded
					}
					if row.kept && r.till != 0 {
						r.till -= now - c.seeded
					}
					want = r.bytes(now)
				}
				if fmt.Sprint(row.reply(now-c.seeded)) == fmt.Sprint(reply) && c.snapshot() == want {
					break
				}
			}
			require.LessOrEqual(t, c.t0+int64(at), c.t1, "%s: %v, %q was %q", row.name, reply, c.snapshot(), before)
			switch {
			case row.wants != nil && !row.kept:
				c.requireTTL(time.Duration(2*turnPeriod+turnLease)*time.Millisecond, c.t0, row.name)
			case before != "none":
				c.requireTTL(c.ttl, c.seeded, row.name)
			}
		}
	})
}

// noTurn returns rows for content that no script treats as a record.
func noTurn(row turnRow) []turnRow {
	record := turn{'D', own, 0, 0, queue{}}.bytes(stoppedAt)
	spoiled := func(spoil func(b []byte)) func(*cell) {
		return func(c *cell) {
			b := []byte(record)
			spoil(b)
			c.seed(string(b), seedTTL)
		}
	}
	var rows []turnRow
	for name, setUp := range map[string]func(*cell){
		"absent":      func(c *cell) { c.seeded = c.now() },
		"foreign":     func(c *cell) { c.seed("hello", seedTTL) },
		"foreignKept": func(c *cell) { c.seed(strings.Repeat("hello", 20), 0) },
		"empty":       func(c *cell) { c.seed("", seedTTL) },
		"cut":         func(c *cell) { c.seed(record[:23], seedTTL) },
		"longer":      func(c *cell) { c.seed(record+"x", seedTTL) },
		"wrongMagic":  spoiled(func(b []byte) { b[1] = 'X' }),
		"wrongFormat": spoiled(func(b []byte) { b[2] = 2 }),
		"wrongState":  spoiled(func(b []byte) { b[3] = 'V' }),
		"entry":       func(c *cell) { c.seed(c.entry(entry.Header{State: entry.Lease, Token: own}, ""), seedTTL) },
		"list":        func(c *cell) { c.rdb.RPush(c.t.Context(), c.key, "a"); c.seeded = c.now() },
		"hash":        func(c *cell) { c.rdb.HSet(c.t.Context(), c.key, "a", "b"); c.seeded = c.now() },
	} {
		row.name, row.setUp = name, setUp
		rows = append(rows, row)
	}
	return rows
}

func TestATurnIsTakenOnceAPeriodAndWhereItsHolderIsGone(t *testing.T) {
	t.Parallel()
	taken := func(name string, before turn, slot int64) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is([]any{"T", int64(0)}), wants: &turn{'R', own, slot, turnLease, queue{}}, phase: true}
	}
	refused := func(name string, before turn, reply func(int64) any) turnRow {
		after := before
		if after.queue.watched = before.state == 'R' || before.queue.watched; before.state == 'D' {
			after.queue.last++
		}
		return turnRow{name: name, setUp: with(before), reply: reply, wants: &after, phase: true, kept: true}
	}
	rows := noTurn(turnRow{reply: is([]any{"T", int64(0)}), wants: &turn{'R', own, 0, turnLease, queue{}}})
	rows = append(rows,
		refused("held", turn{'R', other, -1_000, 30_000, queue{}}, in("H", 30_000)),
		refused("held for longer than a period", turn{'R', other, -200_000, 30_000, queue{}}, in("H", 30_000)),
		refused("held under a longer lease", turn{'R', other, -1_000, 30_000, queue{}}, in("H", 30_000)),
		refused("done", turn{'D', other, -1_000, 0, queue{}}, in("D", 59_000)),
		refused("done by a copy of this command", turn{'D', own, -1_000, 0, queue{}}, in("D", 59_000)),
		refused("done, and the clock was set back", turn{'D', other, 59_000, 0, queue{}}, in("D", 119_000)),
		refused("held, and the clock was set back", turn{'R', other, 600_000, 30_000, queue{}}, in("H", 30_000)),

		taken("run out", turn{'R', other, -10_000, -1, queue{}}, -10_000),
		taken("given back", turn{'R', unowned, -10_000, 0, queue{}}, -10_000),
		taken("held by a copy of this command", turn{'R', own, -10_000, 30_000, queue{}}, -10_000),
		taken("done in the period before", turn{'D', other, -60_000, 0, queue{}}, 0),
		taken("done two periods before", turn{'D', other, -150_000, 0, queue{}}, -30_000),
		taken("run out in the period before", turn{'R', other, -61_000, -1, queue{}}, -1_000),
		taken("run out, and the clock was set back", turn{'R', other, 30_000, -1, queue{}}, 30_000),
	)
	// It was written by another clock, far ahead: TakeTurn ignores it.
	reset := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is([]any{"T", int64(0)}), wants: &turn{'R', own, 0, turnLease, queue{}}}
	}
	rows = append(rows,
		reset("done, much later than now", turn{'D', other, 3_600_000, 0, queue{last: 5}}),
		reset("held, much later than now", turn{'R', other, 3_600_000, 3_603_000, queue{last: 5}}),
	)
	turnTable(t, script.TakeTurn, rows)
}

// One process watches a turn that is held. One of the others looks in each
// period.
func TestTakeTurn_QueuesProcessesThatDoNotGetTheTurn(t *testing.T) {
	t.Parallel()
	row := func(name string, before turn, kind string, ms int64, after queue, bits ...int) turnRow {
		wants := before
		wants.queue = after
		r := turnRow{name: name, setUp: with(before), reply: in(kind, ms), wants: &wants, phase: true, kept: true}
		for _, bit := range bits {
			r.bits |= bit
		}
		return r
	}
	held := func(q queue) turn { return turn{'R', other, -1_000, 30_000, q} }
	done := func(q queue) turn { return turn{'D', other, -1_000, 0, q} }
	const next, period = turnPeriod - 1_000, turnPeriod
	rows := []turnRow{
		row("the first finds it held", held(queue{last: 3}), "H", 30_000, queue{watched: true, last: 3}),
		row("it looks again", held(queue{watched: true, last: 3}), "H", 30_000, queue{watched: true, last: 3}, script.TurnWatched),
		row("the second finds it held", held(queue{watched: true, last: 3}), "D", next+3*period, queue{watched: true, last: 4}),
		row("a process with a place finds it held", held(queue{last: 3}), "H", 30_000, queue{watched: true, last: 3}, script.TurnKept),
		row("a process with a place finds it watched", held(queue{watched: true, last: 3}), "D", next, queue{watched: true, last: 3}, script.TurnKept),
		row("the watcher has a place", held(queue{watched: true, last: 3}), "H", 30_000, queue{watched: true, last: 3}, script.TurnWatched, script.TurnKept),
		row("held and watched for three periods", turn{'R', other, -3*turnPeriod - 1_000, 30_000, queue{watched: true, last: 1}}, "D", next, queue{watched: true, last: 4}),

		row("done, and no queue", done(queue{}), "D", next, queue{last: 1}),
		row("done, and a queue", done(queue{watched: true, last: 7}), "D", next+7*period, queue{watched: true, last: 8}),
		row("done, seen by its watcher", done(queue{watched: true, last: 7}), "D", next+7*period, queue{watched: true, last: 8}, script.TurnWatched),
		row("done, and a place", done(queue{last: 7}), "D", next, queue{last: 7}, script.TurnKept),
		row("done, and a place, seen by its watcher", done(queue{last: 7}), "D", next, queue{last: 7}, script.TurnWatched, script.TurnKept),
		// The fifth and sixth bytes of own are C1 FF: one of the five later
		// periods.
		row("done, and the queue is full", done(queue{last: turnQueue}), "D", next+(turnQueue-1-0xC1FF%5)*period, queue{last: turnQueue}),
		row("done, and the queue is longer than for this process", done(queue{last: 30_000}), "D", next+(turnQueue-1-0xC1FF%5)*period, queue{last: 30_000}),
		row("held for longer than a queue can be", turn{'R', other, -40_000*turnPeriod - 1_000, 30_000, queue{watched: true, last: 1}}, "D", next+(turnQueue-1-0xC1FF%5)*period, queue{watched: true, last: 1}),

		row("held by a release without a queue", held(queue{none: true}), "H", 30_000, queue{none: true}),
		row("done by a release without a queue", done(queue{none: true}), "D", next, queue{none: true}),
	}
	taken := func(name string, before turn, slot int64, after queue) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is([]any{"T", int64(0)}), wants: &turn{'R', own, slot, turnLease, after}, phase: true}
	}
	rows = append(rows,
		taken("taken in the next period", turn{'D', other, -60_000, 0, queue{watched: true, last: 7}}, 0, queue{last: 6}),
		taken("taken two periods later", turn{'D', other, -150_000, 0, queue{last: 7}}, -30_000, queue{last: 5}),
		taken("taken when the queue is over", turn{'D', other, -150_000, 0, queue{last: 1}}, -30_000, queue{}),
		taken("taken over", turn{'R', other, -10_000, -1, queue{watched: true, last: 7}}, -10_000, queue{last: 7}),
		taken("given back", turn{'R', unowned, -10_000, 0, queue{watched: true, last: 7}}, -10_000, queue{last: 7}),
		taken("taken after a release without a queue", turn{'D', other, -60_000, 0, queue{none: true}}, 0, queue{}),
		taken("taken over from a release without a queue", turn{'R', other, -10_000, -1, queue{none: true}}, -10_000, queue{}),
	)
	turnTable(t, script.TakeTurn, rows)
}

func TestATurnIsExtendedByItsHolderUntilItIsDone(t *testing.T) {
	t.Parallel()
	extended := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is(int64(1)), wants: &turn{'R', own, before.slot, turnLease, before.queue}, phase: true}
	}
	lost := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is(int64(0))}
	}
	turnTable(t, script.ExtendTurn, append(noTurn(turnRow{reply: is(int64(0))}),
		extended("held", turn{'R', own, -1_000, 2_000, queue{}}),
		extended("run out", turn{'R', own, -10_000, -1, queue{}}),
		extended("watched", turn{'R', own, -1_000, 2_000, queue{watched: true, last: 500}}),
		extended("longer than a period", turn{'R', own, -100_000, 1_000, queue{}}),
		lost("of a release without a queue", turn{'R', own, -1_000, 2_000, queue{none: true}}),
		lost("somebody else's", turn{'R', other, -1_000, 2_000, queue{}}),
		lost("somebody else's, run out", turn{'R', other, -1_000, -1, queue{}}),
		lost("given back", turn{'R', unowned, -1_000, 0, queue{}}),
		lost("done", turn{'D', own, -1_000, 0, queue{}}),
	))
}

func TestATurnThatEndsKeepsThePeriod(t *testing.T) {
	t.Parallel()
	ended := func(name string, before turn, reply func(int64) any) turnRow {
		return turnRow{name: name, setUp: with(before), reply: reply, wants: &turn{'D', own, before.slot, 0, before.queue}, phase: true}
	}
	left := func(ms int64) func(int64) any { return func(at int64) any { return ms - at } }
	lost := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is(int64(-1))}
	}
	turnTable(t, script.EndTurn, append(noTurn(turnRow{reply: is(int64(-1))}),
		ended("held", turn{'R', own, -1_000, 2_000, queue{}}, left(59_000)),
		ended("watched", turn{'R', own, -1_000, 2_000, queue{watched: true, last: 500}}, left(59_000)),
		ended("run out", turn{'R', own, -10_000, -1, queue{}}, left(50_000)),
		ended("longer than a period", turn{'R', own, -60_000, 1_000, queue{}}, is(int64(0))),
		ended("done", turn{'D', own, -1_000, 0, queue{}}, left(59_000)),
		lost("somebody else's", turn{'R', other, -1_000, 2_000, queue{}}),
		lost("done by somebody else", turn{'D', other, -1_000, 0, queue{}}),
		lost("given back", turn{'R', unowned, -1_000, 0, queue{}}),
	))
}

func TestATurnThatIsGivenBackIsNobodysInTheSamePeriod(t *testing.T) {
	t.Parallel()
	back := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is(int64(0)), wants: &turn{'R', unowned, before.slot, 0, before.queue}, phase: true}
	}
	lost := func(name string, before turn) turnRow {
		return turnRow{name: name, setUp: with(before), reply: is(int64(-1))}
	}
	turnTable(t, script.ReturnTurn, append(noTurn(turnRow{reply: is(int64(-1))}),
		back("held", turn{'R', own, -1_000, 2_000, queue{}}),
		back("watched", turn{'R', own, -1_000, 2_000, queue{watched: true, last: 500}}),
		back("run out", turn{'R', own, -10_000, -1, queue{}}),
		lost("somebody else's", turn{'R', other, -1_000, 2_000, queue{}}),
		lost("given back", turn{'R', unowned, -1_000, 0, queue{}}),
		lost("done", turn{'D', own, -1_000, 0, queue{}}),
	))
}

// The test takes every order of the steps of three attempts, of time, and of
// copies that come late by any delay. If two orders end in the same state, it
// continues only one. A step that an attempt has sent before is a late copy.
func TestNoOrderOfStepsGivesAPeriodTwoTurnsThatAreDone(t *testing.T) {
	t.Parallel()
	type release = map[string]*script.Script
	oldTurnScripts := oldTurnScripts(t)
	for name, releases := range map[string][]release{
		"one release":               {turnScripts, turnScripts, turnScripts},
		"an old process":            {turnScripts, turnScripts, oldTurnScripts},
		"old ones and a new one":    {oldTurnScripts, oldTurnScripts, turnScripts},
		"old ones, as they behaved": {oldTurnScripts, oldTurnScripts, oldTurnScripts},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			walkTurns(t, releases)
		})
	}
}

// walkTurns takes the steps of three attempts, each with the scripts of a
// release.
func walkTurns(t *testing.T, releases []map[string]*script.Script) {
	const day, lease = int64(24 * time.Hour / time.Millisecond), hour
	tokens := []entry.Token{own, other, {1}}
	type path struct {
		record string // "" if absent
		holder int    // the process that has the turn for certain; -1 for no process
		done   bool   // in this period
		story  string
	}
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		key, ctx, states := redistest.Key(t), t.Context(), 0
		for _, release := range releases {
			for _, s := range release {
				require.NoError(t, rdb.ScriptLoad(ctx, s.Source()).Err())
			}
		}
		shifted := func(record string, slot, till int64) string {
			edit := func(from int, by int64) {
				n := int64(0)
				for _, b := range []byte(record[from : from+6]) {
					n = n<<8 | int64(b)
				}
				b := []byte(record)
				for i, n := 5, n+by; i >= 0; i, n = i-1, n>>8 {
					b[from+i] = byte(n)
				}
				record = string(b)
			}
			edit(12, slot)
			if strings.Trim(record[18:], "\x00") != "" {
				edit(18, till)
			}
			return record
		}
		at := func(record string) (slot, till int64) {
			for i := range 6 {
				slot, till = slot<<8|int64(record[12+i]), till<<8|int64(record[18+i])
			}
			return slot, till
		}
		seen := map[string]bool{}
		known := func(p path) bool { // ignores the effect of time on the record
			id := fmt.Sprint(p.holder, p.done)
			if p.record != "" {
				now := rdb.Time(ctx).Val().UnixMilli()
				slot, till := at(p.record)
				id += fmt.Sprintf(" %x %d %t", p.record[:12], (now-slot)/day, till > now)
			}
			was := seen[id]
			seen[id] = true
			return was
		}
		var walk func(p path)
		run := func(p path, name string, n, bits int) (path, any) {
			var reply *redis.Cmd
			var get *redis.StringCmd
			sha := digest(releases[n][name])
			_, _ = rdb.Pipelined(ctx, func(pipe redis.Pipeliner) error { // redis.Nil has a meaning here
				pipe.Del(ctx, key)
				if p.record != "" {
					pipe.Set(ctx, key, p.record, time.Hour)
				}
				reply = pipe.EvalSha(ctx, sha, []string{key}, tokens[n][:], lease, day, 2, bits)
				get = pipe.Get(ctx, key)
				return nil
			})
			require.NoError(t, reply.Err(), p.story)
			p.record, p.story = get.Val(), fmt.Sprintf("%s %s%d", p.story, name, n)
			return p, reply.Val()
		}
		walk = func(p path) {
			if known(p) {
				return
			}
			states++
			for n := range tokens {
				for _, bits := range []int{0, script.TurnWatched, script.TurnKept} {
					q, reply := run(p, "take", n, bits)
					if kind := reply.([]any)[0]; kind == "T" {
						require.False(t, p.done, "%s: a second turn in one period", q.story)
						require.True(t, p.holder == -1 || p.holder == n, "%s: two have the turn", q.story)
						q.holder = n
					} else {
						require.True(t, p.done || p.holder >= 0, "%s: no process may go on: %v", q.story, reply)
					}
					walk(q)
				}

				q, reply := run(p, "extend", n, 0)
				require.True(t, p.holder != n || reply == int64(1), "%s: lost", q.story)
				require.True(t, p.holder == -1 || p.holder == n || reply == int64(0), "%s: taken away", q.story)
				if reply == int64(1) {
					q.holder = n
				}
				walk(q)

				q, reply = run(p, "end", n, 0)
				require.True(t, p.holder != n || reply.(int64) >= 0, "%s: lost", q.story)
				require.True(t, p.holder == -1 || p.holder == n || reply == int64(-1), "%s: taken away", q.story)
				if reply.(int64) >= 0 {
					q.holder, q.done = -1, reply.(int64) > 0
				}
				walk(q)

				q, reply = run(p, "return", n, 0)
				require.True(t, p.holder != n || reply == int64(0), "%s: lost", q.story)
				require.True(t, p.holder == -1 || p.holder == n || reply == int64(-1), "%s: taken away", q.story)
				require.True(t, !p.done || reply == int64(-1), "%s: a turn that is done was given back", q.story)
				if reply == int64(0) {
					q.holder = -1
				}
				walk(q)
			}
			if p.record != "" {
				q := p
				q.record, q.holder, q.story = shifted(p.record, 0, -2*lease), -1, p.story+" lapse"
				walk(q)
				if slot, _ := at(p.record); rdb.Time(ctx).Val().UnixMilli()-slot < 2*day {
					q = p
					q.record, q.done, q.story = shifted(p.record, -day, 0), false, p.story+" period"
					walk(q)
				}
			}
		}
		walk(path{holder: -1})
		require.Greater(t, states, 20, "most states were not reached")
		t.Logf("%d states", states)
	})
}

func digest(s *script.Script) string {
	sum := sha1.Sum([]byte(s.Source()))
	return hex.EncodeToString(sum[:])
}
