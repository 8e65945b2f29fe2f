package httpcache

import (
	"maps"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
)

// negotiation lists the fields that browsers and clients send on their own. A
// handler sees them in a shared load, but they are in the key only if a
// response names them in Vary: most handlers ignore them, and the others must
// declare them (RFC 9110, section 12.5.5). All other fields are in the key, so
// an unknown field changes a response only for clients that send it.
var negotiation = []string{
	"Accept", "Accept-Encoding", "Accept-Language", "User-Agent", "Referer",
	"Dnt", "Sec-Gpc", "Save-Data", "Priority", "Upgrade-Insecure-Requests",
	"Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User",
	"Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform",
}

// hopByHop lists the fields of one connection (RFC 9111, section 3.1; RFC 9110,
// section 7.6.1). They are neither stored nor shown to the handler in a shared
// load.
var hopByHop = []string{
	"Connection", "Keep-Alive", "Proxy-Authenticate", "Proxy-Authentication-Info", "Proxy-Authorization",
	"Proxy-Connection", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
}

// answeredFields lists the request fields that the cache answers itself. In a
// shared load the handler sees none of them. A cache may ignore If-Match and
// If-Unmodified-Since (RFC 9110, sections 13.1.1 and 13.1.4); see conditions.
var answeredFields = []string{
	"Cache-Control", "Pragma", "If-None-Match", "If-Modified-Since",
	"If-Match", "If-Unmodified-Since", "If-Range", "Range",
}

// fieldSets returns two sets of request fields. hides has the fields that the
// handler never sees in a shared load. skip has these and all others that are
// not in every key. Connection is in both, since query.connection replaces it.
func fieldSets(o Options) (hides, skip map[string]bool) {
	hides = canonical(hopByHop, answeredFields, o.Hidden, []string{"Content-Length"})
	delete(hides, "Proxy-Authorization") // the handler may read it, so it is in the key
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

// elements returns the elements of a list field whose elements have no commas.
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

// dropHopByHop deletes the fields of this connection.
func dropHopByHop(h http.Header) {
	for _, name := range connectionNames(h) {
		delete(h, name)
	}
	for _, name := range hopByHop {
		delete(h, name)
	}
}

// maxVary is the maximum number of Vary fields of a stored response.
const maxVary = 16

// varyNames returns the Vary fields of a response, in canonical form, sorted
// and unique. If one is "*" or not a field name, ok is false.
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

// selectedFields are the fields of a stored response that a 304 repeats (RFC
// 9110, section 15.4.5).
var selectedFields = []string{"Cache-Control", "Content-Location", "Date", "Etag", "Expires", "Vary", "Last-Modified", "Cache-Status"}
