package cachextest_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/batch"
	"github.com/cachex-go/cachex/cachextest"
)

type Profile struct{ Name string }

// NewProfiles is the code under test in docs/testing-your-code.md.
func NewProfiles(rdb redis.UniversalClient, up func(context.Context, int64) (Profile, error)) *cachex.Cache[int64, Profile] {
	return cachex.Must(cachex.New(rdb, cachex.Spec[int64, Profile]{
		Key:                  "profiles:{id}",
		TTL:                  time.Minute,
		Jitter:               cachex.NoJitter,
		StaleWhileRevalidate: time.Minute,
		StaleIfError:         time.Hour,
		Up:                   up,
	}))
}

// name returns the name in the profile of key 7.
func name(t *testing.T, profiles *cachex.Cache[int64, Profile]) string {
	t.Helper()
	p, err := profiles.Get(t.Context(), 7)
	if err != nil {
		t.Fatal(err)
	}
	return p.Name
}

// equal fails the test unless got is want.
func equal[T comparable](t *testing.T, want, got T) {
	t.Helper()
	if got != want {
		t.Fatalf("got %v, want %v", got, want)
	}
}

// done closes a cache in a bubble, whose goroutines must end with it.
func done(t *testing.T, c interface {
	Close(ctx context.Context) error
}) {
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// Every sample of the page is a part of this file, so that it compiles and passes.
func TestRecipes_AreThoseOfTheDocs(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile(filepath.Join("..", "docs", "testing-your-code.md"))
	require.NoError(t, err)
	file, err := os.ReadFile("recipes_test.go")
	require.NoError(t, err)
	samples := regexp.MustCompile("(?s)\n```go\n(.*?)\n```\n").FindAllStringSubmatch(string(page), -1)
	require.Len(t, samples, 11)
	for _, sample := range samples {
		require.True(t, strings.Contains(string(file), "\n"+sample[1]+"\n"), "not in recipes_test.go:\n%s", sample[1])
	}
}

func TestProfilesExpire(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
		profiles := NewProfiles(server.Client(), source.Up)
		defer done(t, profiles)

		source.Put(7, Profile{"Ada"})
		equal(t, "Ada", name(t, profiles))
		source.Put(7, Profile{"Grace"})
		server.Advance(59 * time.Second)
		equal(t, "Ada", name(t, profiles)) // a hit
		server.Advance(2 * time.Minute)    // past StaleWhileRevalidate, too
		equal(t, "Grace", name(t, profiles))
		cachextest.RequireLoads(t, source, 7, 2)
	})
}

func TestStaleProfilesAreServedWhileOneIsLoaded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
		profiles := NewProfiles(server.Client(), source.Up)
		defer done(t, profiles)

		source.Put(7, Profile{"Ada"})
		name(t, profiles)
		source.Put(7, Profile{"Grace"})
		server.Advance(90 * time.Second)
		equal(t, "Ada", name(t, profiles)) // stale, and at once
		server.Advance(0)                  // the reload in the background ends
		equal(t, "Grace", name(t, profiles))
	})
}

func TestProfilesSurviveTheDatabase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
		profiles := NewProfiles(server.Client(), source.Up)
		defer done(t, profiles)

		source.Put(7, Profile{"Ada"})
		name(t, profiles)
		source.Fail(errors.New("the database is away"))
		server.Advance(30 * time.Minute)
		equal(t, "Ada", name(t, profiles)) // StaleIfError
		loads := source.Loads(7)
		name(t, profiles)
		cachextest.RequireLoads(t, source, 7, loads) // no process loads during the back-off
	})
}

func TestProfilesSurviveRedis(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	profiles := NewProfiles(server.Client(), source.Up)
	defer done(t, profiles)

	source.Put(7, Profile{"Ada"})
	server.Fail(errors.New("OOM command not allowed when used memory > 'maxmemory'."))
	equal(t, "Ada", name(t, profiles)) // loaded, and not stored
	server.Fail(nil)
	start := server.Stop()
	equal(t, "Ada", name(t, profiles)) // after the timeouts of the client, then at once
	start()
}

