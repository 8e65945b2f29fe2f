package script

// Page reads members of a sorted set, from a place on. A place is a score and
// bytes, and need not be the place of a member.
//
//	KEYS[1]  the sorted set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  number of members
//	ARGV[3]  score of the place, '' for before all members
//	ARGV[4]  bytes of the place
//
//	returns  {1, {member, score…}, token}  the members that come after it;
//	                       token is the token of the head
//	         {0, {}, ''}   the set is absent
//	         {-1, {}, ''}  the key holds something else
//
// Why it is safe: it changes nothing. It looks only at the logarithm of the
// number of members that have the score of the place, so their number does not
// matter. It compares bytes one by one: Lua compares strings by the locale of
// the server.
var Page = New("page", rankingPrelude+`
if state ~= 'V' and (state ~= 'N' or ARGV[1] == '1') then
  if there and not state then return {-1, {}, ''} end
  return {0, {}, ''}
end
local score, place, from = ARGV[3], ARGV[4], 1
local function before(member)
  for i = 1, math.min(#member, #place) do
    local a, b = string.byte(member, i), string.byte(place, i)
    if a ~= b then return a > b end
  end
  return #member >= #place
end
if score ~= '' then
  from = redis.call('ZCOUNT', key, '(' .. score, '+inf')
  local till = from + redis.call('ZCOUNT', key, score, score)
  while from < till do
    local middle = math.floor((from + till) / 2)
    if before(redis.call('ZREVRANGE', key, middle, middle)[1]) then from = middle + 1 else till = middle end
  end
end
return {1, redis.call('ZREVRANGE', key, from, from + ARGV[2] - 1, 'WITHSCORES'), string.sub(first, 5)}
`)
