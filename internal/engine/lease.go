package engine

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
	"github.com/cachex-go/cachex/internal/wake"
)

// Leases is the protocol by which a fleet loads each key once, one script a
// step. Engine is built on it.
//
// A lease is for efficiency; the comparison of its token is for correctness. The
// token stands in the entry itself, so a DEL, a SET, an expiry, an eviction or a
// flush by anyone takes it away, and what was loaded under it is not stored any
// more. This is the lease of "Scaling Memcache at Facebook" (NSDI 2013), renewed
// while the load lives, and never granted twice for one token.
//
// A Leases is a value without state. It is safe for concurrent use as far as its
// client is. Every method costs one round trip and returns the error of the
// client or of Redis as it is, with the name of the script, if it is one, before it.
type Leases struct {
	rdb   redis.UniversalClient
	ttl   time.Duration
	stale any            // milliseconds that a value is of use after it is stale; "" forever
	pause any            // milliseconds, half of what a pause after one failed load may last
	most  any            // milliseconds that any pause may last
	hear  *wake.Listener // asks for a message when a lease ends that we wait for; nil: poll only

	timed  bool // readers look at how long a value is fresh yet: see Leases.plain
	packed bool // entries are in the fields of hashes: see place
}

// NewLeases returns the leases of rdb that hold for ttl, in whole milliseconds,
// unless they are extended. It makes no call to Redis.
func NewLeases(rdb redis.UniversalClient, ttl time.Duration) (*Leases, error) {
	if client.Nil(rdb) {
		return nil, fmt.Errorf("client is nil")
	}
	switch {
	case ttl < MinLeaseTTL:
		return nil, fmt.Errorf("LeaseTTL is %v, must be at least %v", ttl, MinLeaseTTL)
	case ttl%time.Millisecond != 0:
		return nil, fmt.Errorf("LeaseTTL is %v, must be whole milliseconds", ttl)
	}
	return &Leases{rdb: rdb, ttl: ttl, stale: "", pause: entry.Forever, most: entry.Forever}, nil
}

// A Token names one attempt to load a key. It is never used for another.
type Token = entry.Token

// A Grant is what Acquire found, one of Granted, Refresh, Found, Stale, Held,
// None.
type Grant string

// What Acquire finds.
const (
	Granted Grant = "G" // nothing is there, and the lease is the caller's
	Refresh Grant = "R" // a stale value is there, and the lease is the caller's
	Found   Grant = "V" // a fresh value is there
	Stale   Grant = "S" // a stale value is there, and somebody has the lease, or it is too early after a failure
	Held    Grant = "W" // no value is there, and somebody has the lease
	None    Grant = "N" // it is known that there is no value
)

// An Acquisition is the answer to Acquire.
type Acquisition struct {
	Grant Grant
	Token Token         // of the lease, if Granted or Refresh
	Entry []byte        // unless Granted or Held: the entry, as it is in Redis
	Began time.Time     // if Held: when the lease was granted, by the server's clock
	Cost  time.Duration // if Held: what its holder expects the load to take; 0 if it cannot know

	holder Token // if Held: of the lease that is held
}

// Acquire returns the value of key, or the lease on it. A caller who found an
// entry that it cannot use passes the entry's token as unfit, and gets the lease
// if that entry is still there. What is no entry at all is overwritten.
//
// The command is sent once. After an error nobody knows whether the lease was
// granted, so the caller has none and must not store; a lease that was granted
// all the same holds until it runs out or until Release of Acquisition.Token,
// which is set on an error too.
func (l *Leases) Acquire(ctx context.Context, key string, unfit *Token, expect time.Duration) (Acquisition, error) {
	c := claim{token: entry.NewToken(), expect: expect}
	if unfit != nil {
		c.want, c.seen = script.Unfit, unfit
	}
	return l.acquire(ctx, key, c)
}

// A claim is what the caller of acquire has to say.
type claim struct {
	token   Token
	want    string // one of script.Missing, Unfit, Due, Now
	seen    *Token // of the entry that is unfit or due; nil none, or any
	expect  time.Duration
	suspect bool // we have waited longer than any lease holds by itself
}

