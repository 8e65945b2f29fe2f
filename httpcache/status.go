package httpcache

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// statusNote is the content of this cache's Cache-Status (RFC 9211).
type statusNote struct {
	hit       bool
	fwd       string // why the request went to the handler
	status    int    // the status that the handler answered
	stored    bool
	collapsed bool // it waited for the load of another request
	alone     bool // but that load was not shared
	ttl       *time.Duration
	detail    string // a token
}

// The reasons of fwd (RFC 9211, section 2.2).
const (
	fwdBypass  = "bypass"
	fwdMethod  = "method"
	fwdURI     = "uri-miss"
	fwdVary    = "vary-miss"
	fwdRequest = "request"
	fwdStale   = "stale"
)

// text returns the list member of this cache.
func (n statusNote) text(name string) string {
	var b strings.Builder
	b.WriteString(name)
	if n.hit {
		b.WriteString("; hit")
	}
	if n.fwd != "" {
		b.WriteString("; fwd=" + n.fwd)
	}
	if n.status != 0 {
		b.WriteString("; fwd-status=" + strconv.Itoa(n.status))
	}
	if n.ttl != nil {
		b.WriteString("; ttl=" + strconv.FormatInt(int64(n.ttl.Truncate(time.Second)/time.Second), 10))
	}
	if n.stored {
		b.WriteString("; stored")
	}
	if n.collapsed {
		b.WriteString("; collapsed")
	}
	if n.alone {
		b.WriteString("; collapsed=?0")
	}
	if n.detail != "" {
		b.WriteString("; detail=" + n.detail)
	}
	return b.String()
}

// writeStatus adds the note to a header, after the notes of caches nearer to the origin.
func (h *Handler) writeStatus(header http.Header, n statusNote) {
	header.Add("Cache-Status", n.text(h.o.Name))
}
