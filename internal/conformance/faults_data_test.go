package conformance

import (
	"math/rand/v2"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// faultsOfTheData are those of a server that works, and holds something else than it
// was given.
var faultsOfTheData = []fault{{
	name: "eviction of everything, all the time", sees: "reads load; a load whose lease is evicted is not stored", stored: "the entries that Redis keeps", where: "volatile", loses: true,
	shows: counted("evicted_keys"),
	hurt: func(t *testing.T, p *patient) {
		// There may be no other key at this moment, and then there is none later: a full
		// Redis with nothing to evict refuses what is written.
		p.do(t, "set", "victim", "")
		while([]any{"config", "set", "maxmemory-policy", "allkeys-random", "maxmemory", "1"},
			[]any{"config", "set", "maxmemory", "0"})(t, p)
	},
}, {
	name: "`SCRIPT FLUSH`, again and again (`NOSCRIPT`)", sees: "nothing: the source is sent again", stored: "everything",
	shows: all(struck, seen("NOSCRIPT ")), // which the first call of each script gets as well
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() {
			before := p.witness.count("NOSCRIPT ")
			p.do(t, "script", "flush")
			eventually(t, "the scripts are still known", func() bool { return p.witness.count("NOSCRIPT ") > before })
			p.struck++
		})
	},
}, {
	name: "`FLUSHALL`, again and again", sees: "reads load; a load in flight is not stored. Counts not yet persisted are lost, and the fork is reported", stored: "later loads", loses: true,
	shows: struck,
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() {
			n, err := p.do(t, "dbsize").Int64()
			require.NoError(t, err)
			p.struck += n
			p.do(t, "flushall")
		})
	},
}, {
	name: "another client writes garbage over values, and lists", sees: "reads load. They are counted in `DecodeFailures`", stored: "later loads",
	shows: more(func(_ *testing.T, p *patient) (n int64) {
		for _, cache := range p.caches {
			n += cache.Stats().DecodeFailures
		}
		return n
	}),
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() {
			for key := range 2 * crowdKeys {
				name := p.caches[0].Key(key)
				if key%2 == 0 {
					_, err := p.admin.TxPipelined(t.Context(), func(tx redis.Pipeliner) error {
						tx.Unlink(t.Context(), name)
						tx.RPush(t.Context(), name, "garbage")
						return nil
					})
					require.NoError(t, err)
				} else {
					garbage := make([]byte, rand.IntN(100))
					for i := range garbage {
						garbage[i] = byte(rand.Uint32())
					}
					p.do(t, "set", name, garbage)
				}
			}
		})
	},
}}
