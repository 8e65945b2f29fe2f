package redistest

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// Nonsense holds replies that Redis never sends to cachex, and that a broken
// proxy or server may send. They are impossible lengths, other types, nil in
// place of a value, types that a RESP2 client does not know, half a reply, two
// replies, and text that is not a reply. An element that ends with "…" is cut
// there: the connection is closed.
//
// Lengths that a client believes and that exceed the memory of the machine,
// such as "$99999999999", are missing. go-redis allocates that much, and the
// process cannot recover.
var Nonsense = []string{
	":0", ":1", ":-1", ":2", ":9223372036854775807", ":9223372036854775808", ":1.5", ":abc", ":",
	"+OK", "+", "+1", "+QUEUED", "+\xff\xfe",
	"-", "-ERR", "-ERR nonsense", "-\xff\xfe", "-MOVED", "-MOVED 1 127.0.0.1:1", "-ASK 1 :", "-NOSCRIPT no", "-WRONGTYPE no", "-LOADING no",
	"-READONLY no", "-TRYAGAIN no", "-EXECABORT no", "-ERR Connection refused",
	"$-1", "$-2", "$0\r\n", "$1\r\nx", "$1\r\n1", "$3\r\n\xff\xfe\x00", "$9223372036854775807", "$4611686018427387904", "$5\r\nab…", "$abc",
	"*-1", "*-2", "*0", "*1\r\n:1", "*1\r\n$-1", "*2\r\n$-1\r\n$-1", "*2\r\n$1\r\nG\r\n$-1", "*2\r\n$1\r\nV\r\n$1\r\nx", "*2\r\n$1\r\nW\r\n$0\r\n",
	"*2\r\n$1\r\nP\r\n$1\r\nP", "*2\r\n:0\r\n:0", "*2\r\n:1\r\n*0", "*3\r\n:1\r\n:1\r\n:1", "*3\r\n-ERR a\r\n+b\r\n_", "*1\r\n*1\r\n*0",
	"*9223372036854775807", "*1\r\n*9223372036854775807", "*1\r\n$9223372036854775807", "*2\r\n:1…",
	"_", "#t", "#x", ",1.5", ",nan", ",x", "(123456789012345678901234567890", "!9\r\nERR blobs", "=5\r\ntxt:a", "=1\r\na",
	"%1\r\n+a\r\n:1", "%1\r\n*0\r\n:1", "%9223372036854775807…", "~1\r\n:1", ">1\r\n+x", ">2\r\n+message\r\n+x", "|1\r\n+a\r\n:1\r\n:1",
	"", "x", "\x00", "HTTP/1.1 400 Bad Request\r\n\r\nno", ":1\r\n:1", "$-1\r\n$-1", "…",
}

// StartNonsense starts a server on the loopback interface and returns its
// address. The server opens connections as Redis does and answers every other
// command with reply. It is stopped when the test ends.
func StartNonsense(t testing.TB, reply string) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("redistest: %v", err)
	}
	reply, cut := strings.CutSuffix(reply, "…")
	if !cut {
		reply += "\r\n"
	}
	s := &nonsense{reply: reply, cut: cut, conns: make(map[net.Conn]bool)}
	s.running.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			s.serve(conn)
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		s.close()
		s.running.Wait()
	})
	return l.Addr().String()
}

type nonsense struct {
	reply   string
	cut     bool // close the connection after reply
	running sync.WaitGroup

	mu    sync.Mutex
	conns map[net.Conn]bool // guarded by mu; nil after close
}

// serve answers on conn in a goroutine, until conn is closed.
func (s *nonsense) serve(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conns == nil {
		_ = conn.Close()
		return
	}
	s.conns[conn] = true
	s.running.Go(func() {
		defer func() { _ = conn.Close() }()
		r := bufio.NewReader(conn)
		for {
			name, err := readCommand(r)
			if err != nil {
				return
			}
			reply := s.reply
			switch name {
			case "hello":
				reply = "-ERR unknown command 'HELLO'\r\n" // selects RESP2
			case "client", "select", "auth":
				reply = "+OK\r\n"
			case "command":
				reply = "*0\r\n"
			}
			if _, err := io.WriteString(conn, reply); err != nil || s.cut && reply == s.reply {
				return
			}
		}
	})
}

func (s *nonsense) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.conns = nil
}

// readCommand reads a command and returns its name in lower case.
func readCommand(r *bufio.Reader) (name string, err error) {
	n, err := readLength(r, '*')
	for i := 0; i < n && err == nil; i++ {
		var size int
		if size, err = readLength(r, '$'); err != nil {
			break
		}
		b := make([]byte, size+2)
		if _, err = io.ReadFull(r, b); i == 0 {
			name = strings.ToLower(string(b[:size]))
		}
	}
	return name, err
}

func readLength(r *bufio.Reader, kind byte) (int, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return 0, err
	}
	if line[0] != kind {
		return 0, fmt.Errorf("%q does not begin with %q", line, kind)
	}
	return strconv.Atoi(strings.TrimSpace(line[1:]))
}
