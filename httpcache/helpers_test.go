package httpcache

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// patience bounds every wait in real time.
var patience = redistest.Patience

// origin is the handler behind the cache. n is the number of the call, from 1.
type origin func(w http.ResponseWriter, r *http.Request, n int)

// says returns an origin whose response has these fields, given as names and
// values. Its body is the number of the call.
func says(fields ...string) origin {
	return func(w http.ResponseWriter, _ *http.Request, n int) {
		for i := 0; i < len(fields); i += 2 {
			w.Header().Add(fields[i], fields[i+1])
		}
		_, _ = io.WriteString(w, strconv.Itoa(n))
	}
}

// site is an origin behind a Handler behind a server, and a client.
type site struct {
	h      *Handler
	client *http.Client
	url    string
	calls  atomic.Int64
}

// newHandler returns a Handler that is closed when the test ends. Name defaults
// to a name of this test alone.
func newHandler(t testing.TB, rdb redis.UniversalClient, next http.Handler, o Options) *Handler {
	t.Helper()
	if o.Name == "" {
		o.Name = "t" + redistest.Key(t)
	}
	h, err := New(rdb, next, o)
	require.NoError(t, err)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience) // t.Context has ended
		defer cancel()
		require.NoError(t, h.Close(ctx), "a load is left behind")
	})
	return h
}

func (s *site) counted(next origin) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { next(w, r, int(s.calls.Add(1))) })
}

// open returns a site on a port of the loopback interface.
func open(t testing.TB, rdb redis.UniversalClient, next origin, o Options) *site {
	t.Helper()
	s := &site{}
	s.h = newHandler(t, rdb, s.counted(next), o)
	server := httptest.NewServer(s.h)
	t.Cleanup(server.Close)
	s.url, s.client = server.URL, server.Client()
	s.client.Transport.(*http.Transport).DisableCompression = true
	s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return s
}

// inBubble runs f with a site in a bubble, with a fake clock.
func inBubble(t *testing.T, next origin, o Options, f func(t *testing.T, s *site)) {
	t.Helper()
	redistest.Bubble(t, func(t *testing.T, rdb *redis.Client) { f(t, piped(t, rdb, next, o)) })
}

// piped returns a site in a bubble. Its server is that of package http; only
// the connections are pipes.
func piped(t *testing.T, rdb redis.UniversalClient, next origin, o Options) *site {
	t.Helper()
	s := &site{url: "http://example.com"}
	s.h = newHandler(t, rdb, s.counted(next), o)
	l := &pipes{conns: make(chan net.Conn), closed: make(chan struct{})}
	server := &http.Server{Handler: s.h}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(l) })
	transport := &http.Transport{DialContext: l.dial, DisableCompression: true}
	s.client = &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	t.Cleanup(func() {
		transport.CloseIdleConnections()
		_ = server.Close()
		serving.Wait()
	})
	return s
}

// pipes is a listener whose connections are pipes.
type pipes struct {
	conns  chan net.Conn
	once   sync.Once
	closed chan struct{}
}

func (l *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case l.conns <- server:
		return client, nil
	case <-l.closed:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func (l *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipes) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

func (l *pipes) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 80} }

// reply is a received response.
type reply struct {
	status int
	header http.Header
	body   string
}

// do sends a request with these fields, given as names and values. Host sets
// the host, and body the body.
func (s *site) do(t testing.TB, method, path string, fields ...string) reply {
	t.Helper()
	res, err := s.try(t.Context(), method, path, fields...)
	require.NoError(t, err)
	return res
}

func (s *site) try(ctx context.Context, method, path string, fields ...string) (reply, error) {
	var body io.Reader
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == "body" {
			body = strings.NewReader(fields[i+1])
		}
	}
	r, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return reply{}, err
	}
	for i := 0; i < len(fields); i += 2 {
		switch fields[i] {
		case "body":
		case "Host":
			r.Host = fields[i+1]
		default:
			r.Header.Add(fields[i], fields[i+1])
		}
	}
	res, err := s.client.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return reply{res.StatusCode, res.Header, string(b)}, err
}

func (s *site) get(t testing.TB, path string, fields ...string) reply {
	t.Helper()
	return s.do(t, http.MethodGet, path, fields...)
}

// receive returns the next value of ch, and fails the test if none comes.
func receive[T any](t testing.TB, ch <-chan T) T {
	t.Helper()
	select {
	case v := <-ch:
		return v
	case <-time.After(patience):
		require.FailNow(t, "nothing happened", "after %v", patience)
		panic("unreachable")
	}
}
