// Package httpcache caches the responses of an http.Handler in Redis, as a shared
// cache does: RFC 9111, with Cache-Status as of RFC 9211, the targeted fields of RFC
// 9213, and the stale responses of RFC 5861.
//
//	pages := cachex.Must(httpcache.New(rdb, mux, httpcache.Options{Name: "pages"}))
//	err := http.ListenAndServe(":8080", pages)
//
// The handler says what may be stored, and for how long, as it would to any cache
// between it and its clients: Cache-Control: public, max-age=60. What says nothing
// is not stored.
//
// # One call for the fleet
//
// Requests that may share a response, in all processes, call the handler once: one
// of them does, and the others wait. What they may share is known when it has
// answered. Its response is then stored and is theirs too, or else it is given to
// that one client and to nobody else; the others call the handler for themselves,
// side by side, and so do those who come within Options.PassTTL. The handler is
// called at most once for the sake of a request whose response is not shared.
//
// A response that is stale is loaded anew by one process of the fleet, under a
// lease, with If-None-Match and If-Modified-Since if it has validators: a handler
// that answers 304 Not Modified makes it fresh.
//
// # What is in the key
//
// Host, path and query, as they came, but for the case of the host and the port of
// the scheme; the scheme; and every field of the request, but for:
//
//   - fields that browsers send by themselves (Accept, Accept-Encoding,
//     Accept-Language, User-Agent, Referer, Dnt, Save-Data, Priority,
//     Upgrade-Insecure-Requests, Sec-Gpc, Sec-Fetch-Dest, -Mode, -Site and -User,
//     Sec-Ch-Ua, -Mobile and -Platform) and Options.Unkeyed, unless a response of the
//     URI says Vary;
//   - Options.Hidden, which the handler does not see;
//   - Authorization, of which only whether it is there is in the key, unless Vary
//     names it;
//   - Cache-Control, Pragma, Range, the conditional fields and those of the
//     connection, which the cache answers: the handler does not see them either.
//
// The handler sees a field in the very form that is in the key: in one line, and
// Accept, Accept-Encoding and Accept-Language in lower case, without empty elements
// and needless spaces.
//
// So a field that nobody has thought of, X-Forwarded-Host for instance, changes the
// response for those who send it and for no one else. Behind a proxy that adds
// fields that differ for each client, such as X-Forwarded-For or X-Request-Id, no
// two clients share anything until these are named in Hidden or in Unkeyed.
//
// The address of the client, its certificate, and the values in the request's ctx
// are not in the key, and the handler sees those of the one who loads. A handler
// whose response depends on them has to say private, or no-store; or Partition
// says it.
//
// # What is stored
//
// The response to a GET, if it has one of the statuses 200, 203, 204, 300, 301,
// 302, 303, 307, 308, 404 and 410 (and Options.Statuses), says how long it is fresh
// (s-maxage, max-age or Expires), or Options.DefaultTTL does, is complete, and is no
// longer than Options.MaxBody. It is not stored
//
//   - with no-store (unless with must-understand) or private in Cache-Control, also
//     of single fields, or a Cache-Control that is not of the grammar;
//   - with no-cache but without a validator; with one, the handler is asked each time
//     whether the stored response is still right;
//   - with Set-Cookie, with Vary: * or a Vary of more than 16 fields, with
//     Content-Range, with trailers;
//   - with a Content-Encoding but without Vary: Accept-Encoding;
//   - to a request with Authorization, unless it says public, s-maxage or
//     must-revalidate;
//   - to a request with Cache-Control: no-store;
//   - if the handler panicked, wrote less than its Content-Length or more, flushed a
//     stream (text/event-stream, multipart/x-mixed-replace, X-Accel-Buffering: no), or
//     asked for the connection: Hijack, deadlines, EnableFullDuplex.
//
// The handler answers a request as if there were no cache if it has a Cookie (see
// Options.Cookies and Partition) or a body of more than 64 KiB, and an upgrade to
// another protocol unless a response to it is stored. No other field takes a request
// past the cache.
//
// A request of an unsafe method is passed, and if the response is no error, what is
// stored for its URI is gone before the client has the response.
//
// # What the handler sees
//
// In a shared load it writes to memory, and its request has another ctx: that ends
// when nobody wants its response any more. Once it is clear that the response is for
// one client only, mostly from its header, the handler writes to that client's
// connection: first what is in memory, and from then on directly. It waits for that
// in its first Write, or in WriteHeader or Flush. Responses that may not be shared
// are so streamed as without a cache, however long they are. A panic is the
// client's own, as without a cache, and net/http does with it what it does.
// Informational responses (1xx) are passed on to the client whose request the
// handler was called for, and to no other.
//
// A Flush does nothing while the response may still be stored, unless it is a
// stream. So the responses of httputil.ReverseProxy are stored, although it flushes
// each one that comes without a Content-Length. The handler sees a HEAD as a GET,
// and a request for a Range as one for the whole, unless such responses could not be
// shared lately; its client gets what it asked for.
//
// # When Redis fails
//
// The handler answers: once at a time for each key in this process. Nothing is
// stored. An invalidation that is lost is counted in Stats, and what it was for may
// be served until it is stale.
//
// # Whose clock
//
// How fresh a response is, is a matter of the clock of the process that looks at it
// and of the one that stored it. Whether it is time to load is one of the clock of
// Redis as well: see package cachex.
//
// docs/httpcache.md has the table of the rules, by their sections.
package httpcache
