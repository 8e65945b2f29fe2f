package conformance

import (
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/twemproxy"
)

// A fault is what becomes of Redis while a crowd uses it. hurt returns when all is
// well again, as far as Redis is concerned.
type fault struct {
	name, sees, stored string // for the table in docs/reliability.md
	where              string // "" for one server that keeps what it is told, by its append-only file
	loses              bool   // it loses what Redis holds, so nobody counts
	hurt               func(t *testing.T, p *patient)

	// shows is what proves that the fault does something. A fault that does not would
	// be survived by anybody.
	shows sign
}

const (
	loads   = "reads load, at most `MaxLoads` at once in each process. Writes and counts return the error"
	hits    = "hits are served, misses load; writes and counts return the error"
	worst   = "reads load at worst. Writes and counts may return `ErrOutcomeUnknown`"
	nothing = "nothing, until Redis is back"
	stopped = "as `SIGSTOP`"
)

// faults are all of them, in the order of the table.
var faults = func() []fault {
	var all []fault
	for _, some := range [][]fault{faultsOfTheProcess, faultsOfTheReplies, faultsOfTheData, faultsOfTheLine, faultsOfNodes, faultsOfShards, faultsOfNetworks} {
		all = append(all, some...)
	}
	return all
}()

// A patient is the server that is hurt, and who uses it.
type patient struct {
	*crowd
	witness
	server *redistest.Server
	proxy  *redistest.Proxy // between it and the crowd
	admin  *redis.Client    // which has a connection of its own, past the proxy
	clock  *clock           // of a server that has one of its own

	sentinel *redistest.Sentinel // in place of server, proxy and admin
	cluster  *redistest.Cluster  // likewise
	network  *redistest.Network  // nil: there is none that can be cut

	ill    string      // the name of the fault that is inflicted
	felt   func() bool // its sign
	struck int64       // what who inflicts them has seen them strike
}

// inflict hurts the patient, and requires that it felt it.
func (p *patient) inflict(t *testing.T, f fault) {
	t.Helper()
	if p.visitors != nil {
		p.visitors.hurt.Store(true)
	}
	p.ill, p.felt = f.name, f.shows(t, p)
	f.hurt(t, p)
	p.feels(t)
}

// suffers returns when the crowd has done so many more things and has felt the fault.
func (p *patient) suffers(t *testing.T, n int64) {
	t.Helper()
	p.does(t, n)
	p.feels(t)
}

func (p *patient) feels(t *testing.T) {
	t.Helper()
	eventually(t, "the fault does nothing: "+p.ill, p.felt)
}

// do asks the server for something that must succeed.
func (p *patient) do(t *testing.T, args ...any) *redis.Cmd {
	t.Helper()
	cmd := p.admin.Do(t.Context(), args...)
	require.NoError(t, cmd.Err(), "%v", args)
	return cmd
}

// again calls f ten times, while the crowd goes on.
func (p *patient) again(t *testing.T, f func()) {
	t.Helper()
	for range 10 {
		p.does(t, 20)
		f()
	}
}

// options are those that docs/client.md recommends, with a shorter timeout.
func options(o *redis.Options) {
	o.ContextTimeoutEnabled, o.MaxRetries, o.DialerRetries = true, 1, 1
	o.DialTimeout, o.ReadTimeout, o.WriteTimeout, o.PoolTimeout = 500*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond, 300*time.Millisecond
}

// nodeTimeout is how long a node of a Cluster is silent before the others take it for
// dead, from the fault on. Before, it is an hour: a node that stands still for as long on
// a busy machine would be replaced, and what its replica has not got would be lost.
const nodeTimeout = 5 * time.Second

// admit starts what the fault needs, with a crowd. Servers that are killed have written
// what they acknowledged: with an fsync every second, they may be late by two while the
// disk is busy.
func admit(t *testing.T, f fault, n *redistest.Network) *patient {
	switch f.where {
	case cutSentinel:
		return acrossSentinels(t, n)
	case cutCluster:
		p := onCluster(t, 3, redistest.WithReplicas(nodeTimeout), redistest.Across(n))
		p.network = n
		return p
	case "sentinel":
		return behindSentinel(t)
	case "cluster":
		return onCluster(t, 3, redistest.WithReplicas(hour))
	case "headless":
		return onCluster(t, 2, redistest.WithArgs("--appendonly", "yes", "--appendfsync", "no"))
	case "partial":
		return onCluster(t, 3, redistest.WithArgs("--cluster-require-full-coverage", "no", "--appendonly", "yes", "--appendfsync", "no"))
	case "moving":
		return onCluster(t, 2)
	case "ring":
		return onRing(t)
	}
	p := new(patient)
	keeps := "yes"
	if f.where == "volatile" || f.where == "loading" {
		keeps = "no"
	}
	// The admin has a user of its own, for the rights of the others may be taken away.
	args := []string{"--appendonly", keeps, "--appendfsync", "no", "--user", "admin", "on", "nopass", "~*", "&*", "+@all"}
	if f.where == "loading" {
		args = append(args, "--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024")
	}
	if f.where == "clock" {
		p.clock = newClock(t)
		p.server = redistest.StartWith(t, p.clock.env(), args...)
	} else {
		p.server = redistest.Start(t, args...)
	}
	p.proxy = redistest.NewProxy(t, p.server.Addr())
	p.admin = p.server.Client(func(o *redis.Options) {
		o.PoolSize, o.ReadTimeout, o.Username, o.Password = 1, patience, "admin", "any"
	})
	through := func(o *redis.Options) {
		options(o)
		o.Addr = p.proxy.Addr()
		if f.where == "password" {
			o.Password = "before"
		}
	}
	a, b := p.server.Client(through), p.server.Client(through)
	var other *redistest.Server
	if f.where == "twemproxy" {
		other = redistest.Start(t, args...)
		proxy := redistest.StartTwemproxy(t, 100*time.Millisecond, p.server.Addr(), other.Addr()).Options().Addr
		o := &redis.Options{Addr: proxy}
		options(o)
		o.ReadTimeout = time.Second
		a, b = closed(t, twemproxy.NewClient(o)), closed(t, twemproxy.NewClient(o))
	}
	a.AddHook(&p.witness)
	b.AddHook(&p.witness)
	p.crowd = newCrowd(t, !f.loses, a, b)
	p.lost = p.unanswered
	if other != nil {
		// Keys that differ in one byte may all be on one server. It is the one to hurt.
		eventually(t, "the proxy should pass on what is written", func() bool { // in 100 ms, on a machine that is busy
			return a.Set(t.Context(), p.caches[0].Key(0), "", time.Minute).Err() == nil
		})
		n, err := other.Client(nil).Del(t.Context(), p.caches[0].Key(0)).Result()
		require.NoError(t, err)
		if n == 1 {
			p.server = other
		}
	}
	return p
}

func TestAFaultOfRedisIsSurvived(t *testing.T) {
	t.Parallel()
	for _, f := range faults {
		t.Run(f.name, func(t *testing.T) {
			t.Parallel()
			if f.where == cutSentinel || f.where == cutCluster {
				redistest.InNetwork(t, func(t *testing.T, n *redistest.Network) { survives(t, f, n) })
				return
			}
			survives(t, f, nil)
		})
	}
}

func survives(t *testing.T, f fault, n *redistest.Network) {
	t.Helper()
	p := admit(t, f, n)
	p.start(t)
	p.does(t, 100)
	p.inflict(t, f)
	took := p.recovered(t)
	p.does(t, 100)
	p.end(t)
	t.Logf("every key is served from Redis again %v after the end of the fault", took.Round(time.Millisecond))
}
