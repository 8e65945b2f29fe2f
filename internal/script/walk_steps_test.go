package script_test

import (
	"fmt"

	"github.com/redis/go-redis/v9"
	"github.com/stretchr/testify/require"

	"github.com/cachex-go/cachex/internal/entry"
	"github.com/cachex-go/cachex/internal/script"
)

// fresh returns a new token, and remembers it.
func (w *walk) fresh() entry.Token {
	var token entry.Token
	for i := range token {
		token[i] = byte(w.rnd.Uint32())
	}
	w.tokens = append(w.tokens, token)
	w.tokens = w.tokens[max(0, len(w.tokens)-4):]
	return token
}

// known returns a token that was issued lately, in most cases the current one
// or the last one.
func (w *walk) known() entry.Token {
	if there := w.reg.header.Token; there != (entry.Token{}) && w.rnd.IntN(3) > 0 {
		return there
	}
	if len(w.tokens) == 0 {
		return w.fresh()
	}
	return w.tokens[len(w.tokens)-1-min(w.rnd.IntN(len(w.tokens)), w.rnd.IntN(len(w.tokens)))]
}

// some returns, in one of four cases, the token of an entry that is there or
// not.
func (w *walk) some() (seen *entry.Token, arg []byte) {
	switch w.rnd.IntN(4) {
	case 0:
		token := w.known()
		seen = &token
	case 1:
		if w.reg.held != "entry" {
			return nil, nil
		}
		token := w.reg.header.Token // the right one, which may be zero
		seen = &token
	default:
		return nil, nil
	}
	return seen, seen[:]
}

func (w *walk) script() {
	w.t.Helper()
	what := w.rnd.IntN(14)
	if w.reg.header.Paused() && w.rnd.IntN(3) == 0 {
		what = 0 // otherwise few steps would see a pause
	}
	switch what {
	case 0, 1, 2, 3, 4:
		w.acquire()
	case 5, 6, 7:
		w.store()
	case 8:
		token, l := w.fresh(), w.life(entry.Value)
		args := writing(w.key, token, 0, 0)
		args[1], args[2] = millisOr(l.keep, 0), millisOr(l.fresh, -1)
		w.step("write", args, func(r *register, m moment) any { return r.write(w.key, m, token, l) })
	case 9:
		token, lease := w.known(), w.pick("lease")
		w.step("extend", []any{token[:], lease}, func(r *register, m moment) any { return r.extend(m, token, lease) })
	case 10, 11:
		token, drop, pause, most := w.known(), w.rnd.IntN(8) == 0, w.pick("pause"), w.pick("most")
		args := []any{token[:], millisOr(pause, -1), most}
		if drop {
			args = dropping(token)
		}
		w.step("release", args, func(r *register, m moment) any { return r.release(m, token, drop, pause, most) })
	case 12, 13:
		w.step("expire", nil, func(r *register, m moment) any { return r.expire(m) })
	}
}

// life returns how long a value lives. If the value is packed, its end
// sometimes follows from its soft expiry.
func (w *walk) life(of entry.State) life {
	l := life{w.pick("keep"), w.pick("fresh")}
	switch {
	case w.packed == nil || w.rnd.IntN(2) == 0:
	case l.fresh < 0:
		l.keep = 0
	case of == entry.Absent:
		l.keep = l.fresh
	default:
		l.keep = l.fresh + w.packed.beyond
	}
	if w.packed != nil && l.keep == 0 {
		l.fresh = -1 // a PEXPIRE of 0 would delete, and no cache sends it
	}
	return l
}

// millisOr returns milliseconds in the form of the scripts.
func millisOr(ms, none int64) any {
	if ms == none {
		return ""
	}
	return ms
}

func (w *walk) acquire() {
	w.t.Helper()
	p := plea{
		token: w.fresh(), hint: w.rnd.IntN(2) == 0, suspect: w.rnd.IntN(3) == 0,
		want:  []string{script.Missing, script.Missing, script.Missing, script.Unfit, script.Due, script.Due, script.Now}[w.rnd.IntN(7)],
		lease: w.pick("lease"), use: w.pick("use"), pause: max(w.pick("pause"), 0), most: w.pick("most"),
	}
	if w.rnd.IntN(8) == 0 {
		p.token = w.known() // a late copy
	}
	seen, arg := w.some()
	p.seen = seen
	args := acquiring(p.token, ask{want: p.want, seen: arg, hint: p.hint, suspect: p.suspect})
	args[1], args[6], args[8], args[9] = p.lease, millisOr(p.use, -1), p.pause, p.most
	w.step("acquire", args, func(r *register, m moment) any { return r.acquire(m, p) })
}

