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

// A Cursor is a place between two elements of timelines, in a form that goes into
// a URL as it is. The zero Cursor is before all of them. It is that of an element
// that was read, and stays right when that is removed or dropped.
type Cursor string

// ErrCursor says that a Cursor is none that GetPage has returned.
var ErrCursor = errors.New("the cursor is none of a timeline")

// A Timeline is one timeline of a Feed, whatever its keys are: what GetPage of
// another Feed can merge.
type Timeline[E any] struct{ paged paged[E] }

// Timeline returns the timeline of key. It does not call Redis.
func (f *Feed[K, E]) Timeline(key K) Timeline[E] { return Timeline[E]{&paging[K, E]{f: f, key: key}} }

// GetPage returns the first n elements, 1 to 1,000, of the timeline of key that
// come after a place, and the place after these; "" if nothing comes after them yet.
//
// With others, it returns the page of all of these timelines as if they were one,
// in which an element is there once. So who has too many followers to post to each
// has a timeline of his own, and those who read him name it:
//
//	posts := cachex.Must(collection.NewFeed(rdb, collection.FeedSpec[AuthorID, PostID]{…}))
//	page, next, err := home.GetPage(ctx, reader, after, 20, posts.Timeline(author))
//
// Their Feeds must have the same Score and Codec. All are read in one round trip for
// each client, and those that are absent are restored side by side, as Get does.
//
// No element is on two pages, whatever is posted and removed meanwhile: each page
// begins after a place, not after a number of elements. What is posted later comes
// before, and is on none of the further pages. A timeline ends after Spec.Len of its
// elements, and the others go on.
//
// The error is a *cachex.Error, as that of Get, of the first timeline that failed, and
// then there is no page; or it is ErrCursor.
func (f *Feed[K, E]) GetPage(ctx context.Context, key K, after Cursor, n int, others ...Timeline[E]) (page []E, next Cursor, err error) {
	k, err := f.enter(ctx, "get page", key)
	if err != nil {
		return nil, "", err
	}
	at, err := after.place()
	if err == nil && (n < 1 || n > maxPage) {
		err = fmt.Errorf("n is %d, must be from 1 to %d: how many elements a page has, which keeps the server from others", n, maxPage)
	}
	if err != nil {
		return nil, "", f.fail("get page", k, err)
	}
	all := make([]paged[E], 1, 1+len(others))
	all[0] = &paging[K, E]{f: f, key: key}
	for _, other := range others {
		if other.paged == nil {
			return nil, "", f.fail("get page", k, errors.New("a Timeline is its zero value"))
		}
		all = append(all, other.paged.fresh())
	}
	elems, err := merged(ctx, all, at, n+1) // one more, to see whether there is a next page
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

// merged returns the first n elements of all timelines after a place.
func merged[E any](ctx context.Context, all []paged[E], after *place, n int) ([]placed[E], error) {
	var trips []*trip
	for _, p := range all {
		rdb, call, err := p.ask(ctx, after, n)
		if err != nil {
			return nil, err
		}
		if call == nil {
			continue // Redis is not worth asking for it
		}
		i := slices.IndexFunc(trips, func(t *trip) bool { return client.Same(t.rdb, rdb) })
		if i < 0 {
			i = len(trips)
			trips = append(trips, &trip{rdb: rdb})
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
	pages, errs := make([][]placed[E], len(all)), make([]error, len(all))
	wg.Add(len(all))
	for i, p := range all {
		guard.Go(guard.Codec, func() error { pages[i], errs[i] = p.answer(ctx, after, n); return nil }, func(err error) {
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
	slices.SortFunc(elems, func(a, b placed[E]) int { return a.compare(b.place) })
	elems = slices.CompactFunc(elems, func(a, b placed[E]) bool { return a.place == b.place })
	return elems[:min(len(elems), n)], nil
}

// A trip is what goes out on one client.
type trip struct {
	rdb   redis.UniversalClient
	calls []*script.Call
}

// A paged is a timeline of which a page is read.
type paged[E any] interface {
	fresh() paged[E]
	// ask returns what reads n elements after a place, nil if Redis is not worth
	// asking, and answer returns them, when that was called, or restores the timeline.
	ask(ctx context.Context, after *place, n int) (redis.UniversalClient, *script.Call, error)
	answer(ctx context.Context, after *place, n int) ([]placed[E], error)
	// fail returns the error of the timeline, which wraps err.
	fail(err error) error
}

// A paging is the paged of a Feed, for one use.
type paging[K comparable, E any] struct {
	f    *Feed[K, E]
	key  K
	k    string
	call *script.Call
	away error // why Redis is not asked
	sent time.Time
}

func (p *paging[K, E]) fail(err error) error { return p.f.fail("get page", p.k, err) }

func (p *paging[K, E]) fresh() paged[E] { return &paging[K, E]{f: p.f, key: p.key} }

func (p *paging[K, E]) ask(ctx context.Context, after *place, n int) (redis.UniversalClient, *script.Call, error) {
	k, err := p.f.enter(ctx, "get page", p.key)
	if err != nil {
		return nil, nil, err
	}
	score, bytes := "", ""
	if after != nil {
		score, bytes = strconv.FormatFloat(after.score, 'g', -1, 64), after.bytes
	}
	p.k, p.call, p.sent = k, &script.Call{Script: script.Page, Key: k, Args: []any{p.f.up != nil, n, score, bytes}}, time.Now()
	if p.away = p.f.refusal(k); p.away != nil {
		return nil, nil, nil
	}
	return p.f.rdb, p.call, nil
}

func (p *paging[K, E]) answer(ctx context.Context, after *place, n int) ([]placed[E], error) {
	opened := func() ([]placed[E], sight, error) {
		if p.call.Err != nil {
			return nil, sight{}, p.call.Err
		}
		return p.f.opened(p.k, p.call.Reply)
	}
	seen := look[[]placed[E]]{err: p.away}
	if p.away == nil {
		seen.v, seen.s, seen.err = opened()
		p.f.note(ctx, p.k, p.sent, seen.err)
	}
	elems, err := find(ctx, &p.f.home, request[K, []E, []placed[E]]{
		k: p.k, key: p.key, seen: &seen,
		read: func(ctx context.Context) ([]placed[E], sight, error) {
			_ = p.call.Run(ctx, p.f.rdb) // the error is in call
			return opened()
		},
		from: func(all []E) ([]placed[E], error) { return p.f.after(p.k, all, after, n) },
	})
	if err != nil {
		return nil, p.f.fail("get page", p.k, err)
	}
	return elems, nil
}

// opened opens the reply to script.Page.
func (f *Feed[K, E]) opened(k string, reply any) ([]placed[E], sight, error) {
	parts, _ := reply.([]any)
	if len(parts) != 3 {
		return nil, sight{}, errReply
	}
	switch parts[0] {
	case int64(0):
		return nil, sight{}, nil
	case int64(-1):
		return nil, sight{foreign: true}, nil
	}
	all, ok := parts[1].([]any)
	token, _ := parts[2].(string)
	if parts[0] != int64(1) || !ok {
		return nil, sight{}, errReply
	}
	return f.members.placed(k, all, token)
}

// after returns the first n of elements, which are in their order, that come after
// a place.
func (f *Feed[K, E]) after(k string, all []E, after *place, n int) ([]placed[E], error) {
	elems := make([]placed[E], 0, min(len(all), n))
	for _, e := range all {
		p, err := f.place(k, e)
		if err != nil {
			return nil, err
		}
		if after == nil || after.compare(p) < 0 {
			elems = append(elems, placed[E]{p, e})
		}
	}
	return elems[:min(len(elems), n)], nil
}

// cursor returns the Cursor after p.
func (p place) cursor() Cursor {
	b := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(p.bytes)), math.Float64bits(p.score))
	return Cursor(base64.RawURLEncoding.EncodeToString(append(b, p.bytes...)))
}

// place returns the place that c is of; nil for before all.
func (c Cursor) place() (*place, error) {
	if c == "" {
		return nil, nil
	}
	b, err := base64.RawURLEncoding.DecodeString(string(c))
	if err != nil || len(b) < 8 {
		return nil, ErrCursor
	}
	p := &place{math.Float64frombits(binary.BigEndian.Uint64(b)), string(b[8:])}
	if !fits(p.score) {
		return nil, ErrCursor
	}
	return p, nil
}
