package gather

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// onTheWire returns the reply of an MGET to values, nil for none, in one of the protocols.
func onTheWire(resp3 bool, values ...[]byte) (pieces [][]byte) {
	say := func(b string) { pieces = append(pieces, []byte(b)) }
	say(fmt.Sprintf("*%d", len(values)))
	say("\r\n")
	for _, v := range values {
		switch {
		case v != nil:
			say(fmt.Sprintf("$%d", len(v)))
			say("\r\n")
			say(string(v) + "\r\n")
		case resp3:
			say("_")
			say("\r\n")
		default:
			say("$-1")
			say("\r\n")
		}
	}
	return pieces
}

// dribbling returns a reader of b that gives a few bytes at a time.
func dribbling(b []byte) io.Reader {
	return &io.LimitedReader{R: dribble{bytes.NewReader(b)}, N: int64(len(b))}
}

type dribble struct{ io.Reader }

func (r dribble) Read(b []byte) (int, error) {
	return r.Reader.Read(b[:min(len(b), 1+rand.IntN(1000))])
}

func TestAReplyIsReadAsItWasWritten(t *testing.T) {
	t.Parallel()
	for round := range 200 {
		values := make([][]byte, rand.IntN(20))
		for i := range values {
			switch rand.IntN(5) {
			case 0: // none
			case 1:
				values[i] = bytes.Repeat([]byte("l"), largeValue-4+rand.IntN(8))
			case 2:
				values[i] = bytes.Repeat([]byte("\r\n$3"), rand.IntN(10_000))
			default:
				values[i] = []byte(strings.Repeat("s", rand.IntN(100)))
			}
		}
		r := replies.Get().(*reply)
		require.Empty(t, r.b)
		for _, piece := range onTheWire(round%2 == 0, values...) {
			if len(piece) > 0 && round%3 != 0 && bytes.HasSuffix(piece, []byte("\r\n")) && len(piece) > 2 {
				n, err := io.Copy(r, dribbling(piece))
				require.NoError(t, err)
				require.EqualValues(t, len(piece), n)
				continue
			}
			_, err := r.Write(piece)
			require.NoError(t, err)
		}
		require.True(t, r.isArray())
		kind, n := r.line()
		require.Equal(t, byte('*'), kind)
		require.Equal(t, len(values), n)
		for i, want := range values {
			got, err := r.value()
			if want == nil {
				require.Equal(t, redis.Nil, err)
				continue
			}
			require.NoError(t, err, "value %d of %d", i, len(values))
			require.True(t, bytes.Equal(want, got), "value %d: %d bytes, want %d", i, len(got), len(want))
			require.Equal(t, len(got), cap(got), "who appends must not write to what follows")
		}
		_, err := r.value()
		require.Equal(t, errReply, err)
		r.release()
	}
}

func TestAReplyThatIsCutShortHasNoValueThere(t *testing.T) {
	t.Parallel()
	whole := bytes.Join(onTheWire(true, []byte("first"), nil, []byte("third")), nil)
	for n := range whole {
		r := &reply{b: whole[:n:n]}
		r.line()
		bad := false
		for _, want := range []string{"first", "", "third"} {
			b, err := r.value()
			bad = bad || err == errReply
			if err == nil {
				require.Equal(t, want, string(b), "after %d bytes", n)
			}
			require.False(t, bad && err == nil, "after %d bytes", n)
		}
		require.True(t, bad, "after %d bytes", n)
	}
}
