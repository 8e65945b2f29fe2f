package engine

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/internal/script"
)

// valued returns a value to write.
func valued(key, value string, life Life) Write {
	return Write{Key: key, Payload: []byte(value), Life: life}
}

// writes are the ways to write: by Leases and by a Loader, by one call for one
// key and by one for many.
var writes = map[string]func(*lab, *redis.Client, typedOptions[string], Write) error{
	"Leases": func(t *lab, rdb *redis.Client, o typedOptions[string], w Write) error {
		return newLoader(t, rdb, o).Leases().Write(t.Context(), w.Key, w.Payload, w.Life)
	},
	"Loader": func(t *lab, rdb *redis.Client, o typedOptions[string], w Write) error {
		return newLoader(t, rdb, o).Write(t.Context(), w)
	},
	"many": func(t *lab, rdb *redis.Client, o typedOptions[string], w Write) error {
		return newLoader(t, rdb, o).Leases().WriteMany(t.Context(), []Write{w})[0]
	},
}

func TestWrite_UsesASETIfNoReaderNeedsTheServersTime(t *testing.T) {
	t.Parallel()
	lasting := Life{Fresh: time.Second, Keep: time.Minute}
	for name, write := range writes {
		for _, row := range []struct {
			what    string
			o       typedOptions[string]
			payload string
			life    Life
			plain   bool
		}{
			{"that ends when it is stale", typedOptions[string]{}, "v", hour, true},
			{"forever", typedOptions[string]{}, "v", Life{Forever, Forever}, true},
			{"large enough", typedOptions[string]{}, strings.Repeat("v", maxPlainSet), hour, true},
			{"too large", typedOptions[string]{}, strings.Repeat("v", maxPlainSet+1), hour, false},
			{"that is kept when it is stale", typedOptions[string]{}, "v", lasting, false},
			{"that is loaded again before it is stale", typedOptions[string]{EarlyRefresh: 1}, "v", hour, false},
		} {
			embedded(t, func(t *lab) {
				sent := new(redistest.Counter)
				require.NoError(t, write(t, t.client(sent), row.o, valued(t.key, row.payload, row.life)))
				require.Equal(t, 1, sent.Count(), "%s, %s", name, row.what)
				require.Equal(t, row.plain, sent.Count("set") == 1, "%s, %s", name, row.what)
				h := t.holds(row.payload)
				require.NotZero(t, h.Born)
				require.NotZero(t, h.Token)
				ttl := t.rdb.PTTL(t.Context(), t.key).Val()
				if row.life.Keep == Forever {
					require.Equal(t, time.Duration(-1), ttl)
				} else {
					require.Equal(t, row.life.Keep, ttl)
				}
				if row.life.Fresh == Forever {
					require.Equal(t, entry.Forever, h.Soft)
				} else {
					require.Equal(t, time.Now().Add(row.life.Fresh).UnixMilli(), h.Soft, "it states its end")
				}
			})
		}
	}
}

// A SET could not tell what it replaced.
func TestWrite_OverwritesAnything(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		for name, write := range writes {
			for what, put := range map[string]func() error{
				"a list":         func() error { return t.rdb.RPush(t.Context(), t.key, 1, 2).Err() },
				"foreign bytes":  func() error { return t.rdb.Set(t.Context(), t.key, "hello", 0).Err() },
				"nothing at all": func() error { return t.rdb.Set(t.Context(), t.key, "", 0).Err() },
			} {
				t.delete()
				require.NoError(t, put())
				sent := new(redistest.Counter)
				require.NoError(t, write(t, t.client(sent), typedOptions[string]{}, valued(t.key, "v", hour)), "%s, %s", name, what)
				t.holds("v")
				require.Equal(t, 1, sent.Count("set"))
				require.Equal(t, 1, sent.Count("evalsha"))
			}
			require.NoError(t, t.leases().Write(t.Context(), t.key, []byte("old"), hour))
			sent := new(redistest.Counter)
			require.NoError(t, write(t, t.client(sent), typedOptions[string]{}, valued(t.key, "v", hour)), name)
			require.Equal(t, 1, sent.Count(), "an entry is taken at its word")
		}
	})
}

// A liar replies to a SET as a broken proxy may, and does not run it.
type liar struct{ reply string }

func (liar) DialHook(next redis.DialHook) redis.DialHook { return next }

func (l liar) ProcessHook(next redis.ProcessHook) redis.ProcessHook {
	return func(ctx context.Context, cmd redis.Cmder) error {
		if cmd.Name() == "set" {
			script.Inner(cmd).SetVal(l.reply)
			return nil
		}
		return next(ctx, cmd)
	}
}

func (l liar) ProcessPipelineHook(redis.ProcessPipelineHook) redis.ProcessPipelineHook {
	return func(_ context.Context, cmds []redis.Cmder) error {
		for _, cmd := range cmds {
			if set, ok := cmd.(*redis.StatusCmd); ok { // of a connection that opens
				set.SetVal(l.reply)
				continue
			}
			script.Inner(cmd).SetVal(l.reply)
		}
		return nil
	}
}

