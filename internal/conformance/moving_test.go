package conformance

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/counter"
	"github.com/cachex-go/cachex/internal/redistest"
)

// A move is a slot of a Cluster on its way from one master to the other, the counts in
// it, and others that stay where they are.
type move struct {
	cluster       *redistest.Cluster
	from, to      *redis.Client // of the masters
	slot          int
	moving, fixed []int // counts
	gone          int   // one that moves, and is deleted again and again

	a, b   *counter.Counter[int] // of two processes
	buffer *counter.Buffer[int]  // of b
	single *counter.Counter[int] // counts of one key each, for they are not persisted

	release chan struct{} // closed when the batch that is held may be persisted

	mu        sync.Mutex
	held      chan struct{} // guarded by mu: unless nil, closed when the next batch comes, and is held
	persisted map[int]int64 // guarded by mu
	applied   map[int]int64 // guarded by mu: the last batch of each bucket

	counted map[int]int64 // what was acknowledged
	kept    map[int]int64 // what is in the buffer
	once    map[int]bool  // whether AddOnce was acknowledged
	singly  int64         // of each count of single
	refused int
}

// newMove returns one that has not begun.
func newMove(t *testing.T) *move {
	m := &move{
		cluster: redistest.StartCluster(t, 2), persisted: map[int]int64{}, applied: map[int]int64{},
		release: make(chan struct{}), counted: map[int]int64{}, kept: map[int]int64{}, once: map[int]bool{},
	}
	client := func() *redis.ClusterClient { // go-redis sends again what is refused, in vain
		return m.cluster.Client(&redis.ClusterOptions{MinRetryBackoff: time.Millisecond, MaxRetryBackoff: time.Millisecond})
	}
	w := &world{a: client(), b: client(), prefix: redistest.Key(t)}
	m.a, m.b = w.counters(t, counter.Spec[int]{
		FlushEvery: hour, Down: m.down,
		Up: func(_ context.Context, id int) (int64, error) {
			m.mu.Lock()
			defer m.mu.Unlock()
			return m.persisted[id], nil
		},
	})
	w.prefix += ":single"
	m.single, _ = w.counters(t, counter.Spec[int]{})
	var err error
	m.buffer, err = counter.NewBuffer(m.b, counter.BufferOptions{Every: hour})
	require.NoError(t, err)
	// What is pending of the counts of a bucket is one key, in the slot that they have.
	bucket := func(id int) string { tag, _, _ := strings.Cut(m.a.Key(id), "}"); return tag }
	for id := 0; m.gone == 0; id++ {
		if bucket(id) == bucket(0) && len(m.moving) == 4 {
			m.gone, m.counted[id] = id, 0
		} else if bucket(id) == bucket(0) {
			m.moving = append(m.moving, id)
		} else if len(m.fixed) < 3 {
			m.fixed = append(m.fixed, id)
		}
	}
	owner := m.cluster.Owner(m.a.Key(0))
	m.slot, m.from, m.to = m.cluster.Slot(m.a.Key(0)), owner.Client(nil), m.cluster.OtherThan(owner).Client(nil)
	return m
}

// down applies a batch once.
func (m *move) down(_ context.Context, f counter.Flush[int]) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if held := m.held; held != nil {
		m.held = nil
		close(held)
		m.mu.Unlock()
		<-m.release
		m.mu.Lock()
	}
	if f.Batch.N <= m.applied[f.Batch.Bucket] {
		return nil
	}
	m.applied[f.Batch.Bucket] = f.Batch.N
	for id, delta := range f.Deltas {
		m.persisted[id] += delta
	}
	return nil
}

// all are those that are never deleted.
func (m *move) all() []int { return append(slices.Clone(m.fixed), m.moving...) }

// torn are the counts that Redis has on another side than what is pending of them.
func (m *move) torn(t *testing.T) (ids []int) {
	t.Helper()
	here, err := m.from.ClusterGetKeysInSlot(t.Context(), m.slot, 100).Result()
	require.NoError(t, err)
	there, err := m.to.ClusterGetKeysInSlot(t.Context(), m.slot, 100).Result()
	require.NoError(t, err)
	pending := func(key string) bool { return strings.HasSuffix(key, "%pending") }
	for _, id := range m.moving {
		whole := func(keys []string) bool {
			return slices.Contains(keys, m.a.Key(id)) && slices.ContainsFunc(keys, pending)
		}
		if !whole(here) && !whole(there) {
			ids = append(ids, id)
		}
	}
	return ids
}

