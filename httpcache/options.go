package httpcache

import (
	"cmp"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"time"
)

// Options describe a Handler. They are a value: New copies them.
//
// Durations are whole milliseconds.
type Options struct {
	// Name is what the keys in Redis begin with, and what Cache-Status calls this
	// cache: a letter, and then letters, digits, "-", "_" and ".". Handlers that
	// share a Redis and a Name share what is stored, so they must serve the same.
	// Required.
	Name string

	// MaxBody is how many bytes of body are stored, and held in memory for one load.
	// A longer response goes to its own client as it comes. Defaults to 1 MiB.
	MaxBody int64

	// DefaultTTL is how long a response is fresh that does not say, by Cache-Control
	// or Expires, how long it is (RFC 9111, section 4.2.2). Defaults to 0: it is not
	// stored.
	DefaultTTL time.Duration

	// MaxTTL bounds how long a response is fresh, whatever it says. Defaults to 24 h.
	MaxTTL time.Duration

	// MaxStale is how long responses are kept once they are not fresh: to be
	// validated, and to be served stale for as long as they themselves allow, by
	// stale-while-revalidate and stale-if-error, or the client by max-stale. It
	// bounds these. Defaults to an hour.
	MaxStale time.Duration

	// PassTTL is how long it is remembered that the response to a request could not
	// be shared, so that such requests are handled side by side and do not wait for
	// each other. A response that refuses its request, such as 400 or 406, is
	// remembered for a second at most. Defaults to a minute.
	PassTTL time.Duration

	// LoadTimeout is how long others wait for the handler. It then goes on for the
	// client that it was called for, and the others call it for themselves. Defaults
	// to a minute.
	LoadTimeout time.Duration

	// Cookies are the names of the cookies that matter: a request with one of them is
	// passed. A request that has only other cookies is served as one without any, and
	// the handler does not see these in a shared load. Defaults to nil: unless
	// Partition is set, every cookie matters.
	Cookies []string

	// Partition returns what else the responses depend on, such as a tenant or a
	// language taken from a cookie. It becomes part of the key. Without ok, the
	// request is passed. Partition must be safe for concurrent use. The handler sees
	// the same request, cookies included, and whatever it takes from a cookie must be
	// in the returned part. A request with one of Cookies is passed without a call of
	// Partition. Defaults to nil.
	Partition func(*http.Request) (part string, ok bool)

	// Unkeyed are the names of more request fields that the handler sees and that
	// are not in the key, unless its response says Vary. Every field that is neither
	// here, nor hidden, nor one of those that browsers send by themselves, is in the
	// key: two requests that differ in it share nothing. Defaults to none.
	Unkeyed []string

	// Hidden are the names of request fields that the handler has no use for where
	// its response is shared, X-Forwarded-For for instance: they are not in the key,
	// and it does not see them when it is called for the cache. With Cookie among
	// them, requests with cookies are like those without. Defaults to none.
	Hidden []string

	// MethodOverrides are the names of request fields by which the handler takes a
	// GET for another method, such as X-HTTP-Method-Override. A request with one of
	// them is passed, and is treated as one of the method that the field names: unless
	// that is safe, it invalidates. So any client can invalidate and can pass the
	// cache. Defaults to none: such a field is in the key, as any other.
	MethodOverrides []string

	// Targets are the names of response fields that take the place of Cache-Control
	// and Expires for this cache, such as CDN-Cache-Control (RFC 9213). Of a response,
	// the first of them counts that is valid and not empty. Defaults to none.
	Targets []string

	// Statuses are more statuses that are stored, if their responses have explicit
	// freshness: 503, for instance, of a handler that says how long it is away. With
	// an error of a request among them, such as 400 or 431, a request that the handler
	// refuses keeps the page from every client for as long. A response that is stored
	// is no reason to serve a stale one by stale-if-error. Defaults to none.
	Statuses []int

	// AllowStaleReads accepts a client whose reads may be stale, as that of cachex.Spec:
	// what Invalidate and unsafe methods have made useless may then be served. Defaults to
	// false.
	AllowStaleReads bool
}

var nameForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

// withDefaults returns the Options with every field set that has a default.
func (o Options) withDefaults() Options {
	o.MaxBody = cmp.Or(o.MaxBody, 1<<20)
	o.MaxTTL = cmp.Or(o.MaxTTL, 24*time.Hour)
	o.MaxStale = cmp.Or(o.MaxStale, time.Hour)
	o.PassTTL = cmp.Or(o.PassTTL, time.Minute)
	o.LoadTimeout = cmp.Or(o.LoadTimeout, time.Minute)
	return o
}

// validate returns an error for the first field that is wrong, by its name.
func (o Options) validate() error {
	if o.Name == "" {
		return errors.New(`Options.Name is required, for instance "pages"`)
	}
	if !nameForm.MatchString(o.Name) {
		return fmt.Errorf("Options.Name is %q, must be a letter, and then letters, digits, '-', '_' and '.'", o.Name)
	}
	if o.MaxBody < 0 {
		return fmt.Errorf("Options.MaxBody is %d, must not be negative", o.MaxBody)
	}
	for _, d := range []struct {
		name string
		d    time.Duration
	}{
		{"DefaultTTL", o.DefaultTTL}, {"MaxTTL", o.MaxTTL}, {"MaxStale", o.MaxStale},
		{"PassTTL", o.PassTTL}, {"LoadTimeout", o.LoadTimeout},
	} {
		switch {
		case d.d < 0:
			return fmt.Errorf("Options.%s is %v, must not be negative", d.name, d.d)
		case d.d%time.Millisecond != 0:
			return fmt.Errorf("Options.%s is %v, must be whole milliseconds", d.name, d.d)
		case d.d > 10*365*24*time.Hour:
			return fmt.Errorf("Options.%s is %v, must be at most ten years", d.name, d.d)
		}
	}
	for _, list := range []struct {
		name  string
		names []string
	}{
		{"Cookies", o.Cookies}, {"Unkeyed", o.Unkeyed}, {"Hidden", o.Hidden},
		{"MethodOverrides", o.MethodOverrides}, {"Targets", o.Targets},
	} {
		for _, name := range list.names {
			if s := (scanner{name}); s.token() != name || name == "" {
				return fmt.Errorf("Options.%s has %q, must be names without spaces, such as \"X-Name\"", list.name, name)
			}
		}
	}
	for _, status := range o.Statuses {
		if status < 200 || status > 599 || status == http.StatusPartialContent || status == http.StatusNotModified {
			return fmt.Errorf("Options.Statuses has %d, must be from 200 to 599, and neither 206 nor 304", status)
		}
	}
	return nil
}