func TestWrite_UnexpectedReplyOfSETProvesNothing(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		require.NoError(t, t.leases().Write(t.Context(), t.key+" 2", []byte("v"), hour))
		another := t.rdb.Get(t.Context(), t.key+" 2").Val()
		for name, write := range writes {
			for _, reply := range []string{"OK", "QUEUED", "7", another} {
				t.delete()
				require.NoError(t, write(t, t.client(liar{reply}), typedOptions[string]{}, valued(t.key, "v", hour)), name)
				t.holds("v")
			}
		}
	})
}

// The process that took a lost lease decides; its former holder does not.
func TestWrite_WakesWaitersOfTheLeaseItTakes(t *testing.T) {
	t.Parallel()
	for name, write := range writes {
		for what, begin := range map[string]func(*lab){
			"a lease":           func(*lab) {},
			"that of a refresh": func(t *lab) { t.stale("stale") },
		} {
			embedded(t, func(t *lab) {
				begin(t)
				dead := newLoader(t, t.client(), typedOptions[string]{LeaseTTL: time.Hour})
				s := newSource[string]()
				gone := get(t, dead, s.load)
				within(t, s.began)
				q := newLoader(t, t.client(), typedOptions[string]{LeaseTTL: time.Hour})
				waits := get(t, q, never[string](t))
				t.awaited()
				listens(t, q.engine.listener)
				began := time.Now()
				require.NoError(t, write(t, t.client(), typedOptions[string]{}, valued(t.key, "v", hour)))
				gets(t, "v", waits)
				require.Zero(t, time.Since(began), "%s, %s", name, what)
				s.value <- "old"
				_, _ = gone.wait(t)
				t.holds("v")
			})
		}
	}
}

// A lease on a value extends its life, and loads that fail would do so again
// and again.
func TestWrite_ValueIsNotFreshLongerThanItsTTL(t *testing.T) {
	t.Parallel()
	each(t, func(t *lab) {
		leases := t.leases() // of an hour
		minute := Life{Fresh: time.Minute, Keep: time.Minute}
		earliest := time.Now().Add(time.Minute).UnixMilli()
		require.NoError(t, leases.Write(t.Context(), t.key, []byte("v"), minute))
		latest := time.Now().Add(time.Minute).UnixMilli()
		end := t.rdb.PExpireTime(t.Context(), t.key).Val().Milliseconds()
		soft := t.holds("v").Soft
		require.GreaterOrEqual(t, soft, earliest)
		require.LessOrEqual(t, soft, latest)
		// As previous releases wrote it: fresh for as long as it exists.
		h, payload := t.entry()
		h.Soft = entry.Forever
		require.NoError(t, t.rdb.Set(t.Context(), t.key, append(h.Append(nil), payload...), redis.KeepTTL).Err())
		a, err := leases.acquire(t.Context(), t.key, acquireRequest{token: entry.NewToken(), want: script.Due})
		require.NoError(t, err)
		require.Equal(t, GrantedStale, a.Grant)
		h, _ = t.entry()
		require.InDelta(t, end, h.Soft, 1)
		require.Greater(t, t.rdb.PTTL(t.Context(), t.key).Val(), time.Minute, "the lease is on it")
		_, err = leases.Release(t.Context(), t.key, a.Token)
		require.NoError(t, err)
		require.Equal(t, h.Soft, t.holds("v").Soft)

		require.NoError(t, leases.Write(t.Context(), t.key, []byte("v"), Life{Forever, Forever}))
		_, err = leases.acquire(t.Context(), t.key, acquireRequest{token: entry.NewToken(), want: script.Due})
		require.NoError(t, err)
		h, _ = t.entry()
		require.Equal(t, entry.Forever, h.Soft, "it has no end")
	})
}

// A crowd is ten callers that act at the same moment.
type crowd struct {
	sent redistest.Counter
}

func newCrowd(rdb *redis.Client) *crowd {
	c := new(crowd)
	rdb.AddHook(&c.sent) // before the other one, which takes pipelines apart
	rdb.AddHook(&redistest.Gate{Before: func(context.Context, redis.Cmder) { time.Sleep(10 * time.Microsecond) }})
	return c
}

// requireTrips makes each of them act, and requires this number of commands, in
// this number of round trips.
func (c *crowd) requireTrips(t *testing.T, command string, commands, trips int, do func(i int) error) {
	t.Helper()
	c.all(t, do)
	require.Equal(t, commands, c.sent.Count(command), command)
	require.Equal(t, trips, c.sent.RoundTrips(), command)
}

// all makes each of them act.
func (c *crowd) all(t *testing.T, do func(i int) error) {
	t.Helper()
	c.sent.Reset()
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			if err := do(i); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
	}
	wg.Wait()
}

