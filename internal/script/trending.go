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
//	         {-1, {}}               a bucket is something else
//
// Why it is safe: it changes nothing. ZUNIONSTORE would spare Lua the members that
// are not among the highest, but a replica, or a Redis that is full, refuses it.
var Trends = New("trends", trendingPrelude+`
local ask = window()
ask[#ask + 1] = 'WITHSCORES'
local all = redis.pcall('ZUNION', count, unpack(ask))
if all['err'] then return {-1, {}} end
local top = {}
for i = math.min(#all, 2 * ARGV[3]) - 1, 0, -1 do top[#top + 1] = all[#all - i] end
return {1, top}
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
