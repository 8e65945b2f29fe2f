package engine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// A world is one schedule of a scenario.
type world struct {
	x      *explorer
	ctx    context.Context
	cancel context.CancelFunc

	// Set by a scenario.
	replies bool // the arrival of a reply is a step
	stale   bool // there is a stale value of version 0
	swr     time.Duration
	orphans bool // a lease without a holder may stay
	copies  bool // Store and Release may be delivered again at any later time
	hides   bool // processes do not hear that a key was expired under their lease
	seized  bool // another process may take the lease from its holder
	most    int  // how often a waiter may poll while others could go on
	two     bool // there is a second key, which is read and never changed

	mu      sync.Mutex
	wg      sync.WaitGroup
	loaders []*Loader[int64]
	over    bool
	pending map[step]chan struct{}
	dead    map[string]bool
	polls   map[string]int // by process
	open    map[string]int // calls that have not returned, by process
	taken   []string
	wrong   []string

	versions map[string]int64 // written by writers, by process

	db    int64 // the version in the database
	floor int64 // the lowest version that a call that begins now may get
	lease bool  // a process has the lease
}

// errOver ends active commands at the end of a schedule. It must not count as
// evidence against Redis, or the next schedules would run without Redis.
var errOver = fmt.Errorf("the process is no more: %w", redis.ErrClosed)

// step waits until the step is chosen. It returns an error if it never is.
func (w *world) step(s step) error {
	w.mu.Lock()
	for {
		if _, taken := w.pending[s]; !taken {
			break
		}
		s.name += "'"
	}
	if w.over {
		w.mu.Unlock()
		return errOver
	}
	ch := make(chan struct{})
	w.pending[s] = ch
	w.mu.Unlock()
	<-ch
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over {
		return errOver
	}
	return nil
}

// possible returns the steps that can be taken now, in a deterministic order. A
// poll that found nothing new has to wait when it has had its share, or a
// schedule would have no end.
func (w *world) possible() []step {
	w.mu.Lock()
	defer w.mu.Unlock()
	var steps, polls []step
	for s := range w.pending {
		switch {
		case w.dead[s.proc]:
		case strings.HasPrefix(s.name, "poll") && w.polls[s.proc] >= w.most:
			polls = append(polls, s)
		default:
			steps = append(steps, s)
		}
	}
	if len(steps) == 0 {
		steps = polls
	}
	slices.SortFunc(steps, func(a, b step) int { return strings.Compare(a.proc+"\x00"+a.name, b.proc+"\x00"+b.name) })
	return steps
}

// play takes steps until there are none. It returns false if pick gave up.
func (w *world) play(pick func([]step) int) bool {
	for idle := 0; idle < 100; {
		time.Sleep(50 * time.Millisecond) // so that waiters reach their next poll
		synctest.Wait()
		steps := w.possible()
		if len(steps) == 0 {
			if w.returned() {
				return true
			}
			idle++
			continue
		}
		i := pick(steps)
		if i < 0 {
			return false
		}
		idle = 0
		w.mu.Lock()
		s := steps[i]
		ch := w.pending[s]
		delete(w.pending, s)
		w.taken = append(w.taken, s.proc+": "+s.name)
		if strings.HasPrefix(s.name, "poll") {
			w.polls[s.proc]++
		}
		w.mu.Unlock()
		close(ch)
		if s.proc == "time" {
			time.Sleep(beat)
		}
		if len(w.taken) > 300 {
			break
		}
	}
	w.complain("the schedule does not end")
	return true
}

// returned reports whether all calls of living processes have returned.
func (w *world) returned() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for proc, n := range w.open {
		if n > 0 && !w.dead[proc] {
			return false
		}
	}
	return true
}

// opens counts a call that begins, or, if n is -1, one that has returned.
func (w *world) opens(proc string, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open[proc] += n
}

// end lets everything run out.
func (w *world) end() {
	w.mu.Lock()
	w.over = true
	for _, ch := range w.pending {
		close(ch)
	}
	w.mu.Unlock()
	w.cancel()
	w.wg.Wait()
	synctest.Wait()
	for _, l := range w.loaders {
		require.NoError(w.x.t, l.Close(context.Background()))
	}
	for _, err := range w.x.t.leasesOf(w.x.t.rdb).Delete(w.x.t.Context(), []string{w.x.t.key, w.beside()}) {
		require.NoError(w.x.t, err)
	}
}

