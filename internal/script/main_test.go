package script_test

import (
	"encoding/binary"
	"fmt"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

// each runs f against both servers, and against an embedded one whose clock
// stands still. There, all results that f expects within bounds are exact.
func each(t *testing.T, f func(t *testing.T, rdb *redis.Client)) {
	t.Helper()
	redistest.Each(t, f)
	t.Run("stopped", func(t *testing.T) {
		t.Parallel()
		server := redistest.StartEmbedded(t)
		server.SetTime(time.UnixMilli(stoppedAt))
		f(t, server.Client(nil))
	})
}

// stoppedAt is the time of the clock that stands still.
const stoppedAt = 1767225600123

var (
	own   = entry.Token{0, 1, 2, 3, 0xC1, 0xff, '%', '\n'} // bytes that a careless script would mishandle
	other = entry.Token{0xff, 0, 0, 0, 0, 0, 0, 0}
)

// A cell is the key under test.
type cell struct {
	t   *testing.T
	rdb *redis.Client
	key string

	seeded int64         // the server's time before the key was set up
	ttl    time.Duration // TTL that the key was set up with; 0: no TTL
	t0, t1 int64         // the server's time before and after the last script

	seededAt, ranAt time.Time // seeded and t0, by the clock of the test
}

func newCell(t *testing.T, rdb *redis.Client) *cell {
	return &cell{t: t, rdb: rdb, key: redistest.Key(t)}
}

// now returns the time of the server, in milliseconds.
func (c *cell) now() int64 {
	c.t.Helper()
	at, err := c.rdb.Time(c.t.Context()).Result()
	require.NoError(c.t, err)
	return at.UnixMilli()
}

// seed stores a raw value for ttl, or without a TTL if ttl is 0.
func (c *cell) seed(raw string, ttl time.Duration) {
	c.t.Helper()
	c.seededAt = time.Now()
	c.seeded, c.ttl = c.now(), ttl
	require.NoError(c.t, c.rdb.Set(c.t.Context(), c.key, raw, ttl).Err())
}

// do runs a script and returns its reply.
func (c *cell) do(s *script.Script, args ...any) any {
	c.t.Helper()
	c.ranAt = time.Now()
	c.t0 = c.now()
	reply, err := s.Run(c.t.Context(), c.rdb, c.key, args...)
	require.NoError(c.t, err)
	c.t1 = c.now()
	return reply
}

// raw returns the content of the key, "" if it is absent.
func (c *cell) raw() string {
	c.t.Helper()
	raw, err := c.rdb.Get(c.t.Context(), c.key).Result()
	if err != redis.Nil {
		require.NoError(c.t, err)
	}
	return raw
}

// header returns the header of the entry that the key holds.
func (c *cell) header() entry.Header {
	c.t.Helper()
	raw := c.raw()
	h, _, ok := entry.Parse(c.key, []byte(raw))
	require.True(c.t, ok, "%q is no entry", raw)
	return h
}

// snapshot returns the content of the key, without its TTL.
func (c *cell) snapshot() string {
	c.t.Helper()
	ctx := c.t.Context()
	switch kind := c.rdb.Type(ctx, c.key).Val(); kind {
	case "string":
		return c.raw()
	case "list":
		return fmt.Sprint(kind, c.rdb.LRange(ctx, c.key, 0, -1).Val())
	case "hash":
		return fmt.Sprint(kind, c.rdb.HGetAll(ctx, c.key).Val())
	default:
		return kind
	}
}

// requireTTL fails unless the key expires ttl after a moment between since and
// the end of the last script. A ttl of 0 means that the key does not expire.
func (c *cell) requireTTL(ttl time.Duration, since int64, msg ...any) {
	c.t.Helper()
	left := c.rdb.PTTL(c.t.Context(), c.key).Val()
	if ttl == 0 {
		require.Equal(c.t, time.Duration(-1), left, msg...)
		return
	}
	if c.t0 == stoppedAt {
		require.Equal(c.t, ttl, left, msg...)
		return
	}
	require.LessOrEqual(c.t, left, ttl, msg...)
	// One more millisecond, because an embedded server keeps the fraction that
	// TIME leaves out.
	passed := time.Duration(c.now()-since+1) * time.Millisecond
	// Its TTLs also follow the monotonic clock, which is not set together with
	// the clock of the machine.
	began, early := c.seededAt, max(c.seeded-since, 0) // since may be early, for a script that sets a reply of PTTL
	if since > c.seeded {
		began, early = c.ranAt, 0
	}
	passed = max(passed, time.Since(began)+time.Duration(early+1)*time.Millisecond)
	require.GreaterOrEqual(c.t, left, ttl-passed, msg...)
}

// requireEntry fails unless the key holds payload, and the exact bytes of the
// header that want returns for a moment of the last script. It returns that
// moment.
func (c *cell) requireEntry(want func(at int64) entry.Header, payload string, msg ...any) int64 {
	c.t.Helper()
	got := c.raw()
	for at := c.t0; at <= c.t1; at++ {
		if got == c.entry(want(at), payload) {
			return at
		}
	}
	// The message then shows which byte differs.
	require.Equal(c.t, c.entry(want(c.t0), payload), got, msg...)
	return 0
}

// entry returns the bytes of an entry, with its sum filled in.
func (c *cell) entry(h entry.Header, payload string) string {
	if h.State != entry.Lease {
		h.Sum = entry.Sum(c.key, []byte(payload))
	}
	return string(h.Append(nil)) + payload
}

// The following are arguments as package engine sends them.

const (
	leaseTTL = 3 * time.Minute // no test lasts that long
	keepTTL  = 90 * time.Minute
	freshTTL = 40 * time.Minute
	age      = 1234 * time.Millisecond      // age of the load that is stored
	expected = 567 * time.Millisecond       // cost of the load in flight
	took     = 890 * time.Millisecond       // cost of the load that is stored
	maxPause = (1 << 40) * time.Millisecond // longer than any pause
	loaded   = "loaded\x00\xff\r\n"
)

// An ask has the wishes of the caller of Acquire. The zero ask wants a value
// that is of use at any age.
type ask struct {
	want          string
	seen          []byte // token of the entry that was read
	hint, suspect bool
	use           time.Duration // how long a value is of use after it is stale; 0 forever
	pause, most   time.Duration // after one failed load, and after any; 0 forever
}

// acquiring returns the arguments of Acquire.
func acquiring(token entry.Token, a ask) []any {
	if a.most == 0 {
		a.pause, a.most = maxPause, maxPause
	}
	return []any{
		token[:], leaseTTL.Milliseconds(), entry.AppendCost(nil, expected), a.seen, a.hint, a.suspect, millis(a.use), a.want,
		a.pause.Milliseconds() / 2, a.most.Milliseconds(),
	}
}

// millis returns a duration in the form of the scripts; 0 stands for forever.
func millis(d time.Duration) any {
	if d == 0 {
		return ""
	}
	return d.Milliseconds()
}

// storing returns the arguments of Store.
func storing(key string, token entry.Token, keep, fresh time.Duration) []any {
	costAndSum := binary.BigEndian.AppendUint32(entry.AppendCost(nil, took), entry.Sum(key, []byte(loaded)))
	return []any{token[:], millis(keep), millis(fresh), age.Milliseconds(), costAndSum, []byte(loaded), "V"}
}

// storingNone returns the arguments of Store if there is no value.
func storingNone(key string, token entry.Token, keep, fresh time.Duration) []any {
	costAndSum := binary.BigEndian.AppendUint32(entry.AppendCost(nil, took), entry.Sum(key, nil))
	return []any{token[:], millis(keep), millis(fresh), age.Milliseconds(), costAndSum, []byte(nil), "N"}
}

// renewing returns the arguments of Renew.
func renewing(token entry.Token, keep, fresh time.Duration) []any {
	return []any{token[:], millis(keep), millis(fresh), age.Milliseconds(), entry.AppendCost(nil, took)}
}

// extending returns the arguments of Extend.
func extending(token entry.Token) []any { return []any{token[:], leaseTTL.Milliseconds()} }

// releasing returns the arguments of Release without a pause.
func releasing(token entry.Token) []any { return []any{token[:], "", 0} }

// dropping returns the arguments of Release that also deletes the value.
func dropping(token entry.Token) []any { return []any{token[:], "drop", 0} }

// pausing returns the arguments of Release with a pause.
func pausing(token entry.Token, pause, most time.Duration) []any {
	return []any{token[:], pause.Milliseconds(), most.Milliseconds()}
}

// writing returns the arguments of Write.
func writing(key string, token entry.Token, keep, fresh time.Duration) []any {
	h := entry.Header{State: entry.Value, Token: token, Sum: entry.Sum(key, []byte(loaded))}
	return []any{h.Append(nil), millis(keep), millis(fresh), []byte(loaded)}
}
