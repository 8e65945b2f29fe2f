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

// Reconcile flushes every bucket, and calls choose for each batch whose history
// has forked: for ForkRolledBack and ForkBehind. It calls choose from one
// goroutine at a time. It returns the forks that it has found. If choose is
// nil, Reconcile holds all of them: it shows them and changes nothing.
//
// If a batch has forked and is not held, every bucket with nothing to persist
// begins a new incarnation. Later writes to it are then new, and do not fork.
// So one call is enough after a backup of the database or of Redis was
// restored, or after the ledger was lost. The same holds if an engine without a
// ledger is given one.
//
// Like the error of Flush, the error says that some ids are not persisted. If a
// fork is held, it is a *ForkError. Reconcile may be called again, and from any
// process.
func (e *Engine) Reconcile(ctx context.Context, choose func(ForkError) Choice) ([]ForkError, error) {
	err := e.open(ctx)
	r := &reconciling{ask: choose, settled: map[int]bool{}}
	if err == nil {
		e.Start()
		err = e.flushAll(context.WithValue(ctx, reconcilingKey{}, r))
		if aside, beside := errs.Find[*AsideError](err); len(aside) > 0 && aside[0].Unread == 0 && !beside {
			err = nil // put aside by choose, or refused; Engine.Refused returns these
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

// reconciling is one call of Reconcile.
type reconciling struct {
	ask func(ForkError) Choice

	mu       sync.Mutex
	found    []ForkError  // guarded by mu
	settled  map[int]bool // guarded by mu; buckets whose fork is not held
	panicked error        // guarded by mu; the panic of ask
}

var chooser = guard.Named("choose of Reconcile")

// choose asks what to do with a fork. A panic of ask holds the fork. A
// ForkReplayed is exact, and leaves no choice.
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

// renew gives a new incarnation to the buckets that have nothing in flight or
// pending. It leaves out the buckets whose fork is settled.
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
