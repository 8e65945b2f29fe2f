package script

import "regexp"

// prelude begins every script of the lease protocol. It reads the header of
// KEYS[1] into h. If the key does not hold an entry with a valid header, h is
// false. A key of another type is not an entry either, hence pcall.
//
// The offsets are the offsets of package entry, counted from 1 as in Lua.
//
// Bytes are compared with == alone: Lua's < on strings follows the locale. sum
// takes eight bytes at a time, so its input is a multiple of eight. One by one,
// they took a fifth of the time of a script.
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

// leasing returns a script of the lease protocol, together with its packed
// form.
func leasing(name, body string) *Script {
	s := New(name, dense(prelude+plainLife+body))
	s.packed = packing(name, body)
	return s
}

// packing returns a script of the lease protocol for packed entries.
func packing(name, body string) *Script {
	return New(name, dense(beforePlace+packedPlace+afterPlace+body))
}

// dense returns Lua in the form that is sent: without indentation, and without
// spaces around operators. A server that has lost a script is sent its source.
// No string of the scripts contains an operator.
func dense(lua string) string {
	lua = regexp.MustCompile(`\n +`).ReplaceAllString(lua, "\n")
	return regexp.MustCompile(` ?([=~<>]=|[=<>,+*]|\.\.) ?`).ReplaceAllString(lua, "$1")
}

// Missing, Unfit, Due and Now are the wishes of a caller of Acquire, in
// ARGV[8].
const (
	Missing = ""      // the value, or the lease if it is missing or stale
	Unfit   = "unfit" // also the lease if the entry with the token ARGV[4] is there, which cannot be used
	Due     = "due"   // also the lease if that entry is there, though fresh; any entry, if ARGV[4] is ''
	Now     = "now"   // the lease, even if another process has it
)

// Acquire returns the value of a key, or grants the lease on it.
//
//	KEYS[1]  the entry
//	ARGV[1]  token: 8 bytes, fresh for every call
//	ARGV[2]  milliseconds that the lease holds
//	ARGV[3]  cost of the load that the caller expects: 4 bytes
//	ARGV[4]  token of an entry that the caller has read, or ''
//	ARGV[5]  '1': publish on WakeChannel at the end of the awaited lease
//	ARGV[6]  '1': the caller has waited for so long that the lease is suspect
//	ARGV[7]  milliseconds that a value is of use after it is stale, '' forever
//	ARGV[8]  the wish of the caller: see above
//	ARGV[9]  half of the milliseconds that a pause after one failed load may
//	         last
//	ARGV[10] milliseconds that any pause may last
//
//	returns  {'G'}                lease granted; there is no value
//	         {'R', entry}         lease granted; the value is there
//	         {'V', entry}         the value, fresh
//	         {'N', entry}         there is no value, and that is known
//	         {'S', entry}         the value; another process has the lease, or
//	                              it is too early after a failed load
//	         {'W', born .. cost .. token}  no value; the lease of this token
//	                              is held. If there is a value that is no
//	                              longer of use, born and cost come from the
//	                              value
//
// Why it is safe: Acquire grants a lease only if the key is absent, holds no
// entry, or holds the very entry that the caller could not use. It also does if
// the entry says that there is no value, or has a value whose lease is not
// held. If the caller wants the lease now, Acquire always grants it, and the
// previous holder is fenced. No caller loses the state that Acquire replaces,
// and a token that it replaces is fenced.
//
// It is sent once: a copy that runs after the lease of the first was deleted
// would grant again the lease that the deletion took away. A copy that runs
// while the lease holds finds its own token. It grants the same again, or
// returns the value if that is fresh, but it forgets an Expire in between.
//
// Acquire prolongs the life of a value to the life of the lease. Otherwise the
// value would be gone when a failed load wants to leave it as it was. Since
// this may happen repeatedly, ARGV[7], and not the TTL, says how long a value
// is of use. A value that was fresh for its whole life is fresh until it would
// have ended.
//
// A lease may end later than any lease lasts: if it has lost its TTL, by a
// PERSIST or a RESTORE, or outlives a step back of the server's clock. Callers
// would wait for it although its holder is dead. If the caller has waited for
// longer than a lease lasts, the lease gets its due length from now. A live
// holder prolongs it. A pause that ends later than any pause lasts is over.
//
// In a cache that serves no stale values, values end with their TTL. If such a
// value was stored by SET, its header tells its end by the clock of its writer.
// So without stale windows the TTL decides, as long as there is one; soft
// decides after a PERSIST took it.
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

