package gate_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/gate"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A user may ask for a new password once in five seconds.
func Example() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	now := time.Now()
	server.SetTime(now) // from now on its clock runs on its own

	resets := cachex.Must(gate.New(server.Client(nil), gate.Spec[int64]{
		Key:   "password:{user_id}",
		Every: 5 * time.Second,
	}))
	emailReset := func(ctx context.Context, userID int64) {
		err := resets.Do(ctx, userID, func(context.Context) error {
			fmt.Println("Email was sent.")
			return nil
		})
		if closed, ok := errors.AsType[*gate.ClosedError](err); ok {
			fmt.Println("Please try later, in", closed.RetryAfter)
		} else if err != nil {
			fmt.Println(err)
		}
	}
	ctx := context.Background()
	emailReset(ctx, 1)
	emailReset(ctx, 1)
	server.SetTime(now.Add(5 * time.Second))
	emailReset(ctx, 1)
	// Output:
	// Email was sent.
	// Please try later, in 5s
	// Email was sent.
}

// Try suits callers that want no error: a line that is logged once a minute,
// however many servers would log it.
func ExampleGate_Try() {
	server, err := redistest.NewEmbedded() // yours runs elsewhere
	if err != nil {
		fmt.Println(err)
		return
	}
	defer server.Close()
	warnings := cachex.Must(gate.New(server.Client(nil), gate.Spec[string]{
		Key:   "warnings:{what}",
		Every: time.Minute,
	}))
	for range 3 {
		if ok, _, err := warnings.Try(context.Background(), "disk is full"); ok || err != nil {
			fmt.Println("disk is full", err)
		}
	}
	// Output:
	// disk is full <nil>
}
