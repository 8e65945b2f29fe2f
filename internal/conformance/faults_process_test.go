package conformance

import (
	"fmt"
	"regexp"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"
)

// faultsOfTheProcess are those of a server that dies, or hangs.
var faultsOfTheProcess = []fault{{
	name: "`kill -9`, restarted with its append-only file", sees: loads, stored: nothing,
	shows: gone, hurt: killed,
}, {
	name: "`kill -9`, restarted empty", sees: loads, stored: nothing, where: "volatile", loses: true,
	shows: gone, hurt: killed,
}, {
	name: "`SIGSTOP`, `SIGCONT`", sees: "reads load after the timeout of the client; after three of these, the breaker spares the others", stored: "commands that were sent may be carried out late; the store of a load that has lost its lease is not",
	shows: silence, hurt: halted,
}, {
	name: "`CLIENT KILL`, again and again", sees: worst, stored: "commands carried out before the cut",
	shows: struck,
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() {
			n, err := p.do(t, "client", "kill", "type", "normal", "skipme", "yes").Int64()
			require.NoError(t, err)
			p.struck += n
		})
	},
}, {
	name: "`CLIENT PAUSE`, all commands", sees: stopped, stored: stopped,
	shows: all(struck, silence),
	hurt: func(t *testing.T, p *patient) {
		const pause = time.Second
		for begun := time.Now(); !p.felt() && time.Since(begun) < patience; {
			// In one pipeline, so that the server has both when it pauses: it answers the
			// second one when it goes on. By its own clock, which counts milliseconds.
			began := time.Now()
			_, err := p.admin.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
				pipe.Do(t.Context(), "client", "pause", pause.Milliseconds(), "all")
				pipe.Ping(t.Context())
				return nil
			})
			require.NoError(t, err)
			require.Greater(t, time.Since(began), pause-10*time.Millisecond, "the server does not pause")
			p.struck++
		}
	},
}, {
	name: "`CLIENT PAUSE`, writes", sees: "hits are served; a miss loads after the timeout of the client", stored: stopped,
	shows: all(struck, silence),
	hurt: func(t *testing.T, p *patient) {
		probe := redis.NewClient(&redis.Options{Addr: p.server.Addr(), ClientName: "probe", PoolSize: 1, ReadTimeout: patience})
		defer func() { _ = probe.Close() }()
		require.NoError(t, probe.Ping(t.Context()).Err())
		p.do(t, "client", "pause", "60000", "write")
		written := make(chan error, 1)
		go func() { written <- probe.Set(t.Context(), "probe", "", 0).Err() }()
		eventually(t, "the server does not hold a write back", func() bool {
			clients, err := p.admin.ClientList(t.Context()).Result()
			return err == nil && blockedProbe.MatchString(clients)
		})
		p.struck++
		p.suffers(t, 150)
		require.Empty(t, written, "the server pauses no more")
		p.do(t, "client", "unpause")
		require.NoError(t, <-written)
	},
}, {
	name: "`LOADING`", sees: loads, stored: nothing, where: "loading",
	shows: seen("LOADING "),
	hurt: func(t *testing.T, p *patient) {
		_, err := p.admin.Pipelined(t.Context(), func(pipe redis.Pipeliner) error {
			for i := range 2000 { // milliseconds: the pool of go-redis may not dial for one second
				pipe.Set(t.Context(), fmt.Sprint("filler", i), i, 0)
			}
			return nil
		})
		require.NoError(t, err)
		// Again if nobody has asked while it was loading, on a machine that is busy.
		for begun := time.Now(); ; {
			// From a snapshot: of an append-only file Redis answers nobody for 1024 commands.
			p.quietly(t, func() {
				p.do(t, "save")
				p.server.Kill()
			})
			p.server.Restart() // which returns when all is loaded
			if p.felt() || time.Since(begun) > patience {
				break
			}
		}
	},
}, {
	name: "`BUSY`: a hanging script of another client", sees: loads, stored: nothing,
	shows: seen("BUSY "),
	hurt: func(t *testing.T, p *patient) {
		p.do(t, "config", "set", "busy-reply-threshold", "1")
		done := make(chan struct{})
		other := redis.NewClient(&redis.Options{Addr: p.server.Addr(), ReadTimeout: patience})
		defer func() { _ = other.Close() }()
		go func() {
			defer close(done)
			_ = other.Eval(t.Context(), "while true do end", nil).Err()
		}()
		p.suffers(t, 150)
		p.do(t, "script", "kill")
		<-done
	},
}, {
	name: "the clock of the server goes forward, an hour", where: "clock", sees: "every key with a `TTL` is gone: reads load", stored: "later loads; a load in flight is not. Pending counts have no `TTL`",
	shows: struck,
	hurt:  func(t *testing.T, p *patient) { p.clock.step(t, p, hour) },
}, {
	name: "the clock of the server goes back, an hour", where: "clock", sees: "nothing", stored: "everything. Older entries live an hour longer, unless they are deleted or replaced",
	shows: struck,
	hurt:  func(t *testing.T, p *patient) { p.clock.step(t, p, -hour) },
}}

// blockedProbe is the line of CLIENT LIST of a probe that waits.
var blockedProbe = regexp.MustCompile(`(?m) name=probe .* flags=[A-Za-z]*b`)

func killed(t *testing.T, p *patient) {
	p.server.Kill()
	p.suffers(t, 150)
	p.server.Restart()
}

func halted(t *testing.T, p *patient) {
	p.server.Stop()
	p.suffers(t, 150)
	p.server.Cont()
}
