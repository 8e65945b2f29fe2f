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

// key identifies one record. Each URI has a record with the variant "index",
// which names the Vary fields of its responses. Each response has a record
// whose variant is a hash of the values of these fields in the request.
//
// The index has a generation, chosen when it is made, which is part of every
// hash. So deleting the index invalidates the URI: records of an older
// generation are never found again, and expire.
type key struct {
	URI     string
	Variant string
}

const indexVariant = "index"

// uriKey returns the part of a key for host and URI. It is readable unless it
// is too long for a key. A hash has no "/", and every URI has one.
func uriKey(host, uri string) string {
	s := host + uri
	if len(s) <= 200 {
		return s
	}
	sum := sha256.Sum256([]byte(s))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

// hostOf returns a host in comparable form: in lower case, without the default
// port of the scheme (RFC 9110, section 4.2.3).
func hostOf(scheme, host string) string {
	host = strings.ToLower(host)
	port := ":80"
	if scheme == "https" {
		port = ":443"
	}
	return strings.TrimSuffix(host, port)
}

// uriOf returns path and query unchanged: another escaping or order is another
// URI. If the path does not begin with "/", ok is false.
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

// variant returns the hash of everything that a response of this URI may depend
// on: each field in exactly the form in which a shared load shows it to the
// handler.
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
			d.add() // differs from a field with an empty value
			continue
		}
		d.add(value)
	}
	return base64.RawURLEncoding.EncodeToString(d.Sum(nil))
}

// digest hashes lists of strings; different lists have different hashes.
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
