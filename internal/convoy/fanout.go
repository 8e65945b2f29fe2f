package convoy

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// FanOut tracks commands or calls in flight at several servers, with one part
// for each server. If the client has one server, or does not tell its servers,
// there is one part. That part has ended when the FanOut is returned.
//
// go-redis also sends the commands of a pipeline to all nodes concurrently, but
// returns only when the slowest node has answered. A paused node would then
// delay the answers of the others for several ReadTimeouts.
//
// A FanOut is for one goroutine.
type FanOut struct {
	one     end      // the part, if there is one
	part    []int    // else the part of each element
	parts   []end    // the state of each part, as of the last Wait
	servers []string // of each part
	left    int      // parts that had not ended by the last Wait
	ended   chan end // buffered for all parts
	began   time.Time
	leave   context.CancelCauseFunc // leaves all parts; nil if they heed the ctx of the caller
}

// end is how a part has ended.
type end struct {
	part int
	over bool
	left bool  // the caller has left and must not read the part
	err  error // if left, the reason; else the error of a part without any answer
}

// fanOut returns a FanOut of n elements. key returns the key of an element.
func fanOut(rdb redis.UniversalClient, n int, key func(i int) string) *FanOut {
	f := &FanOut{began: time.Now()}
	if n < 2 {
		return f
	}
	if server := client.Servers(rdb); server != nil {
		f.split(n, func(i int) string { return server(key(i)) })
	}
	return f
}

// split assigns the elements to parts.
func (f *FanOut) split(n int, server func(i int) string) {
	part, names := make([]int, n), make([]string, 0, 8)
	index := make(map[string]int)
	for i := range n {
		name := server(i)
		at, there := index[name]
		if !there {
			at = len(names)
			index[name], names = at, append(names, name)
		}
		part[i] = at
	}
	if n = len(names); n > 1 {
		f.part, f.servers, f.left = part, names, n
		f.parts, f.ended = make([]end, n), make(chan end, n)
	}
}

// ByServer returns the indexes of n elements, grouped by server. key returns
// the key in Redis of an element. If there is one server, or rdb does not tell
// its servers, ByServer returns nil.
func ByServer(rdb redis.UniversalClient, n int, key func(i int) string) [][]int {
	f := fanOut(rdb, n, key)
	if f.single() {
		return nil
	}
	all := make([][]int, len(f.parts))
	for i, part := range f.part {
		all[part] = append(all[part], i)
	}
	return all
}

// single reports whether there is one part.
func (f *FanOut) single() bool { return f.part == nil }

// all records that the one part has ended.
func (f *FanOut) all(err error, left bool) *FanOut {
	f.one = end{over: true, err: err, left: left}
	return f
}

// of returns the elements of all that are in a part.
func of[T any](f *FanOut, part int, all []T) (some []T) {
	for i, one := range all {
		if f.part[i] == part {
			some = append(some, one)
		}
	}
	return some
}

// leastSpread and mostSpread bound how long the other parts are waited for
// after the first one was answered. Within the bounds, that is as long again as
// the first one took.
//
// leastSpread is also how long the parties of a Convoy wait for each other:
// servers of one site differ by less. A slower server costs one more call of
// UpMany, and no key is loaded twice, so a wrong bound causes no wrong result.
// mostSpread is the delay that a stopped server causes at the others: less than
// any usual ReadTimeout. A wait in real time cannot be avoided: a server that
// will not answer gives no sign of it.
const (
	leastSpread = 50 * time.Millisecond
	mostSpread  = 250 * time.Millisecond
)

// Wait waits for the parts that have not ended, and reports whether all have
// ended. It returns false if some have ended and the others take much longer.
// No part takes longer than the caller of the function that returned f has
// said. When ctx ends, all parts end. If most is not 0, it bounds how long Wait
// keeps the caller from a part that has ended.
func (f *FanOut) Wait(ctx context.Context, most time.Duration) (all bool) {
	ends, first := ctx.Done(), true
	if f.leave == nil {
		ends = nil // the parts heed it
	}
	var late <-chan time.Time
	for f.left > 0 {
		select {
		case e := <-f.ended:
			f.parts[e.part] = e
			if f.left--; first && f.left > 0 {
				spread := min(max(time.Since(f.began), leastSpread), mostSpread)
				timer := time.NewTimer(min(spread, cmp.Or(most, spread)))
				defer timer.Stop()
				late = timer.C
			}
			first = false
		case <-late:
			return false
		case <-ends:
			f.leave(context.Cause(ctx)) // and so they end at once
			ends, late, first = nil, nil, false
		}
	}
	if f.leave != nil {
		f.leave(nil)
	}
	return true
}

// Began returns when the parts were sent.
func (f *FanOut) Began() time.Time { return f.began }

// Ended reports whether the i-th element had been answered, or left, by the
// last Wait. If err is not nil, it is the reason, and the element must not be
// read.
func (f *FanOut) Ended(i int) (over bool, err error) {
	e := f.at(i)
	return e.over, e.err
}

