package httpcache

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"hash"
	"net/http"
	"net/url"
	"strings"
)

// A key is that of one record. Of each URI there is one with the variant "index",
// which says on which fields its responses vary, and of each response one whose
// variant is a hash of what the request had in those.
//
// The index has a generation, chosen when it is made, and it is in every hash. So
// to invalidate a URI is to delete one key: what was stored under an older
// generation is never found again, and expires.
type key struct {
	URI     string
	Variant string
}

const indexVariant = "index"

// uriKey is the part of a key that stands for host and URI. It is readable as long
// as that is not too long for a key. A hash has no "/", and no URI is without.
func uriKey(host, uri string) string {
	s := host + uri
	if len(s) <= 200 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// hostOf returns a host in the form in which it is compared: in lower case, and
// without the port that is the scheme's own (RFC 9110, section 4.2.3).
func hostOf(scheme, host string) string {
	host = strings.ToLower(host)
	port := ":80"
	if scheme == "https" {
		port = ":443"
	}
	return strings.TrimSuffix(host, port)
}

// uriOf returns path and query as they came: what is escaped differently, or in
// another order, is another URI. There is none that does not begin with "/".
func uriOf(u *url.URL) (string, bool) {
	plain := url.URL{Path: u.Path, RawPath: u.RawPath, RawQuery: u.RawQuery, ForceQuery: u.ForceQuery}
	uri := plain.RequestURI()
	return uri, u.Opaque == "" && strings.HasPrefix(u.Path, "/")
}

func schemeOf(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}

// variant returns the hash of everything that a response of this URI may depend on:
// each field in the very form in which a shared load shows it to the handler.
func (q *query) variant(gen string, vary []string) string {
	d := digest{sha256.New()}
	d.add(gen, q.scheme, q.part, string(q.body))
	if d.add("anonymous"); q.auth {
		d.add("authorized")
	}
	d.add(q.keyed...)
	d.add(vary...)
	for _, name := range vary {
		value, there := q.shown(name)
		if !there {
			d.add() // which differs from a field without a value
			continue
		}
		d.add(value)
	}
	return base64.RawURLEncoding.EncodeToString(d.Sum(nil))
}

// A digest hashes lists of strings, different ones differently.
type digest struct{ hash.Hash }

func (d digest) add(list ...string) {
	d.number(len(list))
	for _, s := range list {
		d.number(len(s))
		d.Write([]byte(s))
	}
}

func (d digest) number(n int) {
	var b [8]byte
	binary.BigEndian.PutUint64(b[:], uint64(n))
	d.Write(b[:])
}
