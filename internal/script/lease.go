package script

import "regexp"

// prelude is the beginning of every script of the lease protocol: it reads the
// header of KEYS[1] into h, false if what is there is not an entry with a header
// that holds. The key of another type is "not an entry" too, hence pcall.
//
// The offsets are those of package entry, counted from 1 as Lua does.
//
// Bytes are compared with == alone: Lua's < on strings follows the locale. sum takes eight
// at a time, a multiple of that: one by one they took a fifth of the time of a script.
const prelude = beforePlace + plainPlace + afterPlace

const beforePlace = basics + `
local NONE, FOREVER, NOBODY, sub = string.rep('\0', 6), string.rep('\255', 6), string.rep('\0', 8), string.sub
local function sum(s)
  local n = 0
  for i = 1, #s, 8 do
    local a, b, c, d, e, f, g, h = string.byte(s, i, i + 7)
    n = n + a + b + c + d + e + f + g + h
  end
  return n
end
local state, flags, fails, token, leased, expired, awaited, stale, count
` + publish

const afterPlace = `
if type(h) ~= 'string' or #h ~= 40 or sub(h, 1, 3) ~= '\193X\1'
  or not string.find('VLN', sub(h, 4, 4), 1, true)
  or (sum(h) - string.byte(h, 6)) % 256 ~= string.byte(h, 6) then
  h = false
end
if h then
  state, flags, token = sub(h, 4, 4), string.byte(h, 5) % 16, sub(h, 13, 20)
  fails = (string.byte(h, 5) - flags) / 16
  leased = state == 'L' or (state == 'V' and sub(h, 21, 26) ~= NONE and token ~= NOBODY)
  expired, awaited, stale, count = flags % 2, math.floor(flags / 2) % 2, math.floor(flags / 4) % 2, math.floor(flags / 8)
end
local function edit(from, bytes)
  h = sub(h, 1, from - 1) .. bytes .. sub(h, from + #bytes)
  local check = string.char((sum(h) - string.byte(h, 6)) % 256)
  h = sub(h, 1, 5) .. check .. sub(h, 7)
end
local function mark()
  edit(5, string.char(fails * 16 + count * 8 + stale * 4 + awaited * 2 + expired))
end
local function wake()
  if h and awaited == 1 then publish(name) end
end
local function header(state, flags, soft, token, born, cost, crc)
  h = '\193X\1' .. state .. '\0\0' .. soft .. token .. NONE .. born .. cost .. crc
  edit(5, flags)
end
`

// leasing returns a script of the lease protocol, and with it the one for packed
// entries.
func leasing(name, body string) *Script {
	s := New(name, dense(prelude+plainLife+body))
	s.packed = packing(name, body)
	return s
}

// packing returns a script of the lease protocol for packed entries.
func packing(name, body string) *Script {
	return New(name, dense(beforePlace+packedPlace+afterPlace+body))
}

// dense returns Lua as it goes over the wire, without indentation and without
// spaces around operators: a server that has lost a script is sent its source. No
// string of the scripts has an operator in it.
func dense(lua string) string {
	lua = regexp.MustCompile(`\n +`).ReplaceAllString(lua, "\n")
	return regexp.MustCompile(` ?([=~<>]=|[=<>,+*]|\.\.) ?`).ReplaceAllString(lua, "$1")
}

// What the caller of Acquire wants, ARGV[8].
const (
	Missing = ""      // the value, or the lease if it is missing or stale
	Unfit   = "unfit" // and also the lease if the entry of the token ARGV[4] is there, which cannot be used
	Due     = "due"   // and also if it is there, though fresh; any entry, if ARGV[4] is ''
	Now     = "now"   // the lease, whoever has it
)

