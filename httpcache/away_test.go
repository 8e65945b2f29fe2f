package httpcache

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
)

// unreachable returns a client without a server.
func unreachable(t *testing.T) *redis.Client {
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1, DialTimeout: time.Second})
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

func TestWithoutRedis_TheHandlerAnswers(t *testing.T) {
	t.Parallel()
	s := open(t, unreachable(t), says("Cache-Control", fresh60), Options{})
	for i := range 5 {
		got := s.get(t, "/p")
		require.Equal(t, strconv.Itoa(i+1), got.body)
		require.NotContains(t, got.header.Get("Cache-Status"), "stored")
	}
	require.Equal(t, http.StatusOK, s.do(t, http.MethodPost, "/p").status, "the response is what it is")
	require.Equal(t, int64(2), s.h.Stats().InvalidationFailures, "before the response, and after the handler")
	require.Error(t, s.h.Invalidate(t.Context(), s.url+"/p"))
	// A probe, which a reader has sent, may be in flight.
	require.Eventually(t, func() bool { return s.h.Stats().Redis.Breaker == cachex.BreakerOpen }, patience, time.Millisecond)
}

func TestWithoutRedis_AProcessCallsTheOriginOnceAtATime(t *testing.T) {
	t.Parallel()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate()
		s := piped(t, rdb, g.before(says("Cache-Control", fresh60)), Options{})
		var faults redistest.Faults
		faults.Add(redistest.Fault{Times: redistest.Always})
		rdb.AddHook(&faults)
		first := s.crowd(t, 1)
		synctest.Wait()
		more := s.crowd(t, 20)
		synctest.Wait()
		close(g.open)
		require.Equal(t, "1", first()[0].body)
		for _, r := range more() {
			// Nothing proves to them that the running load is recent enough.
			require.Equal(t, "2", r.body)
		}
		require.Equal(t, int64(2), s.calls.Load())
	})
}

// Clients that came too late for a load have another one started with the
// request of the client that caused the first. That client may not have taken
// its exchange yet.
func TestLoad_RestartedForOthersKeepsTheExchangeOfItsClient(t *testing.T) {
	t.Parallel()
	h := newHandler(t, unreachable(t), http.NotFoundHandler(), Options{})
	q, why := h.examine(httptest.NewRequest(http.MethodGet, "http://example.com/p", nil))
	require.Empty(t, why)
	q.prepare()
	j := &job{q: q}
	own, others := h.begin(t.Context(), j, nil), h.begin(t.Context(), j, nil)
	require.Same(t, own, j.x)
	require.EqualValues(t, 2, own.hold.Load(), "of the load, and of the client")
	require.EqualValues(t, 1, others.hold.Load(), "of the load")
	own.release()
	own.release()
	others.release()
}

func TestLoad_OverwritesAnUndecodableResponse(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := open(t, rdb, says("Cache-Control", fresh60), Options{})
		require.Equal(t, "1", s.get(t, "/p").body)
		keys, err := rdb.Keys(t.Context(), s.h.o.Name+":*").Result()
		require.NoError(t, err)
		require.Len(t, keys, 2, "an index and a response")
		for _, k := range keys {
			require.NoError(t, rdb.Set(t.Context(), k, "garbage", 0).Err())
		}
		require.Equal(t, "2", s.get(t, "/p").body)
		require.Equal(t, "2", s.get(t, "/p").body)
	})
}

func TestLoadTimeout_HandlerContinuesForItsOwnClient(t *testing.T) {
	t.Parallel()
	o := func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			time.Sleep(time.Minute) // in a bubble
		}
		says("Cache-Control", fresh60)(w, r, n)
	}
	inBubble(t, o, Options{LoadTimeout: time.Second, PassTTL: time.Second}, func(t *testing.T, s *site) {
		began := time.Now()
		wait := s.crowd(t, 1)
		synctest.Wait()
		other := s.get(t, "/p")
		require.NotEqual(t, "1", other.body)
		require.Equal(t, time.Second, time.Since(began))
		require.Contains(t, other.header.Get("Cache-Status"), "collapsed=?0")
		first := wait()[0]
		require.Equal(t, "1", first.body)
		require.Contains(t, first.header.Get("Cache-Status"), "detail=slow")
		require.Equal(t, time.Minute, time.Since(began))
	})
}

