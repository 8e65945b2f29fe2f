package script

// A trending ranking is several sorted sets, its buckets. Each covers one span
// of the server's time, from a multiple of the width to the next. The key of a
// bucket is KEYS[1], ':' and the number of its span since 1970.
//
// KEYS[1] has a hash tag, so all buckets are on one node. A proxy routes by
// KEYS[1], and only these scripts touch the buckets. So the buckets are in one
// place even if the proxy knows no hash tags. KEYS[1] itself never exists: only
// the server can tell the bucket of a moment.
//
// Lua writes numbers with 14 digits, which is enough for milliseconds until the
// year 5138. The scripts do not change scores: their callers add them up.
//
// ARGV[1] of each script is the width in milliseconds. ARGV[2] is the number of
// buckets of a window: the current bucket and the buckets before it.
const trendingPrelude = `
local width, count = tonumber(ARGV[1]), tonumber(ARGV[2])
local t = redis.call('TIME')
local current = math.floor((t[1] * 1000 + math.floor(t[2] / 1000)) / width)
local function bucket(n) return KEYS[1] .. ':' .. n end
local function after(member, place)
  for i = 1, math.min(#member, #place) do
    local a, b = string.byte(member, i), string.byte(place, i)
    if a ~= b then return a > b end
  end
  return #member > #place
end
local function window()
  local keys = {}
  for n = current - count + 1, current do keys[#keys + 1] = bucket(n) end
  return keys
end
`

// Trend adds to the score of a member in the current bucket, and removes the
// lowest of its excess members.
//
//	KEYS[1]  prefix of the buckets
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  maximum number of members of a bucket
//	ARGV[4]  the delta
//	ARGV[5]  member
//
//	returns  {1, {score…}}  the scores in the buckets that have the member:
//	                        their sum is the score in the window
//	         {-1, {}}       a bucket is something else
//
// Why it is safe: change, trim and TTL are one step. A bucket lives until no
// window has it any more. It is sent once, or it adds again.
var Trend = New("trend", trendingPrelude+`
local key, member, scores = bucket(current), ARGV[5], {}
local added = redis.pcall('ZINCRBY', key, ARGV[4], member)
if type(added) == 'table' then return {-1, {}} end
redis.call('ZREMRANGEBYRANK', key, 0, '-' .. (ARGV[3] + 1))
redis.call('PEXPIREAT', key, (current + count) * width)
for _, key in ipairs(window()) do
  local score = redis.pcall('ZSCORE', key, member)
  if type(score) == 'table' then return {-1, {}} end
  if score then scores[#scores + 1] = score end
end
return {1, scores}
`)

// Trends returns the members with the highest sums of a window.
//
//	KEYS[1]  prefix of the buckets
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  number of members
//
//	returns  {1, {member, score…}}  the lowest first
//	         {2, {number…}}         numbers of the buckets that exist: they
//	                                have too many members for one script, see
//	                                Bucket
//	         {-1, {}}               a bucket is something else
//
// Why it is safe: it changes nothing. With ZUNIONSTORE, Lua would not see the
// members that are not among the highest, but a replica, or a full Redis,
// refuses it.
var Trends = New("trends", trendingPrelude+`
local ask, total, numbers = window(), 0, {}
for i, key in ipairs(ask) do
  local n = redis.pcall('ZCARD', key)
  if type(n) == 'table' then return {-1, {}} end
  total = total + n
  if n > 0 then numbers[#numbers + 1] = '' .. (current - count + i) end
end
if total > 2000 then return {2, numbers} end
ask[#ask + 1] = 'WITHSCORES'
local all = redis.pcall('ZUNION', count, unpack(ask))
if all['err'] then return {-1, {}} end
local top = {}
for i = math.min(#all, 2 * ARGV[3]) - 1, 0, -1 do top[#top + 1] = all[#all - i] end
return {1, top}
`)

// Bucket reads a part of one bucket, the lowest scores first.
//
//	KEYS[1]  prefix of the buckets
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  number of the bucket
//	ARGV[4]  score of the last member that was read, '' to begin
//	ARGV[5]  that member
//
//	returns  {1, {member, score…}}  the members that come next; empty at the
//	                                end
//	         {-1, {}}               the bucket is something else
//
// Why it is safe: it changes nothing. It finds its place by score and bytes, as
// Page does: the member may be gone, and other members may have come before it.
var Bucket = New("bucket", trendingPrelude+`
local key, score, place, from = bucket(ARGV[3]), ARGV[4], ARGV[5], 0
if score ~= '' then
  from = redis.pcall('ZCOUNT', key, '-inf', '(' .. score)
  if type(from) == 'table' then return {-1, {}} end
  local till = from + redis.call('ZCOUNT', key, score, score)
  while from < till do
    local middle = math.floor((from + till) / 2)
    if after(redis.call('ZRANGE', key, middle, middle)[1], place) then till = middle else from = middle + 1 end
  end
end
local part = redis.pcall('ZRANGE', key, from, from + 1999, 'WITHSCORES')
if part['err'] then return {-1, {}} end
return {1, part}
`)

// Untrend removes members from all buckets of a window. If no member is named,
// it deletes all these buckets.
//
//	KEYS[1]  prefix of the buckets
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3…] members
//
//	returns  how many were removed
//	         -1  a bucket is something else
//
// Why it is safe: it is sent once, since a late copy removes members that were
// added since.
var Untrend = New("untrend", trendingPrelude+`
local n = 0
for _, key in ipairs(window()) do
  if #ARGV == 2 then n = n + redis.call('UNLINK', key) end
  for i = 3, #ARGV do
    local removed = redis.pcall('ZREM', key, ARGV[i])
    if type(removed) == 'table' then return -1 end
    n = n + removed
  end
end
return n
`)
