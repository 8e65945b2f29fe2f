package cachex

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/cachex-go/cachex/codec"
	"github.com/cachex-go/cachex/internal/defaults"
	"github.com/cachex-go/cachex/internal/engine"
	"github.com/cachex-go/cachex/writebehind"
)

// settings is a Spec without its types. Code that is compiled once for all
// caches of a program checks and uses it.
type settings struct {
	name, key          string
	ttl                time.Duration
	swr, sie           time.Duration
	softTimeout        time.Duration
	backoff            time.Duration
	notFoundTTL        time.Duration
	earlyRefresh       float64
	jitter             float64
	maxKeys            int
	upContext          func(context.Context) context.Context
	writeBehind        time.Duration
	writeBehindOptions writebehind.Options
	upTimeout          time.Duration
	leaseTTL           time.Duration
	maxLoads           int
	allowStaleReads    bool
	packed, expected   int
	noCombining        bool
	observer           Observer

	near, keyFunc, up, upMany, down, downMany, ttlFor bool  // whether the field is set
	counts                                            bool  // the Codec carries a kind
	codec                                             error // the result of codec.Check
}

// withDefaults sets every field that has a default.
func (s *settings) withDefaults() {
	s.jitter = cmp.Or(s.jitter, 0.1)
	s.upTimeout = cmp.Or(s.upTimeout, time.Minute)
	s.leaseTTL = cmp.Or(s.leaseTTL, defaults.LeaseTTL())
	s.backoff = cmp.Or(s.backoff, time.Second)
	s.maxKeys = cmp.Or(s.maxKeys, 1000)
}

// validate returns an error that names the first invalid field. parses returns
// an error if a rendered key cannot be parsed.
func (s *settings) validate(parses func() error) error {
	if s.near {
		return errors.New("Spec.Near is not supported yet")
	}
	if s.ttl == 0 {
		return errors.New("Spec.TTL is required: choose one, or Forever")
	}
	if err := engine.CheckLife(s.ttl); err != nil {
		return fmt.Errorf("Spec.TTL: %w", err)
	}
	if s.jitter != NoJitter && (s.jitter < 0 || s.jitter > 1 || math.IsNaN(s.jitter)) {
		return fmt.Errorf("Spec.Jitter is %v, must be from 0 to 1, or NoJitter", s.jitter)
	}
	if err := s.codec; err != nil && !errors.Is(err, codec.ErrNote) {
		return fmt.Errorf("Spec.Codec: %w", err)
	}
	switch {
	case s.upTimeout < time.Millisecond:
		return fmt.Errorf("Spec.UpTimeout is %v, must be at least 1ms", s.upTimeout)
	case s.leaseTTL < engine.MinLeaseTTL:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be at least %v", s.leaseTTL, engine.MinLeaseTTL)
	case s.leaseTTL%time.Millisecond != 0:
		return fmt.Errorf("Spec.LeaseTTL is %v, must be whole milliseconds", s.leaseTTL)
	case s.maxLoads < 0:
		return fmt.Errorf("Spec.MaxLoads is %d, must not be negative", s.maxLoads)
	case s.maxKeys < 1 || s.maxKeys > maxKeysLimit:
		return fmt.Errorf("Spec.MaxKeys is %d, must be from 1 to %d, or 0: the leases of one call of UpMany are renewed together", s.maxKeys, maxKeysLimit)
	}
	if err := s.validatePacked(); err != nil {
		return err
	}
	if err := s.validateStale(); err != nil {
		return err
	}
	return s.validateWriteBehind(parses)
}

// maxKeysLimit is the largest Spec.MaxKeys. To renew its leases takes twenty
// round trips, sent at the same time.
const maxKeysLimit = 10_000

// packedLimit is the largest Spec.Packed. Redis finds a field by a scan of
// those before it.
const packedLimit = 1024

