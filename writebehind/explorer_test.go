package writebehind

import (
	"cmp"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
)

// world is a set of processes that write and flush, a Redis and a database, in
// one order of their steps. A step is a command that Redis executes, or BEGIN
// or COMMIT of the database. Every process waits at each of its steps until it
// is chosen. So a condition that is true while all of them wait is true at that
// point of that order.
//
// A step may have a mishap. The process is killed before or after the step. Or
// the connection breaks before or after it, and the process goes on with an
// error. Or the network keeps a copy of the command, which is executed at some
// other time.
type world struct {
	lab    *lab
	d      *database
	name   string
	events chan event // a process waits, or has ended

	procs   []*proc          // processes that have not ended
	mishaps int              // mishaps that may still happen
	kinds   []mishap         // mishaps that may happen at all
	written map[string]int64 // the deltas that Redis has added
	engines []*Engine
	taken   []string // the steps, for the message
	wrong   string   // the first complaint

	atOnce int   // ids that one call of a script takes; 0 for the default
	merge  Merge // 0 stands for Sum

	forks bool         // Redis loses some keys
	end   func(*world) // nil, or the check at the end
}

type mishap string

const (
	none       mishap = ""
	killBefore mishap = "killed before"
	killAfter  mishap = "killed after"
	cutBefore  mishap = "cut off before"
	cutAfter   mishap = "cut off after"
	copied     mishap = "copied at"
)

type proc struct {
	w     *world
	name  string
	copy  bool        // the waiting command can be copied
	step  string      // the step where it waits; "" while it runs
	grant chan mishap // the answer
	dead  bool        // used by the goroutine of the process alone
}

type event struct {
	p     *proc
	step  string
	copy  bool
	ended bool
}

var errDead = errors.New("the process is dead")

// await waits until the process is chosen. It returns the mishap of the step.
func (p *proc) await(step string, copy bool) mishap {
	p.w.events <- event{p: p, step: step, copy: copy}
	return <-p.grant
}

// do runs a step of the process.
func (p *proc) do(step string, effect func(), again func()) error {
	if p.dead {
		return errDead
	}
	switch p.await(step, again != nil) {
	case killBefore:
		p.dead = true
		return errDead
	case killAfter:
		effect()
		p.dead = true
		return errDead
	case cutBefore:
		return io.EOF
	case cutAfter:
		effect()
		return io.EOF
	case copied:
		p.w.start(p.name+"'s copy", func(ghost *proc) { _ = ghost.do(step, again, nil) })
	}
	effect()
	return nil
}

// start begins a process. The process waits at its first step, or has ended,
// before another one is chosen.
func (w *world) start(name string, run func(p *proc)) {
	p := &proc{w: w, name: name, grant: make(chan mishap)}
	w.procs = append(w.procs, p)
	go func() { // ends when play has ended
		run(p)
		w.events <- event{p: p, ended: true}
	}()
}

// startEngine begins a process that has an engine. All engines have the same
// name me, because otherwise each would leave the batches of the others alone.
func (w *world) startEngine(name string, o Options, run func(p *proc, e *Engine)) {
	rdb := w.lab.client(len(w.engines))
	var p *proc
	o.Name, o.Merge, o.Buckets, o.Every, o.LeaseTTL = w.name, cmp.Or(w.merge, Sum), 1, maxPeriod, maxPeriod
	o.Persist = func(ctx context.Context, b ledger.Batch) error {
		if n := len(b.Deltas) + len(b.Values); n == 0 || n > 1 && o.MaxBatch == 1 && o.Merge == Last {
			w.complain("Persist is given %d ids", n)
		}
		return w.d.apply(ctx, b, func(name string, do func()) error { return p.do(name, do, nil) })
	}
	e, err := New(rdb, o)
	require.NoError(w.lab.t, err)
	e.me = "everybody"
	if w.atOnce > 0 {
		e.atOnce = w.atOnce
	}
	e.begun.Store(true) // nothing happens in the background
	w.engines = append(w.engines, e)
	w.start(name, func(self *proc) {
		p = self
		rdb.hook.p = self
		run(p, e)
	})
}

// lab is the state that the worlds of one test share.
type lab struct {
	t       testing.TB
	rdb     *redis.Client // without a hook
	clients []labClient

	mutants map[string]*script.Script // nil, or the replacement for the script of a step

	naive    bool // the database has no ledger
	amnesia  bool // the ledger does not record unread ids
	tolerant bool // bad orders are counted and do not fail the test
	enough   bool // one bad order ends the search
	bad      int
}

type labClient struct {
	*redis.Client
	hook *stepping
}

func newLab(t testing.TB, rdb *redis.Client) *lab {
	for s := range steps {
		require.NoError(t, rdb.ScriptLoad(t.Context(), s.Source()).Err()) // otherwise the first worlds had more steps
	}
	return &lab{t: t, rdb: rdb}
}

