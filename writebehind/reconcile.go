package writebehind

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"sync"

	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Reconcile flushes every bucket, and asks choose what becomes of each batch whose
// history has forked: ForkRolledBack and ForkBehind, by one goroutine at a time. It
// returns the forks that it has found. choose nil holds all of them, which shows them
// and changes nothing.
//
// Where a batch has forked and is not held, every bucket that has nothing to persist
// begins a new incarnation. What is written to it later is then new, and does not fork.
// So one call is enough after a backup of the database or of Redis was restored, after
// the ledger was lost, and where an engine is given a ledger that had none.
//
// The error is as that of Flush: it says that some of it is not persisted, and is a
// *ForkError where that is held. Reconcile may be called again, and from any process.
func (e *Engine) Reconcile(ctx context.Context, choose func(ForkError) Choice) ([]ForkError, error) {
	err := e.open(ctx)
	r := &reconciling{ask: choose, settled: map[int]bool{}}
	if err == nil {
		e.Start()
		err = e.flushAll(context.WithValue(ctx, reconcilingKey{}, r))
		if aside, beside := errs.Find[*AsideError](err); len(aside) > 0 && aside[0].Unread == 0 && !beside {
			err = nil // put aside: by choose, or refused, which Engine.Refused tells
		}
		if settled := r.buckets(); len(settled) > 0 {
			err = errors.Join(err, e.renew(ctx, settled))
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err = errors.Join(r.panicked, err); err != nil {
		return r.found, fmt.Errorf("cachex: reconcile %s: %w", e.o.Name, err)
	}
	return r.found, nil
}

// reconcilingKey is the key of the *reconciling in the ctx of a flush.
type reconcilingKey struct{}

// A reconciling is one call of Reconcile.
type reconciling struct {
	ask func(ForkError) Choice

	mu       sync.Mutex
	found    []ForkError  // guarded by mu
	settled  map[int]bool // guarded by mu; buckets whose fork is not held
	panicked error        // guarded by mu; the panic of ask
}

var chooser = guard.Named("choose of Reconcile")

// choose asks what becomes of a fork. A panic holds it. A ForkReplayed is exact, and
// leaves no choice.
func (r *reconciling) choose(f ForkError) (choice Choice) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if f.Fork == ForkReplayed {
		r.settled[f.Batch.Bucket] = true
		return Apply
	}
	r.found = append(r.found, f)
	if r.ask != nil {
		if err := guard.Call(chooser, func() error { choice = r.ask(f); return nil }); err != nil {
			choice, r.panicked = Hold, err
		}
	}
	if choice == Apply || choice == PutAside {
		r.settled[f.Batch.Bucket] = true
	}
	return choice
}

func (r *reconciling) buckets() map[int]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return maps.Clone(r.settled)
}

// renew gives a new incarnation to buckets of which nothing is in flight or pending, but
// for those whose fork is settled.
func (e *Engine) renew(ctx context.Context, settled map[int]bool) error {
	looks := make([]*script.Call, len(e.buckets))
	for b := range looks {
		looks[b] = e.on(script.LookBatch, b)
	}
	if err := e.pipeline(ctx, looks); err != nil {
		return err
	}
	var calls []*script.Call
	for b, look := range looks {
		r := read(look.Reply, look.Err)
		_, _, n, acked := r.text(), r.text(), r.text(), r.text()
		if r.err != nil {
			return r.err
		}
		if n == acked && n != "0" && !settled[b] {
			calls = append(calls, e.on(script.RenumberBatch, b, n, "", "0", "1", "", renewed+rand.Text(), 0, ""))
		}
	}
	if err := e.pipeline(ctx, calls); err != nil {
		return err
	}
	for _, c := range calls {
		if c.Err != nil {
			return c.Err
		}
	}
	return nil
}
