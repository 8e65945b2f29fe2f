package conformance

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// faultsOfTheReplies are those of a server that answers, and refuses to do what it is
// asked for.
var faultsOfTheReplies = []fault{{
	name: "`OOM`, `noeviction`", sees: "hits are served, misses load; `Delete` works, `Set` and counts return the error", stored: "nothing new",
	shows: seen("OOM "),
	hurt:  while([]any{"config", "set", "maxmemory", "1"}, []any{"config", "set", "maxmemory", "0"}),
}, {
	name: "`READONLY`", sees: hits, stored: "nothing new",
	shows: seen("READONLY "),
	hurt:  while([]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"}),
}, {
	name: "`MASTERDOWN`", sees: loads, stored: nothing,
	shows: seen("MASTERDOWN "),
	hurt: func(t *testing.T, p *patient) {
		p.do(t, "config", "set", "replica-serve-stale-data", "no")
		while([]any{"replicaof", "127.0.0.1", "1"}, []any{"replicaof", "no", "one"})(t, p)
		p.do(t, "config", "set", "replica-serve-stale-data", "yes")
	},
}, {
	name: "`NOREPLICAS`", sees: hits, stored: "nothing new",
	shows: seen("NOREPLICAS "),
	hurt:  while([]any{"config", "set", "min-replicas-to-write", "1"}, []any{"config", "set", "min-replicas-to-write", "0"}),
}, {
	name: "`MISCONF`: a snapshot has failed", sees: hits + ", `Delete` too", stored: "nothing new",
	shows: seen("MISCONF "),
	hurt: func(t *testing.T, p *patient) {
		dir, err := p.admin.ConfigGet(t.Context(), "dir").Result()
		require.NoError(t, err)
		inTheWay := filepath.Join(dir["dir"], "dump.rdb")
		require.NoError(t, os.RemoveAll(inTheWay))
		require.NoError(t, os.Mkdir(inTheWay, 0o700))
		p.do(t, "config", "set", "save", "1000000 1000000")
		p.do(t, "bgsave", "schedule")
		eventually(t, "the snapshot does not fail", func() bool {
			info, err := p.admin.Info(t.Context(), "persistence").Result()
			return err == nil && strings.Contains(info, "rdb_last_bgsave_status:err") && strings.Contains(info, "rdb_bgsave_in_progress:0")
		})
		p.suffers(t, 150)
		p.do(t, "config", "set", "save", "") // who takes no snapshots does not mind
		require.NoError(t, os.Remove(inTheWay))
	},
}, {
	name: "`NOPERM`: the user loses its rights", sees: loads, stored: nothing,
	shows: seen("NOPERM "),
	hurt: while([]any{"acl", "setuser", "default", "-get", "-mget", "-eval", "-evalsha", "-unlink"},
		[]any{"acl", "setuser", "default", "+@all"}),
}, {
	name: "`NOAUTH`: a password is required now", sees: loads, stored: nothing,
	shows: seen("NOAUTH "), hurt: locked,
}, {
	name: "`WRONGPASS`: the password is changed", where: "password", sees: loads, stored: nothing,
	shows: seen("WRONGPASS "), hurt: locked,
}, {
	name: "`maxclients` reached", sees: loads, stored: nothing,
	shows: counted("rejected_connections"),
	hurt: func(t *testing.T, p *patient) {
		p.do(t, "config", "set", "maxclients", "1")
		p.do(t, "client", "kill", "type", "normal", "skipme", "yes")
		p.suffers(t, 150)
		p.do(t, "config", "set", "maxclients", "1000")
	},
}}

// locked changes the password of everybody, and allows every password then, as at first.
func locked(t *testing.T, p *patient) {
	p.do(t, "acl", "setuser", "default", "resetpass", ">changed")
	p.do(t, "client", "kill", "type", "normal", "skipme", "yes") // else they stay what they are
	p.suffers(t, 150)
	p.do(t, "acl", "setuser", "default", "nopass")
}

// while is a fault that one command begins and another one ends.
func while(begin, end []any) func(*testing.T, *patient) {
	return func(t *testing.T, p *patient) {
		t.Helper()
		p.do(t, begin...)
		p.suffers(t, 250)
		p.do(t, end...)
	}
}
