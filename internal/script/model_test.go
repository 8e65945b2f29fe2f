package script_test

import (
	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// A register models in Go how the scripts treat one key. It has the same rules,
// but uses the fields of a header and not bytes.
type register struct {
	held    string // "" if absent, "foreign" for bytes that are not an entry, "list", "entry"
	foreign string
	header  entry.Header
	payload string
	lo, hi  int64 // the key expires between these two moments; 0 never

	packed *packing // nil: the entry is not packed
	renews bool     // true during renew
}

// A packing has the arguments of the scripts for packed entries. The end of a
// packed entry is exact to the millisecond.
type packing struct {
	hash, field string
	beyond      int64 // milliseconds that a value is of use after it is stale
}

// short reports whether the entry has the short form.
func (r *register) short() bool { return r.packed != nil && r.held == "entry" && r.bytes()[0] != 0xC1 }

// settle resets the fields that the short form does not keep.
func (r *register) settle() {
	if r.short() {
		r.header, _, _ = entry.ParsePacked("", []byte(r.bytes()))
	}
}

// A moment is the time of one run of a script. at is the time by the script's
// own clock. TTLs may be counted from another reading of that clock, between t0
// and t1.
type moment struct {
	at, t0, t1 int64
	soft       int64 // soft expiry of the entry afterwards, for results that depend on both
}

func (r *register) bytes() string {
	switch r.held {
	case "foreign":
		return r.foreign
	case "entry":
		if r.packed != nil {
			end := entry.Forever
			if r.hi != 0 {
				end = r.hi
			}
			return string(r.header.AppendPacked(nil, end, r.packed.beyond)) + r.payload
		}
		return string(r.header.Append(nil)) + r.payload
	}
	return r.held
}

func (r *register) keep(m moment, ms int64) {
	r.lo, r.hi = m.t0+ms, m.t1+ms
	if ms == 0 {
		r.lo, r.hi = 0, 0
	}
}

func (r *register) prolong(m moment, ms int64) {
	if r.hi != 0 {
		r.lo, r.hi = max(r.lo, m.t0+ms), max(r.hi, m.t1+ms)
	}
}

func (r *register) leased() bool {
	h := &r.header
	return r.held == "entry" && (h.State == entry.Lease || h.State == entry.Value && h.Till != 0 && h.Token != entry.Token{})
}

// A plea has the arguments of Acquire in the model. Times are milliseconds.
type plea struct {
	token         entry.Token
	want          string
	seen          *entry.Token
	hint, suspect bool
	lease, use    int64 // use -1 is forever
	pause, most   int64 // half of the pause after one failure, and the maximum of any pause
}

func (r *register) acquire(m moment, p plea) any {
	h := &r.header
	fits := p.seen != nil && h.Token == *p.seen
	there := r.held == "entry" && !(p.want == script.Unfit && fits)
	mine := h.Token == p.token || p.want == script.Now // or counts as its own
	due := p.want == script.Now || p.want == script.Due && (p.seen == nil || fits)
	untilGone := p.use == 0 && r.hi != 0 && h.State == entry.Value && h.Till == 0 && h.Token != entry.Token{}
	fresh := (h.Soft > m.at || untilGone) && h.Flags&entry.Stale == 0
	useful := fresh || p.use < 0 || h.Soft+p.use > m.at
	held := h.Till > m.at && !mine
	if !r.leased() { // no pause is longer
		longest := p.pause
		for range h.Fails {
			longest = min(2*longest, p.most)
		}
		held = held && h.Till <= m.at+min(longest, p.most)
	}
	wait := func() {
		if p.hint {
			h.Flags |= entry.Awaited
		}
	}
	switch {
	case there && h.State == entry.Lease && !mine:
		switch {
		case !p.suspect:
		case r.hi == 0, r.lo-m.t1 > p.lease: // no lease lasts that long
			r.keep(m, p.lease)
		case r.hi-m.t0 > p.lease: // perhaps longer, perhaps not
			r.lo = min(r.lo, m.t0+p.lease)
		}
		wait()
		return r.busy()
	case !there, h.State == entry.Lease:
	case fresh && !due && h.State == entry.Absent:
		return []any{"N", r.bytes()}
	case fresh && !due:
		return []any{"V", r.bytes()}
	case h.State == entry.Absent:
	case held && r.leased():
		if p.suspect {
			h.Till = min(h.Till, m.at+p.lease)
		}
		if wait(); useful {
			return []any{"S", r.bytes()}
		}
		return r.busy()
	case held && useful: // a pause
		return []any{"S", r.bytes()}
	case useful:
		h.Flags, h.Token, h.Till = h.Flags&entry.Stale, p.token, m.at+p.lease
		if r.hi != 0 && h.Soft == entry.Forever { // fresh until the value would have ended
			off := m.t1 - m.t0
			h.Soft = min(max(m.soft, r.lo-off), r.hi+off)
		}
		r.prolong(m, p.lease)
		return []any{"R", r.bytes()}
	}
	*r = register{packed: r.packed, held: "entry", header: entry.Header{State: entry.Lease, Token: p.token, Born: m.at, Cost: expected}}
	r.keep(m, p.lease)
	return []any{"G"}
}

// busy returns the reply to a caller that has to wait.
func (r *register) busy() any {
	b := string(r.header.Append(nil))
	return []any{"W", b[26:36] + b[12:20]}
}

// A life says how long a value is kept, 0 forever, and how long it is fresh, -1
// forever.
type life struct{ keep, fresh int64 }

// put applies a write or a load of h.
func (r *register) put(key string, m moment, h entry.Header, payload string, l life) {
	h.Soft, h.Sum = entry.Forever, entry.Sum(key, []byte(payload))
	if l.fresh >= 0 {
		h.Soft = m.at + l.fresh
	}
	*r = register{packed: r.packed, held: "entry", header: h, payload: payload}
	r.keep(m, l.keep)
}

func (r *register) write(key string, m moment, token entry.Token, l life) any {
	r.put(key, m, entry.Header{State: entry.Value, Token: token, Born: m.at}, loaded, l)
	return int64(1)
}

// store models Store of payload, or of the fact that there is no value.
func (r *register) store(key string, m moment, token entry.Token, state entry.State, payload string, l life) any {
	switch {
	case r.held == "entry" && r.header.Token != token && r.short() && r.header.State == state && r.payload == payload && !r.renews:
		return int64(2) // the entry is already as Store would leave it
	case r.held != "entry" || r.header.Token != token:
		return int64(0)
	case !r.leased():
		return int64(2)
	}
	expired := r.header.Flags&entry.Expired != 0
	r.put(key, m, entry.Header{State: state, Token: token, Born: m.at - age.Milliseconds(), Cost: took}, payload, l)
	switch {
	case !expired:
		return int64(1)
	case state == entry.Absent:
		*r = register{packed: r.packed}
	default:
		r.header.Flags, r.header.Soft = entry.Stale, m.at
	}
	return int64(3)
}

// renew models a store of the value that is there. The sum may be wrong, since
// Renew does not check it.
func (r *register) renew(key string, m moment, token entry.Token, l life) any {
	if r.header.State != entry.Value {
		return int64(0)
	}
	sum := r.header.Sum
	r.renews = true
	reply := r.store(key, m, token, entry.Value, r.payload, l)
	r.header.Sum, r.renews = sum, false
	return reply
}

func (r *register) extend(m moment, token entry.Token, lease int64) any {
	if !r.leased() || r.header.Token != token {
		return int64(0)
	}
	if r.header.State == entry.Value {
		r.header.Till = m.at + lease
	}
	r.prolong(m, lease)
	return r.grip()
}

// grip returns 1 for a lease, 2 if the key was expired under it.
func (r *register) grip() int64 {
	if r.header.Flags&entry.Expired != 0 {
		return 2
	}
	return 1
}

// release models Release with a pause in milliseconds, at most most; -1 is no
// pause.
func (r *register) release(m moment, token entry.Token, drop bool, pause, most int64) any {
	h, reply := &r.header, r.grip()
	switch {
	case !r.leased() || h.Token != token:
		return int64(0)
	case h.State == entry.Lease, drop:
		*r = register{packed: r.packed}
		return reply
	}
	h.Till = 0
	if pause >= 0 && h.Flags&entry.Expired == 0 {
		for range h.Fails {
			pause = min(2*pause, most)
		}
		h.Till, h.Fails = m.at+min(pause, most), min(h.Fails+1, entry.MaxFails)
	}
	h.Flags, h.Token = h.Flags&entry.Stale, entry.Token{}
	return reply
}

func (r *register) expire(m moment) any {
	h := &r.header
	switch {
	case r.held != "entry":
		return int64(0)
	case h.State == entry.Absent:
		*r = register{packed: r.packed}
		return int64(1)
	case r.leased():
		h.Flags |= entry.Expired
	case h.Token == entry.Token{}: // a value, perhaps with a pause
		h.Till, h.Fails = 0, 0
	}
	if h.State == entry.Value {
		h.Flags, h.Soft = h.Flags|entry.Stale, min(h.Soft, m.at)
	}
	return int64(1)
}
