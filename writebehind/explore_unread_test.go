package writebehind

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// unreadable has the scenarios in which processes cannot read each other's
// writes.
var unreadable = map[string]scenario{
	"one cannot read an id":    {sample: 150, flusher: 1, cannot: []string{"y"}},
	"one cannot read anything": {sample: 150, flusher: 1, cannot: []string{"*"}},
	"one cannot read an id, one is killed": {
		sample: 150, flusher: 1, mishaps: 1, kinds: []mishap{killBefore, killAfter}, cannot: []string{"y"},
	},
	"one cannot read anything, one is killed": {
		sample: 150, flusher: 1, writer: 1, mishaps: 1, kinds: []mishap{killBefore, killAfter}, cannot: []string{"*"},
	},
	"each can read another id":                {sample: 100, writer: 1, cannot: []string{"x", "y"}},
	"each can read another id, three mishaps": {sample: 200, writer: 2, mishaps: 3, kinds: mishapsOfAll, cannot: []string{"x", "y", "*"}},
	"five of all kinds, small batches": {
		sample: 150, flusher: 2, writer: 2, mishaps: 3, kinds: mishapsOfAll, most: 1, cannot: []string{"x", "y", "*"},
	},
	"five of all kinds, batches that are taken by parts": {
		sample: 150, flusher: 2, writer: 2, mishaps: 4, kinds: mishapsOfAll, atOnce: 1, cannot: []string{"x", "y", "*"},
	},
	"counts that are set, and one cannot read totals": {
		sample: 200, flusher: 1, writer: 2, setter: 2, mishaps: 2, kinds: mishapsOfAll, cannot: []string{"="},
	},
	"counts that are set, and five of all kinds": {
		sample: 300, flusher: 1, writer: 2, setter: 2, mishaps: 3, kinds: mishapsOfAll, cannot: []string{"=", "x", "y", "*"},
	},
	"counts that are set, and batches that are taken by parts": {
		sample: 200, flusher: 1, writer: 2, setter: 1, mishaps: 3, kinds: mishapsOfAll, atOnce: 1, cannot: []string{"=", "=", "*"},
	},
	"values, and each release can read others": {
		sample: 300, flusher: 1, writer: 3, mishaps: 2, kinds: mishapsOfAll, last: true, cannot: []string{"2", "3"},
	},
	"values, and five of all kinds": {
		sample: 300, flusher: 1, writer: 3, mishaps: 4, kinds: mishapsOfAll, last: true, cannot: []string{"1", "2", "4", "*", "y"},
	},
	"values, one at a time or by parts": {
		sample: 300, flusher: 1, writer: 3, mishaps: 3, kinds: mishapsOfAll, last: true, atOnce: 1, one: 2, cannot: []string{"2", "3"},
	},
	"five of all kinds, and as many mishaps": {
		sample: 200, flusher: 2, writer: 3, mishaps: 5, kinds: mishapsOfAll, cannot: []string{"x", "y", "*"},
	},
}

// cannotRead is an Options.Check of a process that cannot read some writes. An
// id names that id, "=" means totals, digits mean values of that many digits,
// and "*" means every write.
func cannotRead(what string) func(string, []byte) error {
	return func(id string, value []byte) error {
		if id == what || what == "*" || what == "=" && value[0] == '=' || what == fmt.Sprint(len(value)) {
			return errors.New("of another release")
		}
		return nil
	}
}

// Processes of several releases flush, and some cannot read what others write.
// At every point of every order, each write is in the database or will be,
// once.
func TestUnread_NothingIsLostOrAppliedTwice(t *testing.T) {
	t.Parallel()
	for name, sc := range unreadable {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				if strings.HasSuffix(t.Name(), "embedded") { // scripts are slow there
					sc.sample = 15
				}
				newLab(t, rdb).explore(sc, sc.play)
			})
		})
	}
}

// Each rule of the protocol is needed: without it, some orders are bad.
func TestUnread_EachRuleIsNeeded(t *testing.T) {
	t.Parallel()
	mutate := func(step string, changes ...string) func(*lab) {
		return func(l *lab) { l.mutate(step, changes...) }
	}
	for rule, breaks := range map[string]func(*lab){
		"the ledger records what was not read":            func(l *lab) { l.amnesia, l.tolerant = true, true },
		"a batch that another process has got is parked":  mutate("park", "  if later then", "  if false then"),
		"what is parked is not applied by the next batch": mutate("ack", "local all = parked(", "redis.call('DEL', L) local all = parked("),
		"what the database has of a parked batch is gone": mutate("settle", "token ~= ARGV[4] or", "true or"),
		"what was not read is acknowledged as that":       mutate("ack", "if k < 6 + ARGV[5] then", "if true then"),
		"a newer value takes the place of a parked one":   mutate("park", "if newer(k) or not s then s = ''", "if not s then s = ''", "if s and newer(k) then", "if false then"),
		"a parked value leaves as it becomes pending":     mutate("rescue", "redis.call('HDEL', L, id)\n    local", "local"),
		"a parked batch comes back with its token":        mutate("unpark", "'#tok', ARGV[1]", "'#tok', ARGV[1] .. '+'"),
	} {
		t.Run(rule, func(t *testing.T) {
			t.Parallel()
			l := newLab(t, redistest.Shared(t).Client(nil))
			l.enough = true
			breaks(l)
			for n := 0; l.bad == 0; n++ {
				require.Less(t, n, 10, "no order is bad")
				for _, sc := range unreadable {
					l.explore(sc, sc.play)
				}
			}
		})
	}
}

// A parked batch returns after batches that were taken later. It must not undo
// any of them.
func TestUnread_AParkedValueGivesWayToANewerOne(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		release := func(prefix string, d *database, o Options) *Engine {
			o.Check = func(_ string, value []byte) error {
				if !strings.HasPrefix(string(value), prefix) {
					return errors.New("of another release")
				}
				return nil
			}
			return engine(t, rdb, o)
		}
		down := errors.New("the process has stopped")
		for _, newest := range []string{"2:new", "3:new"} {
			for range 8 { // parked batches return in any order
				d := newDatabase()
				o := options(t, d, Last)
				two, three := release("2:", d, o), release("3:", d, o)
				reads := map[bool]*Engine{true: two, false: three}[newest == "2:new"]
				other := map[*Engine]*Engine{two: three, three: two}[reads]

				// One process holds a batch, and a process of the other release
				// parks it.
				require.NoError(t, two.Put(t.Context(), "x", []byte("2:old")))
				older, err := two.take(t.Context(), 0, true)
				require.NoError(t, err)
				require.Error(t, two.fail(t.Context(), 0, older, down))
				requireAside(t, three.Flush(t.Context()), 0, 1)

				// The same happens with a newer value, which is persisted and
				// not acknowledged.
				require.NoError(t, two.Put(t.Context(), "x", []byte(newest)))
				newer, err := reads.take(t.Context(), 0, true)
				require.NoError(t, err)
				require.NoError(t, d.persist(t.Context(), newer.batch))
				require.Error(t, reads.fail(t.Context(), 0, newer, down))
				_ = other.Flush(t.Context())

				for _, e := range []*Engine{release("2:", d, o), release("3:", d, o), release("2:", d, o)} {
					_ = e.Flush(t.Context())
				}
				require.NoError(t, release("3:", d, o).Flush(t.Context()))
				require.Equal(t, newest, d.value("x"))
			}
		}
	})
}
