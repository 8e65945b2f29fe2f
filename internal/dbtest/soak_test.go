package dbtest

import (
	"bytes"
	"context"
	"database/sql"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/ledger"
	"github.com/cachex-go/cachex/writebehind"
)

// openChild opens the database of a soak in one of its processes. In so many of
// a thousand steps the database lies.
func openChild(d ledger.Dialect, dsn string, lies int) (*base, error) {
	name := "pgx"
	if d == ledger.SQLite {
		name = "sqlite"
	}
	db, err := sql.Open(name, dsn)
	if err != nil {
		return nil, err
	}
	b := &base{DB: db, dialect: d, dsn: dsn}
	if lies > 0 {
		b.DB = b.lying(&liar{of1000: lies})
	}
	b.DB.SetMaxOpenConns(6)
	b.l, err = ledger.New(b.DB, ledger.Options{Dialect: d})
	return b, err
}

// soak runs processes of two releases that write to one Redis and one database,
// and makes them and the servers fail.
type soak struct {
	db     *base
	server *redistest.Server
	proxy  *redistest.Proxy // between it and the processes
	name   string
	dir    string
	r      *rand.Rand
	lies   int

	releases [soakSlots]uint32 // 0: this one or that one

	procs    []*redistest.Process
	closing  []*redistest.Process
	journals []string // journals of all processes so far
	lives    int64
	away     []span         // spans without Redis
	hurt     map[string]int // number of failures of each kind
}

// The releases of the program.
const (
	oldRelease = 2
	newRelease = 3
)

// soakSlots is the number of processes at a time.
const soakSlots = 3

func (s *soak) start(t *testing.T, slot int) {
	t.Helper()
	s.lives++
	release := s.releases[slot]
	if release == 0 {
		release = oldRelease + s.r.Uint32N(2)
	}
	file := filepath.Join(s.dir, fmt.Sprintf("%03d", s.lives))
	s.journals = append(s.journals, file)
	s.procs[slot] = redistest.Child(t, "soaked", "REDIS="+s.proxy.Addr(), "DSN="+s.db.dsn,
		"DIALECT="+strconv.Itoa(int(s.db.dialect)), "NAME="+s.name, "JOURNAL="+file, "SLOT="+strconv.Itoa(slot),
		"LIFE="+strconv.FormatInt(s.lives, 10), "RELEASE="+strconv.Itoa(int(release)), "LIES="+strconv.Itoa(s.lies),
		"SEED="+strconv.FormatUint(s.r.Uint64()>>1, 10))
}

// worked waits until a process is working.
func (s *soak) worked(slot int) { s.procs[slot].WaitLine("worked") }

// kill ends a process as kill -9 does.
func (s *soak) kill(slot int) {
	s.procs[slot].Kill()
	s.hurt["processes killed"]++
}

// close lets a process end as a program should, and returns when it no longer
// writes. The process still persists its remaining data.
func (s *soak) close(t *testing.T, slot int) {
	t.Helper()
	p, err := os.FindProcess(s.procs[slot].Pid())
	require.NoError(t, err)
	require.NoError(t, p.Signal(os.Interrupt))
	s.procs[slot].WaitLine("closing")
	s.closing = append(s.closing, s.procs[slot])
	s.hurt["processes closed"]++
}

// restart kills Redis, which keeps all acknowledged writes.
func (s *soak) restart() {
	// A read in progress may take a timeout and a retry longer. The breaker may
	// add as much before the process asks Redis.
	const after = 2 * time.Second
	from := time.Now()
	s.server.Kill()
	s.server.Restart()
	s.away = append(s.away, span{from.UnixMicro(), time.Now().Add(after).UnixMicro()})
	s.hurt["Redis killed"]++
}

// disconnect cuts the processes' connections to PostgreSQL, at any step.
func (s *soak) disconnect(t *testing.T) {
	t.Helper()
	if s.db.dialect != ledger.PostgreSQL {
		return
	}
	_, err := s.db.ExecContext(t.Context(), `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
		WHERE application_name = $1 AND pid <> pg_backend_pid()`, s.name)
	require.NoError(t, err)
	s.hurt["connections cut"]++
}

// Processes write to two caches and to counts, and are killed or closed. Redis
// is killed, and the database commits and returns errors. In the end the
// database has every acknowledged write, once.
func TestSoak_TheDatabaseHasWhatWasAcknowledgedOnce(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		s := newSoak(t, db)
		s.releases = [soakSlots]uint32{newRelease, newRelease, newRelease}
		s.run(t)
		s.settle(t)
	})
}

// This is the same test while a new release replaces an old one, process by
// process: neither can decode the values of the other.
func TestSoak_TwoReleasesPersistWhatEachHasWritten(t *testing.T) {
	t.Parallel()
	each(t, func(t *testing.T, db *base) {
		s := newSoak(t, db)
		s.releases = [soakSlots]uint32{oldRelease, newRelease, 0}
		s.run(t)
		s.settle(t)
	})
}

// run starts the processes, makes them and the servers fail, and ends them.
func (s *soak) run(t *testing.T) {
	t.Helper()
	n := *rounds
	if n == 0 {
		n = 10
	}
	for slot := range soakSlots {
		s.start(t, slot)
	}
	for slot := range soakSlots {
		s.worked(slot)
	}
	for range n {
		slot := s.r.IntN(soakSlots)
		time.Sleep(time.Duration(s.r.Int64N(int64(60 * time.Millisecond))))
		switch s.r.IntN(8) {
		case 0:
			s.restart()
		case 1:
			s.disconnect(t)
		case 2:
			s.late(t)
		case 3, 4:
			s.close(t, slot)
			s.start(t, slot)
		default:
			s.kill(slot)
			s.start(t, slot)
		}
		s.worked(slot)
	}
	s.kill(0)
	for slot := 1; slot < soakSlots; slot++ {
		s.close(t, slot)
	}
	s.hurt["late copies"] += s.proxy.Release()
	for _, p := range s.closing {
		require.NoError(t, p.Wait())
	}
}

