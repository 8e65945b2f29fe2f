package httpcache

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func embedded(t testing.TB) *redis.Client { return redistest.StartEmbedded(t).Client(nil) }

// quiet is a site whose server logs to a buffer.
func quiet(t *testing.T, rdb redis.UniversalClient, next origin, o Options) (*site, *lockedBuffer) {
	s := open(t, rdb, next, o)
	var buf lockedBuffer
	server := httptest.NewUnstartedServer(s.h)
	server.Config.ErrorLog = log.New(&buf, "", 0)
	server.Start()
	t.Cleanup(server.Close)
	s.url = server.URL
	return s, &buf
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

func TestPanic_ReachesOnlyItsOwnClient(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(w http.ResponseWriter){
		"before the header": func(http.ResponseWriter) {},
		"after a part of a response that could be shared": func(w http.ResponseWriter) {
			w.Header().Set("Cache-Control", fresh60)
			_, _ = io.WriteString(w, "part")
		},
		"after a part that was sent": func(w http.ResponseWriter) {
			_, _ = io.WriteString(w, "part")
			_ = http.NewResponseController(w).Flush()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			s, logged := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 1 {
					g.before(func(http.ResponseWriter, *http.Request, int) {})(w, r, n)
					begin(w)
					panic("boom")
				}
				says("Cache-Control", fresh60)(w, r, n)
			}, Options{PassTTL: time.Millisecond})
			failed := make(chan error)
			go func() {
				_, err := s.try(context.Background(), http.MethodGet, "/p")
				failed <- err
			}()
			receive(t, g.came)
			others := s.crowd(t, 4)
			close(g.open)
			require.Error(t, receive(t, failed), "the connection is cut, as package http does")
			for _, r := range others() {
				require.Equal(t, http.StatusOK, r.status)
				require.NotContains(t, r.body, "part")
			}
			require.Contains(t, logged.String(), "boom")
			require.Equal(t, http.StatusOK, s.get(t, "/p").status)
		})
	}
}

// A handler that fails while it validates a response fails only its own client.
func TestValidate_PanicOrGoexitBlocksNoClient(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(){
		"panic": func() { panic("boom") }, "abort": func() { panic(http.ErrAbortHandler) }, "exit": runtime.Goexit,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, _ := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				if n == 2 {
					w.WriteHeader(http.StatusEarlyHints)
					fail()
				}
				tagged(`"a"`, "Cache-Control", "no-cache")(w, r, n)
			}, Options{})
			require.Equal(t, "1", s.get(t, "/p").body)
			_, err := s.try(t.Context(), http.MethodGet, "/p")
			require.Error(t, err)
			require.Equal(t, "1", s.get(t, "/p").body)
		})
	}
}

func TestValidate_LeavingClientCancelsItsCall(t *testing.T) {
	t.Parallel()
	came, ended := make(chan struct{}), make(chan struct{})
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 2 {
			close(came)
			<-r.Context().Done()
			close(ended)
		}
		tagged(`"a"`, "Cache-Control", "no-cache")(w, r, n)
	}, Options{})
	s.get(t, "/p")
	ctx, leave := context.WithCancel(t.Context())
	go func() { _, _ = s.try(ctx, http.MethodGet, "/p") }()
	receive(t, came)
	leave()
	receive(t, ended)
	require.Equal(t, "1", s.get(t, "/p").body)
}

func TestPanic_AbortHandlerIsNotLogged(t *testing.T) {
	t.Parallel()
	s, logged := quiet(t, embedded(t), func(http.ResponseWriter, *http.Request, int) { panic(http.ErrAbortHandler) }, Options{})
	_, err := s.try(t.Context(), http.MethodGet, "/p")
	require.Error(t, err)
	require.NotContains(t, logged.String(), "panic")
}

func TestChange_PanicInvalidates(t *testing.T) {
	t.Parallel()
	s, _ := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		if r.Method == http.MethodPost {
			panic(http.ErrAbortHandler)
		}
		says("Cache-Control", fresh60)(w, r, n)
	}, Options{})
	require.Equal(t, "1", s.get(t, "/p").body)
	_, err := s.try(t.Context(), http.MethodPost, "/p")
	require.Error(t, err)
	require.NotEqual(t, "1", s.get(t, "/p").body)
}

func TestLoad_IncompleteResponseIsNotStored(t *testing.T) {
	t.Parallel()
	s, _ := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		if n == 1 {
			w.Header().Set("Content-Length", "10")
		}
		says("Cache-Control", fresh60)(w, r, n)
	}, Options{})
	_, err := s.try(t.Context(), http.MethodGet, "/p")
	require.ErrorIs(t, err, io.ErrUnexpectedEOF, "as without a cache")
	require.Equal(t, "2", s.get(t, "/p").body)
	require.Equal(t, "2", s.get(t, "/p").body)
}

func TestRecorder_ReportsWritesBeyondContentLength(t *testing.T) {
	t.Parallel()
	errs := make(chan error, 9)
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Content-Length", "1")
		says("Cache-Control", fresh60)(w, r, n)
		_, err := io.WriteString(w, "more")
		errs <- err
	}, Options{})
	require.Equal(t, "1", s.get(t, "/p").body)
	require.ErrorIs(t, receive(t, errs), http.ErrContentLength)
	require.Equal(t, "2", s.get(t, "/p").body, "nobody knows what it meant")
}

