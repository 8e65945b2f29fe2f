package script

// Write-behind keeps data that is not yet persisted in buckets. The keys of one
// bucket share a hash tag, so that a script may touch them all:
//
//	P  hash: the pending ids. id → delta, '=' and total, or value; '#t0' the
//	   time in microseconds before which no data of P came
//	I  hash: the batch in flight, that is, taken and not acknowledged. id → as
//	   in P. These fields of the bucket stay for good:
//	   '#n'     number of the last batch that was taken
//	   '#a'     number of the last batch that was acknowledged: '#n', or one
//	            less
//	   '#tok'   token of batch '#n'
//	   '#inc'   incarnation: it changes if and only if Redis has lost this
//	            key. It is the '#t0' of the first batch, so it is the same
//	            again if Redis goes back to a moment before it took that batch
//	   '#scan'  cursor of HSCAN in P, and '#since' the time when its cycle
//	            began
//	   These fields belong to a batch in flight: '#t0'; '#by' the caller that
//	   persists it, until '#till'; '#f' how often that has failed; '#size' its
//	   ids and bytes; '#open' while it is being taken. If '#by' is '', the
//	   batch waits until '#till' to be tried again. '#till' was '#for'
//	   milliseconds away when it was written. '#r' exists if the batch was
//	   given to more callers than the one that took it. '#unsure' has the keys
//	   of counts to delete when the next batch is acknowledged, each as its
//	   length, ':', and the key
//	D  hash: ids that the database refused for good. id → delta or value; '#:'
//	   and id → deltas that have no sum with that one, with a space between
//	   two
//	U  hash: ids that a process could not read and the database does not have.
//	   id → delta or value; '#t0' as in I; '#v' changes with every change
//	L  hash: batches that no process could read at all, and that may be
//	   persisted. id → the elements of these batches for the id, oldest first:
//	   a token, a space, a length, ':', and a delta or value of that length.
//	   '#p' their tokens, oldest first, each followed by a space; '#t' and a
//	   token → the ids of that batch, each as its length, ':', and the id. L
//	   may no longer have some of these ids. The number of each batch is the
//	   number of the next batch to be taken, or of the one in flight: the
//	   database has at most one of these
//
// An id never begins with '#'. None of the keys has a TTL. P is always KEYS[1],
// and a proxy routes by it. So keys that only these scripts touch are in one
// place even if the proxy knows no hash tags.
//
// Lua counts in doubles, which are exact only up to 2^53. So deltas and the
// numbers of batches are strings here: Redis adds, and Lua only compares for
// equality.
//
// A full Redis (maxmemory, noeviction) refuses the writes of a script, unless
// the script has written before. It lets a script end that has begun. Redis may
// refuse only scripts that add to P. Scripts that take from P must continue, or
// a full Redis would stay full. So they begin with the HDEL of a field that
// does not exist.

// Pend has Lua functions for scripts that write to P or read the keys of a
// bucket. Such scripts also do other work on keys of the same tag.
//
//	behind_add(p, id, delta)   adds a delta, a decimal string: to the total,
//	                           if one is pending. If the sum exceeds int64, or
//	                           there is none, it fails and has done nothing.
//	                           So it should be the first write of a script
//	behind_plus(p, id, v)      merges v with older data. If there is no sum,
//	                           it returns false and has done nothing
//	behind_put(p, id, value)   replaces the pending data
//
// PendLook has these:
//
//	behind_pending(p, id)      the pending data of id, false if there is none.
//	                           With U as p, the unread data
//	behind_moment(i)           inc and a moment, which changes with any batch
//	                           that is taken or renumbered. Then whether a
//	                           batch is in flight
//	behind_unchanged(i, l, inc, moment, id)
//	                           reports whether the database, read after a Look
//	                           that returned inc and moment, lacks of id
//	                           exactly the data that P and U have now
//
// Why the last one is right: since the Look no batch was taken, or moment would
// differ. No bucket was lost, or inc would differ. So all this time, the
// database had the batches up to n except the batches of I and L. If these have
// nothing of id, the database had all of id that was ever taken and not moved
// to U. The rest is in P and U.
const Pend = `
local function behind_now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function behind_micros()
  local t = redis.call('TIME')
  return t[1] .. string.sub('00000' .. t[2], -6)
end
local function behind_plus(p, id, v)
  if string.byte(v, 1) == 61 then return redis.call('HSET', p, id, v) end
  if type(redis.pcall('HINCRBY', p, id, v)) ~= 'table' then return true end
  local w = redis.call('HGET', p, id)
  if not w or string.byte(w, 1) ~= 61 then return false end
  redis.call('HSET', p, id, string.sub(w, 2))
  local done = type(redis.pcall('HINCRBY', p, id, v)) ~= 'table'
  if done then w = '=' .. redis.call('HGET', p, id) end
  redis.call('HSET', p, id, w)
  return done
end
local function behind_add(p, id, delta)
  if not behind_plus(p, id, delta) then
    local v = redis.call('HGET', p, id)
    if not v or string.byte(v, 1) ~= 61 then redis.call('HINCRBY', p, id, delta) end
    error('the total would overflow')
  end
  redis.call('HSETNX', p, '#t0', behind_micros())
end
local function behind_put(p, id, value)
  redis.call('HSET', p, id, value)
  redis.call('HSETNX', p, '#t0', behind_micros())
end
`

