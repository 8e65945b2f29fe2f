package script

import (
	"context"
	"maps"
	"slices"

	"github.com/redis/go-redis/v9"
)

// NewHarmless returns a script whose late copy is harmless.
func NewHarmless(name, src string) *Script {
	s := New(name, src)
	s.late = harmless("is of a test")
	return s
}

// RunOnce does the work of Run for a script that is sent once.
func (s *Script) RunOnce(ctx context.Context, rdb redis.UniversalClient, key string, args ...any) (any, error) {
	c := Call{Script: s, Key: key, Args: args, Once: true}
	err := c.Run(ctx, rdb)
	return c.Reply, err
}

// Rows returns the names of the scripts that have a row.
func Rows() []string { return slices.Collect(maps.Keys(lates)) }
