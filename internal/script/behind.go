package script

// Write-behind keeps what is still to be persisted in buckets. The keys of one
// bucket share a hash tag, so that a script may touch them all:
//
//	P  hash: what is pending. id → delta, '=' and total, or value; '#t0' the time
//	   before which none of it came, in microseconds
//	I  hash: the batch in flight, that is, taken and not acknowledged. id → the
//	   same; and of the bucket, for good:
//	   '#n'     number of the last batch that was taken
//	   '#a'     number of the last batch that was acknowledged: '#n', or one less
//	   '#tok'   token of batch '#n'
//	   '#inc'   incarnation: it changes if and only if Redis has lost this key. It
//	            is the '#t0' of the first batch, so that it is the same again if
//	            Redis goes back to before it took that
//	   '#scan'  cursor of HSCAN in P, and '#since' the time when its cycle began
//	   and of a batch in flight: '#t0'; '#by' who persists it, until '#till'; '#f'
//	   how often that has failed; '#size' its ids and bytes; '#open' while it is
//	   being taken. With '#by' of '' it waits until '#till' to be tried again.
//	   '#till' was '#for' milliseconds away when it was written. '#r' exists if the
//	   batch was given to more callers than the one that took it. '#unsure' has the
//	   keys of counts to delete when the next batch is acknowledged, each as its
//	   length, ':', and the key
//	D  hash: what the database refused for good. id → delta or value; '#:' and id →
//	   deltas that have no sum with that, with a space between two
//	U  hash: what a process could not read and the database has not. id → delta or
//	   value; '#t0' as in I; '#v' changes with every change
//	L  hash: batches that no process could read any of, and that may be persisted.
//	   token:id → delta or value; '#p' their tokens, oldest first, each followed by
//	   a space. The number of each of them is that of the next batch to be taken,
//	   or of the one in flight: the database has at most one of these
//
// An id never begins with '#'. None of the keys has a TTL. P is always KEYS[1]: a
// proxy routes by it, and what these scripts alone touch is then in one place even
// where the proxy knows no hash tags.
//
// Lua counts in doubles, which are exact up to 2^53 only. So deltas and the numbers
// of batches are strings here: Redis adds, and Lua compares for equality alone.
//
// A Redis that is full (maxmemory, noeviction) refuses the writes of a script unless
// it has written before, for it lets a script end that has begun. Only what adds to
// P may be refused: what takes from it must go on, or a full Redis would stay full. So
// those scripts begin with the HDEL of a field that nobody has.

// Pend are Lua functions for scripts that write to P or read the keys of a bucket,
// beside what else they do to keys of the same tag.
//
//	behind_add(p, id, delta)   adds a delta, a decimal string: to the total, if one is
//	                           pending. It fails where the sum leaves int64, or is
//	                           none, and has then done nothing: so let it be the first
//	                           write of a script
//	behind_plus(p, id, v)      merges v with what is older, and returns false where
//	                           there is no sum, and has then done nothing
//	behind_put(p, id, value)   replaces what is pending
//
// and of PendLook:
//
//	behind_pending(p, id)      what is pending of id, false if nothing; so it is with U
//	behind_moment(i)           inc and a moment: any batch that is taken or renumbered
//	                           changes it. Then whether a batch is in flight
//	behind_unchanged(i, l, inc, moment, id)
//	                           whether what the database holds of id, read after a Look
//	                           that returned inc and moment, lacks what is in P and U
//	                           now and nothing else
//
// Why the last one is right: since the Look no batch was taken, or moment would
// differ, and no bucket lost, or inc would. So the database had, all this time, the
// batches up to n but for those of I and L, and if these have nothing of id, it had all
// of id that was ever taken and not moved to U. The rest is in P and U.
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
  if string.byte(v) == 61 then return redis.call('HSET', p, id, v) end
  if type(redis.pcall('HINCRBY', p, id, v)) ~= 'table' then return true end
  local w = redis.call('HGET', p, id)
  if not w or string.byte(w) ~= 61 then return false end
  redis.call('HSET', p, id, string.sub(w, 2))
  local done = type(redis.pcall('HINCRBY', p, id, v)) ~= 'table'
  if done then w = '=' .. redis.call('HGET', p, id) end
  redis.call('HSET', p, id, w)
  return done
