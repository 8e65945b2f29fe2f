package conformance

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/errs"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// A visitor is a process that comes, writes for a while, and closes, while others go
// on. Those of each client run a release of the program of their own, and neither
// release can decode what the other one has stored.
type visitor struct {
	*visitors
	release uint32
	sets    *cachex.Cache[int, string] // of the database, which has the value before
	behind  *cachex.Cache[int, string] // written behind
	counts  *counter.Counter[int]
	buffer  *counter.Buffer[int]
}

// Keys of visitors, in the history of the crowd.
const (
	setKeys    = 1000
	behindKeys = 2000
	visitKeys  = 16
	visitWorks = 4 // things that a visitor does
)

// countBuffered is the key of the count that Buffers add to.
const countBuffered = crowdCount - 1

// visitors are all of a crowd, and what they share.
type visitors struct {
	*crowd
	locks  [visitKeys]struct{ set, behind sync.Mutex } // one writes a value at a time
	visits atomic.Int64
	stay   []*visitor      // one for each client, who stay to the end
	did    []*atomic.Int64 // what those of a client have done, by what they do
	hurt   atomic.Bool     // a fault is inflicted: what Redis does not tell may be loaded

	mu       sync.Mutex
	database [visitKeys]int        // guarded by mu: versions of what is written behind
	applied  map[string]ledger.Row // guarded by mu: the last batch of each bucket
	wrong    []string              // guarded by mu
}

// newVisitors returns the visitors of a crowd; none has come yet.
func newVisitors(c *crowd) *visitors {
	v := &visitors{crowd: c, applied: map[string]ledger.Row{}}
	for range visitWorks * len(c.clients) {
		v.did = append(v.did, new(atomic.Int64))
	}
	for key := range visitKeys {
		v.database[key] = 1
		c.h.writtenBehind(behindKeys+key, setsBehind(key)...)
	}
	return v
}

// start has a visitor at a time for each client, until the crowd stops. One more for
// each stays, and reads.
func (vs *visitors) start(t *testing.T) {
	t.Helper()
	for i, rdb := range vs.clients {
		stays, err := vs.open(rdb, uint32(2+i))
		require.NoError(t, err)
		vs.stay = append(vs.stay, stays)
		for range 3 {
			vs.worker(func(ctx context.Context) { stays.readOf(ctx, stays.sets, setKeys, rand.IntN(visitKeys)) })
			vs.worker(func(ctx context.Context) { stays.readOf(ctx, stays.behind, behindKeys, rand.IntN(visitKeys)) })
		}
		vs.wg.Go(func() {
			for {
				select {
				case <-vs.stop:
					return
				default:
				}
				if err := vs.visit(rdb, uint32(2+i), vs.did[i*visitWorks:]); err != nil {
					vs.blame("a visitor: %v", err)
					return
				}
			}
		})
	}
}

func (vs *visitors) blame(format string, args ...any) {
	vs.mu.Lock()
	defer vs.mu.Unlock()
	vs.wrong = append(vs.wrong, fmt.Sprintf(format, args...))
}

// visit is the life of one of them.
func (vs *visitors) visit(rdb redis.UniversalClient, release uint32, did []*atomic.Int64) error {
	v, err := vs.open(rdb, release)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	for i, work := range [visitWorks]func(context.Context, int){v.set, v.setBehind, v.add, v.addBuffered} {
		wg.Go(func() {
			for range 60 + rand.IntN(60) {
				select {
				case <-vs.stop:
					return
				case <-time.After(vs.pace):
				}
				ctx, cancel := context.WithTimeout(context.Background(), patience)
				work(ctx, rand.IntN(visitKeys))
				cancel()
				did[i].Add(1)
			}
		})
	}
	wg.Wait()
	vs.visits.Add(1)
	return v.close()
}

// close closes the visitor, which takes until Redis is back. What another release has
// set is left to that one. A bucket that failed beside is tried again: a batch whose
// taker has ended waits for its lease.
func (v *visitor) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return closing(ctx, func(ctx context.Context) error {
		behind := v.behind.Close(ctx)
		if aside, beside := errs.Find[*writebehind.AsideError](behind); len(aside) == 1 && aside[0].Refused == 0 && !beside {
			behind = nil
		}
		return errors.Join(v.sets.Close(ctx), behind, v.counts.Close(ctx))
	})
}