func TestStream_ReachesItsClientAtOnce(t *testing.T) {
	t.Parallel()
	next := make(chan struct{})
	s := open(t, embedded(t), func(w http.ResponseWriter, _ *http.Request, _ int) {
		w.Header().Set("Content-Type", "text/event-stream")
		w.Header().Set("Cache-Control", "max-age=60")
		for _, event := range []string{"one\n", "two\n"} {
			_, _ = io.WriteString(w, event)
			w.(http.Flusher).Flush()
			<-next
		}
	}, Options{})
	for range 2 { // a client whose response was found to be private, and one that bypasses the cache
		res, err := s.client.Get(s.url + "/p")
		require.NoError(t, err)
		lines := bufio.NewReader(res.Body)
		for _, event := range []string{"one\n", "two\n"} {
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, event, line)
			next <- struct{}{}
		}
		_, err = lines.ReadByte()
		require.ErrorIs(t, err, io.EOF)
		require.NoError(t, res.Body.Close())
	}
}

func TestMaxBody_LargerBodyIsPassedWholeAndNotStored(t *testing.T) {
	t.Parallel()
	for name, declared := range map[string]bool{"declared": true, "found out": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			big := strings.Repeat("0123456789", 1000)
			s := open(t, embedded(t), func(w http.ResponseWriter, _ *http.Request, n int) {
				w.Header().Set("Cache-Control", fresh60)
				if declared {
					w.Header().Set("Content-Length", "10000")
				}
				for i := 0; i < len(big); i += 100 {
					_, _ = io.WriteString(w, big[i:i+100])
				}
			}, Options{MaxBody: 9999})
			for range 2 {
				require.Equal(t, big, s.get(t, "/p").body)
			}
			require.Equal(t, int64(2), s.calls.Load())
		})
	}
	s := open(t, embedded(t), func(w http.ResponseWriter, _ *http.Request, n int) {
		w.Header().Set("Cache-Control", fresh60)
		_, _ = io.WriteString(w, strings.Repeat("x", 9999))
	}, Options{MaxBody: 9999})
	s.get(t, "/p")
	require.Len(t, s.get(t, "/p").body, 9999)
	require.Equal(t, int64(1), s.calls.Load(), "one of just MaxBody is stored")
}

func TestRecorder_HandlerCanHaveTheConnection(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		rc := http.NewResponseController(w)
		switch r.URL.Path {
		case "/hijack":
			conn, rw, err := rc.Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine")
			_ = rw.Flush()
			_ = conn.Close()
		case "/deadline":
			err := rc.SetWriteDeadline(time.Now().Add(time.Hour))
			if err == nil {
				err = rc.SetReadDeadline(time.Now().Add(time.Hour))
			}
			if err == nil {
				err = rc.EnableFullDuplex()
			}
			if err != nil {
				panic(err)
			}
			w.WriteHeader(http.StatusEarlyHints)
			says("Cache-Control", fresh60, "X-A", "1")(w, r, n)
		}
	}, Options{})
	for range 2 {
		require.Equal(t, "mine", s.get(t, "/hijack").body)
		got := s.get(t, "/deadline")
		require.Equal(t, "1", got.header.Get("X-A"))
	}
	require.Equal(t, int64(4), s.calls.Load())
}

func TestTrailers_ReachTheirClient(t *testing.T) {
	t.Parallel()
	for name, prefix := range map[string]string{"announced": "", "unannounced": http.TrailerPrefix} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				if prefix == "" {
					w.Header().Set("Trailer", "X-Sum")
				}
				says("Cache-Control", fresh60)(w, r, n)
				if prefix != "" {
					_, _ = io.WriteString(w, strings.Repeat("x", 5000)) // otherwise package http needs no chunks
				}
				w.Header().Set(prefix+"X-Sum", "7")
			}, Options{})
			for range 2 {
				res, err := s.client.Get(s.url + "/p")
				require.NoError(t, err)
				_, err = io.Copy(io.Discard, res.Body)
				require.NoError(t, err)
				require.NoError(t, res.Body.Close())
				require.Equal(t, "7", res.Trailer.Get("X-Sum"))
			}
		})
	}
}

func TestLoad_OfALeavingClientServesTheOthers(t *testing.T) {
	t.Parallel()
	g := newGate()
	inBubble(t, g.before(says("Cache-Control", fresh60)), Options{}, func(t *testing.T, s *site) {
		g.open = make(chan struct{}) // of the bubble
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.try(ctx, http.MethodGet, "/p")
			left <- err
		}()
		synctest.Wait()
		others := s.crowd(t, 4)
		synctest.Wait() // all have joined
		leave()
		require.ErrorIs(t, <-left, context.Canceled)
		synctest.Wait()
		close(g.open)
		for _, r := range others() {
			require.Equal(t, "1", r.body)
			require.Equal(t, []string{s.h.o.Name + "; fwd=uri-miss; ttl=60; collapsed"}, r.header["Cache-Status"])
		}
		require.Equal(t, int64(1), s.calls.Load())
		require.Equal(t, "1", s.get(t, "/p").body)
	})
}

func TestLoad_WithoutWaitersIsCancelled(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string]func(w http.ResponseWriter){
		"before the header": func(http.ResponseWriter) {},
		"in the body":       func(w http.ResponseWriter) { says("Cache-Control", fresh60)(w, nil, 1) },
		"while streaming":   func(w http.ResponseWriter) { w.(http.Flusher).Flush() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			came, ended := make(chan struct{}), make(chan error)
			s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				begin(w)
				came <- struct{}{}
				<-r.Context().Done()
				_, err := io.WriteString(w, "for nobody")
				ended <- err
			}, Options{})
			ctx, leave := context.WithCancel(t.Context())
			go func() { _, _ = s.try(ctx, http.MethodGet, "/p") }()
			receive(t, came)
			leave()
			receive(t, ended)
		})
	}
}
