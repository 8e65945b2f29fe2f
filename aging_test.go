package cachex

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
)

// An origin is an Up that takes a while, heeds its ctx and can be down. Its values
// say which load they are from: "v1", "v2" …
type origin struct {
	takes time.Duration

	mu    sync.Mutex
	err   error       // guarded by mu; what a load that ends now returns
	began []time.Time // guarded by mu
	ended []time.Time // guarded by mu
}

func (o *origin) up(ctx context.Context, _ int) (string, error) {
	o.mu.Lock()
	o.began = append(o.began, time.Now())
	n := len(o.began)
	o.mu.Unlock()
	defer func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		o.ended = append(o.ended, time.Now())
	}()
	select {
	case <-time.After(o.takes):
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return "", o.err
	}
	return fmt.Sprint("v", n), nil
}

// fails makes loads that end from now on fail with err, or succeed if that is nil.
func (o *origin) fails(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.err = err
}

func (o *origin) loads() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return len(o.began)
}

// A view is what a reader got, and after how long.
type view struct {
	v    string
	how  Outcome
	err  error
	took time.Duration
}

func look(ctx context.Context, c *Cache[int, string], id int) (s view) {
	began := time.Now()
	s.v, s.err = c.Get(WithOutcome(ctx, &s.how), id)
	s.took = time.Since(began)
	return s
}

// looking is look in a goroutine of its own.
func looking(ctx context.Context, c *Cache[int, string], id int) <-chan view {
	ch := make(chan view, 1)
	go func() { ch <- look(ctx, c, id) }() // ends with Get
	return ch
}

// A crew is four caches of one template, each with a client of its own, in a
// bubble.
type crew struct {
	t      *testing.T
	rdb    *redis.Client
	caches []*Cache[int, string]
}

// inCrew runs f with a crew that loads from o.
func inCrew(t *testing.T, o *origin, spec Spec[int, string], f func(t *testing.T, c *crew)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		c := &crew{t: t, rdb: rdb}
		spec.Key, spec.Jitter = "k:{id}", NoJitter
		if spec.Up == nil {
			spec.Up = o.up
		}
		for range 4 {
			c.caches = append(c.caches, newCache(t, again(t, rdb), spec))
		}
		f(t, c)
		for _, one := range c.caches {
			require.NoError(t, one.Close(t.Context())) // waits for what was left behind
		}
	})
}

// all lets each cache read key 1 at the same time.
func (c *crew) all() []view {
	c.t.Helper()
	chans := make([]<-chan view, len(c.caches))
	for i, one := range c.caches {
		chans[i] = looking(c.t.Context(), one, 1)
	}
	views := make([]view, len(chans))
	for i, ch := range chans {
		views[i] = receive(c.t, ch)
	}
	synctest.Wait() // until what goes on in the background waits too
	return views
}

// agree requires that all readers at this moment get the same.
func (c *crew) agree(v string, how Outcome, took time.Duration, when ...any) {
	c.t.Helper()
	for _, got := range c.all() {
		require.NoError(c.t, got.err, when...)
		require.Equal(c.t, view{v: v, how: how, took: took}, got, when...)
	}
}

// header returns what Redis holds of key 1, which must be an entry.
func (c *crew) header() entry.Header {
	c.t.Helper()
	key := c.caches[0].Key(1)
	b, err := c.rdb.Get(c.t.Context(), key).Bytes()
	require.NoError(c.t, err)
	h, _, ok := entry.Parse(key, b)
	require.True(c.t, ok)
	return h
}
