package script

// listPrelude begins every script of a list. It reads the head, which is the
// first element, before the latest member.
//
//	off len
//	  0   3  C1 'H' 01. Members that begin with C1 have one more C1 before it
//	  3   1  state
//	  4   8  token
const listPrelude = keeping + `
local first = redis.pcall('LINDEX', key, 0)
local there, state = first ~= false, nil
if type(first) == 'string' and #first == 12 and string.sub(first, 1, 3) == '\193H\1' then
  state = string.sub(first, 4, 4)
  awaited = state == 'M'
  if awaited then state = 'L' end
end
local function holder() return string.sub(first, 5) end
local function is(token) return string.sub(first, 5) == token end
local function head(state, token)
  first = '\193H\1' .. state .. token
  redis.call('LPUSH', key, first)
end
local function await()
  first = '\193H\1M' .. holder()
  redis.call('LSET', key, 0, first)
end
`

// List restores lists. Members that were written while the list was leased come
// first, then the members that were loaded.
var List = newHome("list", listPrelude, "not redis.call('LINDEX', key, 1)", `
local seen = {}
if ARGV[6] == '1' then
  for _, member in ipairs(redis.call('LRANGE', key, 1, -1)) do seen[member] = true end
end
for i = 7, #ARGV do
  local member = ARGV[i]
  if not seen[member] then redis.call('RPUSH', key, member) end
  if ARGV[6] == '1' then seen[member] = true end
end
if ARGV[2] == '1' then
  redis.call('LTRIM', key, 0, ARGV[5])
  redis.call('LSET', key, 0, '\193H\1V' .. ARGV[1])
end
`)

// Push puts members before all members of a list, and removes the excess at its
// end.
//
//	KEYS[1]  the list
//	ARGV[1]  '1': it has a source
//	ARGV[2]  maximum number of members
//	ARGV[3]  milliseconds that it is kept from now, '' forever
//	ARGV[4]  '1': no repetitions: members that it has are moved to the front
//	ARGV[5…] members, the latest one last
//
//	returns  1   pushed
//	         2   pushed, and the list is being restored
//	         0   the list is absent, and its source has the members
//	         -1  the key holds something else, and there is no source
//
// Why it is safe: change, trim and TTL are one step. If a list that has a
// source is absent, or foreign, it stays so: a list of the new members alone
// would pass for the whole. A lease on a list that is being restored keeps its
// time. It is sent once: a late copy adds members again that were removed
// since. Without Unique, it also repeats members that are there.
//
// The head is never popped: Redis deletes a list without elements, with its
// TTL.
var Push = New("push", listPrelude+`
if ARGV[1] == '1' then
  if state ~= 'V' and state ~= 'L' then return 0 end
elseif not state then
  if there then return -1 end
  head('N', NOBODY)
  state = 'N'
end
if ARGV[4] == '1' then
  for i = 5, #ARGV do redis.call('LREM', key, 0, ARGV[i]) end
end
redis.call('LSET', key, 0, ARGV[5])
for i = 6, #ARGV, 1000 do redis.call('LPUSH', key, unpack(ARGV, i, math.min(i + 999, #ARGV))) end
redis.call('LPUSH', key, first)
redis.call('LTRIM', key, 0, ARGV[2])
if state == 'L' then return 2 end
keep(ARGV[3])
return 1
`)

// Pull removes members from a list, at any place.
//
//	KEYS[1]  the list
//	ARGV[1]  '1': it has a source
//	ARGV[2]  milliseconds that it is kept from now, '' forever
//	ARGV[3…] members
//
//	returns  how many elements were removed
//	         -1  the key holds something else, and there is no source
//
// Why it is safe: a load in flight may have read the members that Pull removes.
// So Pull takes its lease away, and nothing of the load is stored. It is sent
// once: a late copy removes members that were added since.
var Pull = newRemoval("pull", listPrelude, "redis.call('LREM', key, 0, ARGV[i])")
