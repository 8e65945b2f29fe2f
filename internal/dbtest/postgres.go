// Package dbtest tests package ledger, and the write-behind that is built on
// it, against real databases: PostgreSQL and SQLite. It is a separate module,
// so that users of cachex do not depend on the drivers.
package dbtest

import (
	"context"
	"database/sql"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"testing"

	_ "github.com/jackc/pgx/v5/stdlib" // driver "pgx"

	"github.com/cachex-go/cachex/internal/redistest"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

// Postgres is a PostgreSQL server, on a port of the loopback interface. It is
// killed when the test that started it ends, unless it is shared.
type Postgres struct {
	t    testing.TB
	dir  string
	bin  string
	as   func(*exec.Cmd)
	port int
	proc *redistest.Process
}

// StartPostgres starts a server and returns when it accepts connections. The
// arguments are settings, as in "max_connections=20". If postgres or initdb is
// missing, the test is skipped; see [redistest.Binary].
//
// PostgreSQL refuses to run as root, so root runs it as the user nobody.
func StartPostgres(t testing.TB, settings ...string) *Postgres {
	t.Helper()
	p := &Postgres{t: t, bin: binaries(t)}
	p.as = unprivileged(t)
	// t.TempDir does not serve, since only root could enter it.
	dir, err := os.MkdirTemp("", "dbtest")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	p.dir = filepath.Join(dir, "data")
	hand(t, dir)
	p.run("initdb", "-D", p.dir, "-U", "cachex", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
	args := []string{"-D", p.dir, "-c", "listen_addresses=127.0.0.1", "-c", "unix_socket_directories=", "-c", "fsync=off"}
	for _, s := range settings {
		args = append(args, "-c", s)
	}
	p.port = redistest.Port(t)
	p.start(append(args, "-p", strconv.Itoa(p.port)))
	return p
}

// Shared returns the server that all tests of this test binary share. The first
// call starts it, and it is killed when all tests have ended. Each test uses
// its own schema.
func Shared(t testing.TB) *Postgres {
	t.Helper()
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.server == nil {
		shared.server = StartPostgres(redistest.Lasting(t))
	}
	p := *shared.server
	p.t = t
	return &p
}

var shared struct {
	mu     sync.Mutex
	server *Postgres // guarded by mu; nil until the first call of Shared
}

// DSN returns the data source name with which a driver reaches the server.
func (p *Postgres) DSN() string {
	return fmt.Sprintf("postgres://cachex@127.0.0.1:%d/postgres?sslmode=disable", p.port)
}

// Open returns the database, which is closed when the test ends.
func (p *Postgres) Open() *sql.DB {
	p.t.Helper()
	db, err := sql.Open("pgx", p.DSN())
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { _ = db.Close() })
	return db
}

func (p *Postgres) start(args []string) {
	cmd := exec.Command(filepath.Join(p.bin, "postgres"), args...)
	p.as(cmd)
	p.proc = redistest.Spawn(p.t, cmd)
	p.proc.WaitLine("database system is ready to accept connections")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := p.Open().PingContext(ctx); err != nil {
		p.t.Fatalf("dbtest: %v\n%s", err, p.proc.Output())
	}
}

func (p *Postgres) run(name string, args ...string) {
	p.t.Helper()
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	p.as(cmd)
	if out, err := cmd.CombinedOutput(); err != nil {
		p.t.Fatalf("dbtest: %s: %v\n%s", name, err, out)
	}
}

// binaries returns the directory of postgres and initdb: on PATH, or the one
// that Debian uses.
func binaries(t testing.TB) string {
	t.Helper()
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	slices.Sort(found)
	for _, path := range slices.Backward(found) {
		if _, err := os.Stat(filepath.Join(filepath.Dir(path), "initdb")); err == nil {
			return filepath.Dir(path)
		}
	}
	path, err := filepath.EvalSymlinks(redistest.Binary(t, "postgres"))
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(path)
}

// nobody returns the user and group id of the user nobody.
func nobody(t testing.TB) (uid, gid int) {
	t.Helper()
	u, err := user.Lookup("nobody")
	if err != nil {
		t.Fatalf("dbtest: PostgreSQL refuses to run as root: %v", err)
	}
	uid, _ = strconv.Atoi(u.Uid)
	gid, _ = strconv.Atoi(u.Gid)
	return uid, gid
}
