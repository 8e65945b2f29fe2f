package script

// setPrelude begins every script of a set. A set has no first element, so its
// head is two members: C1 'H' and the state, and C1 'T' and the token. Members
// that begin with C1 have one more C1 before it.
const setPrelude = keeping + `
local function has(member) return redis.pcall('SISMEMBER', key, member) == 1 end
local there, state = redis.call('EXISTS', key) == 1, nil
if has('\193HV') then state = 'V' elseif has('\193HN') then state = 'N' elseif has('\193HL') then state = 'L' end
if has('\193HM') then state, awaited = 'L', true end
local function is(token) return has('\193T' .. token) end
local function head(state, token) redis.call('SADD', key, '\193H' .. state, '\193T' .. token) end
local function holder() return NOBODY end
local function await()
  redis.call('SADD', key, '\193HM')
  redis.call('SREM', key, '\193HL')
end
`

// Set restores sets. No script writes to a set that is leased.
var Set = newHome("set", setPrelude, "redis.call('SCARD', key) == 2", `
for i = 7, #ARGV do redis.call('SADD', key, ARGV[i]) end
if ARGV[2] == '1' then
  redis.call('SADD', key, '\193HV')
  redis.call('SREM', key, '\193HL', '\193HM')
end
`)

// Enter adds members to a set.
//
//	KEYS[1]  the set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  milliseconds that it is kept from now, '' forever
//	ARGV[3…] members
//
//	returns  how many of them were absent
//	         -1  the key holds something else, and there is no source
//	         -2  the set is absent, and must be restored
//
// Why it is safe: Enter checks whether a member is new and adds it in one step.
// Only the whole set can tell whether a member is new. It is sent once: a copy
// would tell the caller that added a member that the member is not new.
var Enter = New("enter", setPrelude+`
if ARGV[1] == '1' then
  if state ~= 'V' then return -2 end
elseif not state then
  if there then return -1 end
  head('N', NOBODY)
end
local n = 0
for i = 3, #ARGV do n = n + redis.call('SADD', key, ARGV[i]) end
if state ~= 'L' then keep(ARGV[2]) end
return n
`)

// Leave removes members from a set.
//
//	KEYS[1]  the set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  milliseconds that it is kept from now, '' forever
//	ARGV[3…] members
//
//	returns  how many were removed
//	         -1  the key holds something else, and there is no source
//
// Why it is safe: as Pull.
var Leave = newRemoval("leave", setPrelude, "redis.call('SREM', key, ARGV[i])")

// Count returns the number of members of a set, and whether one member is in
// it.
//
//	KEYS[1]  the set
//	ARGV[1]  '1': it has a source
//	ARGV[2]  member
//
//	returns  {1, members, 0 or 1}
//	         {0, 0, 0}   the set is absent
//	         {-1, 0, 0}  the key holds something else
//
// Why it is safe: it changes nothing.
var Count = New("count", setPrelude+`
if state ~= 'V' and (state ~= 'N' or ARGV[1] == '1') then
  if there and not state then return {-1, 0, 0} end
  return {0, 0, 0}
end
return {1, redis.call('SCARD', key) - 2, redis.call('SISMEMBER', key, ARGV[2])}
`)
