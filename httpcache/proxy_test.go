package httpcache

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/http/httputil"
	"net/textproto"
	"net/url"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// proxied returns a site whose handler is a ReverseProxy of a server with this
// handler, and the number of its calls.
func proxied(t *testing.T, o Options, upstream http.HandlerFunc) (*site, *lockedBuffer, *atomic.Int64) {
	t.Helper()
	calls := new(atomic.Int64)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		upstream(w, r)
	}))
	t.Cleanup(server.Close)
	target, err := url.Parse(server.URL)
	require.NoError(t, err)
	proxy := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: server.Client().Transport,
	}
	s, logged := quiet(t, embedded(t), func(w http.ResponseWriter, r *http.Request, _ int) { proxy.ServeHTTP(w, r) }, o)
	return s, logged, calls
}

// chunked writes a body whose length is not known beforehand.
func chunked(w http.ResponseWriter, parts ...string) {
	for _, part := range parts {
		_, _ = io.WriteString(w, part)
		_ = http.NewResponseController(w).Flush()
	}
}

func TestReverseProxy_WithoutContentLengthIsStored(t *testing.T) {
	t.Parallel()
	s, _, calls := proxied(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", fresh60)
		chunked(w, "one, ", "two, ", "three")
	})
	for i := range 3 {
		got := s.get(t, "/p")
		require.Equal(t, "one, two, three", got.body)
		require.Equal(t, "15", got.header.Get("Content-Length"))
		require.Equal(t, i > 0, strings.Contains(got.header.Get("Cache-Status"), "; hit"), got.header.Get("Cache-Status"))
	}
	require.Equal(t, int64(1), calls.Load())
}

func TestReverseProxy_LongerThanMaxBodyIsPassedOn(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 10_000)
	s, logged, calls := proxied(t, Options{MaxBody: 20_000}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", fresh60)
		chunked(w, long, long, "y")
	})
	for range 2 {
		require.Equal(t, long+long+"y", s.get(t, "/p").body)
	}
	require.Equal(t, int64(2), calls.Load())
	require.Empty(t, logged.String())
}

// A body that is cut off upstream is cut off for its client, and not stored.
func TestReverseProxy_AnIncompleteBodyIsNotStored(t *testing.T) {
	t.Parallel()
	s, _, calls := proxied(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", fresh60)
		chunked(w, "one")
		panic(http.ErrAbortHandler)
	})
	for i := range 2 {
		_, err := s.try(t.Context(), http.MethodGet, "/p")
		require.Error(t, err)
		require.Equal(t, int64(i+1), calls.Load())
	}
}

func TestReverseProxy_RevalidatesAStaleResponse(t *testing.T) {
	t.Parallel()
	s, _, calls := proxied(t, Options{}, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-cache")
		w.Header().Set("Etag", `"a"`)
		if r.Header.Get("If-None-Match") == `"a"` {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		chunked(w, "one, ", "two")
	})
	for i, says := range []string{"fwd-status=200", "fwd-status=304", "fwd-status=304"} {
		got := s.get(t, "/p")
		require.Equal(t, "one, two", got.body)
		require.Contains(t, got.header.Get("Cache-Status"), says)
		require.Equal(t, int64(i+1), calls.Load())
	}
}

// A stream of any type reaches its client at once.
func TestReverseProxy_StreamsReachTheirClientAtOnce(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"events":             {"Content-Type", "text/event-stream; charset=utf-8", "Cache-Control", fresh60},
		"images":             {"Content-Type", "multipart/x-mixed-replace;boundary=x", "Cache-Control", fresh60},
		"calls":              {"Content-Type", "application/grpc+proto", "Cache-Control", fresh60},
		"said to be one":     {"X-Accel-Buffering", "no", "Cache-Control", fresh60},
		"not stored":         {"Cache-Control", "no-store"},
		"not said to be new": {},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			next := make(chan struct{})
			s, _, _ := proxied(t, Options{}, func(w http.ResponseWriter, _ *http.Request) {
				for i := 0; i < len(fields); i += 2 {
					w.Header().Set(fields[i], fields[i+1])
				}
				for _, event := range []string{"one\n", "two\n"} {
					chunked(w, event)
					<-next
				}
			})
			for range 2 { // a load, and a pass
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
		})
	}
}

// An unrecognised stream is passed on after LoadTimeout.
func TestFlush_SlowResponseIsPassedOnAfterLoadTimeout(t *testing.T) {
	t.Parallel()
	o := func(w http.ResponseWriter, r *http.Request, n int) {
		w.Header().Set("Cache-Control", fresh60)
		for i := range 5 {
			chunked(w, strconv.Itoa(i)+"\n")
			time.Sleep(time.Second) // in a bubble
		}
	}
	inBubble(t, o, Options{LoadTimeout: 2500 * time.Millisecond}, func(t *testing.T, s *site) {
		began := time.Now()
		res, err := s.client.Get(s.url + "/p")
		require.NoError(t, err)
		lines := bufio.NewReader(res.Body)
		for i, after := range []int{3, 3, 3, 3, 4} { // with the first Write after LoadTimeout
			line, err := lines.ReadString('\n')
			require.NoError(t, err)
			require.Equal(t, strconv.Itoa(i)+"\n", line)
			require.Equal(t, time.Duration(after)*time.Second, time.Since(began), "line %d", i)
		}
		require.NoError(t, res.Body.Close())
		require.Contains(t, res.Header.Get("Cache-Status"), "detail=slow")
	})
}