func (l *Leases) acquire(ctx context.Context, key string, c claim) (Acquisition, error) {
	call := l.acquiring(key, c)
	_ = call.Run(ctx, l.rdb) // the error is in call
	return acquired(c.token, call)
}

func (l *Leases) acquiring(key string, c claim) *script.Call {
	var seen []byte
	if c.seen != nil {
		seen = c.seen[:]
	}
	call := l.call(script.Acquire, key,
		c.token[:], l.ttl.Milliseconds(), entry.AppendCost(nil, c.expect), seen, l.hear.Hears(), c.suspect, l.stale, c.want, l.pause, l.most)
	return call
}

// acquired returns what Acquire has answered.
func acquired(token Token, call *script.Call) (Acquisition, error) {
	a := Acquisition{Token: token}
	if call.Err != nil {
		return a, call.Err
	}
	parts, _ := call.Reply.([]any)
	for len(parts) < 2 {
		parts = append(parts, "")
	}
	kind, _ := parts[0].(string)
	data, _ := parts[1].(string)
	switch a.Grant = Grant(kind); a.Grant {
	case Granted:
	case Refresh, Found, Stale, None:
		a.Entry = []byte(data)
	case Held:
		if len(data) != 18 {
			return a, fmt.Errorf("script acquire: %w", errReply)
		}
		b := append([]byte{0, 0}, data...)
		a.Began = time.UnixMilli(int64(binary.BigEndian.Uint64(b)))
		a.Cost = time.Duration(binary.BigEndian.Uint32(b[8:])) * time.Millisecond
		a.holder = Token(b[12:])
	default:
		return a, fmt.Errorf("script acquire: %w", errReply)
	}
	return a, nil
}

// A Life says how long a value lives, in whole milliseconds. The zero Life is
// that of a value which is not to be stored.
type Life struct {
	Fresh time.Duration // served as fresh for so long; Forever
	Keep  time.Duration // in Redis for so long, at least Fresh; Forever
}

// Forever is the duration of what does not end.
const Forever time.Duration = 1<<63 - 1

// maxLife is the longest life but Forever. Redis counts milliseconds from 1970
// and refuses what overflows; nobody means a time that is near to that.
const maxLife = 10 * 365 * 24 * time.Hour

// CheckLife returns an error if d cannot be the life of a value: if it is not
// whole milliseconds, from one to ten years of them, or Forever.
func CheckLife(d time.Duration) error {
	switch {
	case d == Forever:
		return nil
	case d < time.Millisecond:
		return fmt.Errorf("%v is too short, must be at least 1ms", d)
	case d%time.Millisecond != 0:
		return fmt.Errorf("%v is not whole milliseconds", d)
	case d > maxLife:
		return fmt.Errorf("%v is longer than ten years: use Forever", d)
	}
	return nil
}

// check returns an error if Redis would not keep a value for so long.
func (l Life) check() error {
	if err := CheckLife(l.Fresh); err != nil {
		return err
	}
	if l.Keep < l.Fresh {
		return fmt.Errorf("kept for %v, less than it is fresh, %v", l.Keep, l.Fresh)
	}
	return CheckLife(l.Keep)
}

// Args returns Keep and Fresh as the scripts take them: milliseconds, "" for Forever.
func (l Life) Args() (keep, fresh any) {
	ms := func(d time.Duration) any {
		if d == Forever {
			return ""
		}
		return d.Milliseconds()
	}
	return ms(l.Keep), ms(l.Fresh)
}

// A Verdict is what became of a value that was to be stored.
type Verdict int64

// What becomes of a value.
const (
	Fenced      Verdict = iota // not stored: the lease is lost, and the value may be older than what took it
	Stored                     // stored
	StoredTwice                // stored by an earlier copy of the command
	StoredStale                // stored, stale at once: Expire was called meanwhile
)

// Store stores payload, bytes of a codec, as the value of key if the lease of
// token is not lost. took is how long the load took; sent is when Acquire was
// called. Store may be called again after an error.
func (l *Leases) Store(ctx context.Context, key string, token Token, payload []byte, life Life, sent time.Time, took time.Duration) (Verdict, error) {
	return l.verdict(ctx, l.storing(key, entry.Value, token, payload, life, sent, took))
}