// EndedAll is Ended for the elements from an index up to another. The error is
// nil if all may be read and some have been answered.
func (f *FanOut) EndedAll(from, to int) (over bool, err error) {
	var failed error
	answered := from == to
	for i := from; i < to; i++ {
		switch e := f.at(i); {
		case !e.over:
			return false, nil
		case e.left:
			err = cmp.Or(err, e.err)
		case e.err != nil:
			failed = cmp.Or(failed, e.err)
		default:
			answered = true
		}
	}
	if err == nil && !answered {
		err = failed
	}
	return true, err
}

// Late returns the servers that had not answered by the last Wait.
func (f *FanOut) Late() (servers []string) {
	for part, server := range f.servers {
		if !f.parts[part].over {
			servers = append(servers, server)
		}
	}
	return servers
}

func (f *FanOut) at(i int) end {
	switch {
	case f.single():
		return f.one
	case i >= len(f.part): // a source has discarded commands that others have queued
		return end{over: true, err: errDiscarded}
	}
	return f.parts[f.part[i]]
}

var errDiscarded = errors.New("the command was discarded")

// run runs a part by start, in a goroutine that start tracks.
func (f *FanOut) run(part int, start guard.Spawn, fn func(*end)) {
	e := end{part: part, over: true}
	start(guard.Client, func() error { fn(&e); return nil }, func(err error) {
		if err != nil {
			e.err, e.left = err, true
		}
		f.ended <- e
	})
}

// Depart is SendOrLeave for the commands queued on all, concurrently for each
// server. The parts heed ctx. The index of an element is the index of a command
// on all.
func Depart(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn, all redis.Pipeliner) *FanOut {
	cmds := all.Cmds()
	all.Discard()
	f := fanOut(rdb, len(cmds), func(i int) string { return script.KeyOf(cmds[i]) })
	trip := leaving(ctx, rdb, d, start)
	if f.single() {
		return f.all(sendAll(cmds, trip))
	}
	for part := range f.parts {
		some := of(f, part, cmds)
		f.run(part, start, func(e *end) { e.err, e.left = sendAll(some, trip) })
	}
	return f
}

// RunApart is RunOrLeave of Run, concurrently for each server. The parts end if
// ctx ends while the caller is in Wait; otherwise they outlive it. If ctx never
// ends, they take as long as the client does.
func RunApart(ctx context.Context, rdb redis.UniversalClient, d time.Duration, start guard.Spawn, calls []*script.Call) *FanOut {
	run := func(ctx context.Context, sent []*script.Call) { Run(ctx, rdb, sent) }
	f := fanOut(rdb, len(calls), func(i int) string { return calls[i].Key })
	if f.single() {
		RunOrLeave(ctx, rdb, d, start, calls, run)
		return f.all(nil, false)
	}
	ctx = f.outliving(ctx)
	for part := range f.parts {
		some := of(f, part, calls)
		f.run(part, start, func(*end) { RunOrLeave(ctx, rdb, d, start, some, run) })
	}
	return f
}

// outliving returns ctx without its end. f.leave ends the result.
func (f *FanOut) outliving(ctx context.Context) context.Context {
	if ctx.Done() != nil {
		ctx, f.leave = context.WithCancelCause(context.WithoutCancel(ctx))
	}
	return ctx
}

// SendApart is SendOrLeave whose calls are answered server by server. The parts
// end as in RunApart.
func (c *Convoy) SendApart(ctx context.Context, d time.Duration, start guard.Spawn, calls []*script.Call, loaded bool, patience time.Duration) *FanOut {
	f := fanOut(c.rdb, len(calls), func(i int) string { return calls[i].Key })
	if f.single() {
		c.SendOrLeave(ctx, d, start, calls, loaded, patience)
		return f.all(nil, false)
	}
	ctx = f.outliving(ctx)
	copies := copied(ctx, c.rdb, calls)
	own := &parcel{loaded: loaded, start: start}
	var mu sync.Mutex
	over := make([]bool, len(f.parts)) // guarded by mu
	ends := func(part int, err error) {
		mu.Lock()
		defer mu.Unlock()
		if !over[part] {
			over[part] = true
			took(of(f, part, calls), of(f, part, copies), err)
			f.ended <- end{part: part, over: true}
		}
	}
	for part, server := range f.servers {
		own.pieces = append(own.pieces, &piece{of: own, server: server, calls: of(f, part, copies), answered: func() { ends(part, nil) }})
	}
	start(guard.Client, func() error { // ends with the replies, or leaves
		return leave(ctx, d, start, func(ctx context.Context, begins func()) {
			if begins != nil {
				own.limit, own.begins = d, begins
			}
			c.sendParcel(ctx, own, patience)
		})
	}, func(err error) {
		for part := range f.parts {
			ends(part, err)
		}
	})
	return f
}
