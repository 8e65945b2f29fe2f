package httpcache

import (
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

// gate blocks calls of an origin until it is opened, and reports each.
type gate struct {
	came chan int // the number of the call
	open chan struct{}
}

func newGate() *gate { return &gate{make(chan int, 100), make(chan struct{})} }

// before returns an origin that passes the gate first.
func (g *gate) before(o origin) origin {
	return func(w http.ResponseWriter, r *http.Request, n int) {
		g.came <- n
		select {
		case <-g.open:
			o(w, r, n)
		case <-r.Context().Done():
		}
	}
}

// crowd sends the same GET n times at once; the returned function waits for the
// replies.
func (s *site) crowd(t *testing.T, n int, fields ...string) func() []reply {
	return s.crowdOf(t, http.MethodGet, n, fields...)
}

func (s *site) crowdOf(t *testing.T, method string, n int, fields ...string) func() []reply {
	replies := make([]reply, n)
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { replies[i], errs[i] = s.try(t.Context(), method, "/p", fields...) })
	}
	return func() []reply {
		all.Wait()
		for _, err := range errs {
			require.NoError(t, err)
		}
		return replies
	}
}

func TestFleet_CallsTheOriginOnce(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate()
		o := Options{Name: "t" + redistest.Key(t)}
		one := open(t, rdb, g.before(says("Cache-Control", fresh60)), o)
		two := open(t, rdb, g.before(says("Cache-Control", fresh60)), o)
		a := one.crowd(t, 20, "Host", "example.com")
		receive(t, g.came)
		b := two.crowd(t, 20, "Host", "example.com")
		close(g.open)
		for _, r := range append(a(), b()...) {
			require.Equal(t, "1", r.body)
			require.Equal(t, http.StatusOK, r.status)
		}
		require.Equal(t, int64(1), one.calls.Load()+two.calls.Load())
	})
}

func TestFleet_CallsTheOriginOncePerVariant(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate()
		s := open(t, rdb, g.before(func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Cache-Control", fresh60)
			w.Header().Set("Vary", "Accept-Language")
			_, _ = io.WriteString(w, r.Header.Get("Accept-Language"))
		}), Options{})
		waits := map[string]func() []reply{}
		for _, lang := range []string{"en", "de", "fr"} {
			waits[lang] = s.crowd(t, 10, "Accept-Language", lang)
		}
		close(g.open)
		for lang, wait := range waits {
			for _, r := range wait() {
				require.Equal(t, lang, r.body)
			}
		}
		require.Equal(t, int64(3), s.calls.Load())
	})
}

func TestFleet_PrivateResponseIsNotShared(t *testing.T) {
	t.Parallel()
	for name, fields := range map[string][]string{
		"private":    {"Cache-Control", "private, max-age=60"},
		"no-store":   {"Cache-Control", "no-store"},
		"no-cache":   {"Cache-Control", "no-cache"},
		"Set-Cookie": {"Cache-Control", "public, max-age=60", "Set-Cookie", "a=b"},
		"Vary":       {"Cache-Control", "max-age=60", "Vary", "*"},
		"silent":     {},
		"max-age=0":  {"Cache-Control", "max-age=0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
				g := newGate()
				o := Options{Name: "t" + redistest.Key(t)}
				one := open(t, rdb, g.before(says(fields...)), o)
				a := one.crowd(t, 8)
				receive(t, g.came)
				close(g.open)
				seen := map[string]bool{}
				for _, r := range a() {
					require.False(t, seen[r.body], "two clients got the response of call %s", r.body)
					seen[r.body] = true
				}
				require.Equal(t, int64(8), one.calls.Load(), "the handler is called once for each client")
			})
		})
	}
}

func TestFleet_AuthorizedRequestsShareOnlyPublicResponses(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		g := newGate()
		s := open(t, rdb, g.before(func(w http.ResponseWriter, r *http.Request, _ int) {
			w.Header().Set("Cache-Control", fresh60)
			_, _ = io.WriteString(w, r.Header.Get("Authorization"))
		}), Options{})
		var waits []func() []reply
		for i := range 8 {
			waits = append(waits, s.crowd(t, 1, "Authorization", strconv.Itoa(i)))
		}
		receive(t, g.came)
		close(g.open)
		for i, wait := range waits {
			require.Equal(t, strconv.Itoa(i), wait()[0].body)
		}
	})
}

func TestFleet_UnsharedRequestsRunConcurrently(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const crowd = 8
		var together sync.WaitGroup
		together.Add(crowd)
		s := open(t, rdb, func(w http.ResponseWriter, r *http.Request, n int) {
			if n > 1 { // each waits for all others to arrive
				together.Done()
				together.Wait()
			}
			says("Cache-Control", "private")(w, r, n)
		}, Options{})
		s.get(t, "/p")
		seen := map[string]bool{}
		for _, r := range s.crowd(t, crowd)() {
			seen[r.body] = true
		}
		require.Len(t, seen, crowd)
	})
}

func TestFleet_ClientsThatWaitedInVainRunConcurrently(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		const crowd = 8
		first := newGate()
		var together sync.WaitGroup
		together.Add(crowd)
		s := open(t, rdb, func(w http.ResponseWriter, r *http.Request, n int) {
			if n == 1 {
				first.before(func(http.ResponseWriter, *http.Request, int) {})(w, r, n)
				w.WriteHeader(http.StatusOK) // the header alone is enough to know
			}
			together.Done()
			together.Wait()
			says()(w, r, n)
		}, Options{})
		wait := s.crowd(t, crowd)
		receive(t, first.came)
		close(first.open)
		seen := map[string]bool{}
		for _, r := range wait() {
			seen[r.body] = true
		}
		require.Len(t, seen, crowd, "also the first one, which had not ended when the others were called")
	})
}

func TestInvalidate_DuringALoadWins(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		for _, known := range []bool{false, true} {
			t.Run(fmt.Sprint("known=", known), func(t *testing.T) {
				g := newGate()
				s := open(t, rdb, func(w http.ResponseWriter, r *http.Request, n int) {
					if known == (n == 2) { // the second call, of a variant, or the first, of the index
						g.before(says("Cache-Control", fresh60))(w, r, n)
						return
					}
					says("Cache-Control", fresh60)(w, r, n)
				}, Options{})
				var with []string
				if known {
					require.Equal(t, "1", s.get(t, "/p").body)
					with = []string{"X-Variant", "1"}
				}
				wait := s.crowd(t, 1, with...)
				n := receive(t, g.came)
				require.NoError(t, s.h.Invalidate(t.Context(), s.url+"/p"))
				late := s.get(t, "/p", with...)
				require.NotEqual(t, strconv.Itoa(n), late.body)
				close(g.open)
				require.Equal(t, strconv.Itoa(n), wait()[0].body)
				require.Equal(t, late.body, s.get(t, "/p", with...).body, "what was loaded before is not stored")
			})
		}
	})
}
