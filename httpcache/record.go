package httpcache

import (
	"maps"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// record is the value stored under one key. It is shared and immutable.
type record struct {
	Kind kind
	At   int64 // Unix milliseconds of the arrival

	// fields of an index
	Gen  string
	Vary []string

	// fields of a response; durations are milliseconds
	Status           int
	Header           http.Header
	Body             []byte
	Age              int64 // at the arrival
	Life             int64
	SWR, SIE         int64
	Strict, Constant bool // freshnessTerms.strict and .immutable
	NoCache          bool // it must be validated for each use

	// first is the response that the load of this index has also made, for the
	// waiters in this process. It is not stored with the index.
	first        *record
	firstVariant string
}

type kind uint8

const (
	aIndex    kind = iota + 1
	aResponse      // a response that may be shared
	aPass          // for a while, responses may not be shared
	aMoved         // the index has changed: look again
)

// newRecord returns the record of a response. It takes over header.
func newRecord(status int, header http.Header, body []byte, t freshnessTerms, now time.Time) record {
	dropHopByHop(header)
	delete(header, "Age")
	if _, there := header["Date"]; !there {
		header.Set("Date", now.UTC().Format(http.TimeFormat))
	}
	if _, there := header["Content-Type"]; !there && len(body) > 0 && !encoded(header) {
		header.Set("Content-Type", http.DetectContentType(body)) // like package http
	}
	delete(header, "Content-Length")
	if bodyAllowed(status) {
		header.Set("Content-Length", strconv.Itoa(len(body)))
	}
	return record{
		Kind: aResponse, At: now.UnixMilli(), Vary: t.vary, Status: status, Header: header, Body: body,
		Age: t.age.Milliseconds(), Life: t.life.Milliseconds(), SWR: t.swr.Milliseconds(), SIE: t.sie.Milliseconds(),
		Strict: t.strict, Constant: t.immutable, NoCache: t.noCache,
	}
}

// bodyAllowed reports whether a final response of that status can have a body.
func bodyAllowed(status int) bool {
	return status >= 200 && status != http.StatusNoContent && status != http.StatusNotModified
}

// age returns the present age of the response (RFC 9111, section 4.2.3).
func (rec *record) age(now time.Time) time.Duration {
	return time.Duration(rec.Age+max(0, now.UnixMilli()-rec.At)) * time.Millisecond
}

// left returns the remaining freshness.
func (rec *record) left(now time.Time) time.Duration {
	return time.Duration(rec.Life)*time.Millisecond - rec.age(now)
}

// ttl returns the time for which the inner cache treats a record as fresh. It
// may be shorter than the freshness that the record declares, which decides
// anyway. It must not be longer, or a stale response would not be loaded.
func (h *Handler) ttl(_ key, rec record) time.Duration {
	switch rec.Kind {
	case aIndex:
		return h.o.MaxTTL
	case aPass:
		return max(time.Duration(rec.Life)*time.Millisecond, time.Millisecond)
	}
	left := rec.left(time.Now())
	left -= min(left/4, time.Second)
	return max(left.Truncate(time.Millisecond), time.Millisecond)
}

// state is the possible use of a record.
type state uint8

const (
	useless     state = iota // load
	fresh                    // serve
	staleReuse               // serve, and renew in the background
	staleAsked               // serve, since this client accepts a stale response
	passing                  // call the handler
	unvalidated              // serve, if the handler confirms it for this request
)

// freshness returns the possible use of a record for a query. validated says
// that the record was loaded for this very request.
func (rec *record) freshness(q *query, now time.Time, validated bool) state {
	if rec.Kind == aPass {
		if now.UnixMilli()-rec.At < rec.Life {
			return passing
		}
		return useless
	}
	if rec.Kind != aResponse {
		return useless
	}
	if rec.NoCache { // RFC 9111, section 5.2.2.4
		return unvalidated
	}
	left, age := rec.left(now), rec.age(now)
	if !validated {
		switch {
		case q.noCache:
			return useless
		case q.maxAge != nil && age > *q.maxAge && (!rec.Constant || left <= 0): // RFC 8246, section 2.1
			return useless
		case q.minFresh > 0 && left < q.minFresh:
			return useless
		}
	}
	switch {
	case left > 0:
		return fresh
	case -left < time.Duration(rec.SWR)*time.Millisecond:
		return staleReuse
	case -left <= q.maxStale && q.maxStale > 0 && !rec.Strict:
		return staleAsked
	}
	return useless
}

// forErrors reports whether the record may be served if the handler fails. A
// client that asked for its own load gets the failure, since Refresh keeps
// nothing.
func (rec *record) forErrors(now time.Time) bool {
	return rec.Kind == aResponse && -rec.left(now) < time.Duration(rec.SIE)*time.Millisecond
}

// validators returns the valid validators of a response, with which the handler
// can confirm it.
func validators(header http.Header, now time.Time) (etag, modified string) {
	etag = header.Get("Etag")
	if _, _, ok := parseETag(etag); !ok {
		etag = ""
	}
	modified = header.Get("Last-Modified")
	if _, ok := parseDate(modified, now); !ok {
		modified = ""
	}
	return etag, modified
}

// freshen returns the header of the stored response after a 304 with the header
// update (RFC 9111, section 3.2).
func (rec *record) freshen(update http.Header) http.Header {
	header := rec.Header.Clone()
	update = update.Clone()
	dropHopByHop(update)
	for _, name := range []string{"Content-Length", "Content-Encoding", "Content-Range"} {
		delete(update, name) // they describe the stored body, not the unsent one
	}
	if _, there := update["Date"]; !there {
		delete(header, "Date") // the time is now
	}
	maps.Copy(header, update)
	return header
}

// sameVariant reports whether a 304 with the header update is about this
// response (RFC 9111, section 4.3.4).
func (rec *record) sameVariant(update http.Header) bool {
	tag, weak, ok := parseETag(update.Get("Etag"))
	if !ok {
		modified := update.Get("Last-Modified")
		return modified == "" || modified == rec.Header.Get("Last-Modified")
	}
	stored, storedWeak, ok := parseETag(rec.Header.Get("Etag"))
	return ok && stored == tag && (weak || !storedWeak)
}

// within reports whether index contains all names.
func within(names, index []string) bool {
	return !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(index, name) })
}
