package middleware_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex"
	"github.com/cachex-go/cachex/internal/redistest"
	"github.com/cachex-go/cachex/middleware"
)

// exampleRedis starts the Redis of an example. In your program, rdb is your own
// client.
func exampleRedis() (rdb *redis.Client, done func()) {
	server, err := redistest.NewEmbedded()
	if err != nil {
		panic(err)
	}
	return server.Client(nil), server.Close
}

// withoutTime removes the variable attributes from a log.
var withoutTime = &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
	if a.Key == slog.TimeKey || a.Key == "took" {
		return slog.Attr{}
	}
	return a
}}

// A function that queries a database is wrapped; the result has the same type.
// The first listed is outermost: every call is logged and takes at most a
// minute. A miss calls the database, up to three times, in one of 20 slots.
func ExampleChain() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	failures := 1
	userByID := func(_ context.Context, id int64) (string, error) {
		if failures > 0 {
			failures--
			return "", errors.New("connection reset")
		}
		fmt.Println("SELECT name FROM users WHERE id =", id)
		return "Ada", nil
	}
	users := cachex.Must(cachex.New(rdb, cachex.Spec[int64, string]{Key: "users:{id}", TTL: time.Minute}))
	defer users.Close(ctx)

	wrap := middleware.For(userByID)
	getUser := middleware.Chain(userByID, // func(context.Context, int64) (string, error)
		wrap.Log(slog.New(slog.NewTextHandler(os.Stdout, withoutTime))),
		wrap.Timeout(time.Minute),
		middleware.Cached(users),
		wrap.Limit(20),
		wrap.Retry(middleware.RetryOptions{Base: time.Millisecond}),
	)
	fmt.Println(getUser(ctx, 42))
	fmt.Println(getUser(ctx, 42))
	// Output:
	// SELECT name FROM users WHERE id = 42
	// level=INFO msg=call key=42
	// Ada <nil>
	// level=INFO msg=call key=42
	// Ada <nil>
}

// The document's decorator, @from_cache_decorator(key=KEY, timeout=EXPIRE),
// around a task without arguments. The number is fresh for two minutes. It is
// served stale for eighteen more while one process runs the task again.
//
// The decorator returns a name that does not exist, treats every result as an
// int, and has one key for a function, whatever its arguments are.
func ExampleChain0() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	hardTask := func(context.Context) (int, error) {
		fmt.Println("Run hard task.")
		return 10, nil
	}
	numbers := cachex.Must(cachex.New(rdb, cachex.Spec[struct{}, int]{
		Key: "test:key", TTL: 2 * time.Minute, StaleWhileRevalidate: 18 * time.Minute,
	}))
	defer numbers.Close(ctx)
	cachedHardTask := middleware.Chain0(hardTask, middleware.Cached(numbers)) // func(context.Context) (int, error)

	fmt.Println(cachedHardTask(ctx))
	fmt.Println(cachedHardTask(ctx))
	// Output:
	// Run hard task.
	// 10 <nil>
	// 10 <nil>
}

// A function of two arguments has a key for each pair of them.
func ExampleChain2() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	page := func(_ context.Context, userID int64, lang string) (string, error) {
		fmt.Println("Render page of", userID, "in", lang)
		return strings.ToUpper(lang), nil
	}
	pages := cachex.Must(cachex.New(rdb, cachex.Spec[middleware.Args2[int64, string], string]{
		Key: "pages:{a}:{b}", TTL: time.Minute,
	}))
	defer pages.Close(ctx)
	cachedPage := middleware.Chain2(page, middleware.Cached(pages)) // func(context.Context, int64, string) (string, error)

	fmt.Println(cachedPage(ctx, 42, "en"))
	fmt.Println(cachedPage(ctx, 42, "en"))
	fmt.Println(cachedPage(ctx, 42, "de"))
	fmt.Println(pages.Key(middleware.Args2[int64, string]{A: 42, B: "de"}))
	// Output:
	// Render page of 42 in en
	// EN <nil>
	// EN <nil>
	// Render page of 42 in de
	// DE <nil>
	// pages:42:de
}