// Store replaces the lease by a loaded value, or by the fact that there is
// none.
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
//	         2  stored before: the reply of an earlier copy was lost
//	         3  stored, stale at once: the key was expired by hand meanwhile.
//	            In this case, state 'N' is not stored
//	         0  not stored: the lease is lost
//
// Why it is safe: Store stores the value only if the token is still there. A
// deletion, a write, an eviction or another lease takes the token away. Each
// came after the load began, and the value may be older. If a lease has run out
// and no process has taken it, it is as good as a lease that holds.
//
// It may be sent twice. If the first copy returned 3 and left nothing, a copy
// that finds nothing returns 0. A packed value has lost its token by then.
// There, a copy that finds the same value returns 2, since it does not matter
// which caller stored it.
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

// Renew does the work of Store for the value that is there, which has not
// changed.
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
// Why it is safe: as Store. The token was granted on this value, and any
// command that replaces the value replaces the token. It may be sent twice. A
// packed value has lost its token by then, so the copy returns 0.
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

// Write stores a value, and replaces any state of the key.
//
//	KEYS[1]  the entry
//	ARGV[1]  header: soft and born are 0
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  payload
//
//	returns  1
//
// Why it is safe: Write replaces the token of a load in flight, which fences
// it. Of two writes, the last one stays. It is sent once: a late copy would
// undo later writes and deletions.
//
// For an entry that is fresh for its whole life, a SET with GET does the same.
// It takes Redis a tenth of the time. Wake must follow if the old entry is a
// lease for which a process waits.
//
// Write does without the prelude, which takes half the time: caches that keep
// stale values run it all day. It computes the check of the header from the
// check in ARGV[1]. Of the old content it reads one flag. If that is not an
// entry, no process waits, and an extra message does no harm.
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

// Wake tells the processes that wait for a lease on KEYS[1] that it has ended.
// Its reply has no meaning.
var Wake = New("wake", dense("local key = KEYS[1]"+publish+"publish(key)"))

// Extend prolongs a lease, as the heartbeat of a load.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the lease holds from now
//
//	returns  1  prolonged
//	         2  prolonged; the key was expired by hand since the lease was
//	            granted
//	         0  the lease is lost: nothing will be stored
//
// Why it is safe: Extend prolongs only the lease of this token, and with it the
// value under that lease. It may be sent twice.
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
//	ARGV[2]  'drop': delete the value under the lease; else milliseconds until
//	         another process may try again to replace it, after the first
//	         failure of several; '' no time at all
//	ARGV[3]  maximum of these milliseconds, after any number of failures
//
//	returns  1  given back: the key is absent, or its value has no lease
//	         2  likewise; the key was expired by hand since the lease was
//	            granted
//	         0  the lease is lost, or a value is stored
//
// Why it is safe: Release changes nothing that does not have the token. So a
// release that comes after a deletion, a write or another lease does nothing.
// It also takes the token from a value that stays; otherwise a late Store could
// still use it. It may be sent twice.
//
// The time doubles with each failure. It is zero if the value was expired by
// hand while it was loaded: the caller of Expire knows of something new.
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

// Expire makes a value stale without deleting it. A load in flight will also
// store its value stale.
//
//	KEYS[1]  the entry
//
//	returns  1  expired
//	         0  there is no entry
//
// Why it is safe: a lease keeps its token, so a load is still stored. The lease
// is marked, so the load stores its value stale. A key that is expired faster
// than it loads still gets newer values, one for each load. An entry that says
// that there is no value does not become stale: it is deleted. A pause after a
// failed load ends. It may be sent twice.
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
