package script

// WakeChannel is where the scripts publish the key of a lease that ended, if
// somebody waits for it.
const WakeChannel = "cachex:wake"

// prelude is the beginning of every script of the lease protocol: it reads the
// header of KEYS[1] into h, false if what is there is not an entry with a header
// that holds. The key of another type is "not an entry" too, hence pcall.
//
// The offsets are those of package entry, counted from 1 as Lua does.
//
// Bytes are compared with == alone: Lua's < on strings follows the locale.
const prelude = `
local key = KEYS[1]
local NONE, FOREVER = string.rep('\0', 6), string.rep('\255', 6)
local function sum(s)
  local n = 0
  for i = 1, #s do n = n + string.byte(s, i) end
  return n
end
local function get48(s)
  local n = 0
  for i = 1, 6 do n = n * 256 + string.byte(s, i) end
  return n
end
local function put48(n)
  local s = ''
  for i = 1, 6 do
    s = string.char(n % 256) .. s
    n = math.floor(n / 256)
  end
  return s
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local h = redis.pcall('GETRANGE', key, 0, 39)
if type(h) ~= 'string' or #h ~= 40 or string.sub(h, 1, 3) ~= '\193X\1'
  or (string.sub(h, 4, 4) ~= 'V' and string.sub(h, 4, 4) ~= 'L') or string.byte(h, 5) > 3
  or (sum(h) - string.byte(h, 6)) % 256 ~= string.byte(h, 6) then
  h = false
end
local state, flags, token, leased
if h then
  state, flags, token = string.sub(h, 4, 4), string.byte(h, 5), string.sub(h, 13, 20)
  leased = state == 'L' or string.sub(h, 21, 26) ~= NONE
end
local function edit(from, bytes)
  h = string.sub(h, 1, from - 1) .. bytes .. string.sub(h, from + #bytes)
  local check = string.char((sum(h) - string.byte(h, 6)) % 256)
  h = string.sub(h, 1, 5) .. check .. string.sub(h, 7)
end
local function write(from, to)
  redis.call('SETRANGE', key, from - 1, string.sub(h, from, to))
end
local function wake()
  if h and flags >= 2 then redis.pcall('PUBLISH', '` + WakeChannel + `', key) end
end
local function header(state, soft, token, born, cost, crc)
  h = '\193X\1' .. state .. '\0\0' .. soft .. token .. NONE .. born .. cost .. crc
  edit(5, '\0')
  return h
end
`

// Acquire gives the value of a key, or the lease on it.
//
//	KEYS[1]  the entry
//	ARGV[1]  token: 8 bytes, fresh for every call
//	ARGV[2]  milliseconds that the lease holds
//	ARGV[3]  what the caller expects the load to cost: 4 bytes
//	ARGV[4]  token of an entry that the caller could not use, or ''
//	ARGV[5]  '1': publish to WakeChannel when the lease that I wait for ends
//	ARGV[6]  '1': the caller has waited for so long that the lease is suspect
//
//	returns  {'G'}                lease granted; there is no value
//	         {'R', entry}         lease granted; the value is stale
//	         {'V', entry}         the value, fresh
//	         {'S', entry}         the value, stale; somebody has the lease
//	         {'W', born .. cost}  no value; somebody has the lease
//
// Why it is safe: a lease is granted only where the key is absent, holds no
// entry, holds the very entry that the caller could not use, or holds a stale
// value without a lease that is still held. What it replaces is lost to nobody,
// and a token that it replaces is fenced. It must not be sent twice (RunOnce):
// a copy that runs after the first one's lease was deleted would grant again
// what the deletion took away. A copy that runs while the lease holds finds its
// own token and grants the same again, but forgets an Expire in between.
//
// A value's life is prolonged to that of the lease, or it would be gone when a
// load that failed wants to leave it as it was. A lease that has lost its TTL,
// by a PERSIST or a RESTORE, would be waited for without end: it gets one.
var Acquire = New("acquire", prelude+`
local function await()
  if ARGV[5] == '1' and flags < 2 then
    edit(5, string.char(flags + 2))
    write(5, 6)
  end
end
if state == 'L' and token ~= ARGV[1] and token ~= ARGV[4] then
  if ARGV[6] == '1' and redis.call('PTTL', key) < 0 then redis.call('PEXPIRE', key, ARGV[2]) end
  await()
  return {'W', string.sub(h, 27, 36)}
end
if state == 'V' and token ~= ARGV[4] then
  local at = now()
  if get48(string.sub(h, 7, 12)) > at then
    return {'V', redis.call('GET', key)}
  end
  if get48(string.sub(h, 21, 26)) > at and token ~= ARGV[1] then
    await()
    return {'S', redis.call('GET', key)}
  end
  local lease = tonumber(ARGV[2])
  edit(5, '\0')
  edit(13, ARGV[1] .. put48(at + lease))
  write(5, 26)
  local left = redis.call('PTTL', key)
  if left >= 0 and left < lease then redis.call('PEXPIRE', key, ARGV[2]) end
  return {'R', redis.call('GET', key)}
end
redis.call('SET', key, header('L', NONE, ARGV[1], put48(now()), ARGV[3], '\0\0\0\0'), 'PX', ARGV[2])
return {'G'}
`)

