package conformance

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/redistest"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

var update = flag.Bool("update", false, "write docs/topologies.md anew")

func TestMain(m *testing.M) {
	// These tests wait more than they compute.
	_ = flag.Set("test.parallel", "4")
	redistest.Main(m, func() error { return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers)) })
}

// A row is one thing that cachex does.
type row struct {
	feature string // for the table
	proves  string // what the test is a proof of, for the table
	run     func(t *testing.T, w *world)

	// lacks are the topologies where it does not work, and what the error says. run is
	// to require that.
	lacks func(topology) string
}

// rows are all of them, in the order of the table.
var rows = func() []row {
	var all []row
	for _, some := range [][]row{reading, writing, freshness, fleet, packed, batches, counters, collections, gates} {
		all = append(all, some...)
	}
	return all
}()

// requireQueries requires so many calls of UpMany. What a server of several answers much
// later than the others, since the machine stands still perhaps, is loaded by one more.
func (w *world) requireQueries(t *testing.T, n int, s *source, why string) {
	t.Helper()
	got := s.queries()
	require.GreaterOrEqual(t, got, n, why)
	servers := map[string]bool{"": true}
	if server := client.Servers(w.a); server != nil {
		clear(servers)
		for i := range 1000 {
			servers[server(fmt.Sprint(i))] = true
		}
	}
	require.LessOrEqual(t, got, n+len(servers)-1, why)
}

// A world is where a row runs.
type world struct {
	topology
	a, b   redis.UniversalClient // of two processes, so to speak
	prefix string                // of the keys of this row alone
}

var missing = cachex.ErrNotFound

// caches returns two caches with the same keys, one of each client. LeaseTTL
// defaults to an hour: no process loses its lease because the machine stands still.
func (w *world) caches(t *testing.T, spec cachex.Spec[int, string]) (a, b *cachex.Cache[int, string]) {
	t.Helper()
	if spec.TTL == 0 {
		spec.TTL = time.Hour
	}
	if spec.LeaseTTL == 0 {
		spec.LeaseTTL = hour
	}
	if spec.Key == "" {
		spec.Key = w.prefix + ":{id}"
	}
	open := func(rdb redis.UniversalClient) *cachex.Cache[int, string] {
		c, err := cachex.New(rdb, spec)
		require.NoError(t, err)
		atEnd(t, c.Close)
		return c
	}
	return open(w.a), open(w.b)
}

// atEnd closes what a row has made.
func atEnd(t *testing.T, end func(context.Context) error) {
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, end(ctx), "a load or a call is left behind")
	})
}

// A source is a system of record, of which every value has a number.
type source struct {
	mu     sync.Mutex
	values map[int]string // guarded by mu
	loads  int            // guarded by mu: keys that were asked for
	calls  int            // guarded by mu: of up and many together
	err    error          // guarded by mu: what they return
}

func newSource(keys int) *source {
	s := &source{values: map[int]string{}}
	for i := range keys {
		s.values[i] = fmt.Sprint("value ", i)
	}
	return s
}

func (s *source) put(id int, v string) { s.mu.Lock(); s.values[id] = v; s.mu.Unlock() }
func (s *source) fail(err error)       { s.mu.Lock(); s.err = err; s.mu.Unlock() }
func (s *source) drop(id int)          { s.mu.Lock(); delete(s.values, id); s.mu.Unlock() }

func (s *source) value(id int) string { s.mu.Lock(); defer s.mu.Unlock(); return s.values[id] }
func (s *source) asked() int          { s.mu.Lock(); defer s.mu.Unlock(); return s.loads }
func (s *source) queries() int        { s.mu.Lock(); defer s.mu.Unlock(); return s.calls }

func (s *source) up(ctx context.Context, id int) (string, error) {
	got, err := s.many(ctx, []int{id})
	v, ok := got[id]
	if err == nil && !ok {
		err = missing
	}
	return v, err
}

func (s *source) many(_ context.Context, ids []int) (map[int]string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls++
	s.loads += len(ids)
	if s.err != nil {
		return nil, s.err
	}
	got := map[int]string{}
	for _, id := range ids {
		if v, ok := s.values[id]; ok {
			got[id] = v
		}
	}
	return got, nil
}

func (s *source) down(_ context.Context, id int, v string) error {
	s.put(id, v)
	return nil
}

var errSource = errors.New("the database is away")

// eventually waits for something that no signal tells of.
func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	require.Eventually(t, is, patience, 5*time.Millisecond, what)
}

