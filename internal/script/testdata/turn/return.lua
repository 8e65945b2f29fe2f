
local key = KEYS[1]
local function get48(s)
  local a, b, c, d, e, f = string.byte(s, 1, 6)
  return ((((a * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end
local function put48(n)
  local hi, lo = math.floor(n / 16777216), n % 16777216
  return string.char(math.floor(hi / 65536) % 256, math.floor(hi / 256) % 256, hi % 256,
    math.floor(lo / 65536), math.floor(lo / 256) % 256, lo % 256)
end
local function now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local at = now()
local lease, every = tonumber(ARGV[2]), tonumber(ARGV[3])
local r = redis.pcall('GETRANGE', key, 0, 24)
if type(r) ~= 'string' or #r ~= 24 or string.sub(r, 1, 3) ~= '\193T\1'
  or (string.sub(r, 4, 4) ~= 'R' and string.sub(r, 4, 4) ~= 'D') then
  r = false
end
local state, token, slot, till
if r then
  state, token = string.sub(r, 4, 4), string.sub(r, 5, 12)
  slot, till = get48(string.sub(r, 13, 18)), get48(string.sub(r, 19, 24))
end
local function put(state, token, slot, till)
  redis.call('SET', key, '\193T\1' .. state .. token .. put48(slot) .. put48(till), 'PX', 2 * every + lease)
end

if not r or state ~= 'R' or token ~= ARGV[1] then return -1 end
put('R', string.rep('\0', 8), slot, 0)
return 0