func (w *world) complain(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// executed checks the replies of Redis: no process gets a lease while another
// has one.
func (w *world) executed(name string, cmd redis.Cmder) {
	reply, ok := cmd.(interface {
		Slice() ([]any, error)
		Val() any
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case name == "del" || name == "unlink" || name == "hdel":
		w.lease = false
	case !ok:
	case name == "acquire":
		parts, _ := reply.Slice()
		if len(parts) == 0 || parts[0] != string(Granted) && parts[0] != string(GrantedStale) {
			return
		}
		if w.lease && !w.seized {
			w.wrong = append(w.wrong, "two have the lease")
		}
		w.lease = true
	case name == "store" || name == "release":
		if reply.Val() != int64(0) {
			w.lease = false
		}
	}
}

// deliverAgain makes another delivery of a command a step that may come later.
func (w *world) deliverAgain(proc, name string, cmd redis.Cmder) {
	if name != "store" && name != "release" {
		return
	}
	w.spawn(func() {
		s := step{"network", "another delivery of " + name + " of " + proc, writesKey}
		if w.step(s) == nil {
			again := redis.NewCmd(w.ctx, cmd.Args()...)
			_ = w.x.t.rdb.Process(w.ctx, again)
			w.executed(name, again)
		}
	})
}

// verdict checks the final state in Redis, when nothing happens any more.
func (w *world) verdict() {
	if w.two {
		w.settled()
	}
	b, err := w.x.t.get(w.x.t.key)
	if errors.Is(err, redis.Nil) {
		return
	}
	require.NoError(w.x.t, err)
	h, payload, ok := w.x.t.leasesOf(w.x.t.rdb).parse(w.x.t.key, b)
	switch {
	case !ok && string(b) == fmt.Sprint(w.db): // of a reader without entries
	case !ok:
		w.complain("%q stays", b)
	case h.State == entry.Lease && len(w.dead) == 0 && !w.orphans:
		w.complain("a lease stays")
	case h.State == entry.Value && string(payload) != fmt.Sprint(w.db) && h.Flags&entry.Stale == 0:
		w.complain("version %s stays, and the newest is %d", payload, w.db)
	}
}

// spawn runs fn as a part of the schedule.
func (w *world) spawn(fn func()) { w.wg.Go(fn) }

// loader returns a Loader for a process.
func (w *world) loader(proc string) *Loader[int64] {
	l, err := newTyped(w.x.client(proc), typedOptions[int64]{
		LeaseTTL: time.Hour, Timeout: 10 * time.Hour, StaleWhileRevalidate: w.swr, StaleIfError: 1000 * time.Hour,
		Packed: w.x.t.packed,
	})
	require.NoError(w.x.t, err)
	quiet(l)
	w.loaders = append(w.loaders, l)
	return l
}

// life is the life of values. If they are packed, it gives them the short form.
func (w *world) life() Life {
	if !w.x.t.packed {
		return hour
	}
	return Life{Fresh: time.Hour, Keep: time.Hour + w.swr + 1000*time.Hour}
}

// load reads the database.
func (w *world) load(ctx context.Context, proc string) (int64, error) {
	if err := w.step(step{proc, "load of " + caller(ctx), readsDB | memory}); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.db, nil
}

// A reader is some way to read the key through Redis.
type reader func(ctx context.Context) (int64, error)

// reader returns the way of a real Loader.
func (w *world) reader(proc string, l *Loader[int64]) reader {
	return func(ctx context.Context) (int64, error) {
		return l.Get(ctx, w.x.t.key, func(ctx context.Context) (int64, Life, error) {
			v, err := w.load(ctx, proc)
			return v, w.life(), err
		})
	}
}

// call makes a call, and checks its result: it must not be loaded before a
// deletion that had returned when the call began.
func (w *world) call(proc, name string, read reader) {
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		w.check(proc, name, read)
	})
}

func (w *world) check(proc, name string, read reader) {
	err := w.step(step{proc, "begin " + name, begins | memory})
	w.mu.Lock()
	floor := w.floor
	w.mu.Unlock()
	var v int64
	if err == nil {
		v, err = read(context.WithValue(w.ctx, callerKey{}, name))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.over:
	case err != nil:
		w.wrong = append(w.wrong, name+" got the error "+err.Error())
	case v < floor:
		w.wrong = append(w.wrong, fmt.Sprintf("%s began after version %d was deleted for, and got %d", name, floor, v))
	}
}

// refresh makes a call of Refresh, and checks that its load began after it.
func (w *world) refresh(proc, name string, l *Loader[int64]) {
	w.seized = true
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		err := w.step(step{proc, "begin " + name, begins | readsDB | memory})
		w.mu.Lock()
		floor := w.db
		w.mu.Unlock()
		var v int64
		if err == nil {
			v, _, err = l.Refresh(context.WithValue(w.ctx, callerKey{}, name), w.x.t.key, func(ctx context.Context) (int64, Life, error) {
				v, err := w.load(ctx, proc)
				return v, w.life(), err
			})
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		switch {
		case w.over:
		case err != nil:
			w.wrong = append(w.wrong, name+" got the error "+err.Error())
		case v < floor:
			w.wrong = append(w.wrong, fmt.Sprintf("%s refreshed at version %d, and got %d", name, floor, v))
		}
	})
}

// commit changes the value in the database.
func (w *world) commit(proc string) (version int64, err error) {
	if err := w.step(step{proc, "commit", writesDB}); err != nil {
		return 0, err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.db++
	return w.db, nil
}

// change commits a new version and deletes the key, as a process that
// invalidates its cache, and then calls after.
func (w *world) change(proc string, forget, after func()) {
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		version, err := w.commit(proc)
		if err != nil {
			return
		}
		ctx := context.WithValue(w.ctx, callerKey{}, proc)
		if w.del(ctx, w.x.client(proc)) != nil {
			return
		}
		forget()
		w.mu.Lock()
		w.floor = max(w.floor, version)
		w.mu.Unlock()
		after()
	})
}