func TestEverythingWorksOnEveryTopology(t *testing.T) {
	t.Parallel()
	for _, topology := range topologies {
		t.Run(topology.name, func(t *testing.T) {
			t.Parallel()
			clients := topology.start(t)
			// One pair for all rows: what is shared by the caches of a client is shared.
			a, b := clients(t), clients(t)
			runRows(t, topology, a, b)
		})
	}
}

func runRows(t *testing.T, topology topology, a, b redis.UniversalClient) {
	// In a group of their own, so that all have ended when it has.
	t.Run("rows", func(t *testing.T) {
		for _, r := range rows {
			t.Run(r.feature, func(t *testing.T) {
				t.Parallel()
				r.run(t, &world{topology: topology, a: a, b: b, prefix: topology.prefix + redistest.Key(t)})
			})
		}
	})
}

// servers lists the servers that the rows were run on by hand: see .ci/servers.
const servers = `
## Servers

The script .ci/run runs all tests on the installed Redis, which was 7.0.15. It also runs the scripts and the rows on Valkey
8.1.1, if Debian's mirror can be reached. The workflow uses Redis 6.2, 7.4 and 8.2, and Valkey 8.1 and 9.0.
These ran by hand, without a failure:

| server | what ran | date |
|---|---|---|
| Redis 8.0.2 | all rows above and all faults of [reliability](reliability.md); on a commit of that morning, all tests | 30 November 2026 |
| Valkey 8.1.1 | all rows above and all faults | 30 November 2026 |
| Valkey 9.1.2 | on a commit of that morning, all tests | 30 November 2026 |

` + "`CACHEX_REDIS=redis://host:6379 go test ./internal/conformance -run ExternalServer -v`" + ` runs the rows on a server of yours, under a
prefix of its own, without ` + "`FLUSHALL`, `CONFIG` and `DEBUG`" + `: see [testing](testing.md#other-servers).
`

const tableFile = "../../docs/topologies.md"

// table returns docs/topologies.md.
func table() string {
	var b strings.Builder
	b.WriteString("# Topologies\n\n" +
		"**In short:** everything works everywhere, except `Clear` where it cannot reach all masters.\n\n" +
		"This file is written by the tests in `internal/conformance`, which run every row on every topology, with two clients that\n" +
		"stand for two processes: `go test ./internal/conformance -run Table -update`.\n\n| | the client; the servers |\n|---|---|\n")
	for _, t := range topologies {
		fmt.Fprintf(&b, "| %s | %s |\n", t.name, t.setup)
	}
	b.WriteString("\n|")
	for _, t := range topologies {
		fmt.Fprintf(&b, " | %s", t.name)
	}
	b.WriteString(" | proved behaviour |\n|---|" + strings.Repeat(":-:|", len(topologies)) + "---|\n")
	var notes []string
	for _, r := range rows {
		fmt.Fprintf(&b, "| %s", r.feature)
		for _, t := range topologies {
			mark := "✓"
			if r.lacks != nil && r.lacks(t) != "" {
				notes = append(notes, fmt.Sprintf("%s, %s: an error, `%s …`", t.name, r.feature, r.lacks(t)))
				mark = fmt.Sprintf("(%d)", len(notes))
			}
			fmt.Fprintf(&b, " | %s", mark)
		}
		fmt.Fprintf(&b, " | %s |\n", r.proves)
	}
	b.WriteString("\n")
	for i, note := range notes {
		fmt.Fprintf(&b, "%d. %s\n", i+1, note)
	}
	b.WriteString("\nWaiters, for a value or a collection, are woken by a message on standalone servers, behind Sentinel, through an AutoPipeline\n" +
		"of these, and on a Cluster of Redis 7 or later. Elsewhere they poll: on a Ring, through twemproxy, through an AutoPipeline or a\n" +
		"wrapper of a Cluster, and on a Cluster of Redis 6.2.\n" +
		"\nOn every topology, a write is in Redis once. For a Ring this requires that it never drops a shard, and `New` refuses any\n" +
		"other Ring: see [client options](client.md). [Reliability](reliability.md) lists the writes that an asynchronous failover loses.\n" +
		"`redis.NewUniversalClient` returns one of these clients. For twemproxy, see [its page](twemproxy.md).\n")
	b.WriteString(servers)
	return b.String()
}

func TestTheTableInTheDocsIsOfTheseRows(t *testing.T) {
	t.Parallel()
	want := table()
	if *update {
		require.NoError(t, os.WriteFile(tableFile, []byte(want), 0o600))
	}
	got, err := os.ReadFile(tableFile)
	require.NoError(t, err)
	require.Equal(t, want, strings.ReplaceAll(string(got), "\r\n", "\n"), "run: go test ./internal/conformance -run Table -update")
}
