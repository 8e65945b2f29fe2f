package script

import "strings"

// A count is an entry whose payload is a decimal number, an int64. Scripts add
// to it. They must not convert it to a number of Lua, which is exact only up to
// 2^53.
//
// counting begins these scripts. plus adds decimal strings, and returns nil if
// the sum exceeds int64. Numbers of Lua are exact for small, non-negative
// operands; otherwise plus computes in two halves, of ten digits each. The base
// is explicit, since the Lua of the embedded server reads a leading 0 as octal.
const counting = basics + `
local HALF = 1e10
local function halves(s)
  local sign = 1
  if string.byte(s, 1) == 45 then sign, s = -1, string.sub(s, 2) end
  if #s <= 10 then return 0, sign * tonumber(s, 10) end
  return sign * tonumber(string.sub(s, 1, -11), 10), sign * tonumber(string.sub(s, -10), 10)
end
local function minus(s)
  if string.byte(s, 1) == 45 then return string.sub(s, 2) end
  return '-' .. s
end
local function plus(one, two, ...)
  if #one <= 15 and #two <= 15 and select('#', ...) == 0 and string.byte(one, 1) ~= 45 and string.byte(two, 1) ~= 45 then
    return string.format('%.0f', tonumber(one, 10) + tonumber(two, 10))
  end
  local hi, lo = 0, 0
  for _, s in ipairs({one, two, ...}) do
    local h, l = halves(s)
    hi, lo = hi + h, lo + l
    if lo >= HALF then hi, lo = hi + 1, lo - HALF end
    if lo <= -HALF then hi, lo = hi - 1, lo + HALF end
  end
  if hi > 0 and lo < 0 then hi, lo = hi - 1, lo + HALF end
  if hi < 0 and lo > 0 then hi, lo = hi + 1, lo - HALF end
  local sign = ''
  if hi < 0 or lo < 0 then sign, hi, lo = '-', 0 - hi, 0 - lo end
  if hi > 922337203 or (hi == 922337203 and lo > 6854775807 and not (sign == '-' and lo == 6854775808)) then return nil end
  if hi == 0 then return sign .. string.format('%.0f', lo) end
  return sign .. string.format('%.0f%010.0f', hi, lo)
end
`

// AddCount adds to a count. If behind is set, it also adds the delta to the
// pending write-behind value. If once is set, it adds only if the operation was
// not added before.
//
//	KEYS     the entry; with behind P; with once the record of the operation
//	ARGV[1]  delta: decimal
//	ARGV[2]  milliseconds that the count is kept from now, '' forever
//	ARGV[3]  '1': a count that is absent is 0; '0': it has to be loaded; 'p':
//	         it stays absent, and the delta is pending anyway
//	ARGV[4]  token of a new entry
//	ARGV[5]  with behind: the id in P
//	ARGV[6]  with once: milliseconds that the operation is remembered
//
//	returns  {'A', count}  added
//	         {'P'}         pending, and there is no count
//	         {'D', count}  it was added before, with this result
//	         {'M'}         there is no count, or it is stale: nothing has
//	                       changed
//	         {'O'}         the count would exceed int64: nothing has changed
//
// Why it is safe: the count, the pending value and the operation change
// together. A lease on the count stays, with its token: its loader stores with
// LandCount, which adds the deltas since. If there is only a lease, AddCount
// adds nothing, or it would be unclear whether the source knows of the delta.
// If the count is never loaded, the lease is fenced. It is sent once, except
// with an operation: a copy then finds the operation.
//
// It does without the prelude, since counters run it all day. It computes the
// new check of the header from the old one and the changes. So a wrong check
// stays wrong, and a reader of the entry sees that.
func AddCount(behind, once bool) *Script { return addCount[index(behind)+2*index(once)] }

