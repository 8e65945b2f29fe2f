package sentinel

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/cachex-go/cachex/internal/guard"
)

const (
	// askTimeout bounds one question to a Sentinel.
	askTimeout = time.Second

	// renewAfter is the age at which a proof is renewed: it still holds while
	// the Sentinels are asked again.
	renewAfter = MaxLag / 2
)

// watch knows which server is the master according to the Sentinels. It owns no
// goroutine while nothing is sent, and no connection while the client has none.
type watch struct {
	o     *redis.FailoverOptions
	proof atomic.Pointer[proof]

	mu       sync.Mutex
	conns    map[*conn]struct{} // guarded by mu: the open connections of the client
	clients  []*redis.Client    // guarded by mu: of the Sentinels, by their index; nil while there is no conn
	answers  []answer           // guarded by mu: by the index of the Sentinel
	asking   []bool             // guarded by mu: Sentinels that are being asked
	answered chan struct{}      // guarded by mu: closed, and replaced, when a question ends
}

func newWatch(o *redis.FailoverOptions) *watch {
	c := *o
	c.SentinelAddrs = append([]string(nil), o.SentinelAddrs...)
	n := len(c.SentinelAddrs)
	w := &watch{
		o: &c, conns: map[*conn]struct{}{}, clients: make([]*redis.Client, n),
		answers: make([]answer, n), asking: make([]bool, n), answered: make(chan struct{}),
	}
	w.proof.Store(&proof{err: ErrMaster})
	return w
}

// dial connects to the master.
func (w *watch) dial(ctx context.Context, network, _ string) (net.Conn, error) {
	c := &conn{w: w}
	w.mu.Lock()
	w.conns[c] = struct{}{} // from now on, so that the clients of the Sentinels stay open
	w.mu.Unlock()
	addr, err := w.master(ctx)
	if err == nil {
		c.addr = addr
		var inner net.Conn
		if inner, err = dialServer(ctx, w.o, network, addr); err == nil {
			c.Conn = inner
			c.ready.Store(true)
			if raw, ok := inner.(syscall.Conn); ok {
				return &rawConn{c, raw}, nil
			}
			return c, nil
		}
	}
	w.forget(c)
	return nil, err
}

// master returns the address of the master. It waits until most Sentinels have
// answered, or until all questions have ended.
func (w *watch) master(ctx context.Context) (string, error) {
	for first := true; ; first = false {
		p := w.proof.Load()
		if p.valid(p.addr, time.Now()) {
			return p.addr, nil
		}
		w.mu.Lock()
		if first {
			w.ask()
		}
		answered, under := w.answered, w.under()
		w.mu.Unlock()
		if p = w.proof.Load(); p.valid(p.addr, time.Now()) {
			return p.addr, nil
		}
		if !under {
			return "", fmt.Errorf("%w: no proof within %v", cause(p), MaxLag)
		}
		select {
		case <-answered:
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

func cause(p *proof) error {
	if p.err != nil {
		return p.err
	}
	return ErrMaster
}

// may returns nil if a command may be sent to addr now.
func (w *watch) may(addr string) error {
	now := time.Now()
	p := w.proof.Load()
	if p.valid(addr, now) {
		if p.age(now) > renewAfter {
			w.mu.Lock()
			w.ask()
			w.mu.Unlock()
		}
		return nil
	}
	// Questions bound the wait: each takes askTimeout at most.
	master, err := w.master(context.Background())
	if err == nil && master != addr {
		err = fmt.Errorf("%w: they name %s", ErrMaster, master)
	}
	return err
}

// under reports whether a question is in flight. The caller holds w.mu.
func (w *watch) under() bool {
	for _, asking := range w.asking {
		if asking {
			return true
		}
	}
	return false
}

// ask asks each Sentinel that is not being asked. The caller holds w.mu.
func (w *watch) ask() {
	if len(w.conns) == 0 {
		return // the client was closed meanwhile
	}
	for i := range w.clients {
		if w.asking[i] {
			continue
		}
		if w.clients[i] == nil {
			w.clients[i] = redis.NewClient(sentinelOptions(w.o, w.o.SentinelAddrs[i]))
		}
		w.asking[i] = true
		rdb, a := w.clients[i], answer{asked: time.Now()}
		guard.Go(guard.Client, func() error {
			ctx, cancel := context.WithTimeout(context.Background(), askTimeout)
			defer cancel()
			return a.from(ctx, rdb, w.o.MasterName)
		}, func(err error) { w.hear(i, a, err) })
	}
}

// from asks a Sentinel. It asks for the epoch first: the address is then at
// least as new.
func (a *answer) from(ctx context.Context, rdb *redis.Client, name string) error {
	state := redis.NewMapStringStringCmd(ctx, "sentinel", "master", name)
	if err := rdb.Process(ctx, state); err != nil {
		return err
	}
	var err error
	if a.epoch, err = strconv.ParseInt(state.Val()["config-epoch"], 10, 64); err != nil {
		return err
	}
	if a.others, err = strconv.Atoi(state.Val()["num-other-sentinels"]); err != nil {
		return err
	}
	addr, err := rdb.Do(ctx, "sentinel", "get-master-addr-by-name", name).StringSlice()
	if err != nil {
		return err
	}
	if len(addr) != 2 {
		return fmt.Errorf("%w: the reply has %d elements", ErrMaster, len(addr))
	}
	a.addr = net.JoinHostPort(addr[0], addr[1])
	return nil
}

// hear stores the answer of the i-th Sentinel. If the master has changed, hear
// closes the connections to the old one.
func (w *watch) hear(i int, a answer, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asking[i] = false
	if err == nil {
		w.answers[i] = a
	}
	p := prove(w.answers, time.Now())
	w.proof.Store(p)
	close(w.answered)
	w.answered = make(chan struct{})
	if p.err != nil {
		return
	}
	for c := range w.conns {
		if c.ready.Load() && c.addr != p.addr {
			_ = c.Conn.Close() // go-redis closes c itself when it finds out
		}
	}
}

// forget removes c. With the last connection, it closes the clients of the
// Sentinels.
func (w *watch) forget(c *conn) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.conns, c)
	if len(w.conns) > 0 {
		return
	}
	for i, rdb := range w.clients {
		if rdb != nil {
			_ = rdb.Close()
			w.clients[i] = nil
		}
	}
}

// conn is a connection to a server that was the master when it was made.
type conn struct {
	net.Conn
	w     *watch
	addr  string
	ready atomic.Bool // Conn and addr are set
}

// Write implements net.Conn. It writes nothing unless the server is the master.
// The error is not a dial error: a part of the pipeline may have been written
// before.
func (c *conn) Write(b []byte) (int, error) {
	if err := c.w.may(c.addr); err != nil {
		return 0, &net.OpError{Op: "write", Net: "tcp", Addr: c.RemoteAddr(), Err: err}
	}
	return c.Conn.Write(b)
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.w.forget(c)
	return c.Conn.Close()
}

// NetConn returns the underlying connection, by which go-redis finds out that
// an idle connection is dead.
func (c *conn) NetConn() net.Conn { return c.Conn }

type rawConn struct {
	*conn
	raw syscall.Conn
}

// SyscallConn implements syscall.Conn.
func (c *rawConn) SyscallConn() (syscall.RawConn, error) { return c.raw.SyscallConn() }
