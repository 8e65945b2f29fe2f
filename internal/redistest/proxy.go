package redistest

import (
	"bytes"
	"errors"
	"net"
	"strconv"
	"sync"
	"testing"
	"time"
)

// Proxy forwards TCP connections to a server, and breaks them on demand. Its
// methods are safe for concurrent use. Accept may fail the test, so it must run
// in the test's own goroutine.
type Proxy struct {
	t            testing.TB
	addr, server string
	running      sync.WaitGroup
	done         chan struct{} // closed when the test ends

	mu       sync.Mutex
	listener net.Listener              // nil while connections are refused
	conns    map[*net.TCPConn]struct{} // both ends of every connection
	delay    time.Duration
	rate     int                       // bytes a second per connection, 0: unlimited
	deaf     map[*net.TCPConn]struct{} // of conns, those whose bytes are discarded
	flowing  chan struct{}             // closed while bytes flow
	mute     bool                      // the server's bytes are discarded
	lost     int                       // replies still to be lost
	short    int                       // replies still to be cut short
	garbled  int                       // replies still to be replaced by garbage
	twice    int                       // replies still to be sent twice
	later    int                       // replies still to be sent twice, late
	catch    int                       // requests still to be caught by HoldNext
	catches  func(request []byte) bool // selects the requests that HoldNext catches; nil: all
	caught   int                       // requests that HoldNext has caught and Release has not forwarded
	released chan struct{}             // closed, and replaced, by Release
	spoilt   int64
}

// NewProxy returns a proxy to the server at addr, on its own loopback port. It
// is stopped when the test ends.
func NewProxy(t testing.TB, addr string) *Proxy {
	t.Helper()
	port := Port(t)
	p := &Proxy{
		t: t, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), server: addr,
		done: make(chan struct{}), conns: map[*net.TCPConn]struct{}{}, flowing: make(chan struct{}),
		released: make(chan struct{}),
	}
	close(p.flowing)
	p.Accept()
	t.Cleanup(func() {
		close(p.done)
		p.Refuse()
		p.Cut()
		p.running.Wait()
	})
	return p
}

// Addr returns the host and port that clients connect to.
func (p *Proxy) Addr() string { return p.addr }

// Delay delays all bytes in either direction by d. So a round trip takes 2d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Throttle limits each connection to bytesPerSecond in either direction. 0 ends
// the limit.
func (p *Proxy) Throttle(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
}

// HalfOpen makes all open connections lead nowhere, as after a firewall has
// forgotten them. They stay open, and bytes that either end sends are lost. New
// connections work. Cut ends the half-open ones.
func (p *Proxy) HalfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = map[*net.TCPConn]struct{}{}
	for conn := range p.conns {
		p.deaf[conn] = struct{}{}
	}
}

// Cut resets all open connections. Replies in flight are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		p.spoilt++
		reset(conn)
	}
}

// LoseReplies cuts the connection in place of each of the next n replies. The
// server has executed the command, and the client cannot know. Replies to the
// commands that open a connection count too.
func (p *Proxy) LoseReplies(n int) {
	p.spoil(&p.lost, n)
}

// CutShort forwards half of each of the next n replies, and then closes the
// connection. The server has executed the command, and the client gets a part
// of the reply.
func (p *Proxy) CutShort(n int) {
	p.spoil(&p.short, n)
}

// Repeat sends each of the next n replies twice.
func (p *Proxy) Repeat(n int) {
	p.spoil(&p.twice, n)
}

// RepeatLate sends each of the next n replies twice: the second time before the
// next reply on its connection. So the client takes it for the answer to its
// next command.
func (p *Proxy) RepeatLate(n int) {
	p.spoil(&p.later, n)
}

// spoil makes the proxy spoil the next n replies, in the way that left counts.
func (p *Proxy) spoil(left *int, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*left = n
}

// Mute discards the server's bytes until Mute(false). Connections stay
// open, the server executes commands, and clients get no replies.
func (p *Proxy) Mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = on
}

// Garble sends garbage in place of each of the next n replies. The server has
// executed the command. Connections stay open.
func (p *Proxy) Garble(n int) {
	p.spoil(&p.garbled, n)
}

// garbage holds replies that a broken proxy may send: text of another protocol,
// binary bytes, and Redis replies to other commands. It contains no wrong
// length: go-redis allocates the length that a reply claims, which would end
// the process.
var garbage = []string{
	"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
	"\x15\x03\x01\x00\x02\x02\x28\r\n",
	"$-1\r\n",
	"*2\r\n$1\r\nx\r\n*0\r\n",
	":7\r\n",
	"+QUEUED\r\n",
}

