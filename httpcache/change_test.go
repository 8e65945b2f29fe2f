package httpcache

import (
	"bufio"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestChange_IsVisibleToItsClient(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		heard := make(chan struct{})
		s := open(t, rdb, func(w http.ResponseWriter, r *http.Request, n int) {
			if r.Method == http.MethodPost {
				w.WriteHeader(http.StatusAccepted)
				w.(http.Flusher).Flush()
				<-heard
				return
			}
			says("Cache-Control", fresh60)(w, r, n)
		}, Options{})
		require.Equal(t, "1", s.get(t, "/p").body)
		res, err := s.client.Post(s.url+"/p", "", nil)
		require.NoError(t, err)
		defer res.Body.Close()
		require.Equal(t, http.StatusAccepted, res.StatusCode)
		require.Equal(t, "3", s.get(t, "/p").body, "the handler has not returned yet")
		close(heard)
		_, err = io.Copy(io.Discard, res.Body)
		require.NoError(t, err)
	})
}

func TestChange_HandlerHasTheConnection(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		switch r.URL.Path {
		case "/hijack":
			conn, rw, err := w.(http.Hijacker).Hijack()
			if err != nil {
				panic(err)
			}
			_, _ = rw.WriteString("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nmine")
			_ = rw.Flush()
			_ = conn.Close()
		case "/duplex":
			if err := http.NewResponseController(w).EnableFullDuplex(); err != nil {
				panic(err)
			}
			says()(w, r, n)
		case "/flush":
			if err := http.NewResponseController(w).Flush(); err != nil {
				panic(err)
			}
		}
	}, Options{})
	require.Equal(t, "mine", s.do(t, http.MethodPost, "/hijack").body)
	require.Equal(t, "2", s.do(t, http.MethodPost, "/duplex").body)
	require.Equal(t, http.StatusOK, s.do(t, http.MethodPost, "/flush").status)

	// A writer that cannot be hijacked does not claim that it can, as with
	// HTTP/2.
	h := newHandler(t, embedded(t), http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, can := w.(http.Hijacker)
		require.False(t, can)
	}), Options{})
	h.ServeHTTP(httptest.NewRecorder(), httptest.NewRequest(http.MethodPost, "/p", nil))
}

func TestKey_ContainsTheScheme(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("X-Scheme", schemeOf(r))
		says("Cache-Control", fresh60)(w, r, n)
	}, Options{})
	secure := httptest.NewTLSServer(s.h)
	defer secure.Close()
	plain, plainClient := s.url, s.client
	require.Equal(t, "http", s.get(t, "/p", "Host", "example.com").header.Get("X-Scheme"))
	s.url, s.client = secure.URL, secure.Client()
	require.Equal(t, "https", s.get(t, "/p", "Host", "example.com").header.Get("X-Scheme"))
	require.Equal(t, "2", s.get(t, "/p", "Host", "example.com:443").body)
	require.NoError(t, s.h.Invalidate(t.Context(), "https://example.com/p"))
	require.Equal(t, "3", s.get(t, "/p", "Host", "example.com").body)
	s.url, s.client = plain, plainClient
	require.Equal(t, "4", s.get(t, "/p", "Host", "example.com").body, "one invalidation is for both")
}

func TestPass_RequestsThatBypassTheCache(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), says("Cache-Control", fresh60), Options{Name: "pages"})
	upgrade := []string{"Connection", "Upgrade", "Upgrade", "websocket"}
	require.Equal(t, "pages; fwd=uri-miss; detail=upgrade", s.get(t, "/p", upgrade...).header.Get("Cache-Status"))
	require.Equal(t, "2", s.get(t, "/p").body)
	require.Equal(t, "2", s.get(t, "/p", upgrade...).body, "what is stored is an answer too")
	require.Equal(t, "3", s.get(t, "/p", append(upgrade, "Origin", "http://example.com")...).body)
	require.Equal(t, "2", s.get(t, "/p", "Upgrade", "websocket").body, "without Connection it means nothing")
	for why, fields := range map[string][]string{
		"cookie": {"Cookie", "a=b"},
		"body":   {"body", strings.Repeat("x", maxRequestBody+1)},
	} {
		got := s.get(t, "/p", fields...)
		require.NotEqual(t, "2", got.body, why)
		require.Equal(t, "pages; fwd=bypass; detail="+why, got.header.Get("Cache-Status"))
	}
	r := httptest.NewRequest(http.MethodGet, "/p", nil)
	r.URL.Path = "p"
	w := httptest.NewRecorder()
	s.h.ServeHTTP(w, r)
	require.Equal(t, "pages; fwd=bypass; detail=uri", w.Header().Get("Cache-Status"))
}