// use counts in every way, while counts are torn, and requires that each count has what
// was acknowledged of it.
func (m *move) use(t *testing.T, torn []int) {
	t.Helper()

	// The sums of a Buffer leave in one pipeline for each master.
	for _, id := range m.all() {
		require.NoError(t, m.buffer.Add(id, 10))
		m.kept[id] += 10
	}
	if err := m.buffer.Flush(t.Context()); len(torn) == 0 {
		require.NoError(t, err)
	} else {
		m.refusal(t, err)
	}
	for _, id := range m.all() {
		if !slices.Contains(torn, id) {
			m.counted[id] += m.kept[id]
			delete(m.kept, id)
		}
	}
	require.Len(t, m.kept, m.buffer.Stats().Sums, "the sums of the counts that are torn wait, and no others")
	require.Zero(t, m.buffer.Stats().Unknown)
	m.read(t)

	// The additions of several goroutines leave together, too.
	ids, wg := slices.Repeat(m.all(), 3), sync.WaitGroup{}
	got, errs := make([]int64, len(ids)), make([]error, len(ids))
	for i, id := range ids {
		wg.Go(func() { got[i], errs[i] = m.a.Inc(t.Context(), id) })
	}
	wg.Wait()
	answers := map[int][]int64{}
	for i, id := range ids {
		if slices.Contains(torn, id) {
			m.refusal(t, errs[i])
		} else {
			require.NoError(t, errs[i])
			answers[id] = append(answers[id], got[i])
		}
	}
	for id, got := range answers {
		n := m.counted[id]
		require.ElementsMatch(t, []int64{n + 1, n + 2, n + 3}, got)
		m.counted[id] += 3
	}
	m.read(t)

	// The same operation, again and again. It has a key of its own, which may be torn too.
	for _, id := range m.all() {
		_, err := m.b.AddOnce(t.Context(), id, 100, "op")
		switch {
		case err != nil:
			m.refusal(t, err)
		case !m.once[id]:
			m.once[id] = true
			m.counted[id] += 100
		}
	}
	m.read(t)

	// Who restores a count needs what is pending of it.
	require.NoError(t, m.b.Delete(t.Context(), m.gone))
	m.read(t)
	for range 2 {
		n, err := m.a.Inc(t.Context(), m.gone)
		if err != nil {
			m.refusal(t, err)
		} else {
			m.counted[m.gone]++
			require.Equal(t, m.counted[m.gone], n)
		}
		m.read(t)
	}

	m.singly++
	for id := range 50 {
		n, err := m.single.Inc(t.Context(), id)
		require.NoError(t, err)
		require.Equal(t, m.singly, n)
	}
}

// refusal requires that Redis refused what was to be counted.
func (m *move) refusal(t *testing.T, err error) {
	t.Helper()
	require.ErrorContains(t, err, "TRYAGAIN ")
	require.NotErrorIs(t, err, counter.ErrOutcomeUnknown)
	m.refused++
}

// read reads all counts, in one batch.
func (m *move) read(t *testing.T) {
	t.Helper()
	var b batch.Batch
	counts := batch.GetMany(&b, m.a, append(m.all(), m.gone))
	require.NoError(t, b.Run(t.Context()))
	got, err := counts.Get()
	require.NoError(t, err)
	require.Equal(t, m.counted, got)
}

func (m *move) requirePersisted(t *testing.T) {
	t.Helper()
	require.NoError(t, m.b.Flush(t.Context())) // whose batch it is, so that nobody waits for its lease
	m.mu.Lock()
	defer m.mu.Unlock()
	require.Equal(t, m.counted, m.persisted)
}

func TestCountsThatLeaveTogetherAreEachTheirOwnMatterWhileTheirSlotMoves(t *testing.T) {
	t.Parallel()
	m := newMove(t)
	m.use(t, nil)
	m.requirePersisted(t)

	// A batch is being persisted when the move begins. It cannot be acknowledged before
	// that ends, and is persisted again.
	for _, id := range m.moving {
		_, err := m.a.Inc(t.Context(), id)
		require.NoError(t, err)
		m.counted[id]++
	}
	held, flushed := make(chan struct{}), make(chan error, 1)
	m.mu.Lock()
	m.held = held
	m.mu.Unlock()
	go func() { flushed <- m.b.Flush(t.Context()) }()
	<-held
	m.use(t, nil)

	some, again := false, sync.OnceFunc(func() {
		close(m.release)
		m.refusal(t, <-flushed)
	})
	m.cluster.Move(m.slot, m.cluster.OtherThan(m.cluster.Owner(m.a.Key(0))), func() {
		again()
		torn := m.torn(t)
		some = some || 0 < len(torn) && len(torn) < len(m.moving)
		m.use(t, torn)
		m.refusal(t, m.b.Flush(t.Context()))
	})
	require.True(t, some, "one count was torn, and another one not")
	m.use(t, nil)
	require.Empty(t, m.kept)
	m.requirePersisted(t)
	t.Logf("%d answers of TRYAGAIN; counted %v", m.refused, m.counted)
}