// Store puts a loaded value in place of the lease.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  milliseconds since the load began
//	ARGV[5]  cost and sum: 8 bytes of the header
//	ARGV[6]  payload
//
//	returns  1  stored
//	         2  was stored before: the reply of an earlier copy was lost
//	         3  stored, stale at once: the key was expired by hand meanwhile
//	         0  not stored: the lease is lost
//
// Why it is safe: the value is stored only where the token still is. Whatever
// took the token away, a deletion, a write, an eviction, another lease, came
// after the load began, and the value may be older than that. A lease that ran
// out and that nobody took is as good as one that holds. It may be sent twice.
var Store = New("store", prelude+`
if not h or token ~= ARGV[1] then return 0 end
if not leased then return 2 end
wake()
local at, expired = now(), flags % 2 == 1
local soft = FOREVER
if expired then soft = NONE elseif ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
local entry = header('V', soft, ARGV[1], put48(at - ARGV[4]), string.sub(ARGV[5], 1, 4), string.sub(ARGV[5], 5, 8)) .. ARGV[6]
if ARGV[2] == '' then redis.call('SET', key, entry) else redis.call('SET', key, entry, 'PX', ARGV[2]) end
if expired then return 3 end
return 1
`)

// Write puts a value there, whatever there was.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of this write
//	ARGV[2]  milliseconds that the value is kept, '' forever
//	ARGV[3]  milliseconds that the value is fresh, '' forever
//	ARGV[4]  sum: 4 bytes of the header
//	ARGV[5]  payload
//
//	returns  1
//
// Why it is safe: the token of a load under way is replaced, which fences it.
// Of two writes, the last one stays. It may be sent twice: the copies write the
// same, and a write of somebody else between them was made at the same time.
var Write = New("write", prelude+`
wake()
local at, soft = now(), FOREVER
if ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
local entry = header('V', soft, ARGV[1], put48(at), '\0\0\0\0', ARGV[4]) .. ARGV[5]
if ARGV[2] == '' then redis.call('SET', key, entry) else redis.call('SET', key, entry, 'PX', ARGV[2]) end
return 1
`)

// Extend prolongs a lease, as the heartbeat of a load.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the lease holds from now
//
//	returns  1  prolonged
//	         0  the lease is lost: nothing will be stored
//
// Why it is safe: only the lease of this token is prolonged, and with it the
// value that it stands on. It may be sent twice.
var Extend = New("extend", prelude+`
if not h or token ~= ARGV[1] or not leased then return 0 end
if state == 'V' then
  edit(21, put48(now() + ARGV[2]))
  write(6, 26)
end
local left = redis.call('PTTL', key)
if left >= 0 and left < tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
return 1
`)

// Release gives a lease back without a value.
//
//	KEYS[1]  the entry
//	ARGV[1]  token of the lease
//
//	returns  1  given back: the key is absent, or its stale value has no lease
//	         0  the lease is lost, or a value is stored
//
// Why it is safe: what does not have the token is not touched, so a release that
// comes after a deletion, a write or another lease does nothing. The token of a
// stale value is taken away too, or a Store that is late could still use it. It
// may be sent twice.
var Release = New("release", prelude+`
if not h or token ~= ARGV[1] or not leased then return 0 end
wake()
if state == 'L' then
  redis.call('DEL', key)
else
  edit(5, '\0')
  edit(13, string.rep('\0', 14))
  write(5, 26)
end
return 1
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
// it loads still gets newer values, one a load. It may be sent twice.
var Expire = New("expire", prelude+`
if not h then return 0 end
if leased and flags % 2 == 0 then edit(5, string.char(flags + 1)) end
if state == 'V' then edit(7, NONE) end
write(5, 12)
return 1
`)