// Acquire gives the value of a key, or the lease on it.
//
//	KEYS[1]  the entry
//	ARGV[1]  token: 8 bytes, fresh for every call
//	ARGV[2]  milliseconds that the lease holds
//	ARGV[3]  what the caller expects the load to cost: 4 bytes
//	ARGV[4]  token of an entry that the caller has read, or ''
//	ARGV[5]  '1': publish on WakeChannel when the lease that I wait for ends
//	ARGV[6]  '1': the caller has waited for so long that the lease is suspect
//	ARGV[7]  milliseconds that a value is of use after it is stale, '' forever
//	ARGV[8]  what the caller wants: see above
//	ARGV[9]  half of the milliseconds that a pause after one failed load may last
//	ARGV[10] milliseconds that any pause may last
//
//	returns  {'G'}                lease granted; there is no value
//	         {'R', entry}         lease granted; the value is there
//	         {'V', entry}         the value, fresh
//	         {'N', entry}         there is none, and that is known
//	         {'S', entry}         the value; somebody has the lease, or the last
//	                              load failed and it is too early for another
//	         {'W', born .. cost .. token}  no value; the lease of this token is held.
//	                              Where there is a value of no use any more, born and
//	                              cost are its own
//
// Why it is safe: a lease is granted only where the key is absent, holds no
// entry, holds the very entry that the caller could not use, knows of no value,
// or holds a value without a lease that is still held; or where the caller wants
// it now, and then whoever had it is fenced. What it replaces is lost to nobody,
// and a token that it replaces is fenced. It is sent once:
// a copy that runs after the first one's lease was deleted would grant again
// what the deletion took away. A copy that runs while the lease holds finds its
// own token and grants the same again, or gives the value if that is fresh, but
// forgets an Expire in between.
//
// A value's life is prolonged to that of the lease, or it would be gone when a
// load that failed wants to leave it as it was. Since that may happen again and
// again, not the TTL says for how long a value is of use, but ARGV[7]; and one that was
// fresh for as long as it exists is fresh until it would have ended.
//
// A lease that ends later than any does would be waited for although its holder is
// dead: one that has lost its TTL, by a PERSIST or a RESTORE, or outlives a step
// back of the server's clock. If the caller has waited for longer than a lease
// lasts, it gets its due length from now. A holder that lives prolongs it. A
// pause that ends later than any does is over.
//
// A cache that serves no stale values has values end with their TTL, and one that
// was SET says when it ends by the clock of its writer. So without stale windows
// the TTL decides, as long as there is one; soft decides once a PERSIST took it.
var Acquire = leasing("acquire", `
local want, lease = ARGV[8], tonumber(ARGV[2])
local there, ours = h and not (want == 'unfit' and token == ARGV[4]), want == 'now' or token == ARGV[1]
local function await()
  if ARGV[5] == '1' and awaited == 0 then
    awaited = 1
    mark()
    write(5, 6)
  end
end
local function busy()
  await()
  return {'W', sub(h, 27, 36) .. token}
end
if there and state == 'L' and not ours then
  if ARGV[6] == '1' then
    local left = left()
    if left < 0 or left > lease then last(ARGV[2]) end
  end
  return busy()
end
if there and state ~= 'L' then
  local at, soft, till = now(), get48(sub(h, 7, 12)), get48(sub(h, 21, 26))
  local due = want == 'now' or (want == 'due' and (ARGV[4] == '' or ARGV[4] == token))
  local fresh = stale == 0 and (soft > at
    or (ARGV[7] == '0' and state == 'V' and till == 0 and token ~= NOBODY and left() >= 0))
  if not leased and till > at + math.min(ARGV[9] * 2 ^ fails, ARGV[10] + 0) then till = 0 end
  if fresh and not due then
    return {state, whole()}
  end
  if state == 'V' then
    local useful = fresh or ARGV[7] == '' or soft + ARGV[7] > at
    if till > at and not ours and (useful or leased) then
      if leased and ARGV[6] == '1' and till > at + lease then
        edit(21, put48(at + lease))
        write(6, 26)
      end
      if not useful then return busy() end
      if leased then await() end
      return {'S', whole()}
    end
    if useful then
      wake()
      expired, awaited = 0, 0
      mark()
      edit(13, ARGV[1] .. put48(at + lease))
      local left = left()
      if left >= 0 then
        if soft > 2 ^ 47 then edit(7, put48(at + left)) end
        if left < lease then last(ARGV[2]) end
      end
      write(5, 26)
      return {'R', whole()}
    end
  end
end
wake()
header('L', '\0', NONE, ARGV[1], put48(now()), ARGV[3], '\0\0\0\0')
put('', ARGV[2])
return {'G'}
`)

