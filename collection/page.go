package collection

import (
	"cmp"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/script"
)

// Cursor is a place between two elements of timelines, in a form that is safe
// in a URL. The zero Cursor is the start. A Cursor stays valid after its
// element is removed or dropped.
type Cursor string

// ErrCursor reports a Cursor that GetPage has not returned.
var ErrCursor = errors.New("invalid cursor")

// Timeline is one timeline of a Feed, independent of the type of its keys.
// GetPage of another Feed can merge it.
type Timeline[E any] struct{ paged pageSource[E] }

// Timeline returns the timeline of key. It does not call Redis.
func (f *Feed[K, E]) Timeline(key K) Timeline[E] { return Timeline[E]{&pageRead[K, E]{f: f, key: key}} }

// GetPage returns up to n elements, 1 to 1,000, of the timeline of key that
// come after the Cursor, and the Cursor of the next page. next is "" if no
// element follows yet.
//
// With others, GetPage merges all of these timelines into one, in which an
// element occurs once. If an author has too many followers to post to each, the
// author posts to one timeline, and readers name it:
//
//	posts := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[AuthorID, PostID]{…}))
//	page, next, err := home.GetPage(ctx, reader, after, 20, posts.Timeline(author))
//
// The Feeds must have the same Score and Codec. All timelines are read in one
// round trip for each client. Absent ones are restored concurrently, like Get
// does.
//
// No element is on two pages, whatever is posted or removed between the calls:
// a page begins after a position, not after a number of elements. Later posts
// come before it, and appear on none of the following pages. A timeline ends
// after its own Spec.Len elements; the others go on.
//
// It fails like [Feed.Get], with a *cachex.Error, for the first timeline
// that failed, or wraps ErrCursor. With an error there is no page.
func (f *Feed[K, E]) GetPage(ctx context.Context, key K, after Cursor, n int, others ...Timeline[E]) (page []E, next Cursor, err error) {
	k, err := f.begin(ctx, "get page", key)
	if err != nil {
		return nil, "", err
	}
	at, err := after.position()
	if err == nil && (n < 1 || n > maxPage) {
		err = fmt.Errorf("n is %d, must be from 1 to %d: the length of a page; a longer reply blocks the server", n, maxPage)
	}
	if err != nil {
		return nil, "", f.fail("get page", k, err)
	}
	all := make([]pageSource[E], 1, 1+len(others))
	all[0] = &pageRead[K, E]{f: f, key: key}
	for _, other := range others {
		if other.paged == nil {
			return nil, "", f.fail("get page", k, errors.New("others contains a zero Timeline"))
		}
		all = append(all, other.paged.clone())
	}
	elems, err := mergePages(ctx, all, at, n+1) // one more, to see whether there is a next page
	if err != nil {
		return nil, "", err
	}
	if len(elems) > n {
		elems = elems[:n]
		next = elems[n-1].cursor()
	}
	page = make([]E, len(elems))
	for i, e := range elems {
		page[i] = e.member
	}
	return page, next, nil
}

// mergePages returns the first n elements of all timelines after a position.
func mergePages[E any](ctx context.Context, all []pageSource[E], after *position, n int) ([]positioned[E], error) {
	var trips []*clientCalls
	for _, p := range all {
		rdb, call, err := p.begin(ctx, after, n)
		if err != nil {
			return nil, err
		}
		if call == nil {
			continue // the breaker rejects it
		}
		i := slices.IndexFunc(trips, func(t *clientCalls) bool { return client.Same(t.rdb, rdb) })
		if i < 0 {
			i = len(trips)
			trips = append(trips, &clientCalls{rdb: rdb})
		}
		trips[i].calls = append(trips[i].calls, call)
	}
	var wg sync.WaitGroup
	wg.Add(len(trips))
	for _, t := range trips {
		guard.Go(guard.Client, func() error {
			_ = script.Pipeline(ctx, t.rdb, t.calls) // each call has its error
			return nil
		}, func(err error) {
			defer wg.Done()
			for _, c := range t.calls {
				c.Err = cmp.Or(c.Err, err)
			}
		})
	}
	wg.Wait()
	pages, errs := make([][]positioned[E], len(all)), make([]error, len(all))
	wg.Add(len(all))
	for i, p := range all {
		guard.Go(guard.Codec, func() error { pages[i], errs[i] = p.finish(ctx, after, n); return nil }, func(err error) {
			defer wg.Done()
			if err != nil {
				errs[i] = p.fail(err)
			}
		})
	}
	wg.Wait()
	if err := cmp.Or(errs...); err != nil {
		return nil, err
	}
	elems := slices.Concat(pages...)
	slices.SortFunc(elems, func(a, b positioned[E]) int { return a.compare(b.position) })
	elems = slices.CompactFunc(elems, func(a, b positioned[E]) bool { return a.position == b.position })
	return elems[:min(len(elems), n)], nil
}

