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

// Leases is the protocol by which a fleet loads each key once. Each step is one
// script. Engine is built on it.
//
// A lease is for efficiency; the comparison of its token is for correctness.
// The token is in the entry itself. So a DEL, a SET, an expiry, an eviction or
// a flush by any program removes it. The result of the load is then no longer
// stored. This is the lease of "Scaling Memcache at Facebook" (NSDI 2013),
// extended while the load runs, and never granted twice for one token.
//
// A Leases has no state. It is as safe for concurrent use as its client. Every
// method costs one round trip, and returns the error of the client or of Redis
// as it is. If a script failed, its name precedes the error.
type Leases struct {
	rdb         redis.UniversalClient
	ttl         time.Duration
	retainStale any // milliseconds for which a stale value is of use; "" for ever
	halfPause   any // milliseconds: half of the longest pause after one failed load
	maxPause    any // milliseconds: the longest pause
	// listener asks for a message when a lease ends that a waiter waits for;
	// nil: only poll.
	listener *wake.Listener

	earlyRefresh bool // readers look at the remaining freshness: see Leases.canUseSET
	packed       bool // entries are fields of hashes: see locate
}

// NewLeases returns the leases of rdb. A lease holds for ttl, in whole
// milliseconds, unless it is extended. NewLeases makes no call to Redis.
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
	return &Leases{rdb: rdb, ttl: ttl, retainStale: "", halfPause: entry.Forever, maxPause: entry.Forever}, nil
}

// Token identifies one attempt to load a key. A token is never used twice.
type Token = entry.Token

// A Grant is the result of Acquire: Granted, GrantedStale, Hit, HeldStale, Held
// or NotFound.
type Grant string

// The results of Acquire.
const (
	Granted      Grant = "G" // no value; the caller has the lease
	GrantedStale Grant = "R" // a stale value; the caller has the lease
	Hit          Grant = "V" // a fresh value
	HeldStale    Grant = "S" // a stale value; another holder has the lease, or a back-off has not ended
	Held         Grant = "W" // no value; another holder has the lease
	NotFound     Grant = "N" // the remembered absence of a value
)

// An AcquireResult is the result of Acquire.
type AcquireResult struct {
	Grant Grant
	Token Token         // of the lease, if Granted or GrantedStale
	Entry []byte        // the entry as it is in Redis, unless Granted or Held
	Began time.Time     // if Held: when the lease was granted, by the server's clock
	Cost  time.Duration // if Held: the duration its holder expects the load to take; 0: unknown

	holder Token // if Held: the token of that lease
}

// Acquire returns the value of key, or the lease on it. A caller that found an
// unusable entry passes the entry's token as unfit. It gets the lease if that
// entry is still there. Bytes that are not an entry are overwritten.
//
// The command is sent once. After an error the caller cannot know whether the
// lease was granted, so it has no lease and must not store. A lease that was
// granted all the same holds until it runs out, or until Release of
// AcquireResult.Token, which is set on an error too.
func (l *Leases) Acquire(ctx context.Context, key string, unfit *Token, expect time.Duration) (AcquireResult, error) {
	c := acquireRequest{token: entry.NewToken(), expect: expect}
	if unfit != nil {
		c.want, c.entryToken = script.Unfit, unfit
	}
	return l.acquire(ctx, key, c)
}

// An acquireRequest is the request of a caller of acquire.
type acquireRequest struct {
	token      Token
	want       string // one of script.Missing, Unfit, Due, Now
	entryToken *Token // of the entry that is unusable or due for a refresh; nil: absent, or any
	expect     time.Duration
	suspect    bool // the caller has waited longer than any lease holds without an extension
}

func (l *Leases) acquire(ctx context.Context, key string, c acquireRequest) (AcquireResult, error) {
	call := l.acquireCall(key, c)
	_ = call.Run(ctx, l.rdb) // the error is in call
	return acquireReply(c.token, call)
}

func (l *Leases) acquireCall(key string, c acquireRequest) *script.Call {
	var seen []byte
	if c.entryToken != nil {
		seen = c.entryToken[:]
	}
	call := l.call(script.Acquire, key,
		c.token[:], l.ttl.Milliseconds(), entry.AppendCost(nil, c.expect), seen, l.listener.Hears(), c.suspect, l.retainStale, c.want, l.halfPause, l.maxPause)
	return call
}