// late delays some scripts to Redis beyond later ones: it releases the scripts
// held before, and holds the next ones.
func (s *soak) late(t *testing.T) {
	t.Helper()
	s.hurt["late copies"] += s.proxy.Release()
	write := []*script.Script{
		script.WriteBehind, script.AddCount(true, false), script.AddCount(true, true), script.TakeBatch, script.HoldBatch, script.AckBatch,
	}
	s.proxy.HoldNext(3, func(request []byte) bool {
		return slices.ContainsFunc(write, func(w *script.Script) bool { return bytes.Contains(request, []byte(w.SHA())) })
	})
}

func newSoak(t *testing.T, db *base) *soak {
	t.Helper()
	seed := rand.Uint64()
	t.Log("seed", seed)
	s := &soak{
		db: db, name: strings.ToLower(redistest.Key(t)), dir: t.TempDir(), lies: 20,
		r: rand.New(rand.NewPCG(seed, 0)), procs: make([]*redistest.Process, soakSlots), hurt: map[string]int{},
		server: redistest.Start(t, "--appendonly", "yes", "--appendfsync", "always"),
	}
	s.proxy = redistest.NewProxy(t, s.server.Addr())
	if db.dialect == ledger.PostgreSQL {
		db.dsn += "&application_name=" + s.name
	}
	require.NoError(t, db.createSite(t.Context()))
	return s
}

// settle lets a process of each release persist everything, and requires that
// the database agrees with the journals.
func (s *soak) settle(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), long)
	defer cancel()
	rec := newRecord()
	rec.away = s.away
	for _, file := range s.journals {
		rec.read(readJournal(t, file))
	}
	var last []*site
	releases := []uint32{newRelease}
	if s.releases[0] == oldRelease {
		releases = []uint32{oldRelease, newRelease}
	}
	for _, release := range releases {
		rdb := s.server.Client(nil)
		site, err := openSite(rdb, s.db, s.name, release, patience)
		require.NoError(t, err)
		defer func() { require.NoError(t, site.close(ctx)) }()
		last = append(last, site)
	}
	for _, n := range rec.inDoubt {
		_, err := last[0].counts.AddOnce(ctx, n.Key, n.N, n.ID)
		require.NoError(t, err)
		rec.count(n.Key).acked += n.N
		rec.count(n.Key).unknown -= n.N
	}
	for err := flushAll(ctx, last); err != nil; err = flushAll(ctx, last) {
		if pause(ctx); ctx.Err() != nil { // after a kill SQLite is busy
			t.Fatal(err)
		}
	}

	rec.requireRight(t)
	for id, reg := range rec.registers {
		table, _, _ := strings.Cut(id, "-")
		if got := s.db.value(t, table, id); !reg.may(got) {
			t.Errorf("%s is %d in the database, and may be %s; its last write: %+v", id, got, reg.allowed(), reg.acked)
		}
	}
	for id, c := range rec.counts {
		got := s.db.sum(t, id)
		if got < c.acked || got > c.acked+c.unknown {
			t.Errorf("%s is %d in the database, of %d acknowledged and %d unknown", id, got, c.acked, c.unknown)
		}
		for _, site := range last {
			n, err := site.counts.Get(ctx, id)
			require.NoError(t, err)
			require.Equal(t, got, n, "%s in Redis and in the database", id)
			require.NoError(t, site.counts.Delete(ctx, id))
		}
	}
	s.requireNoRegress(t, rec)
	for _, site := range last {
		for _, stats := range []writebehind.Stats{site.values.Stats().WriteBehind, site.many.Stats().WriteBehind, site.counts.Stats().WriteBehind} {
			require.Zero(t, stats.Forks)
			require.Zero(t, stats.Refused)
		}
	}
	t.Logf("%v; %d writes acknowledged, %d unknown, %d refused; %d reads; %d processes left something to others", s.hurt, rec.writes, rec.unknowns, rec.refusals, rec.reads, rec.left)
}

// flushAll flushes all processes. If a process cannot read some ids, it reports
// them and leaves them to the others.
func flushAll(ctx context.Context, all []*site) error {
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, site := range all {
		wg.Go(func() { errs[i] = site.flush(ctx) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// value returns the version of a value in a table, or 0 if it has no row.
func (db *base) value(t *testing.T, table, id string) (n int64) {
	t.Helper()
	err := db.QueryRowContext(t.Context(), `SELECT n FROM `+table+` WHERE id = $1`, id).Scan(&n)
	if err != sql.ErrNoRows {
		require.NoError(t, err)
	}
	return n
}

// requireNoRegress requires that no value in the database was replaced by an
// older one, except by a write whose time of execution is unknown.
func (s *soak) requireNoRegress(t *testing.T, rec *record) {
	t.Helper()
	rows, err := s.db.QueryContext(t.Context(), `SELECT id, was, n FROM regress`)
	require.NoError(t, err)
	defer rows.Close()
	for rows.Next() {
		var id string
		var was, n int64
		require.NoError(t, rows.Scan(&id, &was, &n))
		if reg := rec.register(id); !reg.maybe[n] {
			t.Errorf("%s was %d in the database and then %d, which is older: %+v", id, was, n, reg.written[n])
		}
	}
	require.NoError(t, rows.Err())
}