end
local function behind_add(p, id, delta)
  if not behind_plus(p, id, delta) then
    local v = redis.call('HGET', p, id)
    if not v or string.byte(v) ~= 61 then redis.call('HINCRBY', p, id, delta) end
    error('the total would overflow')
  end
  redis.call('HSETNX', p, '#t0', behind_micros())
end
local function behind_put(p, id, value)
  redis.call('HSET', p, id, value)
  redis.call('HSETNX', p, '#t0', behind_micros())
end
`

// PendLook are those for scripts that compare what a Look returned with what is so now.
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
  for token in string.gmatch(redis.call('HGET', l, '#p') or '', '%S+') do
    if redis.call('HEXISTS', l, token .. ':' .. id) == 1 then return false end
  end
  return true
end
`

// behind is the beginning of the scripts that move batches. A total is the sum of all
// that is older, so it takes the place of that: in P of what is in any other key.
//
//	total(v)              reports whether v is '=' and a total
//	parks(token)          reports whether L has the batch of a token
//	gone(id)              takes away from D all that it has of id
//	more(id, v)           puts in D a delta that has no sum with what is there
//	aside(merge, id, v)   puts aside what is not persisted: in D, or in U if there is a
//	                      total that it counts on
const behind = Pend + `
local P, I, D, U, L = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local function mine(m) return m[1] == ARGV[1] and m[3] == ARGV[2] and m[1] ~= m[2] end
local function total(v) return v and string.byte(v) == 61 end
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
  local key = D
  if merge == 'last' or total(v) then
    redis.call('HDEL', U, id)
    gone(id)
  end
  if merge == 'last' then return redis.call('HSET', D, id, v) end
  if total(redis.call('HGET', P, id)) then return end
  if total(redis.call('HGET', U, id)) then key = U end
  if not behind_plus(key, id, v) then more(id, v) end
end
`

