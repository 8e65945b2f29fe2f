package main

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/gate"
)

// oneMail resets a password, for a user who presses the button again and again.
func oneMail(ctx context.Context, s site) error {
	title("9. A user presses \"reset my password\" fifty times, on four servers, and gets one mail a second")

	const user = 1
	var sent, later, other atomic.Int64
	var resets []*gate.Gate[int64]
	for _, rdb := range s.servers {
		resets = append(resets, cachex.Must(gate.New(rdb, gate.Spec[int64]{
			Key:   "jobboard:password:{user_id}",
			Every: time.Second,
		})))
	}
	if err := resets[0].Reset(ctx, user); err != nil { // of an earlier run
		return err
	}
	press := func(server int) {
		err := resets[server].Do(ctx, user, func(context.Context) error {
			sent.Add(1) // create a request, send a mail
			return nil
		})
		if _, closed := errors.AsType[*gate.ClosedError](err); closed {
			later.Add(1) // "please try later"
		} else if err != nil {
			other.Add(1)
		}
	}
	began := time.Now()
	var presses sync.WaitGroup
	for i := range 50 {
		presses.Go(func() { press(i % len(resets)) })
	}
	presses.Wait()
	first, took := sent.Load(), time.Since(began)
	say(took, "%d mail, and %d times \"please try later\"", first, later.Load())

	open, wait, err := resets[1].Try(ctx, user)
	for ; !open && err == nil; open, wait, err = resets[1].Try(ctx, user) {
		time.Sleep(wait) // the server's clock may be a little behind this one
	}
	if err != nil {
		return err
	}
	say(time.Since(began), "the second was over: %d mails", sent.Add(1))

	errMailServer := errors.New("the mail server is away")
	err = resets[2].Do(ctx, 2, func(context.Context) error { return errMailServer })
	ok, _, failed := resets[3].Try(ctx, 2)
	note("what has failed may be tried again at once: %v", ok)
	return cmp.Or(failed, resets[0].Reset(ctx, 2),
		expect("a mail a second", first >= 1 && first <= 1+int64(took/time.Second), true),
		expect("try later", later.Load(), 50-first),
		expect("other errors", other.Load(), 0),
		expect("error of the call", err, errMailServer),
		expect("open after an error", ok, true),
	)
}