// acquireReply returns the reply to Acquire.
func acquireReply(token Token, call *script.Call) (AcquireResult, error) {
	a := AcquireResult{Token: token}
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
	case GrantedStale, Hit, HeldStale, NotFound:
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

// Life is how long a value is fresh and kept, in whole milliseconds. A value
// with the zero Life is not stored.
type Life struct {
	Fresh time.Duration // how long it is served as fresh; Forever
	Keep  time.Duration // how long it is in Redis, at least Fresh; Forever
}

// Forever is the duration without an end.
const Forever time.Duration = 1<<63 - 1

// maxLifetime is the longest Life except Forever. Redis counts milliseconds
// from 1970 and refuses an overflow; no caller means a time near to that.
const maxLifetime = 10 * 365 * 24 * time.Hour

// CheckLife returns an error if d is not a valid duration of a Life: whole
// milliseconds from 1ms to ten years, or Forever.
func CheckLife(d time.Duration) error {
	switch {
	case d == Forever:
		return nil
	case d < time.Millisecond:
		return fmt.Errorf("%v is too short, must be at least 1ms", d)
	case d%time.Millisecond != 0:
		return fmt.Errorf("%v is not whole milliseconds", d)
	case d > maxLifetime:
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
		return fmt.Errorf("Keep is %v, must be at least Fresh, %v", l.Keep, l.Fresh)
	}
	return CheckLife(l.Keep)
}

// Args returns Keep and Fresh as the scripts take them: milliseconds, or "" for
// Forever.
func (l Life) Args() (keep, fresh any) {
	ms := func(d time.Duration) any {
		if d == Forever {
			return ""
		}
		return d.Milliseconds()
	}
	return ms(l.Keep), ms(l.Fresh)
}

// A StoreResult is the result of Store.
type StoreResult int64

// The results of Store.
const (
	// Fenced means not stored: the lease was lost, so the value may be older than
	// the write that took it.
	Fenced      StoreResult = iota
	Stored                  // stored
	StoredTwice             // stored by an earlier copy of the command
	StoredStale             // stored, and stale at once: Expire was called during the load
)

// Store stores payload, the bytes of a codec, as the value of key if the lease
// of token is not lost. The load has taken took, and Acquire was called at
// sent. Store may be called again after an error.
func (l *Leases) Store(ctx context.Context, key string, token Token, payload []byte, life Life, sent time.Time, took time.Duration) (StoreResult, error) {
	return l.runStore(ctx, l.storeCall(key, entry.Value, token, payload, life, sent, took))
}

// StoreNone is like Store, but stores that key has no value. If the key was
// expired during the load, it stores nothing and returns StoredStale.
func (l *Leases) StoreNone(ctx context.Context, key string, token Token, life Life, sent time.Time, took time.Duration) (StoreResult, error) {
	return l.runStore(ctx, l.storeCall(key, entry.Absent, token, nil, life, sent, took))
}

// Renew is like Store, for the value that was there when the lease was granted.
// The value is not sent again. If there was no value, Renew returns Fenced.
func (l *Leases) Renew(ctx context.Context, key string, token Token, life Life, sent time.Time, took time.Duration) (StoreResult, error) {
	return l.runStore(ctx, l.renewCall(key, token, life, sent, took))
}

func (l *Leases) runStore(ctx context.Context, call *script.Call) (StoreResult, error) {
	_ = call.Run(ctx, l.rdb) // the error is in call
	return storeReply(call)
}

// storeReply returns the reply to Store or Renew.
func storeReply(call *script.Call) (StoreResult, error) {
	n, err := intReply(call, int64(StoredStale))
	return StoreResult(n), err
}

func (l *Leases) storeCall(key string, state entry.State, token Token, payload []byte, life Life, sent time.Time, took time.Duration) *script.Call {
	keep, fresh := life.Args()
	costAndSum := binary.BigEndian.AppendUint32(entry.AppendCost(nil, took), entry.Sum(key, payload))
	return l.call(script.Store, key, token[:], keep, fresh, time.Since(sent).Milliseconds(), costAndSum, payload, []byte{byte(state)})
}

func (l *Leases) renewCall(key string, token Token, life Life, sent time.Time, took time.Duration) *script.Call {
	keep, fresh := life.Args()
	return l.call(script.Renew, key, token[:], keep, fresh, time.Since(sent).Milliseconds(), entry.AppendCost(nil, took))
}

// Extend extends the lease of token, counted from now, and reports whether the
// lease is still there. If it is not, the result of the load will not be
// stored.
func (l *Leases) Extend(ctx context.Context, key string, token Token) (bool, error) {
	return l.runBool(ctx, l.extendCall(key, token))
}

func (l *Leases) extendCall(key string, token Token) *script.Call {
	return l.call(script.Extend, key, token[:], l.ttl.Milliseconds())
}

// Release gives the lease of token back, and reports whether it was still
// there. A value under the lease stays.
func (l *Leases) Release(ctx context.Context, key string, token Token) (bool, error) {
	return l.runBool(ctx, l.releaseCall(key, token, "", 0))
}

// releaseCall returns the call of Release. If pause is milliseconds, no process
// loads the key during that pause, which grows to most at the longest. If pause
// is dropValue, the value is removed too.
func (l *Leases) releaseCall(key string, token Token, pause any, most time.Duration) *script.Call {
	return l.call(script.Release, key, token[:], pause, most.Milliseconds())
}

const dropValue = "drop"

// Expire makes the value of key stale. A value that is being loaded becomes
// stale as soon as it is stored. Expire reports whether there was an entry.
func (l *Leases) Expire(ctx context.Context, key string) (bool, error) {
	return l.runBool(ctx, l.expireCall(key))
}

func (l *Leases) expireCall(key string) *script.Call {
	return l.call(script.Expire, key)
}

func (l *Leases) runBool(ctx context.Context, call *script.Call) (bool, error) {
	_ = call.Run(ctx, l.rdb) // the error is in call
	n, err := intReply(call, 2)
	return n > 0, err
}

// intReply returns the number that a script has replied, from 0 to most. Any
// other reply is an error: it may come from a broken proxy, and proves nothing.
func intReply(call *script.Call, most int64) (int64, error) {
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

// isWrongType reports whether err means that the key does not hold a string,
// or, if entries are packed, a hash.
func isWrongType(err error) bool {
	return err != nil && redis.HasErrorPrefix(err, "WRONGTYPE")
}
