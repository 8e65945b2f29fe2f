package conformance

import (
	"bytes"
	"slices"
	"testing"
	"time"
)

// faultsOfTheLine are those of a network, and of what stands in it.
var faultsOfTheLine = []fault{{
	name: "a round trip of 40 ms", sees: "the same, later", stored: "everything",
	shows: spoilt,
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Delay(20 * time.Millisecond)
		p.suffers(t, 100)
		p.proxy.Delay(0)
	},
}, {
	name: "a link of 20 kB a second", sees: "the same, later; or as `SIGSTOP`", stored: "everything that arrives",
	shows: spoilt,
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Throttle(20_000)
		p.suffers(t, 100)
		p.proxy.Throttle(0)
	},
}, {
	name: "connections reset again and again", sees: worst, stored: "commands carried out before the cut",
	shows: spoilt,
	hurt:  func(t *testing.T, p *patient) { p.again(t, p.proxy.Cut) },
}, {
	name: "lost replies, with their connections", sees: "reads load at worst. Writes and counts are not sent again: `ErrOutcomeUnknown`", stored: "once, the commands carried out",
	shows: spoilt,
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() { p.proxy.LoseReplies(3) })
		p.suffers(t, 20)
		p.proxy.LoseReplies(0)
	},
}, {
	name: "replies cut short, with their connections", sees: "as lost replies", stored: "once, the commands carried out",
	shows: all(spoilt, gone),
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() { p.proxy.CutShort(3) })
		p.suffers(t, 20)
		p.proxy.CutShort(0)
	},
}, {
	name: "a link that is dead in one direction: commands arrive, replies do not", sees: stopped + "; writes and counts `ErrOutcomeUnknown`", stored: "once, the commands sent",
	shows: all(spoilt, silence),
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Mute(true)
		p.suffers(t, 150)
		p.proxy.Mute(false)
	},
}, {
	name: "garbage in place of replies", sees: worst, stored: "once, the commands carried out",
	shows: all(spoilt, seen("redis: can't parse", "redis: unexpected", "invalid reply")),
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() { p.proxy.Garble(3) })
		p.suffers(t, 20)
		p.proxy.Garble(0)
	},
}, {
	name: "replies that are sent twice", sees: "reads load at worst. Writes and counts may return `ErrOutcomeUnknown`: go-redis closes a connection with more replies than requests", stored: "everything", loses: true,
	shows: all(spoilt, dialled),
	hurt: func(t *testing.T, p *patient) {
		p.again(t, func() { p.proxy.Repeat(10) })
		p.suffers(t, 20)
		p.proxy.Repeat(0)
	},
}, {
	name: "half-open connections", sees: "as `SIGSTOP`, once for each connection", stored: "commands that arrived",
	shows: all(spoilt, silence),
	hurt: func(t *testing.T, p *patient) {
		for range 3 {
			p.does(t, 50)
			p.proxy.HalfOpen()
		}
		p.suffers(t, 0)
	},
}, {
	name: "a black hole, whose held commands arrive late", sees: stopped, stored: stopped,
	shows: all(spoilt, silence),
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Hold()
		p.suffers(t, 150)
		p.proxy.Resume()
	},
}, {
	name: "commands that arrive late, one connection at a time, after later commands", sees: "reads load after the timeout of the client. Writes return `ErrOutcomeUnknown`",
	stored: "once, the commands sent; perhaps late if the outcome is unknown",
	shows:  spoilt,
	hurt: func(t *testing.T, p *patient) {
		for _, command := range []string{"\r\nset\r\n", "\r\nset\r\n", "\r\nevalsha\r\n", "\r\nunlink\r\n"} {
			const some = 2
			p.proxy.HoldNext(some, func(request []byte) bool { return bytes.Contains(request, []byte(command)) })
			eventually(t, "nobody sends it", func() bool { return p.proxy.Caught() == some })
			p.turns(t, slices.Concat(p.done, p.visitors.did)) // who has sent it has given up, or has sent it again
			p.does(t, 50)
			p.proxy.Release()
			p.does(t, 50)
		}
		p.proxy.HoldNext(0, nil)
		p.proxy.Release()
	},
}, {
	name: "no server listens", sees: loads + ", at once", stored: nothing,
	shows: seen("connection refused"),
	hurt: func(t *testing.T, p *patient) {
		p.proxy.Refuse()
		p.proxy.Cut()
		p.suffers(t, 150)
		p.proxy.Accept()
	},
}}