// PendLook has the functions for scripts that compare the reply of a Look with
// the current state.
const PendLook = `
local function behind_pending(p, id)
  return redis.call('HGET', p, id)
end
local function behind_moment(i)
  local m = redis.call('HMGET', i, '#inc', '#n', '#a', '#tok')
  return m[1] or '', (m[2] or '0') .. ':' .. (m[4] or ''), m[2] ~= m[3]
end
local function behind_unchanged(i, l, inc, moment, id)
  local c, m, flying = behind_moment(i)
  if c ~= inc or m ~= moment or flying and redis.call('HEXISTS', i, id) == 1 then return false end
  return redis.call('HEXISTS', l, id) == 0
end
`

// behind begins the scripts that move batches. A total is the sum of all older
// data, so it replaces that data: a total in P replaces the data in any other
// key.
//
//	total(v)              reports whether v is '=' and a total
//	parks(token)          reports whether L has the batch of a token
//	gone(id)              deletes all data of id from D
//	more(id, v)           puts in D a delta that has no sum with the data
//	                      there
//	aside(merge, id, v)   puts aside data that is not persisted: in D, or
//	                      added to a total in U
const behind = Pend + `
local P, I, D, U, L = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function mine(m) return m[1] == ARGV[1] and m[3] == ARGV[2] and m[1] ~= m[2] end
local function total(v) return v and string.byte(v, 1) == 61 end
local function parks(token)
  for one in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do
    if one == token then return true end
  end
  return false
end
local function gone(id) redis.call('HDEL', D, id, '#:' .. id) end
local function more(id, v)
  local w = redis.call('HGET', D, '#:' .. id)
  if w then v = w .. ' ' .. v end
  redis.call('HSET', D, '#:' .. id, v)
end
local function aside(merge, id, v)
  local key, set = D, total(v)
  if merge == 'last' or set then redis.call('HDEL', U, id) end
  if merge == 'last' then return redis.call('HSET', D, id, v) end
  if set then gone(id) end
  if total(redis.call('HGET', P, id)) then return end
  if not set and total(redis.call('HGET', U, id)) then key = U end
  if not behind_plus(key, id, v) then more(id, v) end
end
`

// batches has further functions for scripts that read L.
//
//	batches(s)  iterates over the tokens of an element of L, and the data of
//	            their batches
//	ids(list)   iterates over the ids of a '#t' of L, and where the next one
//	            begins
const batches = `
local function ids(list)
  local from = 1
  return function()
    local n, at = string.match(list, '^(%d+):()', from)
    if not n then return nil end
    from = at + n
    return string.sub(list, at, from - 1), from
  end
end
local function batches(s)
  local from = 1
  return function()
    local token, n, at = string.match(s or '', '^(%S+) (%d+):()', from)
    if not token then return nil end
    from = at + n
    return token, string.sub(s, at, from - 1)
  end
end
`