func TestTheFleetLoadsAProfileOnce(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	source.Put(7, Profile{"Ada"})
	fleet := cachextest.Fleet(t, server, 3, func(rdb redis.UniversalClient) *cachex.Cache[int64, Profile] {
		return NewProfiles(rdb, source.Up)
	})
	release := source.Block()
	var readers sync.WaitGroup
	for i := range 30 {
		readers.Go(func() { name(t, fleet[i%3]) })
	}
	if err := source.AwaitBlocked(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	release()
	readers.Wait()
	cachextest.RequireLoads(t, source, 7, 1)
}

func TestADeletedProfileDoesNotComeBack(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	profiles := NewProfiles(server.Client(), source.Up)
	defer done(t, profiles)

	source.Put(7, Profile{"Ada"})
	release := source.Block() // after the database was read
	var reader sync.WaitGroup
	reader.Go(func() { _, _ = profiles.Get(t.Context(), 7) })
	if err := source.AwaitBlocked(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	source.Put(7, Profile{"Grace"})
	if err := profiles.Delete(t.Context(), 7); err != nil {
		t.Fatal(err)
	}
	release()
	reader.Wait()
	equal(t, "Grace", name(t, profiles)) // the load that began before is not stored
}

func TestThePageIsOneRoundTrip(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	profiles := NewProfiles(server.Client(), source.Up)
	defer done(t, profiles)

	source.Put(7, Profile{"Ada"})
	source.Put(8, Profile{"Grace"})
	page := func() {
		var b batch.Batch
		ada, both := batch.Get(&b, profiles, 7), batch.GetMany(&b, profiles, []int64{7, 8})
		if err := b.Run(t.Context()); err != nil {
			t.Fatal(err)
		}
		_, _ = ada.Get()
		_, _ = both.Get()
	}
	page() // loads
	cachextest.RequireRoundTrips(t, server, 1, page)
}

func TestAProfileIsSavedBeforeItIsCached(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	profiles := cachex.Must(cachex.New(server.Client(), cachex.Spec[int64, Profile]{
		Key: "profiles:{id}", TTL: time.Minute, Up: source.Up, Down: source.Down,
	}))
	defer done(t, profiles)

	source.Fail(errors.New("read-only transaction"))
	if err := profiles.Set(t.Context(), 7, Profile{"Ada"}); err == nil {
		t.Fatal("the value is not in the database")
	}
	cachextest.RequireAbsent(t, profiles, 7)
	source.Fail(nil)
	if err := profiles.Set(t.Context(), 7, Profile{"Ada"}); err != nil {
		t.Fatal(err)
	}
	equal(t, "Ada", cachextest.RequireCached(t, profiles, 7).Name)
	equal(t, 1, source.Writes(7))
}

func TestTheLastProfileIsPersistedByWriteBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
		profiles := cachex.Must(cachex.New(server.Client(), cachex.Spec[int64, Profile]{
			Key: "profiles:{id}", TTL: time.Minute, Up: source.Up, DownMany: source.DownMany,
			WriteBehind: 5 * time.Second,
		}))
		defer done(t, profiles)

		for _, n := range []string{"Ada", "Grace"} {
			if err := profiles.Set(t.Context(), 7, Profile{n}); err != nil {
				t.Fatal(err)
			}
		}
		server.Advance(20 * time.Second)
		saved, _ := source.Value(7)
		equal(t, "Grace", saved.Name)
		equal(t, 1, source.Writes(7)) // one write for both
	})
}

func TestAReplicaThatLags(t *testing.T) {
	server, source := cachextest.Start(t), cachextest.NewSource[int64, Profile]()
	source.Put(7, Profile{"Ada"})
	replica := source.Replica()
	profiles := NewProfiles(server.Client(), replica.Up)
	defer done(t, profiles)

	source.Put(7, Profile{"Grace"})
	equal(t, "Ada", name(t, profiles)) // what a load from a replica caches
	replica.CatchUp()
	server.Evict(profiles.Key(7))
	equal(t, "Grace", name(t, profiles))
}

func TestNoReadReturnsWhatAWriteHasEnded(t *testing.T) {
	server, db := cachextest.Start(t), cachextest.NewSource[int, int64]()
	process := func(rdb redis.UniversalClient) cachextest.Repository {
		rows := cachex.Must(cachex.New(rdb, cachex.Spec[int, int64]{Key: "rows:{id}", TTL: time.Minute, Up: db.Up}))
		t.Cleanup(func() { _ = rows.Close(context.Background()) })
		return cachextest.Repository{
			Read: func(ctx context.Context, key int) (int64, error) {
				version, err := rows.Get(ctx, key)
				if errors.Is(err, cachex.ErrNotFound) {
					return 0, nil
				}
				return version, err
			},
			Write: func(ctx context.Context, key int, version int64) error {
				db.Put(key, version)
				return rows.Delete(ctx, key)
			},
		}
	}
	cachextest.History{}.Require(t, cachextest.Fleet(t, server, 2, process)...)
}
