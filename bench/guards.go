package main

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/go-redis/cache/v9"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"github.com/vmihailenco/msgpack/v5"
	"golang.org/x/sync/singleflight"

	"github.com/cachex-go/cachex"
)

// These are guards that a user may put between a crowd and a load. Each call
// stands for one process, has its own client, and returns the read function of
// its callers.

func stampedeOurs(t testing.TB, addr string, up func(int64) User) func(context.Context, int64) error {
	return stampedeWith(t, client(t, &redis.Options{Addr: addr}), up)
}

// stampedeMute uses a Redis that does not push, so that waiters poll.
func stampedeMute(t testing.TB, addr string, up func(int64) User) func(context.Context, int64) error {
	admin := client(t, &redis.Options{Addr: addr})
	if err := admin.Do(context.Background(), "acl", "setuser", "mute", "on", ">mute", "~*", "+@all", "resetchannels").Err(); err != nil {
		t.Fatal(err)
	}
	return stampedeWith(t, client(t, &redis.Options{Addr: addr, Username: "mute", Password: "mute"}), up)
}

func stampedeWith(t testing.TB, rdb *redis.Client, up func(int64) User) func(context.Context, int64) error {
	c := cachex.Must(cachex.New(rdb, cachex.Spec[int64, User]{
		Key: "users:{id}", TTL: ttl,
		Up: func(_ context.Context, id int64) (User, error) { return up(id), nil },
	}))
	t.Cleanup(func() { _ = c.Close(context.Background()) })
	return func(ctx context.Context, id int64) error {
		_, err := c.Get(ctx, id)
		return err
	}
}

// stampedeRedsync guards a load by singleflight in the process, and by a
// redsync lock among processes. The holder of the lock reads again. If the lock
// is taken, it is retried every so often. If every is 0, it is retried by
// redsync's default, after 50 to 250 ms, at random.
func stampedeRedsync(every time.Duration) func(testing.TB, string, func(int64) User) func(context.Context, int64) error {
	return func(t testing.TB, addr string, up func(int64) User) func(context.Context, int64) error {
		rdb := client(t, &redis.Options{Addr: addr})
		locks := redsync.New(goredis.NewPool(rdb))
		var options []redsync.Option
		if every > 0 {
			options = append(options, redsync.WithRetryDelay(every), redsync.WithTries(1000))
		}
		var flights singleflight.Group
		load := func(ctx context.Context, id int64) (u User, err error) {
			lock := locks.NewMutex("lock:"+stampedeKey(id), options...)
			if err := lock.LockContext(ctx); err != nil {
				return u, err
			}
			defer func() {
				if _, unlockErr := lock.UnlockContext(ctx); err == nil {
					err = unlockErr
				}
			}()
			if u, err := decode[User](rdb.Get(ctx, stampedeKey(id)).Bytes()); !errors.Is(err, redis.Nil) {
				return u, err
			}
			u = up(id)
			b, err := msgpack.Marshal(u)
			if err != nil {
				return u, err
			}
			return u, rdb.Set(ctx, stampedeKey(id), b, ttl).Err()
		}
		return func(ctx context.Context, id int64) error {
			_, err, _ := flights.Do(stampedeKey(id), func() (any, error) {
				if u, err := decode[User](rdb.Get(ctx, stampedeKey(id)).Bytes()); !errors.Is(err, redis.Nil) {
					return u, err
				}
				return load(ctx, id)
			})
			return err
		}
	}
}

func stampedeOnce(t testing.TB, addr string, up func(int64) User) func(context.Context, int64) error {
	c := cache.New(&cache.Options{Redis: client(t, &redis.Options{Addr: addr})})
	return func(ctx context.Context, id int64) error {
		var u User
		return c.Once(&cache.Item{
			Ctx: ctx, Key: stampedeKey(id), Value: &u, TTL: ttl,
			Do: func(*cache.Item) (any, error) { return up(id), nil },
		})
	}
}

func stampedeByHand(t testing.TB, addr string, up func(int64) User) func(context.Context, int64) error {
	rdb := client(t, &redis.Options{Addr: addr})
	return func(ctx context.Context, id int64) error {
		_, err := decode[User](rdb.Get(ctx, stampedeKey(id)).Bytes())
		if !errors.Is(err, redis.Nil) {
			return err
		}
		b, err := msgpack.Marshal(up(id))
		if err != nil {
			return err
		}
		return rdb.Set(ctx, stampedeKey(id), b, ttl).Err()
	}
}

// stampedeFloor acts as if all callers were in one process and there were no
// Redis. Time beyond the load is due to the machine.
func stampedeFloor() func(testing.TB, string, func(int64) User) func(context.Context, int64) error {
	var flights singleflight.Group
	return func(_ testing.TB, _ string, up func(int64) User) func(context.Context, int64) error {
		return func(_ context.Context, id int64) error {
			_, _, _ = flights.Do(stampedeKey(id), func() (any, error) { return up(id), nil })
			return nil
		}
	}
}

func stampedeKey(id int64) string { return fmt.Sprintf("users:%d", id) }

func client(t testing.TB, o *redis.Options) *redis.Client {
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}