// hint is a received 1xx.
type hint struct {
	status int
	link   string
}

// hints sends a GET, and returns its reply and the 1xx before it.
func (s *site) hints(t *testing.T, path string) (reply, []hint) {
	t.Helper()
	var got []hint
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			got = append(got, hint{code, header.Get("Link")})
			return nil
		},
	})
	r, err := s.try(ctx, http.MethodGet, path)
	require.NoError(t, err)
	return r, got
}

func hinting(fields ...string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusProcessing)
		w.Header().Set("Link", "</a.css>")
		w.Header().Set("X-Hint", "1")
		w.WriteHeader(http.StatusEarlyHints)
		w.Header().Del("Link")
		w.Header().Del("X-Hint")
		says(fields...)(w, r, 1)
	}
}

func TestInformational_ReachesTheClientThatCausedTheCall(t *testing.T) {
	t.Parallel()
	want := []hint{{102, ""}, {103, "</a.css>"}}
	for name, fields := range map[string][]string{"stored": {"Cache-Control", fresh60}, "not stored": {"Cache-Control", "private"}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			direct := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, _ int) { hinting(fields...)(w, r) }, Options{})
			through, _, _ := proxied(t, Options{}, hinting(fields...))
			for _, s := range []*site{direct, through} {
				r, got := s.hints(t, "/p")
				require.Equal(t, want, got)
				require.Equal(t, "1", r.body)
				require.Empty(t, r.header.Get("Link"))
				require.Empty(t, r.header.Get("X-Hint"))
				r, got = s.hints(t, "/p")
				require.Equal(t, "1", r.body)
				if name == "stored" {
					require.Empty(t, got, "it is not stored")
				} else {
					require.Equal(t, want, got)
				}
			}
		})
	}
}

// A client that waits for the call of another one gets no hints, and a client
// that has left gets nothing.
func TestInformational_ReachesNoOtherClient(t *testing.T) {
	t.Parallel()
	open := make(chan struct{})
	o := func(w http.ResponseWriter, r *http.Request, n int) {
		<-open
		hinting("Cache-Control", fresh60)(w, r)
	}
	inBubble(t, o, Options{}, func(t *testing.T, s *site) {
		open = make(chan struct{}) // of the bubble
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan error, 1)
		go func() {
			_, err := s.try(ctx, http.MethodGet, "/p")
			left <- err
		}()
		synctest.Wait()
		type result struct {
			r   reply
			got []hint
		}
		waiting := make(chan result, 1)
		go func() {
			r, got := s.hints(t, "/p")
			waiting <- result{r, got}
		}()
		synctest.Wait()
		leave()
		require.ErrorIs(t, <-left, context.Canceled)
		synctest.Wait()
		close(open)
		second := <-waiting
		require.Equal(t, "1", second.r.body)
		require.Empty(t, second.got)
	})
}

// A client of HTTP/1.0 does not understand a 1xx (RFC 9110, section 15.2).
func TestInformational_IsNotForHTTP10(t *testing.T) {
	t.Parallel()
	h := newHandler(t, embedded(t), hinting("Cache-Control", fresh60), Options{})
	r := httptest.NewRequest(http.MethodGet, "/p", nil)
	r.Proto, r.ProtoMinor = "HTTP/1.0", 0
	w := &statuses{ResponseWriter: httptest.NewRecorder()}
	h.ServeHTTP(w, r)
	require.Equal(t, []int{200}, w.all)
}

// statuses records each WriteHeader.
type statuses struct {
	http.ResponseWriter
	all []int
}

func (s *statuses) WriteHeader(status int) {
	s.all = append(s.all, status)
	s.ResponseWriter.WriteHeader(status)
}

// A handler that has asked for its connection, and then confirms the stored
// response, gives its client that response, not the 304.
func TestConfirmed_ByAHandlerThatHasTheConnection(t *testing.T) {
	t.Parallel()
	for name, etag := range map[string]string{"the same": `"a"`, "another": `"b"`} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
				if r.Header.Get("If-None-Match") == "" {
					says("Cache-Control", "no-cache", "Etag", `"a"`)(w, r, n)
					return
				}
				if err := http.NewResponseController(w).SetWriteDeadline(time.Now().Add(time.Hour)); err != nil {
					panic(err)
				}
				w.Header().Set("Etag", etag)
				w.WriteHeader(http.StatusNotModified)
			}, Options{})
			require.Equal(t, "1", s.get(t, "/p").body)
			got := s.get(t, "/p")
			if name == "the same" {
				require.Equal(t, reply{200, got.header, "1"}, got)
			} else {
				require.Equal(t, reply{http.StatusBadGateway, got.header, ""}, got)
			}
		})
	}
}