// mutate replaces texts in the script of a step. changes has each text and its
// replacement alternately.
func (l *lab) mutate(step string, changes ...string) {
	for s, name := range steps {
		if name != step {
			continue
		}
		for i := 0; i < len(changes); i += 2 {
			require.Contains(l.t, s.Source(), changes[i])
		}
		mutant := script.New(step, strings.NewReplacer(changes...).Replace(s.Source()))
		require.NoError(l.t, l.rdb.ScriptLoad(l.t.Context(), mutant.Source()).Err())
		l.mutants, l.tolerant = map[string]*script.Script{step: mutant}, true
	}
}

// client returns the i-th client.
func (l *lab) client(i int) labClient {
	for len(l.clients) <= i {
		c := labClient{redis.NewClient(&redis.Options{Addr: l.rdb.Options().Addr, ReadTimeout: patience}), &stepping{}}
		c.AddHook(c.hook)
		l.t.Cleanup(func() { _ = c.Close() })
		l.clients = append(l.clients, c)
	}
	return l.clients[i]
}

// pendSet sets a count, as the script of a counter does.
var pendSet = script.New("pend set", script.Pend+`
behind_put(KEYS[1], ARGV[1], '=' .. ARGV[2])
return 1
`)

// steps names the scripts that the processes run.
var steps = map[*script.Script]string{
	script.PendAdd: "add", pendSet: "set", script.PendPut: "put", script.TakeBatch: "take", script.AckBatch: "ack", script.HoldBatch: "hold",
	script.ReadBatch: "read", script.RenumberBatch: "renumber", script.DropBatch: "drop", script.SubtractBatch: "subtract",
	script.ParkBatch: "park", script.UnparkBatch: "unpark", script.SettleBatch: "settle", script.ListUnread: "list", script.RescueUnread: "rescue",
}

var stepNames = func() map[string]string {
	names := make(map[string]string)
	for s, name := range steps {
		sum := sha1.Sum([]byte(s.Source()))
		names[hex.EncodeToString(sum[:])] = name
	}
	return names
}()

// stepping is a hook that makes each script a step of a process.
type stepping struct{ p *proc }

func (s *stepping) DialHook(next redis.DialHook) redis.DialHook { return next }

func (s *stepping) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return next
}

func (s *stepping) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		p, args := s.p, cmd.Args()
		if cmd.Name() != "evalsha" {
			return next(ctx, cmd)
		}
		name := stepNames[args[1].(string)]
		if mutant := p.w.lab.mutants[name]; mutant != nil {
			args[1] = mutant.SHA()
		}
		again := func() { _ = p.w.lab.rdb.Do(context.Background(), args...).Err() } // the reply is lost
		if name == "add" || name == "set" || name == "put" {
			again = nil // it is never sent twice
		}
		var result error
		err := p.do(name, func() {
			if result = next(ctx, cmd); result == nil && name == "add" {
				delta, _ := strconv.ParseInt(args[5].(string), 10, 64)
				p.w.written[args[4].(string)] += delta
			} else if result == nil && name == "set" {
				p.w.written[args[4].(string)] = number(fmt.Sprint(args[5]))
			} else if result == nil && name == "put" {
				p.w.written[args[4].(string)] = number(string(args[5].([]byte)))
			}
		}, again)
		if err != nil {
			cmd.SetErr(err)
			return err
		}
		return result
	}
}

// play runs the processes until all have ended. pick chooses one of n.
func (w *world) play(pick func(n int) int) {
	running := len(w.procs)
	for {
		for running > 0 {
			// A process that another one starts waits too.
			ev := <-w.events
			if ev.ended {
				w.procs = slices.DeleteFunc(w.procs, func(p *proc) bool { return p == ev.p })
			} else {
				ev.p.step, ev.p.copy = ev.step, ev.copy
			}
			running = 0
			for _, p := range w.procs {
				if p.step == "" {
					running++
				}
			}
		}
		w.check()
		if len(w.procs) == 0 {
			return
		}
		type choice struct {
			p *proc
			m mishap
		}
		var choices []choice
		for _, p := range w.procs {
			choices = append(choices, choice{p, none})
			if w.mishaps > 0 {
				for _, m := range w.kinds {
					if m != copied || p.copy {
						choices = append(choices, choice{p, m})
					}
				}
			}
		}
		c := choices[pick(len(choices))]
		if c.m != none {
			w.mishaps--
		}
		w.taken = append(w.taken, strings.TrimSpace(fmt.Sprintf("%s %s %s", c.p.name, c.m, c.p.step)))
		c.p.step = ""
		running = 1
		c.p.grant <- c.m
	}
}