// validatePacked validates Spec.Packed, except for the rules about keys.
func (s *settings) validatePacked() error {
	switch {
	case s.packed == 0 && s.expected != 0:
		return errors.New("Spec.Expected needs Spec.Packed")
	case s.packed == 0:
		return nil
	case s.packed < 2 || s.packed > packedLimit:
		return fmt.Errorf("Spec.Packed is %d, must be from 2 to %d, or 0", s.packed, packedLimit)
	case s.expected < 0:
		return fmt.Errorf("Spec.Expected is %d, must not be negative", s.expected)
	case s.writeBehind != 0:
		return errors.New("Spec.Packed and Spec.WriteBehind cannot be combined: write-behind needs one key per entry")
	}
	return nil
}

// validateStale validates the fields about values that are not fresh. Without
// Up and UpMany, it accepts fields that only loads use, because Wrap may add
// the load later.
func (s *settings) validateStale() error {
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"StaleWhileRevalidate", s.swr},
		{"StaleIfError", s.sie},
		{"NotFoundTTL", s.notFoundTTL},
		{"SoftTimeout", s.softTimeout},
		{"Backoff", s.backoff},
	} {
		switch {
		case d.d == 0:
		case d.d < 0:
			return fmt.Errorf("Spec.%s is %v, must not be negative", d.name, d.d)
		default:
			if err := engine.CheckLife(d.d); err != nil || d.d == Forever {
				return fmt.Errorf("Spec.%s: %w", d.name, cmp.Or(err, errors.New("Forever is valid only for Spec.TTL")))
			}
		}
	}
	if kept := retention(s.ttl, s.swr+s.sie); engine.CheckLife(kept) != nil {
		return fmt.Errorf("Spec.TTL, StaleWhileRevalidate and StaleIfError: %w", engine.CheckLife(kept))
	}
	switch {
	case s.softTimeout != 0 && s.sie == 0:
		return errors.New("Spec.SoftTimeout needs Spec.StaleIfError, which keeps the value to serve")
	case s.softTimeout > 0 && s.softTimeout >= s.upTimeout:
		return fmt.Errorf("Spec.SoftTimeout is %v, must be shorter than Spec.UpTimeout, which is %v", s.softTimeout, s.upTimeout)
	case s.earlyRefresh < 0 || math.IsNaN(s.earlyRefresh) || math.IsInf(s.earlyRefresh, 0):
		return fmt.Errorf("Spec.EarlyRefresh is %v, must be 0 or positive", s.earlyRefresh)
	case s.downMany && !s.down && s.writeBehind == 0:
		return errors.New("Spec.DownMany needs Spec.Down, which Set calls")
	}
	return nil
}

// validateWriteBehind validates Spec.WriteBehind.
func (s *settings) validateWriteBehind(parses func() error) error {
	o := s.writeBehindOptions
	switch {
	case s.writeBehind == 0 && !reflect.ValueOf(o).IsZero():
		return errors.New("Spec.WriteBehindOptions needs Spec.WriteBehind")
	case s.writeBehind == 0:
		return nil
	case o.Name != "" || o.Merge != 0 || o.Every != 0 || o.Persist != nil || o.Check != nil:
		return errors.New("Spec.WriteBehindOptions: Name, Merge, Every, Persist and Check must not be set: the cache sets them")
	case o.MaxBatch > 1 && !s.downMany && !s.counts:
		return errors.New("Spec.WriteBehindOptions.MaxBatch needs Spec.DownMany: Down takes one value")
	case s.writeBehind < minWriteBehind || s.writeBehind%time.Millisecond != 0:
		return fmt.Errorf("Spec.WriteBehind is %v, must be whole milliseconds, at least %v", s.writeBehind, minWriteBehind)
	case s.keyFunc:
		return errors.New("Spec.WriteBehind needs Spec.Key in place of Spec.KeyFunc: the flusher must parse the key")
	case strings.Contains(s.key, "{{"):
		return errors.New("Spec.WriteBehind adds its own hash tag to keys: remove {{…}} from Spec.Key")
	case !s.down && !s.downMany && !s.counts:
		return errors.New("Spec.WriteBehind needs Spec.Down or Spec.DownMany, which persist the values")
	}
	if err := parses(); err != nil {
		return fmt.Errorf("Spec.WriteBehind: %w", err)
	}
	return nil
}

const minWriteBehind = 10 * time.Millisecond