// Spoilt returns how often the proxy has not passed something as it was sent:
// bytes delayed, held or lost, replies spoilt, and connections cut.
func (p *Proxy) Spoilt() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoilt
}

// Refuse makes new connections fail as if no server listened. Open connections
// stay open.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
		unlistened(p.addr)
	}
}

// Accept ends Refuse.
func (p *Proxy) Accept() {
	p.t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		return
	}
	listener, err := listen(p.addr)
	if err != nil {
		p.t.Fatalf("redistest: %v", err)
	}
	p.listener = listener
	p.running.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			p.running.Go(func() { p.serve(conn.(*net.TCPConn)) })
		}
	})
}

func (p *Proxy) serve(client *net.TCPConn) {
	defer p.track(client)()
	conn, err := net.Dial("tcp", p.server)
	if err != nil {
		reset(client)
		return
	}
	server := conn.(*net.TCPConn)
	defer p.track(server)()
	var both sync.WaitGroup
	both.Go(func() { p.pump(server, client, false) })
	both.Go(func() { p.pump(client, server, true) })
	both.Wait()
}

// track makes conn known to Cut. It returns a function that closes conn.
func (p *Proxy) track(conn *net.TCPConn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = struct{}{}
	select {
	case <-p.done: // accepted before the test ended, too late for its Cut
		reset(conn)
	default:
	}
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.conns, conn)
		delete(p.deaf, conn)
		_ = conn.Close()
	}
}

// pump forwards src to dst until src ends. An error of dst does not end it.
// Closing src with unread bytes would reset it, and a server might then drop
// bytes that it received before.
func (p *Proxy) pump(dst, src *net.TCPConn, replies bool) {
	buf := make([]byte, 64<<10)
	var again []byte // a reply to be sent once more
	for {
		n, err := src.Read(buf)
		if n > 0 && !replies {
			p.held(buf[:n])
		}
		if n > 0 && !p.await(src, n, replies) {
			n = 0 // the reply is lost
		}
		if n > 0 && replies && p.counts(&p.lost) {
			reset(dst)
			reset(src)
			return
		}
		if n > 0 && replies && p.counts(&p.short) {
			_, _ = dst.Write(buf[:n/2])
			_ = dst.CloseWrite() // a reset might overtake the reply
			reset(src)
			return
		}
		if n > 0 {
			passed := buf[:n]
			if replies {
				passed = append(again, p.garble(passed)...)
				again = nil
				if p.counts(&p.twice) {
					passed = append(passed, buf[:n]...)
				}
				if p.counts(&p.later) {
					again = bytes.Clone(buf[:n])
				}
			}
			_, _ = dst.Write(passed)
		}
		if errors.Is(err, net.ErrClosed) {
			return // this proxy reset src, and resets dst: dst must not see an orderly end
		}
		if err != nil {
			_ = dst.CloseWrite()
			return
		}
	}
}

// await returns when n bytes of src may pass, or when the test ends. It reports
// false if they are to be discarded.
func (p *Proxy) await(src *net.TCPConn, n int, replies bool) bool {
	p.mu.Lock()
	delay := p.delay
	if p.rate > 0 {
		delay += time.Duration(n) * time.Second / time.Duration(p.rate)
	}
	if delay > 0 {
		p.spoilt++
	}
	p.mu.Unlock()
	if delay > 0 {
		select {
		case <-time.After(delay):
		case <-p.done:
		}
	}
	p.mu.Lock()
	flowing := p.flowing
	select {
	case <-flowing:
	default:
		p.spoilt++
	}
	p.mu.Unlock()
	select {
	case <-flowing:
	case <-p.done:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	_, lost := p.deaf[src]
	lost = lost || replies && p.mute
	if lost {
		p.spoilt++
	}
	return !lost
}

// counts decrements the number of replies still to be spoilt, and reports
// whether it was positive.
func (p *Proxy) counts(left *int) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if *left == 0 {
		return false
	}
	*left--
	p.spoilt++
	return true
}

// garble returns the garbage for a reply.
func (p *Proxy) garble(reply []byte) []byte {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.garbled == 0 {
		return reply
	}
	p.garbled--
	p.spoilt++
	return []byte(garbage[p.spoilt%int64(len(garbage))])
}

// reset closes a connection so that its other end sees a reset.
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0)
	_ = conn.Close()
}