// StoreNone is Store of the knowledge that key has no value. If the key was
// expired meanwhile, StoredStale, nothing is stored.
func (l *Leases) StoreNone(ctx context.Context, key string, token Token, life Life, sent time.Time, took time.Duration) (Verdict, error) {
	return l.verdict(ctx, l.storing(key, entry.Absent, token, nil, life, sent, took))
}

// Renew is Store of the value that was there when the lease was granted, which
// is not sent again. It is Fenced if there was none.
func (l *Leases) Renew(ctx context.Context, key string, token Token, life Life, sent time.Time, took time.Duration) (Verdict, error) {
	return l.verdict(ctx, l.renewing(key, token, life, sent, took))
}

func (l *Leases) verdict(ctx context.Context, call *script.Call) (Verdict, error) {
	_ = call.Run(ctx, l.rdb) // the error is in call
	return verdict(call)
}

// verdict returns what Store or Renew has said.
func verdict(call *script.Call) (Verdict, error) {
	n, err := number(call, int64(StoredStale))
	return Verdict(n), err
}

func (l *Leases) storing(key string, state entry.State, token Token, payload []byte, life Life, sent time.Time, took time.Duration) *script.Call {
	keep, fresh := life.Args()
	costAndSum := binary.BigEndian.AppendUint32(entry.AppendCost(nil, took), entry.Sum(key, payload))
	return l.call(script.Store, key, token[:], keep, fresh, time.Since(sent).Milliseconds(), costAndSum, payload, []byte{byte(state)})
}

func (l *Leases) renewing(key string, token Token, life Life, sent time.Time, took time.Duration) *script.Call {
	keep, fresh := life.Args()
	return l.call(script.Renew, key, token[:], keep, fresh, time.Since(sent).Milliseconds(), entry.AppendCost(nil, took))
}

// Extend prolongs the lease of token, counted from now, and reports whether it
// is still there. If it is not, what the holder loads will not be stored.
func (l *Leases) Extend(ctx context.Context, key string, token Token) (bool, error) {
	return l.held(ctx, l.extending(key, token))
}

func (l *Leases) extending(key string, token Token) *script.Call {
	return l.call(script.Extend, key, token[:], l.ttl.Milliseconds())
}

// Release gives the lease of token back, and reports whether it was still there.
// A value that it stood on stays.
func (l *Leases) Release(ctx context.Context, key string, token Token) (bool, error) {
	return l.held(ctx, l.releasing(key, token, "", 0))
}

// releasing is Release, after which nobody loads for a pause, at most for most,
// if pause is milliseconds; with drop the value goes too.
func (l *Leases) releasing(key string, token Token, pause any, most time.Duration) *script.Call {
	return l.call(script.Release, key, token[:], pause, most.Milliseconds())
}

const drop = "drop"

// Expire makes the value of key stale, and one that is being loaded stale as
// soon as it is stored. It reports whether there was anything.
func (l *Leases) Expire(ctx context.Context, key string) (bool, error) {
	return l.held(ctx, l.expiring(key))
}

func (l *Leases) expiring(key string) *script.Call {
	return l.call(script.Expire, key)
}

func (l *Leases) held(ctx context.Context, call *script.Call) (bool, error) {
	_ = call.Run(ctx, l.rdb) // the error is in call
	n, err := number(call, 2)
	return n > 0, err
}

// number returns the number that a script has replied, from 0 to most. Anything else is an
// error: a broken proxy may have said it, and nothing is proven by that.
func number(call *script.Call, most int64) (int64, error) {
	if call.Err != nil {
		return 0, call.Err
	}
	if n, ok := call.Reply.(int64); ok && n >= 0 && n <= most {
		return n, nil
	}
	return 0, errReply
}

var errReply = errors.New("unexpected reply of a script")

// MinLeaseTTL is the shortest lease. A shorter one would run out between two
// heartbeats whenever a process or the network is busy.
const MinLeaseTTL = 100 * time.Millisecond

// wrongType reports whether err says that the key holds something other than a
// string; or, if entries are packed, than a hash.
func wrongType(err error) bool {
	return err != nil && redis.HasErrorPrefix(err, "WRONGTYPE")
}