// LandCount stores a loaded count in place of the lease, as Store does. It adds
// the deltas that the source does not know of. With behind, these are the
// pending ones; otherwise they are the deltas since the lease was granted.
//
//	KEYS     the entry; with behind P, I, U and L
//	ARGV[1]  token of the lease
//	ARGV[2]  milliseconds that the count is kept, '' forever
//	ARGV[3]  milliseconds since the load began
//	ARGV[4]  cost: 4 bytes of the header
//	ARGV[5]  the count that was loaded
//	ARGV[6]  the count on which the lease was granted, '' if there was none
//	ARGV[7]  with behind: the id, and in ARGV[8] and ARGV[9] inc and moment of
//	         a LookBatch before the load
//	ARGV[10] '', StillInFlight or Whatever
//	ARGV[11] with StillInFlight or Whatever: the value in flight, which is
//	         added too. '=' and a total replaces everything older: the loaded
//	         count and U are older than the value in flight, and that is older
//	         than P
//
//	returns  {'S', count}  stored; or it was before, and this is the count now
//	         {'F'}         not stored: the lease is lost
//	         {'C'}         not stored: the loaded count may be from before or
//	                       after a batch was persisted. The lease holds: look
//	                       and load again
//	         {'O'}         not stored: the count would exceed int64
//
// Why it is safe: as Store. A caller that adds under a lease leaves the token,
// and a caller that sets the count replaces it. So under one token the count
// grows only by the deltas that were added. It may be sent twice.
//
// With StillInFlight or Whatever the count may be wrong by a batch, so AckBatch
// deletes it with the next batch.
func LandCount(behind bool) *Script { return landCount[index(behind)] }

// StillInFlight and Whatever tell how much a load may trust, in ARGV[10] of
// LandCount. Without either, no batch was taken or persisted since the
// LookBatch, and no batch in flight has the id.
const (
	StillInFlight = "f" // the batch that LookBatch saw is still in flight, and counts as not persisted
	Whatever      = "1" // any batch may have been taken or persisted since
)

// SetCount sets a count that is written behind. The total itself is pending,
// and not the difference to the old count: no process knows the count of the
// database for certain.
//
//	KEYS     the entry, P
//	ARGV[1]  token of the new entry
//	ARGV[2]  milliseconds that the count is kept, '' forever
//	ARGV[3]  the count
//	ARGV[4]  the id in P
//
//	returns  1
//
// Why it is safe: the count and the pending value change together. SetCount
// replaces the token of a load in flight, which fences it. It is sent once: a
// late copy would undo the changes in between.
var SetCount = New("set count", prelude+Pend+`
behind_put(KEYS[2], ARGV[4], '=' .. ARGV[3])
wake()
local at, soft = now(), FOREVER
if ARGV[2] ~= '' then soft = put48(at + ARGV[2]) end
header('V', '\8', soft, ARGV[1], put48(at), '\0\0\0\0', '\0\0\0\0')
put(ARGV[3], ARGV[2])
return 1
`)

var addCount, landCount = func() (add [4]*Script, landing [2]*Script) {
	for behind := range 2 {
		landing[behind] = New("land count", land(behind == 1))
		for once := range 2 {
			add[behind+2*once] = New([2]string{"add count", "add count once"}[once], adding(behind == 1, once == 1))
		}
	}
	return add, landing
}()

func index(b bool) int {
	if b {
		return 1
	}
	return 0
}