func TestVary_EverChangingIsPassed(t *testing.T) {
	t.Parallel()
	names := []string{"Accept", "Accept-Language", "User-Agent", "Referer", "Dnt", "X-A", "X-B", "X-C"}
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Vary", names[n%len(names)])
		says("Cache-Control", fresh60)(w, r, n)
	}, Options{})
	for range 20 {
		require.Equal(t, http.StatusOK, s.get(t, "/p").status)
	}
	require.Less(t, s.calls.Load(), int64(20), "once all are known, it is stored")
}

func TestServe_HTTP10GetsABody(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), says("Cache-Control", fresh60), Options{})
	for range 2 {
		conn, err := s.client.Transport.(*http.Transport).DialContext(t.Context(), "tcp", s.url[len("http://"):])
		require.NoError(t, err)
		_, err = io.WriteString(conn, "GET /p HTTP/1.0\r\nHost: a\r\n\r\n")
		require.NoError(t, err)
		res, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err)
		b, err := io.ReadAll(res.Body)
		require.NoError(t, err)
		require.Equal(t, "1", string(b))
		require.NoError(t, conn.Close())
	}
}

func TestServe_KeepsFieldsOfOuterHandlers(t *testing.T) {
	t.Parallel()
	for name, o := range map[string]origin{
		"shared":  says("Cache-Control", fresh60, "Vary", "Accept", "X-Both", "below"),
		"private": says("Cache-Control", "private", "Vary", "Accept", "X-Both", "below"),
		"hijacker": func(w http.ResponseWriter, r *http.Request, n int) {
			_ = http.NewResponseController(w).EnableFullDuplex() // it gets the connection before the header
			w.Header().Set("X-Hint", "1")
			w.WriteHeader(http.StatusEarlyHints)
			w.Header().Del("X-Hint")
			says("Cache-Control", fresh60, "Vary", "Accept", "X-Both", "below")(w, r, n)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, embedded(t), o, Options{Name: "pages"})
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Add("Vary", "Origin")
				w.Header().Add("Set-Cookie", "a=b")
				w.Header().Set("X-Both", "above")
				w.Header().Set("X-Above", "1")
				s.h.ServeHTTP(w, r)
			}))
			defer server.Close()
			s.url = server.URL
			for i := range 2 {
				got := s.get(t, "/p")
				require.Equal(t, []string{"Origin", "Accept"}, got.header["Vary"])
				require.Equal(t, []string{"a=b"}, got.header["Set-Cookie"])
				require.Equal(t, []string{"1"}, got.header["X-Above"])
				require.Empty(t, got.header["X-Hint"])
				require.Len(t, got.header["Cache-Status"], 1)
				require.Equal(t, "below", got.header["X-Both"][len(got.header["X-Both"])-1], i)
			}
		})
	}
}

func TestVary_ResponseWithANewFieldIsNotStored(t *testing.T) {
	t.Parallel()
	rdb := embedded(t)
	s := open(t, rdb, func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Vary", "Accept-Language")
		if n == 2 {
			w.Header().Set("Vary", "Accept")
		}
		says("Cache-Control", fresh60)(w, r, n)
	}, Options{})
	s.get(t, "/p", "Accept-Language", "en")
	got := s.get(t, "/p", "Accept-Language", "de")
	require.Equal(t, "2", got.body)
	require.NotContains(t, got.header.Get("Cache-Status"), "stored")
	keys, err := rdb.Keys(t.Context(), s.h.o.Name+":*").Result()
	require.NoError(t, err)
	require.Len(t, keys, 2, "an index, and the response in English")
}