// Store puts a loaded value in place of the lease, or that there is none.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  milliseconds since the load began
//	ARGV[5]  cost and sum: 8 bytes of the header
//	ARGV[6]  payload
//	ARGV[7]  state: 'V', or 'N' if there is no value
//
//	returns  1  stored
//	         2  was stored before: the reply of an earlier copy was lost
//	         3  stored, stale at once: the key was expired by hand meanwhile. That
//	            there is no value is not stored then
//	         0  not stored: the lease is lost
//
// Why it is safe: the value is stored only where the token still is. Whatever
// took the token away, a deletion, a write, an eviction, another lease, came
// after the load began, and the value may be older than that. A lease that ran
// out and that nobody took is as good as one that holds. It may be sent twice;
// a copy that finds nothing, where the first one returned 3 and left nothing,
// returns 0. A packed value has lost its token by then; there, a copy that finds
// what it would store returns 2, for it is no matter who has stored that.
var Store = leasing("store", `
if not h or token ~= ARGV[1] then
  if same(ARGV[7], ARGV[6]) then return 2 end
  return 0
end
if not leased then return 2 end
wake()
local at, soft = now(), FOREVER
if expired == 1 then soft = put48(at) elseif ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
if expired == 1 and ARGV[7] == 'N' then
  drop()
  return 3
end
header(ARGV[7], string.char(expired * 4), soft, ARGV[1], put48(at - ARGV[4]), string.sub(ARGV[5], 1, 4), string.sub(ARGV[5], 5, 8))
put(ARGV[6], ARGV[2])
return 1 + expired * 2
`)

// Renew is Store of the value that is there, which has not changed.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  milliseconds since the load began
//	ARGV[5]  cost: 4 bytes of the header
//
//	returns  as Store
//
// Why it is safe: as Store. The token was granted on this value, and whatever
// replaces the value replaces the token. It may be sent twice; of a packed value,
// which has lost its token by then, the copy returns 0.
var Renew = leasing("renew", `
if not h or token ~= ARGV[1] or state ~= 'V' then return 0 end
if not leased then return 2 end
wake()
local at, soft = now(), FOREVER
if expired == 1 then soft = put48(at) elseif ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
edit(5, string.char(count * 8 + expired * 4))
edit(7, soft .. token .. NONE .. put48(at - ARGV[4]) .. ARGV[5])
write(5, 36)
last(ARGV[2])
return 1 + expired * 2
`)

// Write puts a value there, whatever there was.
//
//	KEYS[1]  the entry
//	ARGV[1]  header: soft and born are 0
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  payload
//
//	returns  1
//
// Why it is safe: the token of a load under way is replaced, which fences it.
// Of two writes, the last one stays. It is sent once: a copy that is late would
// take the place of what was written or deleted since.
//
// The same is done by a SET of an entry that is fresh for as long as it exists, with GET,
// and then Wake if what was there is a lease that somebody awaits. It takes Redis a tenth
// of the time.
//
// It does without the prelude, since it is what caches do all day that keep values when
// they are stale; that takes half the time. What the check of the header is to be is
// carried along. Of what was there one flag is looked at: if that is not an entry, nobody
// waits, and a message too many does no harm.
var Write = func() *Script {
	s := New("write", dense(basics+publish+`
local e = redis.pcall('GETRANGE', key, 0, 39)
if type(e) == 'string' and #e == 40 and string.sub(e, 1, 3) == '\193X\1' and math.floor(string.byte(e, 5) / 2) % 2 == 1 then
  publish(key)
end
local h, at, soft = ARGV[1], now(), '\255\255\255\255\255\255'
if ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
local born = put48(at)
local a, b, c, d, f, g = string.byte(soft, 1, 6)
local check = string.byte(h, 6) + a + b + c + d + f + g
a, b, c, d, f, g = string.byte(born, 1, 6)
check = (check + a + b + c + d + f + g) % 256
e = string.sub(h, 1, 5) .. string.char(check) .. soft .. string.sub(h, 13, 26) .. born .. string.sub(h, 33, 40) .. ARGV[4]
if ARGV[2] == '' then redis.call('SET', key, e) else redis.call('SET', key, e, 'PX', ARGV[2]) end
return 1
`))
	s.packed = packing("write", `
wake()
local at, soft = now(), FOREVER
if ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
h = ARGV[1]
edit(7, soft)
edit(27, put48(at))
put(ARGV[4], ARGV[2])
return 1
`)
	return s
}()

