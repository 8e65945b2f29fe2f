package collection

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/circuit"
	"github.com/cachex-go/cachex/internal/client"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/internal/guard"
	"github.com/cachex-go/cachex/internal/key"
	"github.com/cachex-go/cachex/internal/waitfor"
)

// commonSpec has the fields that all Specs share, under the same names. E is the
// type of the elements.
type commonSpec[K comparable, E any] struct {
	Name            string
	Key             string
	KeyFunc         func(K) string
	TTL             time.Duration
	Codec           codec.Codec[E]
	UpTimeout       time.Duration
	LeaseTTL        time.Duration
	MaxLoads        int
	AllowStaleReads bool

	// Compared says that the collection compares elements by their bytes.
	Compared bool
}

// setUp initialises s and returns the codec of its elements, or an error that
// names the wrong field. It sets the defaults of spec first.
func setUp[K comparable, T, E any](s *store[K, T], rdb redis.UniversalClient, spec commonSpec[K, E]) (elements[E], error) {
	if spec.Codec == nil {
		spec.Codec = codec.For[E]()
	}
	spec.UpTimeout = cmp.Or(spec.UpTimeout, time.Minute)
	spec.LeaseTTL = cmp.Or(spec.LeaseTTL, defaults.LeaseTTL())
	template, err := key.FromSpec(spec.Key, spec.KeyFunc)
	if err != nil {
		return elements[E]{}, err
	}
	if err := client.CheckReads(rdb, spec.AllowStaleReads, "Spec.AllowStaleReads"); err != nil {
		return elements[E]{}, err
	}
	if client.Nil(rdb) {
		return elements[E]{}, errors.New("client is nil")
	}
	if err := spec.check(); err != nil {
		return elements[E]{}, err
	}
	if spec.Compared {
		if err := checkCompared(spec.Codec); err != nil {
			return elements[E]{}, err
		}
	}
	s.rdb, s.key, s.ttl, s.lease = rdb, template, spec.TTL, spec.LeaseTTL
	s.name = cmp.Or(spec.Name, template.Name())
	s.flights.Timeout, s.breakers = spec.UpTimeout, circuit.For(rdb)
	s.slots = waitfor.NewPool(spec.MaxLoads)
	s.read = func(ctx context.Context, key string) (v T, state readState, err error) {
		defer guard.Catch(guard.Client, &err)
		return s.parse(key, s.command(ctx, s.rdb, key))
	}
	return elements[E]{codec.Bind(spec.Codec)}, nil
}

// check returns an error that names the first wrong field.
func (s commonSpec[K, E]) check() error {
	if s.TTL == 0 {
		return errors.New("Spec.TTL is required: choose one, or cachex.Forever")
	}
	if err := engine.CheckLife(s.TTL); err != nil {
		return fmt.Errorf("Spec.TTL: %w", err)
	}
	if err := codec.Check(s.Codec); err != nil && !errors.Is(err, codec.ErrNote) {
		return fmt.Errorf("Spec.Codec: %w", err)
	}
	switch {
	case s.UpTimeout < time.Millisecond:
		return fmt.Errorf("Spec.UpTimeout is %v, must be at least 1ms", s.UpTimeout)
	case s.LeaseTTL < engine.MinLeaseTTL:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be at least %v", s.LeaseTTL, engine.MinLeaseTTL)
	case s.LeaseTTL%time.Millisecond != 0:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be whole milliseconds", s.LeaseTTL)
	case s.MaxLoads < 0:
		return fmt.Errorf("Spec.MaxLoads is %d, must not be negative", s.MaxLoads)
	}
	return nil
}

// checkCompared returns an error if c may encode equal members to different
// bytes. Such members could not be found again, since they are compared by
// their bytes.
func checkCompared[E any](c codec.Codec[E]) error {
	if err := codec.Deterministic(c); err != nil {
		return fmt.Errorf("Spec.Codec: members are compared by their bytes: %w", err)
	}
	return nil
}