func (w *walk) store() {
	w.t.Helper()
	token := w.known()
	var l life
	run := func(name string, args []any, model func(*register, moment) any) {
		args[1], args[2] = millisOr(l.keep, 0), millisOr(l.fresh, -1)
		w.step(name, args, model)
	}
	what := w.rnd.IntN(3)
	if w.reg.leased() && w.reg.header.State == entry.Value && w.rnd.IntN(2) == 0 {
		what = 2 // this is seldom possible
	}
	switch l = w.life(entry.Value); what {
	case 0:
		run("store", storing(w.key, token, 0, 0), func(r *register, m moment) any {
			return r.store(w.key, m, token, entry.Value, loaded, l)
		})
	case 1:
		l = w.life(entry.Absent)
		run("store", storingNone(w.key, token, 0, 0), func(r *register, m moment) any {
			return r.store(w.key, m, token, entry.Absent, "", l)
		})
	case 2:
		run("renew", renewing(token, 0, 0), func(r *register, m moment) any { return r.renew(w.key, m, token, l) })
	}
}

// meddle changes the key as other programs, operators and time may do.
func (w *walk) meddle() {
	w.t.Helper()
	ctx, what := w.t.Context(), w.rnd.IntN(8)
	w.trace = append(w.trace, fmt.Sprint("meddle ", what))
	set := func(raw string) { require.NoError(w.t, w.rdb.Set(ctx, w.key, raw, redis.KeepTTL).Err()) }
	key, del, persist := w.key, func() { w.rdb.Del(ctx, w.key) }, true
	if at := w.packed; at != nil {
		key, persist = at.hash, false
		del = func() {
			if w.rdb.HDel(ctx, at.hash, at.field).Err() != nil { // a list
				w.rdb.Del(ctx, at.hash)
			}
		}
		set = func(raw string) {
			if w.reg.held == "list" {
				w.rdb.Del(ctx, at.hash)
			}
			require.NoError(w.t, w.rdb.HSet(ctx, at.hash, at.field, raw).Err())
		}
	}
	switch {
	case what == 0:
		del()
		w.reg = register{packed: w.packed}
	case what == 1:
		set("hello")
		w.rdb.Persist(ctx, key)
		w.reg = register{packed: w.packed, held: "foreign", foreign: "hello"}
	case what == 2:
		w.rdb.Del(ctx, key)
		w.rdb.LPush(ctx, key, "a")
		w.reg = register{packed: w.packed, held: "list"}
	case what == 3:
		if w.rdb.Persist(ctx, key); persist {
			w.reg.lo, w.reg.hi = 0, 0
		}
	case w.reg.held != "entry":
	case what == 4: // one byte of the header
		b := []byte(w.reg.bytes())
		if i := w.rnd.IntN(entry.Size); w.reg.short() || w.packed != nil && i == 0 { // the scripts trust the first byte
			b[0] = 'x'
		} else {
			b[i]++
		}
		if w.reg = (register{packed: w.packed, held: "foreign", foreign: string(b), lo: w.reg.lo, hi: w.reg.hi}); w.packed != nil {
			w.reg.lo, w.reg.hi = 0, 0 // its end is not known
		}
		set(string(b))
	case w.reg.header.State == entry.Lease:
	case what == 5: // the value has become stale
		w.reg.header.Soft = 1
		set(w.reg.bytes())
	case w.reg.header.State == entry.Absent:
	case what == 6 && w.reg.header.Till != 0: // the lease has lapsed, or the pause is over
		w.reg.header.Till = 1
		set(w.reg.bytes())
	case what == 7: // this many loads have failed
		w.reg.header.Fails = w.rnd.IntN(entry.MaxFails + 1)
		set(w.reg.bytes())
	}
}
