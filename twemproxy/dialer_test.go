package twemproxy

import (
	"context"
	"io"
	"net"
	"testing"
	"testing/synctest"

	"github.com/stretchr/testify/require"
)

// opened returns a connection of the Dialer to a pipe, and the other end of
// that pipe.
func opened(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	client, server := net.Pipe()
	conn, err := Dialer(func(context.Context, string, string) (net.Conn, error) { return client, nil })(t.Context(), "tcp", "addr")
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = conn.Close(), server.Close() })
	return conn, server
}

func TestDialer_AnswersTheOpeningAndForwardsTheRest(t *testing.T) {
	t.Parallel()
	conn, server := opened(t)
	const opening = "*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n" + "*4\r\n$6\r\nclient\r\n$7\r\nsetinfo\r\n$8\r\nLIB-NAME\r\n$1\r\na\r\n"
	const rest = "*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n" + "*1\r\n$5\r\nHELLO\r\n" + "*3\r\n$3\r\nSET\r\n$1\r\na\r\n$9\r\npart of i"
	passed := make(chan string)
	go func() {
		b := make([]byte, len(rest))
		_, _ = io.ReadFull(server, b)
		passed <- string(b)
	}()
	n, err := conn.Write([]byte(opening + rest))
	require.NoError(t, err)
	require.Equal(t, len(opening)+len(rest), n)
	require.Equal(t, rest, <-passed)
}

func TestDialer_RejectsSubscribeOfAWaitingReader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		conn, _ := opened(t)
		read := make(chan string)
		go func() {
			b := make([]byte, 200)
			n, err := conn.Read(b)
			if err != nil {
				b, n = []byte(err.Error()), len(err.Error())
			}
			read <- string(b[:n])
		}()
		synctest.Wait() // until it waits
		_, err := conn.Write([]byte("*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\nc\r\n"))
		require.NoError(t, err)
		require.Equal(t, "-ERR unknown command 'SUBSCRIBE': twemproxy does not support it; it was not sent\r\n", <-read)
	})
}

func TestDialer_ForwardsMalformedCommands(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"PING\r\n", "*\r\n", "*1\r\n", "*1\r\n$4\r\nPI", "*1\r\n$-1\r\n", "*1\r\n$99999999999999999999\r\nHELLO\r\n", "\r\n", "*0\r\n", "*-1\r\n"} {
		synctest.Test(t, func(t *testing.T) { // in a bubble a missing byte is a deadlock
			conn, server := opened(t)
			go func() { _, _ = conn.Write([]byte(text)) }()
			b := make([]byte, len(text))
			_, err := io.ReadFull(server, b)
			require.NoError(t, err, "%q", text)
			require.Equal(t, text, string(b))
		})
	}
}
