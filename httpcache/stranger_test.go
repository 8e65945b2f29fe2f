package httpcache

import (
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// strange are requests with fields that a client need not send.
var strange = map[string]struct {
	method string
	fields []string
}{
	"no-store":             {"", []string{"Cache-Control", "no-store"}},
	"malformed directives": {"", []string{"Cache-Control", `no-cache="`}},
	"Range":                {"", []string{"Range", "bytes=0-0"}},
	"If-Range":             {"", []string{"Range", "bytes=0-0", "If-Range", `"a"`}},
	"If-Match *":           {"", []string{"If-Match", "*"}},
	"If-Match":             {"", []string{"If-Match", `"a"`}},
	"If-Unmodified-Since":  {"", []string{"If-Unmodified-Since", "Sat, 01 Jan 2000 00:00:00 GMT"}},
	"If-None-Match":        {"", []string{"If-None-Match", `"x"`}},
	"Connection":           {"", []string{"Connection", "x-a"}},
	"Upgrade alone":        {"", []string{"Upgrade", "websocket"}},
	"Transfer-Encoding":    {"", []string{"body", "x"}},
	"body":                 {"", []string{"body", "x"}},
	"Proxy-Authorization":  {"", []string{"Proxy-Authorization", "x"}},
	"Authorization":        {"", []string{"Authorization", "x"}},
	"method override":      {"", []string{"X-HTTP-Method-Override", "DELETE"}},
	"method":               {"", []string{"X-HTTP-Method", "DELETE"}},
	"method override 2":    {"", []string{"X-Method-Override", "DELETE"}},
	"HEAD":                 {http.MethodHead, nil},
	"HEAD no-store":        {http.MethodHead, []string{"Cache-Control", "no-store"}},
}

func TestStranger_FiftyRequestsAreOneCall(t *testing.T) {
	t.Parallel()
	for name, c := range strange {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			g := newGate()
			inBubble(t, g.before(says("Cache-Control", "public, max-age=60", "Etag", `"a"`)), Options{}, func(t *testing.T, s *site) {
				g.open = make(chan struct{})
				if c.method == "" {
					c.method = http.MethodGet
				}
				wait := s.crowdOf(t, c.method, 50, c.fields...)
				synctest.Wait()
				close(g.open)
				for _, r := range wait() {
					require.Less(t, r.status, 300)
				}
				require.Equal(t, int64(1), s.calls.Load())
			})
		})
	}
}

func TestStranger_PurgesNothing(t *testing.T) {
	t.Parallel()
	for name, c := range strange {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, says("Cache-Control", "public, max-age=60", "Etag", `"a"`), Options{}, func(t *testing.T, s *site) {
				require.Equal(t, "1", s.get(t, "/p").body)
				if c.method == "" {
					c.method = http.MethodGet
				}
				s.do(t, c.method, "/p", c.fields...)
				require.Equal(t, "1", s.get(t, "/p").body)
				require.Zero(t, s.h.Stats().Invalidations)
			})
		})
	}
}

// A response to no-store is shared with the waiting clients, and not stored.
func TestNoStore_IsSharedWithWaiters(t *testing.T) {
	t.Parallel()
	g := newGate()
	inBubble(t, g.before(says("Cache-Control", fresh60)), Options{}, func(t *testing.T, s *site) {
		g.open = make(chan struct{})
		first := s.crowd(t, 1, "Cache-Control", "no-store")
		synctest.Wait()
		others := s.crowd(t, 10)
		synctest.Wait()
		close(g.open)
		require.Equal(t, "1", first()[0].body)
		for _, r := range others() {
			require.Equal(t, "1", r.body)
			require.Equal(t, s.h.o.Name+"; fwd=uri-miss; ttl=60; collapsed", r.header.Get("Cache-Status"))
		}
		require.Equal(t, "2", s.get(t, "/p").body)
		require.Equal(t, "2", s.get(t, "/p").body)
	})
}

// A response with no-cache is confirmed for each request.
func TestNoCache_NoRequestSharesTheAnswerOfAnother(t *testing.T) {
	t.Parallel()
	inBubble(t, tagged(`"a"`, "Cache-Control", "no-cache"), Options{}, func(t *testing.T, s *site) {
		s.get(t, "/p")
		for _, r := range s.crowd(t, 10)() {
			require.Equal(t, "1", r.body)
			require.Equal(t, `"a"`, r.header.Get("X-Asked"))
		}
		require.Equal(t, int64(11), s.calls.Load())
		time.Sleep(2 * time.Hour)
		require.Equal(t, "12", s.get(t, "/p").body, "it is not kept for ever")
	})
}
