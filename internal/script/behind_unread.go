package script

// ParkBatch moves a batch out of the way of the others, if its process can read
// nothing of it.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  the caller that has it
//
//	returns  1  done: its number is the number of the next batch
//	         0  the batch is not in flight, or ARGV[4] does not have it
//
// Why it is safe: if no other process was given the batch, it cannot be
// persisted, since the caller has not persisted it. So its data moves to U. If
// another process was given the batch, it may be persisted. It moves to L
// unchanged, with its token. The next batch has the same number and another
// token, and the database takes one of the two. AckBatch of the next batch, or
// SettleBatch, tells which. '#tok' changes. Otherwise a late AckBatch of the
// parked batch would forget the next one while that is open. It may be sent
// twice. The copy finds nothing, or parks a batch again that was taken from L,
// and SettleBatch corrects that.
//
// A value or total removes older data of its id from L. Otherwise the older
// data could come back and be persisted after it, or AckBatch could drop the
// newer data. A delta that builds on a total of L goes to L too. So it is not
// the older of the two when both move to U. All other data may come back in any
// order.
var ParkBatch = New("park batch", behind+unread+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#by', '#r', '#t0', '#scan', '#since', '#unsure')
if not mine(m) or m[5] ~= ARGV[4] then return 0 end
redis.call('HDEL', P, '#')
local all, fields, values, older, later = redis.call('HGETALL', I), {}, {}, {}, m[6]
for k = 1, #all, 2 do
  if isid(all[k]) then fields[#fields + 1], values[#values + 1] = all[k], all[k + 1] end
end
local function newer(k) return ARGV[3] == 'last' or total(values[k]) end
local tokens = redis.call('HGET', L, '#p')
for from = 1, tokens and #fields or 0, 100 do
  local some = redis.call('HMGET', L, unpack(fields, from, math.min(from + 99, #fields)))
  for k, s in ipairs(some) do
    older[from + k - 1] = s
    local _, oldest = batches(s)() -- a total takes the place of all that is older
    later = later or not newer(from + k - 1) and total(oldest)
  end
end
local put, list = {}, {}
for k, id in ipairs(fields) do
  local s = older[k]
  if later then
    local v = values[k]
    if newer(k) or not s then s = '' end
    put[#put + 1], put[#put + 2] = id, s .. m[3] .. ' ' .. #v .. ':' .. v
    list[k] = #id .. ':' .. id
    if #put == 200 or k == #fields then
      redis.call('HSET', L, unpack(put))
      put = {}
    end
  else
    if s and newer(k) then redis.call('HDEL', L, id) end
    unread(ARGV[3], id, values[k], m[3], m[7])
  end
end
stamp()
if later then redis.call('HSET', L, '#p', (tokens or '') .. m[3] .. ' ', '#t' .. m[3], table.concat(list)) end
redis.call('UNLINK', I)
redis.call('HSET', I, '#n', m[2], '#a', m[2], '#tok', m[3] .. '/', '#inc', m[4], '#scan', m[8] or '0', '#since', m[9] or behind_micros())
if m[10] then redis.call('HSET', I, '#unsure', m[10]) end
return 1
`)

// UnparkBatch puts a batch of L in flight again, for 'sum'. For values, there
// is RescueUnread.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  token of the batch
//	ARGV[2]  the caller that takes it
//	ARGV[3]  milliseconds during which no other caller gets it
//
//	returns  1  the batch is in flight
//	         0  L has none of this token, or a newer batch builds on a total
//	            of it; or another batch is in flight
//
// Why it is safe: the batch has the number, the token and the content that it
// had. It may be sent twice: a copy may take the batch for its sender once
// more, and another process resumes it when its time is up.
var UnparkBatch = New("unpark batch", behind+batches+`
local m = redis.call('HMGET', I, '#n', '#a')
if not m[1] or m[1] ~= m[2] then return 0 end
local all, put, rest, got, size = {}, {}, {}, 0, 0
for id in ids(redis.call('HGET', L, '#t' .. ARGV[1]) or '') do all[#all + 1] = id end
-- A token is random, so none is found within another one or within a number.
local element = '()' .. ARGV[1] .. ' (%d+):()'
for first = 1, #all, 100 do
  local some = redis.call('HMGET', L, unpack(all, first, math.min(first + 99, #all)))
  for k, s in ipairs(some) do
    local at, n, from = string.match(s or '', element)
    if at then
      local id, v = all[first + k - 1], string.sub(s, from, from + n - 1)
      local left = string.sub(s, 1, at - 1) .. string.sub(s, from + n)
      if total(v) and left ~= '' then return 0 end
      put[#put + 1], put[#put + 2], rest[#rest + 1] = id, v, left
      got, size = got + 1, size + #id + #v
    end
  end
end
if got == 0 then return 0 end
redis.call('HDEL', P, '#')
for from = 1, got, 100 do
  local to, del, keep = math.min(from + 99, got), {}, {}
  redis.call('HSET', I, unpack(put, 2 * from - 1, 2 * to))
  for k = from, to do
    local id = put[2 * k - 1]
    if rest[k] == '' then del[#del + 1] = id else keep[#keep + 1], keep[#keep + 2] = id, rest[k] end
  end
  if #del > 0 then redis.call('HDEL', L, unpack(del)) end
  if #keep > 0 then redis.call('HSET', L, unpack(keep)) end
end
local left = ''
for token in string.gmatch(redis.call('HGET', L, '#p'), '%S+') do
  if token ~= ARGV[1] then left = left .. token .. ' ' end
end
if left == '' then
  redis.call('UNLINK', L)
else
  redis.call('HSET', L, '#p', left)
  redis.call('HDEL', L, '#t' .. ARGV[1])
end
local at = behind_now()
redis.call('HINCRBY', I, '#n', 1)
redis.call('HSET', I, '#a', m[2], '#tok', ARGV[1], '#by', ARGV[2], '#till', at + ARGV[3], '#for', ARGV[3], '#r', '1',
  '#t0', behind_micros(), '#size', got .. ' ' .. size)
return 1
`)

// SettleBatch handles a batch that the database does not have because it has a
// batch of L with the same number.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  token of the batch of L that the database has
//	ARGV[5]  number of that batch in the database
//	ARGV[6]  number of the one after it, which the batch gets
//	ARGV[7]  token that the batch gets, fresh for every call
//	ARGV[8]  most elements of L that this call moves
//	ARGV[9]  how many ids of the batch of L were refused for good
//	ARGV[10]… these ids; then the ids of it that were not persisted, because a
//	         process could not read them
//
//	returns  1  done
//	         2  call again
//	         0  the batch is no longer in flight
//
// Why it is safe: it forgets the batch of L that the database has. The other
// batches of L move to U; the database cannot have them. Until L is empty, the
// batch in flight keeps its number, with which no process can persist it. '#p'
// keeps the token that tells why. So any process can continue. The last call
// gives the batch a new number and a new token, as RenumberBatch does. It may
// be sent twice: the copy continues, or finds another token.
var SettleBatch = New("settle batch", behind+unread+`
if not mine(redis.call('HMGET', I, '#n', '#a', '#tok')) then return 0 end
redis.call('HDEL', P, '#')
local is = {}
for k = 10, #ARGV do
  if k < 10 + ARGV[9] then is[ARGV[k]] = 'refused' else is[ARGV[k]] = 'unread' end
end
local all = parked(tonumber(ARGV[8]), function(id, v, token)
  if token ~= ARGV[4] or is[id] == 'unread' then
    unread(ARGV[3], id, v, token)
  else
    if is[id] then aside(ARGV[3], id, v) else persisted(ARGV[3], id, v) end
  end
end)
stamp()
tidy()
if not all then return 2 end
redis.call('HSET', I, '#n', ARGV[6], '#a', ARGV[5], '#tok', ARGV[7])
return 1
`)

// ListUnread returns a page of U or L.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  cursor, '0' at first
//	ARGV[2]  'U' or 'L'
//
//	returns  {cursor, fields and values alternating}
//	         a cursor of '0' ends
var ListUnread = New("list unread", `
local key = KEYS[4]
if ARGV[2] == 'L' then key = KEYS[5] end
local page = redis.call('HSCAN', key, ARGV[1], 'COUNT', 256)
return {tostring(page[1]), page[2]}
`)

// RescueUnread makes unread data pending again.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  'sum' or 'last'
//	ARGV[2]  '#v' of U from now on, fresh for every call
//	ARGV[3]… ids of U; of 'last', '#' and ids of L too
//
//	returns  how many of them are pending; an id with a newer value pending or
//	         in flight is dropped, and counts too
//
// Why it is safe: the data leaves U or L and enters P in one step. A value of L
// may be persisted. Then it is persisted once more, unless a newer one is
// pending, which changes nothing. It may be sent twice: the copy finds nothing,
// or data that has come since. The process that takes that data finds out
// whether it can read it.
var RescueUnread = New("rescue unread", behind+unread+again+`
local n = 0
local t0 = redis.call('HGET', U, '#t0') or behind_micros()
redis.call('HDEL', P, '#')
for k = 3, #ARGV do
  local key, id = U, ARGV[k]
  if not isid(id) then key, id = L, string.sub(id, 2) end
  local v = redis.call('HGET', key, id)
  if v and key == L then
    redis.call('HDEL', L, id)
    local _, w = batches(v)()
    v = w
  end
  local done = v and again(ARGV[1], id, v) or 0
  if done == 1 then redis.call('HSETNX', P, '#t0', t0) end
  if done > 0 then
    n = n + 1
    redis.call('HDEL', key, id)
  end
end
if n > 0 then
  redis.call('HSET', U, '#v', ARGV[2])
  tidy()
end
return n
`)