// clientCalls are the calls that are sent on one client.
type clientCalls struct {
	rdb   redis.UniversalClient
	calls []*script.Call
}

// pageSource reads a page of one timeline. The type of the key is hidden.
type pageSource[E any] interface {
	clone() pageSource[E]
	// begin returns the call that reads n elements after a position, or nil if
	// the breaker rejects it. After the call was sent, finish returns the
	// elements, and restores an absent timeline.
	begin(ctx context.Context, after *position, n int) (redis.UniversalClient, *script.Call, error)
	finish(ctx context.Context, after *position, n int) ([]positioned[E], error)
	// fail returns the error of the timeline, which wraps err.
	fail(err error) error
}

// pageRead is the pageSource of a Feed. It serves one page.
type pageRead[K comparable, E any] struct {
	f       *Feed[K, E]
	key     K
	rkey    string
	call    *script.Call
	refused error // why Redis is not asked
	sent    time.Time
}

func (p *pageRead[K, E]) fail(err error) error { return p.f.fail("get page", p.rkey, err) }

func (p *pageRead[K, E]) clone() pageSource[E] { return &pageRead[K, E]{f: p.f, key: p.key} }

func (p *pageRead[K, E]) begin(ctx context.Context, after *position, n int) (redis.UniversalClient, *script.Call, error) {
	k, err := p.f.begin(ctx, "get page", p.key)
	if err != nil {
		return nil, nil, err
	}
	score, bytes := "", ""
	if after != nil {
		score, bytes = strconv.FormatFloat(after.score, 'g', -1, 64), after.bytes
	}
	p.rkey, p.call, p.sent = k, &script.Call{Script: script.Page, Key: k, Args: []any{p.f.up != nil, n, score, bytes}}, time.Now()
	if p.refused = p.f.breakerErr(k); p.refused != nil {
		return nil, nil, nil
	}
	return p.f.rdb, p.call, nil
}

func (p *pageRead[K, E]) finish(ctx context.Context, after *position, n int) ([]positioned[E], error) {
	opened := func() ([]positioned[E], readState, error) {
		if p.call.Err != nil {
			return nil, readState{}, p.call.Err
		}
		return p.f.parsePage(p.rkey, p.call.Reply)
	}
	seen := readResult[[]positioned[E]]{err: p.refused}
	if p.refused == nil {
		seen.value, seen.state, seen.err = opened()
		p.f.report(ctx, p.rkey, p.sent, seen.err)
	}
	elems, err := readOrLoad(ctx, &p.f.store, request[K, []E, []positioned[E]]{
		rkey: p.rkey, key: p.key, prior: &seen,
		read: func(ctx context.Context) ([]positioned[E], readState, error) {
			_ = p.call.Run(ctx, p.f.rdb) // the error is in call
			return opened()
		},
		extract: func(all []E) ([]positioned[E], error) { return p.f.elementsAfter(p.rkey, all, after, n) },
	})
	if err != nil {
		return nil, p.f.fail("get page", p.rkey, err)
	}
	return elems, nil
}

// parsePage parses the reply to script.Page.
func (f *Feed[K, E]) parsePage(k string, reply any) ([]positioned[E], readState, error) {
	parts, _ := reply.([]any)
	if len(parts) != 3 {
		return nil, readState{}, errReply
	}
	switch parts[0] {
	case int64(0):
		return nil, readState{}, nil
	case int64(-1):
		return nil, readState{foreign: true}, nil
	}
	all, ok := parts[1].([]any)
	token, _ := parts[2].(string)
	if parts[0] != int64(1) || !ok {
		return nil, readState{}, errReply
	}
	return f.members.decodeScored(k, all, token)
}

// elementsAfter returns the first n of all, which are sorted, that come after a
// position.
func (f *Feed[K, E]) elementsAfter(k string, all []E, after *position, n int) ([]positioned[E], error) {
	elems := make([]positioned[E], 0, min(len(all), n))
	for _, e := range all {
		p, err := f.position(k, e)
		if err != nil {
			return nil, err
		}
		if after == nil || after.compare(p) < 0 {
			elems = append(elems, positioned[E]{p, e})
		}
	}
	return elems[:min(len(elems), n)], nil
}

// cursor returns the Cursor after p.
func (p position) cursor() Cursor {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(p.bytes)), math.Float64bits(p.score))
	return Cursor(base64.RawURLEncoding.EncodeToString(append(b, p.bytes...)))
}

// position returns the position that c encodes; nil is the start.
func (c Cursor) position() (*position, error) {
	if c == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(string(c))
	if err != nil || len(b) < 8 {
		return nil, ErrCursor
	}
	p := &position{math.Float64frombits(binary.BigEndian.Uint64(b)), string(b[8:])}
	if !validScore(p.score) {
		return nil, ErrCursor
	}
	return p, nil
}