// adding returns the source of AddCount.
func adding(behind, once bool) string {
	src := counting
	note := ""
	if behind {
		src += Pend
		note = "if ARGV[1] ~= '0' then behind_add(KEYS[2], ARGV[5], ARGV[1]) end\n"
	}
	operation, remember := "", ""
	if once {
		op := "KEYS[2]"
		if behind {
			op = "KEYS[3]"
		}
		operation = "local done = redis.call('GET', " + op + ")\nif done then return {'D', done} end\n"
		remember = "redis.call('SET', " + op + ", total, 'PX', ARGV[6])\n"
	}
	return src + operation + `
local e = redis.pcall('GETRANGE', key, 0, 64)
local at, total, flags, check, a, b, c, d, f, g = now()
if type(e) == 'string' and #e > 40 and #e <= 60 and string.sub(e, 1, 4) == '\193X\1V' then
  local value = string.match(e, '^%-?%d+$', 41)
  flags, check, a, b, c, d, f, g = string.byte(e, 5, 12)
  local soft = ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + f) * 256 + g
  if value and soft > at and math.floor(flags / 4) % 2 == 0 then
    total = plus(value, ARGV[1])
    if not total then return {'O'} end
  end
end

local keep = ARGV[2]
local soft = '\255\255\255\255\255\255'
if keep ~= '' then soft = put48(at + keep) end
local header
if total then
  check = check - flags - a - b - c - d - f - g
  if math.floor(flags / 8) % 2 == 0 then flags = flags + 8 end
  a, b, c, d, f, g = string.byte(soft, 1, 6)
  check = (check + flags + a + b + c + d + f + g) % 256
  header = '\193X\1V' .. string.char(flags, check) .. soft .. string.sub(e, 13, 40)
  if keep ~= '' and string.sub(e, 21, 26) ~= '\0\0\0\0\0\0' then
    keep = math.max(keep, redis.call('PTTL', key))
  end
elseif ARGV[3] == '1' then
  total = ARGV[1]
  header = '\193X\1V\8\0' .. soft .. ARGV[4] .. '\0\0\0\0\0\0' .. put48(at) .. '\0\0\0\0\0\0\0\0'
  local n = 0
  for i = 1, 40 do n = n + string.byte(header, i) end
  header = string.sub(header, 1, 5) .. string.char(n % 256) .. string.sub(header, 7)
elseif ARGV[3] ~= 'p' then
  return {'M'}
end
` + note + `
if not header then return {'P'} end
if keep == '' then redis.call('SET', key, header .. total) else redis.call('SET', key, header .. total, 'PX', keep) end
` + remember + `return {'A', total}
`
}

// land returns the source of LandCount.
func land(behind bool) string {
	src := prelude + strings.TrimPrefix(counting, basics)
	unsure, mark, rest := "", "", "if state == 'V' and ARGV[6] ~= '' then total = plus(total, was, minus(ARGV[6])) end\n"
	if behind {
		src += PendLook
		unsure = `if ARGV[10] == 'f' then
  local inc, moment, flying = behind_moment(KEYS[3])
  if inc ~= ARGV[8] or moment ~= ARGV[9] or not flying then return {'C'} end
elseif ARGV[10] == '' and not behind_unchanged(KEYS[3], KEYS[5], ARGV[8], ARGV[9], ARGV[7]) then
  return {'C'}
end
`
		mark = `
if ARGV[10] ~= '' then
  local one, all = #key .. ':' .. key, redis.call('HGET', KEYS[3], '#unsure') or ''
  if not string.find(all, one, 1, true) then redis.call('HSET', KEYS[3], '#unsure', all .. one) end
end
`
		rest = `
local more = {'0'}
for _, v in ipairs({behind_pending(KEYS[4], ARGV[7]) or '0', ARGV[11], behind_pending(KEYS[2], ARGV[7]) or '0'}) do
  if string.byte(v, 1) == 61 then total, more = string.sub(v, 2), {'0'} else more[#more + 1] = v end
end
total = plus(total, unpack(more))
`
	}
	return src + `
if not h or token ~= ARGV[1] or state == 'N' then return {'F'} end
local was
if state == 'V' then
  was = string.match(redis.call('GETRANGE', key, 40, 64), '^%-?%d+$')
  if not was then return {'F'} end
end
if not leased then return {'S', was} end
` + unsure + `
local total = ARGV[5]
` + rest + `
if not total then return {'O'} end
` + mark + `
wake()
local at, soft = now(), FOREVER
if expired == 1 then soft = put48(at) elseif ARGV[2] ~= '' then soft = put48(at + ARGV[2]) end
header('V', string.char(8 + expired * 4), soft, ARGV[1], put48(at - ARGV[3]), ARGV[4], '\0\0\0\0')
put(total, ARGV[2])
return {'S', total}
`
}