func ExampleFunc2() {
	rdb, done := exampleRedis()
	defer done()
	ctx := context.Background()

	add := func(_ context.Context, a, b int) (int, error) { return a + b, nil }
	sums := cachex.Must(cachex.New(rdb, cachex.Spec[middleware.Args2[int, int], int]{
		Key: "sums:{a}:{b}", TTL: time.Minute,
		Up: middleware.Func2(add), // Refresh and GetMany use it too
	}))
	defer sums.Close(ctx)
	fmt.Println(sums.Refresh(ctx, middleware.Args2[int, int]{A: 40, B: 2}))
	// Output:
	// 42 <nil>
}

func ExampleTimeout() {
	slow := func(ctx context.Context, id int64) (string, error) {
		<-ctx.Done() // a query that never ends
		return "", ctx.Err()
	}
	get := middleware.Chain(slow, middleware.For(slow).Timeout(time.Millisecond))
	_, err := get(context.Background(), 42)
	fmt.Println(err)
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output:
	// cachex: timeout 42: no answer within 1ms
	// true
}

func ExampleRetry() {
	attempts := 0
	down := func(context.Context, int64) (string, error) {
		attempts++
		return "", fmt.Errorf("connection %d refused", attempts)
	}
	// Without For, the type arguments are written out.
	get := middleware.Chain(down, middleware.Retry[int64, string](middleware.RetryOptions{
		Attempts: 4, Base: time.Millisecond,
	}))
	_, err := get(context.Background(), 42)
	fmt.Println(err)
	// Output:
	// cachex: retry 42: 4 attempts failed, the last one: connection 4 refused
}

func ExampleLimit() {
	var now, most atomic.Int64
	query := func(_ context.Context, id int64) (string, error) {
		most.Store(max(most.Load(), now.Add(1)))
		defer now.Add(-1)
		time.Sleep(time.Millisecond)
		return "row", nil
	}
	get := middleware.Chain(query, middleware.For(query).Limit(1))
	var visitors sync.WaitGroup
	for id := range int64(10) {
		visitors.Go(func() { _, _ = get(context.Background(), id) })
	}
	visitors.Wait()
	fmt.Println("at once:", most.Load())
	// Output:
	// at once: 1
}

func ExampleBreaker() {
	calls := 0
	down := func(context.Context, int64) (string, error) {
		calls++
		return "", errors.New("connection refused")
	}
	get := middleware.Chain(down, middleware.For(down).Breaker(middleware.BreakerOptions{Trip: 2, Every: time.Hour}))
	var err error
	for range 100 {
		_, err = get(context.Background(), 42)
	}
	fmt.Println(calls, errors.Is(err, middleware.ErrOpen))
	if open, ok := errors.AsType[*middleware.OpenError](err); ok {
		fmt.Println(open.RetryAfter > 59*time.Minute)
	}
	// Output:
	// 2 true
	// true
}

func ExampleLog() {
	names := map[string]string{"ada@example.com": "Ada"}
	byMail := func(_ context.Context, mail string) (string, error) {
		name, ok := names[mail]
		if !ok {
			return "", fmt.Errorf("user %s: %w", mail, cachex.ErrNotFound)
		}
		return name, nil
	}
	logger := slog.New(slog.NewTextHandler(os.Stdout, withoutTime))
	get := middleware.Chain(byMail, middleware.For(byMail).Log(logger, middleware.LogOptions{Message: "byMail", HideKey: true}))
	_, _ = get(context.Background(), "ada@example.com")
	_, err := get(context.Background(), "bob@example.com")
	fmt.Println(err)
	// Output:
	// level=INFO msg=byMail
	// level=INFO msg=byMail err="not found, (*fmt.wrapError: *errors.errorString)"
	// user bob@example.com: not found
}

// daily is a gate; gate.New makes one that the fleet shares.
type daily struct{ sent map[string]bool }

func (d daily) Do(ctx context.Context, mail string, f func(context.Context) error) error {
	if d.sent[mail] {
		return errors.New("the gate is closed")
	}
	d.sent[mail] = true
	return f(ctx)
}

func ExampleOnce() {
	send := func(_ context.Context, mail string) (string, error) {
		return "sent to " + mail, nil
	}
	sendOnce := middleware.Chain(send, middleware.Once[string](daily{map[string]bool{}}))
	fmt.Println(sendOnce(context.Background(), "ada@example.com"))
	_, err := sendOnce(context.Background(), "ada@example.com")
	fmt.Println(err)
	// Output:
	// sent to ada@example.com <nil>
	// the gate is closed
}