func TestRenew_RunsOnceAtATime(t *testing.T) {
	t.Parallel()
	g := newGate()
	o := func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 2 {
			g.came <- n
			<-g.open
		}
		says("Cache-Control", "max-age=60, stale-while-revalidate=60")(w, r, n)
	}
	inBubble(t, o, Options{}, func(t *testing.T, s *site) {
		g.came, g.open = make(chan int, 9), make(chan struct{})
		s.get(t, "/p")
		time.Sleep(70 * time.Second)
		for range 3 {
			for _, r := range s.crowd(t, 5)() {
				require.Equal(t, "1", r.body, "nobody waits")
			}
		}
		<-g.came
		require.Equal(t, int64(2), s.calls.Load())
		require.Equal(t, int64(2), s.h.Stats().Redis.Misses, "one of them sees to it, and one goroutine")
		close(g.open)
		synctest.Wait()
		require.Equal(t, "2", s.get(t, "/p").body)
		require.Equal(t, int64(15), s.h.Stats().StaleHits)
	})
}

func TestClose_WaitsForLoadsThenTheHandlerAnswers(t *testing.T) {
	t.Parallel()
	g := newGate()
	inBubble(t, g.before(says("Cache-Control", fresh60)), Options{}, func(t *testing.T, s *site) {
		g.open = make(chan struct{})
		wait := s.crowd(t, 1)
		synctest.Wait()
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		closed := make(chan error, 1)
		go func() { closed <- s.h.Close(context.Background()) }()
		synctest.Wait()
		select {
		case err := <-closed:
			t.Fatal("Close has not waited", err)
		default:
		}
		close(g.open)
		require.Equal(t, "1", wait()[0].body)
		require.NoError(t, <-closed)
		require.NoError(t, s.h.Close(short))
		require.Equal(t, "2", s.get(t, "/p").body)
		require.Equal(t, "3", s.get(t, "/p").body)
		require.ErrorIs(t, s.h.Invalidate(t.Context(), s.url+"/p"), cachex.ErrClosed)
	})
}

func TestClose_CancelsLoadsThatDoNotEnd(t *testing.T) {
	t.Parallel()
	o := func(w http.ResponseWriter, r *http.Request, n int) { <-r.Context().Done() }
	inBubble(t, o, Options{}, func(t *testing.T, s *site) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_, _ = s.try(ctx, http.MethodGet, "/p")
		}()
		synctest.Wait()
		short, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		require.ErrorIs(t, s.h.Close(short), context.DeadlineExceeded)
		cancel() // the client still has its handler
		<-done
		require.NoError(t, s.h.Close(t.Context()))
	})
}

func TestLoad_HandlerHasTheValuesOfItsClientsContext(t *testing.T) {
	t.Parallel()
	type key struct{}
	var s site
	h := newHandler(t, embedded(t), s.counted(func(w http.ResponseWriter, r *http.Request, n int) {
		v, _ := r.Context().Value(key{}).(string)
		says("Cache-Control", fresh60, "X-Value", v)(w, r, n)
	}), Options{})
	outer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), key{}, "trace")))
	})
	rec := newRecorded(t, outer, "/p")
	require.Equal(t, "trace", rec.header.Get("X-Value"))
}

// newRecorded returns the answer of a handler to a GET, without a server.
func newRecorded(t *testing.T, h http.Handler, path string) reply {
	t.Helper()
	w := newResponse()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com"+path, nil)
	require.NoError(t, err)
	h.ServeHTTP(w, r)
	b, err := io.ReadAll(w.Result().Body)
	require.NoError(t, err)
	return reply{w.Code, w.Header(), string(b)}
}

func TestLoad_ResponseAfterCancellationIsNotShared(t *testing.T) {
	t.Parallel()
	came := make(chan struct{})
	h := newHandler(t, embedded(t), http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(came)
		<-r.Context().Done()
		w.Header().Set("Cache-Control", fresh60) // it takes the end of its ctx for the end of the page
	}), Options{})
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://example.com/p", nil)
	require.NoError(t, err)
	q, why := h.examine(r)
	require.Empty(t, why)
	q.prepare()
	x := h.start(t.Context(), q, nil, nil, 1)
	receive(t, came)
	x.release()
	receive(t, x.done)
	require.Equal(t, broken, x.out.kind)
	require.Equal(t, "canceled", x.out.why)
}

func TestTTL_InnerCacheIsNeverFreshForLonger(t *testing.T) {
	t.Parallel()
	inBubble(t, says(), Options{}, func(t *testing.T, s *site) {
		rec := record{Kind: aResponse, At: time.Now().UnixMilli(), Age: 1000, Life: 61_000}
		require.Equal(t, 59*time.Second, s.h.ttl(key{}, rec), "a second less, for the way to Redis and for its clock")
		rec.Life = 3_000
		require.Equal(t, 1500*time.Millisecond, s.h.ttl(key{}, rec), "of a short one, a quarter")
		rec.Life = 0
		require.Equal(t, time.Millisecond, s.h.ttl(key{}, rec))
	})
}