// closing closes something that persists what is left, again and again until Redis has
// answered in time.
func closing(ctx context.Context, end func(context.Context) error) error {
	for {
		err := end(ctx)
		if err == nil || ctx.Err() != nil {
			return err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (vs *visitors) open(rdb redis.UniversalClient, release uint32) (*visitor, error) {
	v := &visitor{visitors: vs, release: release}
	spec := cachex.Spec[int, string]{
		Key: vs.prefix + ":set:{id}", TTL: crowdTTL, LeaseTTL: time.Second,
		Codec: codec.Version(codec.String[string](), release),
		Up: func(_ context.Context, key int) (string, error) {
			load := vs.h.begin("load", setKeys+key)
			<-time.After(time.Millisecond)
			vs.h.end(load)
			return value(key, load.version), nil
		},
	}
	var err error
	if v.sets, err = cachex.New(rdb, spec); err != nil {
		return nil, err
	}
	spec.Key, spec.WriteBehind, spec.DownMany = vs.prefix+":behind:{id}", 50*time.Millisecond, vs.downMany
	spec.WriteBehindOptions.LeaseTTL = crowdBatch
	spec.Up = func(_ context.Context, key int) (string, error) {
		vs.mu.Lock()
		defer vs.mu.Unlock()
		return value(key, vs.database[key]), nil
	}
	if v.behind, err = cachex.New(rdb, spec); err != nil {
		return nil, err
	}
	if v.counts, err = vs.counter(rdb); err == nil {
		v.buffer, err = counter.NewBuffer(v.counts, counter.BufferOptions{Every: time.Hour})
	}
	return v, err
}

// downMany applies a batch once, as package ledger does.
func (vs *visitors) downMany(ctx context.Context, values map[int]string) error {
	b, ok := ledger.FromContext(ctx)
	if !ok {
		return errors.New("DownMany is told of no batch")
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	bucket := fmt.Sprint(b.Namespace, b.Bucket, b.Incarnation)
	switch row := vs.applied[bucket]; {
	case row.N == b.N && row.Token == b.Token && !slices.Equal(row.Unread, b.Unread):
		return &ledger.AppliedError{Unread: row.Unread}
	case row.N == b.N && row.Token == b.Token:
		return nil
	case row.N != b.N-1:
		return &ledger.ConflictError{Batch: b, Row: row}
	}
	vs.applied[bucket] = ledger.Row{N: b.N, Token: b.Token, Unread: b.Unread}
	for key, v := range values {
		of, version, err := parse(v)
		if err != nil || of != key {
			return fmt.Errorf("key %d has the value %q", key, v)
		}
		if !vs.h.follows(behindKeys+key, vs.database[key], version) {
			vs.wrong = append(vs.wrong, fmt.Sprintf("the database had version %d of key %d, and got version %d then", vs.database[key], key, version))
		}
		vs.database[key] = version
	}
	return nil
}

// A value tells its key and its version.
func value(key, version int) string { return fmt.Sprintf("%d:%d", key, version) }

func parse(v string) (key, version int, err error) {
	_, err = fmt.Sscanf(v, "%d:%d", &key, &version)
	return key, version, err
}

// set commits a version, and sets it or deletes what is older.
func (v *visitor) set(ctx context.Context, key int) {
	v.writing.RLock()
	defer v.writing.RUnlock()
	lock := &v.locks[key].set
	lock.Lock()
	version := v.h.commit(setKeys + key)
	var err error
	e := v.h.begin("set", setKeys+key)
	if rand.IntN(4) == 0 {
		e.op = "delete"
		err = v.sets.Delete(ctx, key)
	} else {
		err = v.sets.Set(ctx, key, value(key, version))
	}
	v.ended(e, err)
	lock.Unlock()
	v.readOf(ctx, v.sets, setKeys, key)
}

// setsBehind returns the releases that set a key behind. Where it is one, its readers
// can read what is pending.
func setsBehind(key int) []uint32 {
	return [][]uint32{{2}, {3}, {2, 3}}[key%3]
}

// setBehind sets a version that the database gets later.
func (v *visitor) setBehind(ctx context.Context, key int) {
	if !slices.Contains(setsBehind(key), v.release) {
		v.readOf(ctx, v.behind, behindKeys, key)
		return
	}
	v.writing.RLock()
	defer v.writing.RUnlock()
	lock := &v.locks[key].behind
	lock.Lock()
	version := v.h.commit(behindKeys + key)
	e := v.h.begin("set", behindKeys+key)
	v.ended(e, v.behind.Set(ctx, key, value(key, version)))
	lock.Unlock()
	if rand.IntN(4) == 0 {
		_ = v.behind.Delete(ctx, key) // of the value in Redis, and not of what is pending
	}
	v.readOf(ctx, v.behind, behindKeys, key)
}

func (v *visitor) ended(e event, err error) {
	switch {
	case err == nil:
		v.h.end(e)
	case e.op == "delete": // it does no harm
	case errors.Is(err, counter.ErrOutcomeUnknown):
		v.h.unknown(e)
	default:
		v.h.refused(e, err)
	}
}

// readOf reads a key. While Redis is away, or if one call has no answer on a machine that
// is too busy, what is pending cannot be told, and the value of the database is returned:
// such reads are not checked.
func (v *visitor) readOf(ctx context.Context, c *cachex.Cache[int, string], keys, key int) {
	e := v.h.begin("read", keys+key)
	hurt, lost := v.hurt.Load(), v.unanswered()
	var how cachex.Outcome
	got, err := c.Get(cachex.WithOutcome(ctx, &how), key)
	of, version, bad := parse(got)
	switch {
	case err != nil:
		v.readErr.CompareAndSwap(nil, &err)
	case bad != nil || of != key:
		v.blame("key %d has the value %q", key, got)
	case keys == behindKeys && how != cachex.Hit && (hurt || v.hurt.Load() || v.unanswered() > lost):
	default:
		e.version, e.release = version, v.release
		v.h.end(e)
		return
	}
	v.h.drop(e)
}

func (vs *visitors) unanswered() int64 {
	if vs.lost == nil {
		return 0
	}
	return vs.lost()
}

func (v *visitor) add(ctx context.Context, _ int) { v.crowd.add(ctx, v.counts, 2) }

// addBuffered adds to the Buffer, and has it sent. What is not sent without doubt stays
// in the Buffer.
func (v *visitor) addBuffered(ctx context.Context, _ int) {
	v.writing.RLock()
	defer v.writing.RUnlock()
	n := int64(1 + rand.IntN(5))
	if err := v.buffer.Add(countBuffered, n); err != nil {
		v.blame("Buffer.Add: %v", err)
		return
	}
	before := v.buffer.Stats().Unknown
	err := v.buffer.Flush(ctx)
	for err != nil && v.buffer.Stats().Unknown == before && ctx.Err() == nil {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
		err = v.buffer.Flush(ctx)
	}
	v.crowd.mu.Lock()
	defer v.crowd.mu.Unlock()
	if err == nil {
		v.acked[countBuffered] += n
	} else {
		v.unknown[countBuffered] += n
	}
}

// flush has all that was set persisted. A process that cannot read something leaves it
// to the others, and says so.
func (vs *visitors) flush(ctx context.Context) error {
	for {
		var failed error
		for _, v := range vs.stay {
			failed = errors.Join(failed, v.behind.Flush(ctx))
		}
		if failed == nil || ctx.Err() != nil {
			return failed
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// end requires that the database has what was set last.
func (vs *visitors) end(ctx context.Context, t *testing.T) {
	t.Helper()
	if err := vs.flush(ctx); err != nil {
		t.Errorf("values are left: %v", err)
	}
	for _, v := range vs.stay {
		if err := v.close(); err != nil {
			t.Errorf("something is left: %v", err)
		}
	}
	vs.mu.Lock()
	defer vs.mu.Unlock()
	for key, version := range vs.database {
		if wrong := vs.h.least(behindKeys+key, version); wrong != "" {
			t.Errorf("the database has version %d of key %d, %s", version, behindKeys+key, wrong)
		}
	}
	for _, wrong := range vs.wrong[:min(len(vs.wrong), 5)] {
		t.Error(wrong)
	}
	t.Logf("%d visitors", vs.visits.Load())
}