// Wake tells those who wait for a lease on KEYS[1] that it has ended. It returns nothing
// of use.
var Wake = New("wake", dense("local key = KEYS[1]"+publish+"publish(key)"))

// Extend prolongs a lease, as the heartbeat of a load.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the lease holds from now
//
//	returns  1  prolonged
//	         2  prolonged; the key was expired by hand since the lease was granted
//	         0  the lease is lost: nothing will be stored
//
// Why it is safe: only the lease of this token is prolonged, and with it the
// value that it stands on. It may be sent twice.
var Extend = leasing("extend", `
if not h or token ~= ARGV[1] or not leased then return 0 end
if state == 'V' then
  edit(21, put48(now() + ARGV[2]))
  write(6, 26)
end
local left = left()
if left >= 0 and left < tonumber(ARGV[2]) then last(ARGV[2]) end
return 1 + expired
`)

// Release gives a lease back without a value.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  'drop': take away the value that it stands on; else milliseconds
//	         until somebody may try again to replace that, after the first failure
//	         of several; '' no time at all
//	ARGV[3]  milliseconds that it is at most, however many have failed
//
//	returns  1  given back: the key is absent, or its value has no lease
//	         2  likewise; the key was expired by hand since the lease was granted
//	         0  the lease is lost, or a value is stored
//
// Why it is safe: what does not have the token is not touched, so a release that
// comes after a deletion, a write or another lease does nothing. The token of a
// value that stays is taken away too, or a Store that is late could still use it.
// It may be sent twice.
//
// The time doubles with each failure, and is none if the value was expired by
// hand while it was loaded: whoever did that knows of something new.
var Release = leasing("release", `
if not h or token ~= ARGV[1] or not leased then return 0 end
local outcome = 1 + expired
wake()
if state == 'L' or ARGV[2] == 'drop' then
  drop()
  return outcome
end
local till = NONE
if ARGV[2] ~= '' and expired == 0 then
  till = put48(now() + math.floor(math.min(ARGV[2] * 2 ^ fails, tonumber(ARGV[3]))))
  fails = math.min(fails + 1, 15)
end
expired, awaited = 0, 0
mark()
edit(13, NOBODY .. till)
write(5, 26)
return outcome
`)

// Expire makes a value stale without taking it away, and whatever a load under
// way is going to store.
//
//	KEYS[1]  the entry
//
//	returns  1  expired
//	         0  there is no entry
//
// Why it is safe: a lease keeps its token, so that a load is still stored, and
// is marked, so that what it stores is stale: a key that is expired faster than
// it loads still gets newer values, one a load. That there is no value is not
// stale but forgotten. A pause after a load that failed ends. It may be sent
// twice.
var Expire = leasing("expire", `
if not h then return 0 end
if state == 'N' then
  drop()
  return 1
end
if leased then expired = 1 end
if state == 'V' then
  local at = now()
  if get48(string.sub(h, 7, 12)) > at then edit(7, put48(at)) end
  stale = 1
  if token == NOBODY then
    fails = 0
    edit(21, NONE)
  end
end
mark()
write(5, 26)
return 1
`)
