package script

// The scripts of the lease protocol find an entry only through these Lua
// functions. The functions exist twice: for an entry with a key of its own, and
// for a packed entry, in a field of a hash.
//
//	name             the name by which callers know the entry
//	h                its header, 40 bytes; false if there is nothing. It may
//	                 still not be a header
//	write(from, to)  stores these bytes of h, which have changed
//	whole()          the entry as it is now, for the caller of the script
//	put(payload, ms) stores h and payload as the entry, for ms; '' means
//	                 forever
//	drop()           deletes the entry
//	left()           milliseconds that the entry is kept, -1 forever
//	last(ms)         keeps the entry for ms from now; '' means forever
//	same(state, payload)
//	                 whether the entry is the same, and no longer has a token
//	                 that would tell
const plainPlace = `
local name = key
local h = redis.pcall('GETRANGE', key, 0, 39)
local function write(from, to)
  redis.call('SETRANGE', key, from - 1, sub(h, from, to))
end
local function whole() return redis.call('GET', key) end
local function put(payload, ms)
  if ms == '' then redis.call('SET', key, h .. payload) else redis.call('SET', key, h .. payload, 'PX', ms) end
end
`

const plainLife = `
local function drop() redis.call('UNLINK', key) end
local function left() return redis.call('PTTL', key) end
local function last(ms)
  if ms == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ms) end
end
local function same() return false end
`

// packedPlace is the form for packed entries; package entry describes their two
// formats. Its scripts have two more arguments after the others: the
// milliseconds for which a value is of use after it is stale, "" forever; and
// the field.
//
// An entry that has ended counts as absent, though its field exists. A script
// that stores a value also looks at a few other entries, and deletes those that
// have ended. So where entries come and go, about one in five that exist has
// ended. Where entries only end, a few stores delete the rest. The hash itself
// expires with the last of its entries to end.
//
// A key that is not a hash is treated as an empty one.
//
// string.byte has its second argument in every script: without it, the Lua of
// miniredis returns all bytes, which overflows its stack above 5,000.
const packedPlace = `
local field, beyond, LAST, SHORT, BASE = ARGV[#ARGV], ARGV[#ARGV - 1], 2 ^ 48 - 1, 2 ^ 41 - 1, 877965323264
local name, at = key .. ' ' .. field, now()
local function now() return at end
local function due(state, soft)
  if soft == LAST or (state == 'V' and beyond == '') then return LAST end
  if state == 'V' then return soft + beyond end
  return soft
end
local function short(s)
  local mark = string.byte(s, 1)
  return #s >= 7 and mark > 127 and mark ~= 193
end
local function about(s)
  local x, state = get48(s), 'V'
  if math.floor(x / 2 ^ 46) % 2 == 1 then state = 'N' end
  local soft = math.floor(x / 32) % 2 ^ 41
  if soft == SHORT then return state, LAST end
  return state, soft + BASE
end
local function ends(s)
  if short(s) then return due(about(s)) end
  if #s >= 46 and sub(s, 1, 3) == '\193X\1' then return get48(sub(s, 41, 46)) end
  return LAST
end
local s = redis.pcall('HGET', key, field)
local foreign, keep, content, h = type(s) == 'table', 0, '', false
if type(s) == 'string' then
  keep = ends(s)
  if keep <= at then
  elseif short(s) then
    local state, soft = about(s)
    local x = get48(s)
    local crc = (x % 32 * 256 + string.byte(s, 7) - sum(put48(x - x % 32) .. '\0\0')) % 8192
    h = put48(soft) .. sub(s, 1, 7) .. '\0' .. NONE .. NONE .. '\0\0\0\0\0\0' .. string.char(math.floor(crc / 256), crc % 256)
    h = '\193X\1' .. state .. '\0' .. string.char(sum('\193X\1' .. state .. h .. '\0\0') % 256) .. h
    content = sub(s, 8)
  else
    h, content = sub(s, 1, 40), sub(s, 47)
  end
end
local function save()
  local state, soft = sub(h, 4, 4), get48(sub(h, 7, 12))
  if state ~= 'L' and string.byte(h, 5) == 0 and sub(h, 21, 26) == NONE and sub(h, 13, 20) ~= NOBODY
    and keep == due(state, soft) and (soft == LAST or (soft >= BASE + 2 ^ 36 and soft < BASE + SHORT)) then
    local x = 2 ^ 47 + math.min(soft - BASE, SHORT) * 32
    if state == 'N' then x = x + 2 ^ 46 end
    local check = (string.byte(h, 39) * 256 + string.byte(h, 40) + sum(put48(x) .. '\0\0')) % 8192
    s = put48(x + math.floor(check / 256)) .. string.char(check % 256) .. content
  else
    s = h .. put48(keep) .. content
  end
  if foreign then redis.call('UNLINK', key) end
  foreign = false
  redis.call('HSET', key, field, s)
  local ttl = redis.call('PTTL', key)
  if keep == LAST then
    if ttl >= 0 then redis.call('PERSIST', key) end
  elseif (ttl >= 0 and ttl < keep - at) or (ttl < 0 and redis.call('HLEN', key) == 1) then
    redis.call('PEXPIRE', key, keep - at)
  end
end
local function write() save() end
local function whole() return s end
local function last(ms)
  keep = LAST
  if ms ~= '' then keep = at + ms end
  save()
end
local function put(payload, ms)
  content = payload
  last(ms)
  if sub(h, 4, 4) == 'L' then return end
  local some = redis.call('HRANDFIELD', key, 5, 'WITHVALUES')
  for i = 1, #some, 2 do
    if ends(some[i + 1]) <= at then redis.call('HDEL', key, some[i]) end
  end
end
local function drop() redis.call('HDEL', key, field) end
local function left()
  if keep == LAST then return -1 end
  return keep - at
end
local function same(of, payload) return h and short(s) and state == of and content == payload end
`
