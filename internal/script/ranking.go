package script

// rankingPrelude begins every script of a sorted set. It reads the head, which
// has the score +inf, above all members.
//
//	off len
//	  0   3  C1 'H' 01. Members that begin with C1 have one more C1 before it
//	  3   1  state
//	  4   8  token
//
// While the set is leased, a member that was set is stored after C1 '='. A
// delta to a member whose score is not known is stored after C1 '+'. Each of
// these elements has a mark below the head, with the score +inf too. The mark
// is the bytes of the element after C1 'A', without their own C1. So the
// scripts find these elements without a look at all members.
const rankingPrelude = keeping + `
local first = redis.pcall('ZREVRANGE', key, 0, 0)
local there, state = first.err ~= nil or #first > 0, nil
first = first[1]
if type(first) == 'string' and #first == 12 and string.sub(first, 1, 3) == '\193H\1' then
  state = string.sub(first, 4, 4)
  awaited = state == 'M'
  if awaited then state = 'L' end
end
local function holder() return string.sub(first, 5) end
local function is(token) return string.sub(first, 5) == token end
local function head(state, token)
  first = '\193H\1' .. state .. token
  redis.call('ZADD', key, '+inf', first)
end
local function await()
  local old = first
  head('M', holder())
  redis.call('ZREM', key, old)
end
local function trim(most)
  redis.call('ZREMRANGEBYRANK', key, 0, '-' .. (most + 2))
end
local AT_ONCE = 500
local function more()
  redis.call('PEXPIRE', key, ARGV[3])
  return 4
end
`

// Ranking restores sorted sets. Writes that came while the set was leased are
// applied to the members that were loaded.
var Ranking = newHome("ranking", rankingPrelude, "#redis.call('ZREVRANGE', key, 1, 1) == 0", `
for i = 7, #ARGV, 2 do redis.call('ZADD', key, ARGV[i + 1], ARGV[i]) end
if ARGV[2] == '1' then
  local waiting = redis.call('ZREVRANGE', key, 1, AT_ONCE)
  for i, mark in ipairs(waiting) do
    if string.sub(mark, 1, 2) ~= '\193A' then break end
    local written, member = '\193' .. string.sub(mark, 3), string.sub(mark, 4)
    local score = redis.call('ZSCORE', key, written)
    if score and string.sub(mark, 3, 3) == '+' then redis.call('ZINCRBY', key, score, member) end
    if score and string.sub(mark, 3, 3) == '=' then redis.call('ZADD', key, score, member) end
    redis.call('ZREM', key, mark, written)
    if i == AT_ONCE then return more() end
  end
  if redis.call('ZCARD', key) - 1 - ARGV[5] > 2 * AT_ONCE then
    redis.call('ZREMRANGEBYRANK', key, 0, 2 * AT_ONCE - 1)
    return more()
  end
  local old = first
  head('V', ARGV[1])
  redis.call('ZREM', key, old)
  trim(ARGV[5])
end
`)

// Score changes the score of a member, and removes the lowest of the excess
// members.
//
//	KEYS[1]  the sorted set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  maximum number of members
//	ARGV[3]  milliseconds that it is kept from now, '' forever, '=' as before
//	ARGV[4]  'set' or 'add'
//	ARGV[5]  the score, or the delta
//	ARGV[6]  member
//
//	returns  {1, score}  changed
//	         {2, ''}     will be changed when the set has been restored
//	         {0, ''}     the set is absent, and its source has the change
//	         {-1, ''}    the key holds something else, and there is no source
//
// Why it is safe: as Push. It is sent once.
var Score = New("score", rankingPrelude+`
if ARGV[1] == '1' then
  if state ~= 'V' and state ~= 'L' then return {0, ''} end
elseif not state then
  if there then return {-1, ''} end
  head('N', NOBODY)
  state = 'N'
end
local by, member = ARGV[5], ARGV[6]
if state == 'L' then
  local plus, equal = '+' .. member, '=' .. member
  if ARGV[4] == 'set' then
    redis.call('ZREM', key, '\193' .. plus, '\193A' .. plus)
    redis.call('ZADD', key, by, '\193' .. equal, '+inf', '\193A' .. equal)
  elseif redis.call('ZSCORE', key, '\193' .. equal) then
    redis.call('ZINCRBY', key, by, '\193' .. equal)
  else
    redis.call('ZINCRBY', key, by, '\193' .. plus)
    redis.call('ZADD', key, '+inf', '\193A' .. plus)
  end
  return {2, ''}
end
local score = by
if ARGV[4] == 'set' then redis.call('ZADD', key, by, member) else score = redis.call('ZINCRBY', key, by, member) end
trim(ARGV[2])
keep(ARGV[3])
return {1, score}
`)

// Unrank removes members from a sorted set.
//
//	KEYS[1]  the sorted set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  milliseconds that it is kept from now, '' forever, '=' as before
//	ARGV[3…] members
//
//	returns  how many were removed
//	         -1  the key holds something else, and there is no source
//
// Why it is safe: as Pull.
var Unrank = newRemoval("unrank", rankingPrelude, "redis.call('ZREM', key, ARGV[i])")

// Stand returns the rank of a member, and the members next to it.
//
//	KEYS[1]  the sorted set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  member
//	ARGV[3]  number of members before it, and of members after it
//
//	returns  {1, rank, {member, score…}, token}  the first member has this
//	                         rank, from 1; token is the token of the head
//	         {1, 0, {}, ''}   the member is absent
//	         {0, 0, {}, ''}   the set is absent
//	         {-1, 0, {}, ''}  the key holds something else
//
// Why it is safe: it changes nothing.
var Stand = New("stand", rankingPrelude+`
if state ~= 'V' and (state ~= 'N' or ARGV[1] == '1') then
  if there and not state then return {-1, 0, {}, ''} end
  return {0, 0, {}, ''}
end
local rank = redis.call('ZREVRANK', key, ARGV[2])
if not rank then return {1, 0, {}, ''} end
local from = rank - ARGV[3]
if from < 1 then from = 1 end
return {1, from, redis.call('ZREVRANGE', key, from, rank + ARGV[3], 'WITHSCORES'), string.sub(first, 5)}
`)
