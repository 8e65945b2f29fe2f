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
	// Name is the prefix of the Redis keys, and the name of this cache in
	// Cache-Status: a letter, then letters, digits, "-", "_" and ".". Handlers
	// with the same Redis and Name share their stored responses, so they must
	// serve the same content. Required.
	Name string

	// MaxBody is the maximum length in bytes of a stored body, and of the
	// memory that one load holds. A longer response is streamed to its own
	// client. Defaults to 1 MiB.
	MaxBody int64

	// DefaultTTL is the freshness of a response that does not declare any, by
	// Cache-Control or Expires (RFC 9111, section 4.2.2). Defaults to 0: such a
	// response is not stored.
	DefaultTTL time.Duration

	// MaxTTL limits the freshness of a response, whatever it declares. Defaults
	// to 24 h.
	MaxTTL time.Duration

	// MaxStale is the time that responses are kept after they became stale, to
	// be validated or served stale. It limits the stale-while-revalidate and
	// stale-if-error of the response, and the max-stale of the client. Defaults
	// to an hour.
	MaxStale time.Duration

	// PassTTL is the time for which the cache remembers that a response could
	// not be shared. Meanwhile such requests are handled concurrently and do
	// not wait for each other. A rejection of the request, such as 400 or 406,
	// is remembered for at most a second. Defaults to a minute.
	PassTTL time.Duration

	// LoadTimeout is the time that other clients wait for the handler. After it
	// the handler continues for the client of the call, and the others call it
	// for themselves. Defaults to a minute.
	LoadTimeout time.Duration

	// Cookies are the names of relevant cookies: a request with one of them
	// bypasses the cache. A request with only other cookies is served like one
	// without any, and in a shared load the handler does not see them. Defaults
	// to nil: unless Partition is set, every cookie is relevant.
	Cookies []string

	// Partition returns a further part of the key, for responses that depend on
	// more than the request fields, such as a tenant or a language taken from a
	// cookie. If ok is false, the request bypasses the cache. Partition must be
	// safe for concurrent use. The handler sees the same request, including
	// cookies, so the returned part must cover everything that the handler
	// takes from a cookie. If the request has one of Cookies, it bypasses the
	// cache without a call of Partition. Defaults to nil.
	Partition func(*http.Request) (part string, ok bool)

	// Unkeyed are the names of further request fields that the handler sees,
	// but that are in the key only if a response names them in Vary. Every
	// other field is in the key, unless it is Hidden or one that browsers send
	// on their own: requests that differ in it do not share a response.
	// Defaults to nil.
	Unkeyed []string

	// Hidden are the names of request fields that the handler does not need for
	// shared responses, for example X-Forwarded-For. They are not in the key,
	// and the handler does not see them in a load. If Cookie is among them,
	// requests with cookies are treated like those without. Defaults to nil.
	Hidden []string

	// MethodOverrides are the names of request fields that make the handler
	// treat a GET as another method, such as X-HTTP-Method-Override. A request
	// with one of them bypasses the cache, and counts as a request of the named
	// method: unless that method is safe, it invalidates. So any client can
	// invalidate and bypass the cache. Defaults to nil: such a field is in the
	// key, like any other.
	MethodOverrides []string

	// Targets are the names of response fields that replace Cache-Control and
	// Expires for this cache, such as CDN-Cache-Control (RFC 9213). The first
	// valid and non-empty one of a response counts. Defaults to nil.
	Targets []string

	// Statuses are further statuses that are stored if their responses declare
	// their freshness. An example is a 503 that says for how long the handler
	// is down. If they include a rejection of the request, such as 400 or 431,
	// one rejected request keeps the page from every client for as long. A
	// stored response does not trigger stale-if-error. Defaults to nil.
	Statuses []int

	// AllowStaleReads accepts a client whose reads may be stale, like
	// cachex.Spec.AllowStaleReads: responses that Invalidate or unsafe methods
	// have invalidated may then still be served. Defaults to false.
	AllowStaleReads bool
}

var nameForm = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9._-]*$`)

// withDefaults returns the Options with all defaults set.
func (o Options) withDefaults() Options {
	o.MaxBody = cmp.Or(o.MaxBody, 1<<20)
	o.MaxTTL = cmp.Or(o.MaxTTL, 24*time.Hour)
	o.MaxStale = cmp.Or(o.MaxStale, time.Hour)
	o.PassTTL = cmp.Or(o.PassTTL, time.Minute)
	o.LoadTimeout = cmp.Or(o.LoadTimeout, time.Minute)
	return o
}

// validate returns an error that names the first wrong field.
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