func TestWrite_ConcurrentWritesShareARoundTrip(t *testing.T) {
	t.Parallel()
	lasting := Life{Fresh: time.Hour, Keep: 2 * time.Hour}
	for _, row := range []struct {
		o       typedOptions[string]
		life    Life
		known   bool // the server knows the scripts
		command string
		sets    int
		trips   int // of the writes, and of as many deletions
		unlinks int
	}{
		{o: typedOptions[string]{}, life: hour, command: "set", sets: 10, trips: 3, unlinks: 3},
		{o: typedOptions[string]{}, life: lasting, known: true, command: "evalsha", sets: 10, trips: 3, unlinks: 3},
		{o: typedOptions[string]{NoCombining: true}, life: hour, command: "set", sets: 10, trips: 10, unlinks: 10},
	} {
		redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
			l, err := newTyped(rdb, row.o)
			require.NoError(t, err)
			defer func() { require.NoError(t, l.Close(t.Context())) }()
			if row.known {
				require.NoError(t, rdb.ScriptLoad(t.Context(), script.Write.Source()).Err())
			}
			crowd := newCrowd(rdb)
			crowd.requireTrips(t, row.command, row.sets, row.trips, func(i int) error {
				return l.Write(t.Context(), valued(fmt.Sprint("k", i), fmt.Sprint("v", i), row.life))
			})
			for i := range 10 {
				v, found, err := l.Lookup(t.Context(), fmt.Sprint("k", i))
				require.NoError(t, err)
				require.True(t, found)
				require.Equal(t, fmt.Sprint("v", i), v)
			}
			crowd.requireTrips(t, "unlink", 10, row.unlinks, func(i int) error { return l.Delete(t.Context(), []string{fmt.Sprint("k", i)})[0] })
			require.Zero(t, rdb.DBSize(t.Context()).Val())
		})
	}
}

func TestWrite_BatchedWithAnUnknownScriptSucceeds(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		l, err := newTyped(rdb, typedOptions[string]{})
		require.NoError(t, err)
		defer func() { require.NoError(t, l.Close(t.Context())) }()
		crowd := newCrowd(rdb)
		crowd.all(t, func(i int) error {
			return l.Write(t.Context(), valued(fmt.Sprint("k", i), "", Life{Fresh: time.Hour, Keep: 2 * time.Hour}))
		})
		require.Less(t, crowd.sent.Count("eval"), 10, "the source is not sent by each")
		require.Equal(t, int64(10), rdb.DBSize(t.Context()).Val())
	})
}

// forgetful is a codec that does not append.
type forgetful struct{ codec.Codec[string] }

func (forgetful) Append(_ []byte, v string) ([]byte, error) { return []byte(v), nil }

func TestWrite_CodecThatDoesNotAppendIsAnError(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) {
		p := newLoader(t, t.client(), typedOptions[string]{Codec: forgetful{codec.String[string]()}})
		for _, v := range []string{"", "short", strings.Repeat("long", 100)} {
			_, err := p.Writing(t.key, v, hour)
			require.ErrorIs(t, err, errNotAppended)
		}
	})
}

func TestWriteMany_OneRoundTripAndAnotherForForeignKeys(t *testing.T) {
	t.Parallel()
	embedded(t, func(t *lab) { // which knows the scripts
		key := func(i int) string { return fmt.Sprint(t.key, ":", i) }
		large, lasting := strings.Repeat("v", maxPlainSet+1), Life{Fresh: time.Hour, Keep: 2 * time.Hour}
		ws := []Write{valued(key(0), "v", hour), valued(key(1), large, hour), valued(key(2), "v", lasting), valued(key(3), "v", hour)}
		sent := new(redistest.Counter)
		leases := t.leases(sent)
		requireWritten := func(trips, scripts int) {
			t.Helper()
			sent.Reset()
			require.Equal(t, make([]error, len(ws)), leases.WriteMany(t.Context(), ws))
			require.Equal(t, trips, sent.RoundTrips())
			require.Equal(t, 2, sent.Count("set"))
			require.Equal(t, scripts, sent.Count("evalsha"))
			for _, w := range ws {
				_, payload, ok := entry.Parse(w.Key, []byte(t.rdb.Get(t.Context(), w.Key).Val()))
				require.True(t, ok)
				require.Equal(t, w.Payload, payload)
			}
		}
		requireWritten(1, 2)
		require.NoError(t, t.rdb.Set(t.Context(), key(0), "foreign", 0).Err())
		require.NoError(t, t.rdb.Del(t.Context(), key(3)).Err())
		require.NoError(t, t.rdb.RPush(t.Context(), key(3), 1).Err())
		requireWritten(2, 4)
		requireWritten(1, 2)
	})
}

func TestWriteMany_SucceedsWithAnUnknownScript(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		leases, err := NewLeases(rdb, time.Hour)
		require.NoError(t, err)
		var ws []Write
		for i := range 5 {
			ws = append(ws, valued(fmt.Sprint("k", i), "v", Life{Fresh: time.Hour, Keep: 2 * time.Hour}))
		}
		require.Equal(t, make([]error, 5), leases.WriteMany(t.Context(), ws))
		require.Equal(t, int64(5), rdb.DBSize(t.Context()).Val())
	})
}