// again has a further function for scripts that make data pending again. The
// data is older than parked data, the batch in flight and pending data.
//
//	again(merge, id, v)  returns 1 if v is pending, 2 if it is dropped because
//	                     newer data replaces it, 0 if there is no sum and
//	                     nothing is done
const again = `
local function again(merge, id, v)
  local p, newer = redis.call('HGET', P, id), {}
  for _, w in batches(redis.call('HGET', L, id)) do newer[#newer + 1] = w end
  newer[#newer + 1] = redis.call('HGET', I, id)
  newer[#newer + 1] = p
  for _, w in ipairs(newer) do
    if w and (merge == 'last' or total(w)) then return 2 end
  end
  if merge == 'last' then
    redis.call('HSET', P, id, v)
  elseif not behind_plus(P, id, v) then
    return 0
  elseif total(v) then
    for _, w in ipairs(newer) do
      if w and not behind_plus(P, id, w) then
        if p then redis.call('HSET', P, id, p) else redis.call('HDEL', P, id) end
        return 0
      end
    end
  end
  return 1
end
`

// unread has further functions for scripts that write to U.
//
//	unread(merge, id, v, token, t0)  moves data that is not persisted to U, or
//	                                 to D if there is no sum. stamp() must
//	                                 follow
//	stamp()                          sets '#t0' and '#v' of U after all calls
//	                                 of unread: setting them in each call
//	                                 would take twice as long
//	forget(id)                       deletes an older value from D and U
//	tidy()                           deletes U if nothing is left in it
//	parked(most, each)               takes about this many elements from L,
//	                                 and calls each(id, v, token) for them,
//	                                 for each id the oldest first. When it has
//	                                 taken all, it deletes L and returns true
//	persisted(merge, id, v)          leaves nothing in D and U that must not
//	                                 be tried again after v: a delta is added
//	                                 to a total there
const unread = batches + `
local function isid(field) return string.byte(field, 1) ~= 35 end
local unread_t0, unread_v
local function unread(merge, id, v, token, t0)
  if merge == 'last' or total(v) then gone(id) end
  if merge == 'last' then
    redis.call('HSET', U, id, v)
  elseif total(redis.call('HGET', P, id)) then
    return redis.call('HDEL', U, id)
  elseif not behind_plus(U, id, v) then
    return aside(merge, id, v)
  end
  unread_t0, unread_v = unread_t0 or t0 or behind_micros(), token
end
local function stamp()
  if not unread_v then return end
  redis.call('HSETNX', U, '#t0', unread_t0)
  redis.call('HSET', U, '#v', unread_v)
end
local function forget(id)
  gone(id)
  redis.call('HDEL', U, id)
end
local function persisted(merge, id, v)
  if merge == 'last' or total(v) then return forget(id) end
  if total(redis.call('HGET', D, id)) then behind_plus(D, id, v) end
  if total(redis.call('HGET', U, id)) then behind_plus(U, id, v) end
end
local function tidy()
  if redis.call('HLEN', U) <= 2 then redis.call('UNLINK', U) end
end
local function parked(most, each)
  for batch in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do
    local list = redis.call('HGET', L, '#t' .. batch)
    for id, rest in ids(list or '') do
      for token, v in batches(redis.call('HGET', L, id)) do
        each(id, v, token)
        most = most - 1
      end
      redis.call('HDEL', L, id)
      most = most - 1
      if most <= 0 then
        redis.call('HSET', L, '#t' .. batch, string.sub(list, rest))
        return false
      end
    end
    if list then redis.call('HDEL', L, '#t' .. batch) end
  end
  redis.call('UNLINK', L)
  return true
end
`

// PendAdd adds a delta to the pending data, and PendPut replaces the pending
// data.
//
//	KEYS[1]  P
//	ARGV[1]  id
//	ARGV[2]  delta, decimal; or value
//
//	returns  1
//
// Both are sent once. A copy of PendAdd would add again, and a late copy of
// PendPut would undo later puts.
var (
	PendAdd = New("pend add", Pend+`
behind_add(KEYS[1], ARGV[1], ARGV[2])
return 1
`)
	PendPut = New("pend put", Pend+`
behind_put(KEYS[1], ARGV[1], ARGV[2])
return 1
`)
)