// del deletes the key as any program may.
func (w *world) del(ctx context.Context, rdb *redis.Client) error {
	at, field := w.x.t.leasesOf(rdb).locate(w.x.t.key)
	if w.x.t.packed {
		return rdb.HDel(ctx, at, field).Err()
	}
	return rdb.Del(ctx, at).Err()
}

// evict removes the key at some time, as an eviction does, or a lease whose
// holder is too slow to extend it.
func (w *world) evict() {
	w.spawn(func() {
		if w.step(step{"redis", "evict", writesKey}) == nil {
			_ = w.del(w.ctx, w.x.t.rdb)
			w.executed("del", nil)
		}
	})
}

// crash ends a process at some time. Its lease lapses some time after.
func (w *world) crash(proc string) {
	w.spawn(func() {
		if w.step(step{proc, "crash", process}) != nil {
			return
		}
		w.mu.Lock()
		w.dead[proc] = true
		w.mu.Unlock()
		w.evict()
	})
}

// beat is the time until a heartbeat.
const beat = time.Hour/3 + time.Second

// heartbeat lets that time pass at some moment.
func (w *world) heartbeat() {
	w.spawn(func() { _ = w.step(step{"time", "passes", everything}) })
}

// expire commits a new version and makes the value stale.
func (w *world) expire(proc string) { w.expireThen(proc, nothingMore) }

// expireThen is expire for a process that then calls after. If no stale value
// is served, callers that begin then must not get a value that was read before.
func (w *world) expireThen(proc string, after func()) {
	leases := w.x.t.leasesOf(w.x.client(proc))
	leases.retainStale = (w.swr + 1000*time.Hour).Milliseconds()
	w.opens(proc, 1)
	w.spawn(func() {
		defer w.opens(proc, -1)
		version, err := w.commit(proc)
		if err == nil {
			_, err = leases.Expire(context.WithValue(w.ctx, callerKey{}, proc), w.x.t.key)
		}
		switch {
		case err == nil && w.swr == 0:
			w.mu.Lock()
			w.floor = max(w.floor, version)
			w.mu.Unlock()
			after()
		case err != nil && !errors.Is(err, errOver):
			w.complain("%v", err)
		}
	})
}

// client returns the client of a process. Its commands are steps.
func (x *explorer) client(proc string) *redis.Client {
	rdb := x.clients[proc]
	if rdb == nil {
		rdb = x.t.client(wire{x, proc})
		x.clients[proc] = rdb
	}
	return rdb
}

// A wire is the hook that makes commands of a process steps.
type wire struct {
	x    *explorer
	proc string
}

func (h wire) DialHook(next redis.DialHook) redis.DialHook { return next }

// ProcessPipelineHook makes each command of a pipeline a step of its own: Redis
// may run commands of others between them.
func (h wire) ProcessPipelineHook(next redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(ctx context.Context, cmds []redis.Cmder) error {
		one := h.ProcessHook(func(ctx context.Context, cmd redis.Cmder) error { return next(ctx, []redis.Cmder{cmd}) })
		var first error
		for _, cmd := range cmds {
			first = cmp.Or(first, one(ctx, cmd))
		}
		return first
	}
}

func (h wire) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		w, name := h.x.world, scriptName(cmd)
		switch name {
		case "hello", "client":
			return next(ctx, cmd)
		}
		s := step{h.proc, name + " of " + caller(ctx), writesKey}
		if name == "get" || name == "hget" || name == "hmget" {
			s.touches = readsKey
			if waitfor.From(ctx) != nil {
				s.name = "poll of " + caller(ctx)
			}
		}
		_, field := w.x.t.leasesOf(w.x.t.rdb).locate(w.beside())
		beside := w.two && (slices.Contains(cmd.Args(), any(w.beside())) || w.x.t.packed && slices.Contains(cmd.Args(), any(field)))
		if both := name == "hmget" && len(cmd.Args()) > 3; both {
			s.touches |= readsBeside
		} else if beside {
			s.name += " beside"
			s.touches *= readsBeside / readsKey
		}
		// The reaction of the process to the reply is a part of that step.
		reply := step{h.proc, "reply to " + s.name, memory}
		if name == "del" || name == "hdel" {
			reply.touches |= ends
		}
		if !w.replies {
			s.touches |= reply.touches
		}
		err := w.step(s)
		if err == nil {
			err = next(ctx, cmd)
			if w.hides {
				hide(name, cmd)
			}
			if !beside {
				w.executed(name, cmd)
			}
			if w.copies {
				w.deliverAgain(h.proc, name, cmd)
			}
		}
		if w.replies && (err == nil || errors.Is(err, redis.Nil)) {
			err = cmp.Or(w.step(reply), err)
		}
		if err != nil {
			cmd.SetErr(err)
		}
		return err
	}
}

type callerKey struct{}

func caller(ctx context.Context) string {
	name, _ := ctx.Value(callerKey{}).(string)
	return name
}
