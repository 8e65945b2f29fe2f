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

// Proxy forwards TCP connections to a server, until it is told to spoil them.
// Its methods are safe for concurrent use; Accept may fail the test and belongs
// in the test's goroutine.
type Proxy struct {
	t            testing.TB
	addr, server string
	running      sync.WaitGroup
	done         chan struct{} // closed when the test ends

	mu       sync.Mutex
	listener net.Listener              // nil while connections are refused
	conns    map[*net.TCPConn]struct{} // both ends of every connection
	delay    time.Duration
	rate     int                       // bytes a second that a connection passes, 0: all
	deaf     map[*net.TCPConn]struct{} // of conns, those whose bytes are thrown away
	flowing  chan struct{}             // closed while bytes flow
	mute     bool                      // what the server sends is thrown away
	lost     int                       // replies that are still to be lost
	short    int                       // replies that are still to be cut short
	garbled  int                       // replies that garbage is still to be sent for
	twice    int                       // replies that are still to be sent twice
	later    int                       // replies that are still to be sent twice, late
	catch    int                       // requests that are still to be caught by HoldNext
	catches  func(request []byte) bool // which requests HoldNext catches; nil: all
	caught   int                       // requests that HoldNext has caught and Release has not passed on
	released chan struct{}             // closed, and replaced, by Release
	spoilt   int64
}

// NewProxy returns a proxy to the server at addr, on a loopback port of its own.
// It is stopped when the test ends.
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

// Delay makes everything that is sent, in either direction, wait for d before it
// is passed on. So a round trip takes 2d.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Throttle makes each connection pass so many bytes a second in either direction;
// 0 makes it pass all at once again.
func (p *Proxy) Throttle(bytesPerSecond int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rate = bytesPerSecond
}

// HalfOpen makes the connections that are open lead nowhere, as after a firewall
// has forgotten them: they stay open, and what either end sends is lost for good.
// New ones are fine. Cut ends them.
func (p *Proxy) HalfOpen() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.deaf = map[*net.TCPConn]struct{}{}
	for conn := range p.conns {
		p.deaf[conn] = struct{}{}
	}
}

// Cut resets all connections that are open. Replies on their way are lost.
func (p *Proxy) Cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for conn := range p.conns {
		p.spoilt++
		reset(conn)
	}
}

// LoseReplies cuts, in place of each of the next n replies, the connection that
// it comes on: the server has executed the command, and the client cannot know.
// Replies to the commands that a connection opens with are replies as well.
func (p *Proxy) LoseReplies(n int) {
	p.spoil(&p.lost, n)
}

// CutShort passes on half of each of the next n replies, and ends the connection then:
// the server has executed the command, and the client knows a part of what it says.
func (p *Proxy) CutShort(n int) {
	p.spoil(&p.short, n)
}

// Repeat sends each of the next n replies twice.
func (p *Proxy) Repeat(n int) {
	p.spoil(&p.twice, n)
}

// RepeatLate sends each of the next n replies twice: the second time in front of the next
// one on its connection. So the client takes it for the answer to its next command.
func (p *Proxy) RepeatLate(n int) {
	p.spoil(&p.later, n)
}

// spoil has the next n replies be spoilt, in the way that left counts.
func (p *Proxy) spoil(left *int, n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	*left = n
}

// Mute throws away what the server sends, until it is told not to: connections stay
// open, commands are executed, and clients hear nothing.
func (p *Proxy) Mute(on bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mute = on
}

// Garble sends garbage in place of each of the next n replies: the server has executed
// the command, and the client is told nonsense. Connections stay open.
func (p *Proxy) Garble(n int) {
	p.spoil(&p.garbled, n)
}

// garbage is what a broken proxy may say: that of another protocol, bytes, and replies of
// Redis, but to some other command. A length is not among it: go-redis reserves as much
// as a reply says that it has, and the process dies of that.
var garbage = []string{
	"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
	"\x15\x03\x01\x00\x02\x02\x28\r\n",
	"$-1\r\n",
	"*2\r\n$1\r\nx\r\n*0\r\n",
	":7\r\n",
	"+QUEUED\r\n",
}

// Spoilt returns how often the proxy has kept something from passing as it was sent:
// bytes that were delayed, held or lost, replies, and connections that it has cut.
func (p *Proxy) Spoilt() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.spoilt
}

// Refuse makes new connections fail as if nothing listened. Those that are open
// stay so.
func (p *Proxy) Refuse() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.listener != nil {
		_ = p.listener.Close()
		p.listener = nil
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

// track makes conn known to Cut until the function it returns closes it.
func (p *Proxy) track(conn *net.TCPConn) func() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.conns[conn] = struct{}{}
	select {
	case <-p.done: // accepted before the end, and too late to be cut by it
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

// pump passes on what src sends until src has no more. An error of dst does not
// end it: to close src with bytes unread would reset it, and a server might then
// drop what it was sent before.
func (p *Proxy) pump(dst, src *net.TCPConn, replies bool) {
	buf := make([]byte, 64<<10)
	var again []byte // a reply that is to be sent once more
	for {
		n, err := src.Read(buf)
		if n > 0 && !replies {
			p.held(buf[:n])
		}
		if n > 0 && !p.await(src, n, replies) {
			n = 0 // is lost
		}
		if n > 0 && replies && p.counts(&p.lost) {
			reset(dst)
			reset(src)
			return
		}
		if n > 0 && replies && p.counts(&p.short) {
			_, _ = dst.Write(buf[:n/2])
			_ = dst.CloseWrite() // for a reset might overtake it
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
			return // reset by this proxy, as dst is: it must not see an orderly end
		}
		if err != nil {
			_ = dst.CloseWrite()
			return
		}
	}
}

// await returns when n bytes of src may pass, or when the test ends. It reports
// false if they are to be lost.
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

// counts takes one reply from those that are still to be spoilt, and reports whether
// there was one.
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

// garble returns what is to be sent for a reply.
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
