package circuit

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/redis/go-redis/v9/maintnotifications"
	"go.uber.org/goleak"

	"github.com/cachex-go/cachex/internal/redistest"
)

func TestMain(m *testing.M) {
	redistest.Main(m, func() error {
		return goleak.Find(goleak.IgnoreAnyFunction(redistest.Lingers))
	})
}

// patience bounds every wait in real time.
var patience = redistest.Patience

var errBroken = errors.New("it is broken")

// once makes a client try everything once.
func once(o *redis.Options) {
	o.MaxRetries, o.DialerRetries = -1, 1
	o.MaintNotificationsConfig = &maintnotifications.Config{Mode: maintnotifications.ModeDisabled}
}

// closedPort returns an address without a listener, until the test ends.
func closedPort(t *testing.T) string { return fmt.Sprintf("127.0.0.1:%d", redistest.Port(t)) }

// scripted returns a client of a server that answers every GET with reply, or
// never if reply is empty.
func scripted(t *testing.T, reply string, configure func(*redis.Options)) *redis.Client {
	o := &redis.Options{Dialer: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() { // ends when the client closes its connection
			defer func() { _ = server.Close() }()
			in := bufio.NewReader(server)
			for {
				name, err := command(in)
				if err != nil {
					return
				}
				switch answer := "-ERR unknown command\r\n"; {
				case name != "get":
					_, _ = io.WriteString(server, answer)
				case reply != "":
					_, _ = io.WriteString(server, reply+"\r\n")
				}
			}
		}()
		return client, nil
	}}
	once(o)
	o.ReadTimeout = patience
	if configure != nil {
		configure(o)
	}
	rdb := redis.NewClient(o)
	t.Cleanup(func() { _ = rdb.Close() })
	return rdb
}

// command reads a command and returns its name.
func command(in *bufio.Reader) (name string, err error) {
	var n int
	if _, err := fmt.Fscanf(in, "*%d\r\n", &n); err != nil {
		return "", err
	}
	for i := range n {
		var size int
		if _, err := fmt.Fscanf(in, "$%d\r\n", &size); err != nil {
			return "", err
		}
		arg := make([]byte, size+len("\r\n"))
		if _, err := io.ReadFull(in, arg); err != nil {
			return "", err
		}
		if i == 0 {
			name = strings.ToLower(string(arg[:size]))
		}
	}
	return name, nil
}
