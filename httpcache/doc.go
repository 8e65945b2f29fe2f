// Package httpcache caches the responses of an http.Handler in Redis, like a
// shared cache: RFC 9111, with Cache-Status (RFC 9211), targeted fields (RFC
// 9213), and stale responses (RFC 5861).
//
//	pages := cachex.Must(httpcache.New(rdb, mux, httpcache.Options{Name: "pages"}))
//	err := http.ListenAndServe(":8080", pages)
//
// The handler declares which responses may be stored, and for how long, as it
// would for any cache between it and its clients: Cache-Control: public,
// max-age=60. A response without such a declaration is not stored.
//
// # One call for the fleet
//
// Requests that may share a response call the handler once, in the whole fleet:
// one of them does, and the others wait. Whether the response may be shared is
// known when the handler has answered. If it may, it is stored, and all of them
// get it. If not, only the client of that call gets it. The others then call
// the handler for themselves, concurrently, and so do requests that come within
// Options.PassTTL. If the response of a request is not shared, the handler is
// called at most once for that request.
//
// A stale response is loaded again by one process of the fleet, under a lease.
// If it has validators, the request has If-None-Match and If-Modified-Since. If
// the handler then answers 304 Not Modified, the stored response is fresh
// again.
//
// # Cache key
//
// The key contains the host, the path and the query unchanged, except the case
// of the host and the default port of the scheme. It contains the scheme and
// every field of the request, with these exceptions:
//
//   - Fields that browsers send on their own (Accept, Accept-Encoding,
//     Accept-Language, User-Agent, Referer, Dnt, Save-Data, Priority,
//     Upgrade-Insecure-Requests, Sec-Gpc, Sec-Fetch-Dest, -Mode, -Site and
//     -User, Sec-Ch-Ua, -Mobile and -Platform) and Options.Unkeyed are in the
//     key only if a response of the URI names them in Vary.
//   - Options.Hidden are not in the key, and the handler does not see them.
//   - Authorization is in the key only by its presence, unless Vary names it.
//   - Cache-Control, Pragma, Range, the conditional fields and the fields of the connection are answered by the cache, and the handler does not see them
//     either.
//
// The handler sees a field in exactly the form that is in the key: in one line.
// Accept, Accept-Encoding and Accept-Language are in lower case, without empty
// elements and needless spaces.
//
// So an unexpected field, for example X-Forwarded-Host, changes the response
// only for clients that send it. A proxy may add fields that differ for each
// client, such as X-Forwarded-For or X-Request-Id. Behind such a proxy no two
// clients share a response until these fields are named in Hidden or Unkeyed.
//
// The address of the client, its certificate, and the values in the request's
// ctx are not in the key. The handler sees the values of the loading client. If
// its response depends on them, it must declare private or no-store, or
// Partition must return them.
//
// # Stored responses
//
// A response to a GET is stored if it has status 200, 203, 204, 300, 301, 302,
// 303, 307, 308, 404 or 410 (or one of Options.Statuses), declares its
// freshness (s-maxage, max-age or Expires, or Options.DefaultTTL applies), is
// complete, and is at most Options.MaxBody long. It is not stored
//
//   - with no-store (unless with must-understand) or private in Cache-Control,
//     even for single fields, or a Cache-Control that does not match the
//     grammar;
//   - with no-cache and without a validator; with one, the handler must confirm
//     the stored response for each request;
//   - with Set-Cookie, with Vary: * or a Vary of more than 16 fields, with
//     Content-Range, with trailers;
//   - with a Content-Encoding but without Vary: Accept-Encoding;
//   - to a request with Authorization, unless it declares public, s-maxage or
//     must-revalidate;
//   - to a request with Cache-Control: no-store;
//   - if the handler panicked, wrote less than its Content-Length or more,
//     flushed a stream (text/event-stream, multipart/x-mixed-replace,
//     X-Accel-Buffering: no), or asked for the connection: Hijack, deadlines,
//     EnableFullDuplex.
//
// Some requests go to the handler as if there were no cache: those with a
// Cookie (see Options.Cookies and Partition) or a body of more than 64 KiB. An
// upgrade to another protocol also does, unless a response to it is stored. No
// other field makes a request bypass the cache.
//
// A request of an unsafe method goes to the handler. If the response is not an
// error, the stored responses of its URI are deleted before the client gets it.
//
// # The handler's view
//
// In a shared load the handler writes to memory, and its request has another
// ctx. That ctx ends when no client waits for the response any more. When it is
// clear that the response is for one client only, mostly from its header, the
// handler writes to the connection of that client: first the content of the
// memory, then directly. It waits for that connection in its first Write, or in
// WriteHeader or Flush. So responses that may not be shared are streamed as
// without a cache, however long they are. A panic reaches the client of the
// call, and net/http handles it, as without a cache. Informational responses
// (1xx) are passed only to the client whose request caused the call.
//
// While the response may still be stored, Flush does nothing, unless the
// response is a stream. So responses of httputil.ReverseProxy are stored,
// although it flushes each one without a Content-Length. The handler sees a
// HEAD as a GET, and a request for a Range as one for the whole, unless such
// responses could recently not be shared. The client still gets the part that
// it asked for.
//
// # When Redis fails
//
// The handler answers: one call at a time for each key in this process. Nothing
// is stored. A failed invalidation is counted in Stats, and the old response
// may be served until it is stale.
//
// # Clocks
//
// The freshness of a response is judged by the clocks of the process that reads
// it and the one that stored it. The time to load is also judged by the clock
// of Redis: see package cachex.
//
// docs/httpcache.md has the table of the rules, by their sections.
package httpcache
