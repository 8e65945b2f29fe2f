package script

// A trending ranking is sorted sets, its buckets: one for each span of time of the
// server's clock, from a multiple of the width to the next. A bucket is KEYS[1], ':'
// and the number of its span since 1970. KEYS[1] has a hash tag, so they are on one
// node; a proxy routes by it, and nobody but these scripts touches the buckets, so
// they are in one place even where it knows no hash tags. KEYS[1] itself is never
// there: which bucket it is that a moment belongs to, the server alone can say.
//
// Lua writes numbers with 14 digits, which is enough for milliseconds until the year
// 5138. Scores it leaves as they are: their sum is for others to make.
//
// ARGV[1] of each script is the width in milliseconds, and ARGV[2] the number of
// buckets of a window: that of now and those before it.
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

// Trend adds to the score of a member in the bucket of now, and takes away the lowest
// of what is too much there.
//
//	KEYS[1]  what the buckets begin with
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  how many members a bucket has at most
//	ARGV[4]  what is added
//	ARGV[5]  member
//
//	returns  {1, {score…}}  of the buckets that have the member: their sum is that of
//	                        the window
//	         {-1, {}}       a bucket is something else
//
// Why it is safe: change, trim and TTL are one step. A bucket lives until no window
// has it any more. It is sent once, or it adds again.
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
//	KEYS[1]  what the buckets begin with
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  how many members
//
//	returns  {1, {member, score…}}  the lowest first
//	         {2, {number…}}         of the buckets that are there: they have too many
//	                                members to be read by one script, see Bucket
//	         {-1, {}}               a bucket is something else
//
// Why it is safe: it changes nothing. ZUNIONSTORE would spare Lua the members that
// are not among the highest, but a replica, or a Redis that is full, refuses it.
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
//	KEYS[1]  what the buckets begin with
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3]  number of the bucket
//	ARGV[4]  score of the last member that was read, '' to begin
//	ARGV[5]  that member
//
//	returns  {1, {member, score…}}  those that come next; none at the end
//	         {-1, {}}               the bucket is something else
//
// Why it is safe: it changes nothing. It finds its place by score and bytes, as Page does:
// the member may have gone, and others may have come before it.
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

// Untrend takes members out of all buckets of a window, or all of these away if no
// member is named.
//
//	KEYS[1]  what the buckets begin with
//	ARGV[1]  milliseconds of a bucket
//	ARGV[2]  buckets of a window
//	ARGV[3…] members
//
//	returns  how many were taken away
//	         -1  a bucket is something else
//
// Why it is safe: it is sent once: a copy that is late takes away what was added since.
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
