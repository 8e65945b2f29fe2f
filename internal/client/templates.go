package client

import (
	"fmt"
	"reflect"
	"strings"
	"sync"

	"github.com/redis/go-redis/v9"
)

// templates has the Templates of every client that a cache uses.
var templates Shared[Templates]

// Templates holds the key templates that the open caches of one client use. Two
// caches of one template share their entries, so their values must have the
// same type. It is safe for concurrent use.
type Templates struct {
	mu   sync.Mutex
	uses map[string]*use // guarded by mu; the key is the template without placeholder names, and Spec.Packed
}

type use struct {
	values reflect.Type
	kind   string
	name   string // of the first cache
	caches int
}

// TemplatesOf returns the Templates of rdb.
func TemplatesOf(rdb redis.UniversalClient) *Templates {
	return templates.For(rdb, func() *Templates { return &Templates{uses: make(map[string]*use)} }, nil)
}

// Claim records that the cache called name uses a template. It returns a
// function that ends the claim and may be called more than once. The error
// names the cache that uses the template with values of another type, or that
// is of another kind. packed is Spec.Packed: caches that differ in it share no
// entries.
func (t *Templates) Claim(template string, packed int, kind, name string, values reflect.Type) (release func(), err error) {
	shape := fmt.Sprint(unnamed(template), " ", packed)
	t.mu.Lock()
	defer t.mu.Unlock()
	u := t.uses[shape]
	if u == nil {
		u = &use{values, kind, name, 0}
		t.uses[shape] = u
	}
	if u.values != values || u.kind != kind {
		return nil, fmt.Errorf("%s %q of %v has the key %q of %s %q of %v on this client: choose another key, or close the other one",
			kind, name, values, template, u.kind, u.name, u.values)
	}
	u.caches++
	return sync.OnceFunc(func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if u.caches--; u.caches == 0 {
			delete(t.uses, shape)
		}
	}), nil
}

// unnamed returns a template without the names of its placeholders.
func unnamed(template string) string {
	var b strings.Builder
	inside := false
	for _, r := range template {
		if r == '{' || r == '}' {
			inside = r == '{'
			b.WriteRune(r)
		} else if !inside {
			b.WriteRune(r)
		}
	}
	return b.String()
}
