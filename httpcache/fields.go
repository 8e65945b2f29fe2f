package httpcache

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// negotiation are the fields that browsers and clients send by themselves. A
// handler sees them in a shared load, and they are no part of the key unless a
// response says Vary: most handlers have no use for them, and those that have must
// say so (RFC 9110, section 12.5.5). All others are in the key, so that no field
// that we have never heard of can change a response for anyone who did not send it.
var negotiation = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Referer",
	"Dnt", "Sec-Gpc", "Save-Data", "Priority", "Upgrade-Insecure-Requests",
	"Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User",
	"Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform",
}

// hopByHop are the fields of one connection (RFC 9111, section 3.1; RFC 9110,
// section 7.6.1), which are neither stored nor shown to a shared load.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// ours are the request fields that the cache answers itself. A shared load shows
// the handler none of them. A cache may ignore If-Match and If-Unmodified-Since
// (RFC 9110, sections 13.1.1 and 13.1.4); see conditions.
var ours = []string{
	"Cache-Control", "Pragma", "If-None-Match", "If-Modified-Since",
	"If-Match", "If-Unmodified-Since", "If-Range", "Range",
}

// fieldSets returns two sets of request fields: hides has the fields that no shared
// load shows to the handler, skip these and all others that are not in every key.
// Connection is in both, and query.connection is its place.
func fieldSets(o Options) (hides, skip map[string]bool) {
	hides = canonical(hopByHop, ours, o.Hidden, []string{"Content-Length"})
	delete(hides, "Proxy-Authorization") // a handler may read it, so it is in the key
	skip = canonical(negotiation, o.Unkeyed, []string{"Authorization", "Cookie"})
	maps.Copy(skip, hides)
	return hides, skip
}

// canonical returns the set of names in canonical form.
func canonical(names ...[]string) map[string]bool {
	set := map[string]bool{}
	for _, name := range canonicalList(slices.Concat(names...)) {
		set[name] = true
	}
	return set
}

// canonicalList returns the names in canonical form.
func canonicalList(names []string) []string {
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = textproto.CanonicalMIMEHeaderKey(name)
	}
	return list
}

// elements returns the elements of a field that is a list of what has no commas.
func elements(lines []string) []string {
	var all []string
	for _, line := range lines {
		for one := range strings.SplitSeq(line, ",") {
			if one = strings.Trim(one, " \t"); one != "" {
				all = append(all, one)
			}
		}
	}
	return all
}

// connectionNames returns the names in a Connection field, in canonical form.
func connectionNames(h http.Header) []string {
	names := elements(h["Connection"])
	for i, name := range names {
		names[i] = textproto.CanonicalMIMEHeaderKey(name)
	}
	return names
}

// dropHopByHop takes away what is not for anyone beyond this connection.
func dropHopByHop(h http.Header) {
	for _, name := range connectionNames(h) {
		delete(h, name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// maxVary is how many fields a response may vary on and be stored.
const maxVary = 16

// varyNames returns the fields that a response varies on, in canonical form, each
// once, in order. It is not ok if one is "*" or no field name.
func varyNames(h http.Header) (names []string, ok bool) {
	for _, name := range elements(h["Vary"]) {
		s := scanner{name}
		if s.token() != name || name == "*" {
			return nil, false
		}
		names = append(names, textproto.CanonicalMIMEHeaderKey(name))
	}
	slices.Sort(names)
	names = slices.Compact(names)
	return names, len(names) <= maxVary
}

// selectedFields are the fields of a stored response that a 304 has (RFC 9110, section
// 15.4.5).
var selectedFields = []string{"Cache-Control", "Content-Location", "Date", "Etag", "Expires", "Vary", "Last-Modified", "Cache-Status"}
