package httpcache

import (
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/redistest"
)

func newResponse() *httptest.ResponseRecorder { return httptest.NewRecorder() }

func TestNew_NamesTheWrongOption(t *testing.T) {
	t.Parallel()
	rdb := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1"})
	defer rdb.Close()
	nothing := http.NotFoundHandler()
	for want, o := range map[string]Options{
		`httpcache: Options.Name is required, for instance "pages"`:                                      {},
		`httpcache: Options.Name is "a b", must be a letter, and then letters, digits, '-', '_' and '.'`: {Name: "a b"},
		`httpcache: Options.Name is "{a}", must be a letter, and then letters, digits, '-', '_' and '.'`: {Name: "{a}"},
		"httpcache: Options.MaxBody is -1, must not be negative":                                         {Name: "a", MaxBody: -1},
		"httpcache: Options.DefaultTTL is -1ms, must not be negative":                                    {Name: "a", DefaultTTL: -time.Millisecond},
		"httpcache: Options.MaxTTL is 1ns, must be whole milliseconds":                                   {Name: "a", MaxTTL: 1},
		"httpcache: Options.MaxStale is 2540400h0m0s, must be at most ten years":                         {Name: "a", MaxStale: 290 * 365 * 24 * time.Hour},
		"httpcache: Options.PassTTL is 1.5µs, must be whole milliseconds":                                {Name: "a", PassTTL: 1500},
		"httpcache: Options.LoadTimeout is -1s, must not be negative":                                    {Name: "a", LoadTimeout: -time.Second},
		`httpcache: Options.Cookies has "a=b", must be names without spaces, such as "X-Name"`:           {Name: "a", Cookies: []string{"a=b"}},
		`httpcache: Options.Unkeyed has "", must be names without spaces, such as "X-Name"`:              {Name: "a", Unkeyed: []string{"X", ""}},
		`httpcache: Options.Hidden has "X Y", must be names without spaces, such as "X-Name"`:            {Name: "a", Hidden: []string{"X Y"}},
		`httpcache: Options.MethodOverrides has "X:", must be names without spaces, such as "X-Name"`:    {Name: "a", MethodOverrides: []string{"X:"}},
		`httpcache: Options.Targets has "a, b", must be names without spaces, such as "X-Name"`:          {Name: "a", Targets: []string{"a, b"}},
		"httpcache: Options.Statuses has 206, must be from 200 to 599, and neither 206 nor 304":          {Name: "a", Statuses: []int{503, 206}},
		"httpcache: Options.Statuses has 600, must be from 200 to 599, and neither 206 nor 304":          {Name: "a", Statuses: []int{600}},
	} {
		_, err := New(rdb, nothing, o)
		require.EqualError(t, err, want)
	}
	_, err := New(rdb, nil, Options{Name: "a"})
	require.EqualError(t, err, "httpcache: next is nil, and must be the handler whose responses are cached")
	_, err = New(nil, nothing, Options{Name: "a"})
	require.Error(t, err)
}

func TestInvalidate_RemovesAllVariants(t *testing.T) {
	t.Parallel()
	redistest.Each(t, func(t *testing.T, rdb *redis.Client) {
		s := open(t, rdb, says("Cache-Control", fresh60), Options{})
		require.Equal(t, "1", s.get(t, "/").body)
		require.Equal(t, "2", s.get(t, "/?q=%20", "X-Variant", "1").body)
		require.Equal(t, "1", s.get(t, "/").body)
		require.NoError(t, s.h.Invalidate(t.Context(), s.url, "https"+s.url[len("http"):]+"/?q=%20"), "the scheme does not matter")
		require.Equal(t, "3", s.get(t, "/").body)
		require.Equal(t, "4", s.get(t, "/?q=%20", "X-Variant", "1").body)
		require.Equal(t, "3", s.get(t, "/").body)
		require.Equal(t, int64(2), s.h.Stats().Invalidations)
		for _, bad := range []string{"/p", "mailto:a@b", "http://\x7f", "http:opaque"} {
			require.Error(t, s.h.Invalidate(t.Context(), bad), bad)
		}
		n, err := s.h.Clear(t.Context())
		require.NoError(t, err)
		require.GreaterOrEqual(t, n, int64(4))
		require.Equal(t, "5", s.get(t, "/").body)
	})
}

func TestKey_LongURLsDiffer(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), says("Cache-Control", fresh60), Options{})
	long := "/" + string(make([]byte, 0, 4000))
	for range 3000 {
		long += "x"
	}
	require.Equal(t, "1", s.get(t, long).body)
	require.Equal(t, "2", s.get(t, long+"y").body)
	require.Equal(t, "1", s.get(t, long).body)
	require.NoError(t, s.h.Invalidate(t.Context(), s.url+long))
	require.Equal(t, "3", s.get(t, long).body)
	require.Equal(t, "2", s.get(t, long+"y").body)
}

func TestStats_Count(t *testing.T) {
	t.Parallel()
	s := open(t, embedded(t), func(w http.ResponseWriter, r *http.Request, n int) {
		if r.URL.Path == "/p" {
			w.Header().Set("Cache-Control", fresh60)
		}
		says()(w, r, n)
	}, Options{})
	s.get(t, "/p")
	s.get(t, "/p")
	s.get(t, "/q") // a load; its client gets the response
	s.get(t, "/q") // a pass
	s.do(t, http.MethodPost, "/p")
	stats := s.h.Stats()
	stats.Redis.LoadTime = 0
	require.Equal(t, int64(2), stats.Redis.Loads)
	require.Equal(t, int64(1), stats.Hits)
	require.Equal(t, int64(2), stats.Loads)
	require.Equal(t, int64(2), stats.Passes)
	require.Equal(t, int64(2), stats.Invalidations, "before the response, and after the handler")
}