// again is what scripts have too that make pending again what is older than what is
// parked, in flight and pending.
//
//	again(merge, id, v)  returns 1 if v is pending, 2 if it is dropped since what is
//	                     newer takes its place, 0 if there is no sum and nothing is done
const again = `
local function again(merge, id, v)
  local p, newer = redis.call('HGET', P, id), {}
  for token in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do
    newer[#newer + 1] = redis.call('HGET', L, token .. ':' .. id)
  end
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

// unread is what scripts that write to U have too.
//
//	unread(merge, id, v, token, t0)  moves what is not persisted to U, or to D where
//	                                 there is no sum
//	forget(id)                       takes an older value away from D and U
//	supersede(merge, all)            takes away from L what is older than the values and
//	                                 totals of a batch. It reports whether a delta of
//	                                 the batch counts on a total of L
//	tidy()                           deletes U if nothing is left in it
//	parked(each)                     calls each(id, v, token) for what is in L, the
//	                                 oldest batch first, and empties it
//	persisted(merge, id, v)          has D and U keep nothing that must not be tried
//	                                 again after v: a delta counts on a total there
const unread = `
local function isid(field) return string.byte(field) ~= 35 end
local function unread(merge, id, v, token, t0)
  if merge == 'last' or total(v) then gone(id) end
  if merge == 'last' then
    redis.call('HSET', U, id, v)
  elseif total(redis.call('HGET', P, id)) then
    return
  elseif not behind_plus(U, id, v) then
    return aside(merge, id, v)
  end
  redis.call('HSETNX', U, '#t0', t0 or behind_micros())
  redis.call('HSET', U, '#v', token)
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
local function supersede(merge, all)
  local tokens, counts = {}, false
  for token in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do tokens[#tokens + 1] = token end
  if #tokens == 0 then return false end
  for k = 1, #all, 2 do
    local id = all[k]
    local newer = isid(id) and (merge == 'last' or total(all[k + 1]))
    for _, token in ipairs(tokens) do
      local field = token .. ':' .. id
      if newer then redis.call('HDEL', L, field) else counts = counts or total(redis.call('HGET', L, field)) end
    end
  end
  return counts
end
local function tidy()
  if redis.call('HLEN', U) <= 2 then redis.call('DEL', U) end
end
local function parked(each)
  local all = redis.call('HGETALL', L)
  for token in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do
    for k = 1, #all, 2 do
      if string.sub(all[k], 1, #token + 1) == token .. ':' then each(string.sub(all[k], #token + 2), all[k + 1], token) end
    end
  end
  redis.call('DEL', L)
end
`

// PendAdd adds a delta to what is pending, and PendPut replaces it.
//
//	KEYS[1]  P
//	ARGV[1]  id
//	ARGV[2]  delta, decimal; or value
//
//	returns  1
//
// Both are sent once. PendAdd would add again, and a copy of PendPut that is late
// would undo what was put since.
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

// TakeBatch returns the batch in flight, or takes one from what is pending. One
// call does a bounded part of the work; {'F'} asks for another call.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  start of the token, fresh for every call
//	ARGV[2]  the caller, not ''
//	ARGV[3]  milliseconds during which the batch is then the caller's
//	ARGV[4]  most ids of a batch
//	ARGV[5]  most bytes of a batch that has more than one id; '' any
//	ARGV[6]  '1': also a batch that waits to be tried again
//	ARGV[7]  most ids that this call moves
//
//	returns  {'C', v, p}  clean: nothing is pending, and nothing in flight
//	                    v: '#v' of U, p: '#p' of L; '' where there is none
//	         {'B', ms}  in flight, and another caller's for so long, or to be
//	                    tried again then
//	         {'F'}      not finished: call again
//	         {'T', n, token, inc, more, fails, size, batch, v, p}  taken
//	         {'R', …}   the same: it was in flight before
//	                    more: ids that are still pending
//	                    fails: how often persisting it has failed
//	                    size: ids of the batch
//	                    batch: I, fields and values by turns; empty if that
//	                    is long, for ReadBatch
//
// Why it is safe: each id leaves P and enters I in one step, and stays in I until
// the batch is acknowledged. While '#open' is set, I still grows. Only the call
// that ends this gives the batch its token, and no caller is handed a batch that
// is open. So a number and a token name one content, even if Redis goes back to a
// moment at which the batch was open. An id that I has already is left in P, so
// that LookBatch never sees what is in flight of an id change under one number.
// '#n' grows before the first id moves, so behind_unchanged sees it.
//
// It may be sent twice: a copy finds the batch in flight, or moves more ids into
// one that is open. If the batch was acknowledged, the copy takes one for a caller
// that does not wait for it, and another caller resumes that when its time is up.
// The time is part of the token, so a copy that comes after Redis has lost the
// bucket cannot take another batch of the same name.
//
// HSCAN goes on where the last batch ended ('#scan'): it would otherwise pass the
// slots that earlier batches have emptied, again for each batch. It returns every
// id that is there from the beginning to the end of one cycle. So a cycle that
// ends has moved all that was pending when it began, and '#t0' can be that moment.
// A batch ends with the cycle.
//
// A clock that was set back must not keep a batch from being resumed. If '#till' is
// further away than it was when it was written, the period begins anew: a process
// that lives holds the batch by its next heartbeat.
var TakeBatch = New("take batch", behind+`
local at, micros = behind_now(), behind_micros()
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#by', '#till', '#f', '#open', '#size', '#scan', '#since', '#for')
local n, inc, open, cursor, since = m[1], m[4], m[8], m[10] or '0', m[11] or micros
if cursor == '0' then since = micros end
local got, size = string.match(m[9] or '0 0', '(%d+) (%d+)')
got, size = tonumber(got), tonumber(size)
local v, p = redis.call('HGET', U, '#v') or '', redis.call('HGET', L, '#p') or ''
redis.call('HDEL', P, '#')
local function left() return redis.call('HLEN', P) - redis.call('HEXISTS', P, '#t0') end
local function reply(kind, token, fails)
  local all = {}
  if kind == 'R' then redis.call('HSET', I, '#r', '1') end
  if got <= 500 and size <= 262144 then all = redis.call('HGETALL', I) end
  return {kind, n, token, inc, left(), fails, got, all, v, p}
end
if n and n ~= m[2] then
  local wait = tonumber(m[6] or '0') - at
  local free = m[5] == ARGV[2] or (m[5] == '' and ARGV[6] == '1')
  local held = tonumber(m[12] or '0')
  if wait > held then
    wait = held
    redis.call('HSET', I, '#till', at + held)
  end
  if not free and wait > 0 then return {'B', wait} end
  redis.call('HSET', I, '#by', ARGV[2], '#till', at + ARGV[3], '#for', ARGV[3])
  if not open then return reply('R', m[3], m[7] or '0') end
else
  got, size, open = 0, 0, false
  if left() <= 0 then return {'C', v, p} end
end
local put, del = {}, {}
local function move()
  if #del == 0 then return end
  if not open then
    if not n then
      n, inc = '0', redis.call('HGET', P, '#t0') or ARGV[1]
      redis.call('HSET', I, '#n', n, '#inc', inc)
      redis.call('HINCRBY', P, '#t0', 1)
    end
    redis.call('HINCRBY', I, '#n', 1)
    redis.call('HSET', I, '#a', n, '#open', '1', '#by', ARGV[2], '#till', at + ARGV[3], '#for', ARGV[3],
      '#t0', redis.call('HGET', P, '#t0') or micros)
    n, open = redis.call('HGET', I, '#n'), '1'
  end
  got = got - #del + redis.call('HSET', I, unpack(put))
  redis.call('HDEL', P, unpack(del))
  put, del = {}, {}
end
local most, bytes, most_now, resumed = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7]), open
local moved, moved_bytes, scans, full, pause, cycle = 0, 0, 0, false, false, false
while not full and not cycle and got < most and left() > 0 do
  pause = pause or moved >= most_now or moved_bytes >= 524288 or scans == 16
  if pause then break end
  local count = math.min(100, math.max(10, most - got))
  if bytes and got == 0 then count = 10 end
  if bytes and got > 0 then count = math.min(count, math.max(1, math.floor(65536 * got / size))) end
  local page = redis.call('HSCAN', P, cursor, 'COUNT', count)
  scans = scans + 1
  for k = 1, #page[2], 2 do
    local id, v = page[2][k], page[2][k + 1]
    if string.byte(id) ~= 35 and not (resumed and redis.call('HEXISTS', I, id) == 1) then
      full = got >= most or (bytes and got > 0 and size + #id + #v > bytes)
      pause = moved >= most_now
      if full or pause then break end
      got, size, moved, moved_bytes = got + 1, size + #id + #v, moved + 1, moved_bytes + #id + #v
      put[#put + 1], put[#put + 2], del[#del + 1] = id, v, id
      if #del == 100 then move() end
    end
  end
  move()
  if not full and not pause then
    cursor = tostring(page[1])
    if cursor == '0' then
      cycle = got > 0
      if left() > 0 then redis.call('HSET', P, '#t0', since) end
      since = micros
    end
  end
end
if left() <= 0 then
  redis.call('DEL', P)
  cursor, pause = '0', false
end
redis.call('HSET', I, '#scan', cursor, '#since', since, '#size', got .. ' ' .. size)
if pause or got == 0 then return {'F'} end
local time = redis.call('TIME')
local token = ARGV[1] .. '.' .. time[1] .. '.' .. time[2]
redis.call('HSET', I, '#tok', token)
redis.call('HDEL', I, '#open')
return reply('T', token, '0')
`)

// ReadBatch returns a part of the batch in flight, where it is too long for the
// reply of TakeBatch.
//
//	KEYS     P, I
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  cursor, first '0'
//	ARGV[4]  about how many fields to return; fewer if they are long
//
//	returns  {cursor, fields and values by turns}
//	         the cursor '' if the batch is no longer in flight, '0' at the end
//
// It changes nothing. A batch that has a token does not change, so HSCAN returns
// all of it, fields perhaps twice.
var ReadBatch = New("read batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#size')
if not mine(m) then return {'', {}} end
local got, size = string.match(m[4], '(%d+) (%d+)')
local count = math.max(1, math.min(tonumber(ARGV[4]), math.floor(262144 * got / math.max(size, 1))))
local page = redis.call('HSCAN', I, ARGV[3], 'COUNT', count)
return {tostring(page[1]), page[2]}
`)

// HoldBatch keeps a batch for whoever persists it, as its heartbeat; or leaves it to
// wait after a failure.
//
//	KEYS     P, I
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  who has it
//	ARGV[4]  milliseconds from now
//	ARGV[5]  '' hold it for so long; '1' let nobody try it for so long
//
//	returns  1  done
//	         0  the batch is not in flight, or not whose ARGV[3] says
//
// Why it is safe: it changes who should persist the batch, and never what is in it. It
// may be sent twice; a copy of a failure counts it twice.
var HoldBatch = New("hold batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#by')
if not mine(m) or m[4] ~= ARGV[3] then return 0 end
redis.call('HDEL', P, '#')
redis.call('HSET', I, '#till', behind_now() + ARGV[4], '#for', ARGV[4])
if ARGV[5] == '1' then
  redis.call('HSET', I, '#by', '')
  redis.call('HINCRBY', I, '#f', 1)
end
return 1
`)

// AckBatch forgets a batch that was persisted.
//
//	KEYS     P, I, D, U, L; then the keys of '#unsure'
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  how many ids were refused for good
//	ARGV[5]… these ids; then those that were not persisted, for a process could not
//	         read them
//
//	returns  1  forgotten; what was refused is in D, and what was not read in U
//	         0  the batch is not in flight any more
//	         '#unsure', where KEYS has other ones: call again with these
//
// Why it is safe: only the batch of this number and token is forgotten, which whoever
// sends this knows to be persisted. So none of the batches of L is, as they have the
// same number: what they have moves to U. It may be sent twice: the copy finds
// nothing.
//
// A value or total takes the place of what is older of the id in D and in U, which must
// not be tried again after it. A delta that was persisted counts on a total there.
//
// A count of '#unsure' may have what the batch adds twice. The next reader restores it,
// when nothing is in doubt any more.
var AckBatch = New("ack batch", behind+unread+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#scan', '#since', '#t0', '#unsure')
if not mine(m) then return 0 end
local unsure = ''
for k = 6, #KEYS do unsure = unsure .. #KEYS[k] .. ':' .. KEYS[k] end
if unsure ~= (m[8] or '') then return m[8] or '' end
redis.call('HDEL', P, '#')
parked(function(id, v, token)
  if ARGV[3] ~= 'last' or redis.call('HEXISTS', I, id) == 0 then unread(ARGV[3], id, v, token, m[7]) end
end)
local is = {}
for k = 5, #ARGV do is[ARGV[k]] = k < 5 + ARGV[4] and 'refused' or 'unread' end
if redis.call('EXISTS', D, U) > 0 then
  for _, id in ipairs(redis.call('HKEYS', I)) do
    local v = isid(id) and (ARGV[3] == 'last' or redis.call('HGET', I, id))
    if v and (not is[id] or ARGV[3] == 'last' or total(v)) then persisted(ARGV[3], id, v) end
  end
end
for k = 5, #ARGV do
  local v = redis.call('HGET', I, ARGV[k])
  if not v then
  elseif k < 5 + ARGV[4] then
    aside(ARGV[3], ARGV[k], v)
  else
    unread(ARGV[3], ARGV[k], v, m[3], m[7])
  end
end
tidy()
for k = 6, #KEYS do redis.call('UNLINK', KEYS[k]) end
redis.call('UNLINK', I)
redis.call('HSET', I, '#n', m[1], '#a', m[1], '#tok', m[3], '#inc', m[4], '#scan', m[5] or '0', '#since', m[6] or behind_micros())
return 1
`)
