package script

// TakeBatch returns the batch in flight, or takes one from the pending data.
// One call does a bounded part of the work; {'F'} asks for another call.
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
//	                    v: '#v' of U, p: '#p' of L; '' if absent
//	         {'B', ms}  in flight: another caller has it for this long, or it
//	                    is to be tried again then
//	         {'F'}      not finished: call again
//	         {'T', n, token, inc, more, fails, size, batch, v, p}  taken
//	         {'R', …}   the same: it was in flight before
//	                    more: ids that are still pending
//	                    fails: how often persisting it has failed
//	                    size: ids of the batch
//	                    batch: I, fields and values alternating; empty if that
//	                    is long, for ReadBatch
//
// Why it is safe: each id leaves P and enters I in one step, and stays in I
// until the batch is acknowledged. While '#open' is set, I still grows. Only
// the call that ends this gives the batch its token, and no caller gets a batch
// that is open. So a number and a token name one content, even if Redis goes
// back to a moment at which the batch was open. TakeBatch leaves an id in P if
// I already has it. So under one number, LookBatch never sees a change of the
// data in flight for an id. '#n' grows before the first id moves, so
// behind_unchanged sees it.
//
// It may be sent twice: a copy finds the batch in flight, or moves more ids
// into one that is open. If the batch was acknowledged, the copy takes one for
// a caller that does not wait for it. Another caller resumes that batch when
// its time is up. The time is part of the token. So a copy that comes after
// Redis has lost the bucket cannot take another batch of the same name.
//
// HSCAN continues where the last batch ended ('#scan'). Otherwise it would pass
// the slots that earlier batches have emptied, again for each batch. It returns
// every id that is there from the beginning to the end of one cycle. So a cycle
// that ends has moved all data that was pending when it began, and '#t0' can be
// that moment. A batch ends with the cycle.
//
// A clock that was set back must not keep a batch from being resumed. If
// '#till' is further away than it was when it was written, the period begins
// anew. A live process keeps the batch by its next heartbeat.
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
  pause = pause or moved >= most_now or moved_bytes >= 524288 or scans == 6
  if pause then break end
  local count = math.min(100, math.max(10, most - got))
  if bytes and got == 0 then count = 10 end
  if bytes and got > 0 then count = math.min(count, math.max(1, math.floor(65536 * got / size))) end
  local page = redis.call('HSCAN', P, cursor, 'COUNT', count)
  scans = scans + 1
  for k = 1, #page[2], 2 do
    local id, v = page[2][k], page[2][k + 1]
    if string.byte(id, 1) ~= 35 and not (resumed and redis.call('HEXISTS', I, id) == 1) then
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
  redis.call('UNLINK', P)
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

// ReadBatch returns a part of a batch in flight that is too long for the reply
// of TakeBatch.
//
//	KEYS     P, I
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  cursor, first '0'
//	ARGV[4]  about how many fields to return; fewer if they are long
//
//	returns  {cursor, fields and values alternating}
//	         the cursor '' if the batch is no longer in flight, '0' at the end
//
// It changes nothing. A batch that has a token does not change, so HSCAN
// returns all of it, fields perhaps twice.
var ReadBatch = New("read batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#size')
if not mine(m) then return {'', {}} end
local got, size = string.match(m[4], '(%d+) (%d+)')
local count = math.max(1, math.min(tonumber(ARGV[4]), math.floor(262144 * got / math.max(size, 1))))
local page = redis.call('HSCAN', I, ARGV[3], 'COUNT', count)
return {tostring(page[1]), page[2]}
`)

// HoldBatch keeps a batch for the caller that persists it, as its heartbeat.
// After a failure, it lets the batch wait.
//
//	KEYS     P, I
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  the caller that has it
//	ARGV[4]  milliseconds from now
//	ARGV[5]  '' hold it for this long; '1' let no caller try it for this long
//
//	returns  1  done
//	         0  the batch is not in flight, or ARGV[3] does not have it
//
// Why it is safe: it changes which caller should persist the batch, and never
// the content of the batch. It may be sent twice; a copy of a failure counts it
// twice.
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
//	ARGV[4]  most elements of L, and most of these ids, that this call moves
//	ARGV[5]  how many ids were refused for good
//	ARGV[6]… these ids; then the ids that were not persisted, because a
//	         process could not read them
//
//	returns  1  forgotten; refused data is in D, and unread data in U
//	         2  call again
//	         0  the batch is no longer in flight
//	         '#unsure', if KEYS has other keys: call again with these
//
// Why it is safe: it forgets only the batch of this number and token, and its
// caller knows that this batch is persisted. The batches of L have the same
// number, so none of them is persisted; their data moves to U. If an id was not
// persisted, it leaves I and enters D or U in one step. Both are right however
// far the calls come. If another process resumes the batch, the database tells
// it that the batch is persisted, and it continues. It may be sent twice: the
// copy finds nothing.
//
// A value or total replaces older data of the id in D and in U, which must not
// be tried again after it. A delta that was persisted is added to a total
// there.
//
// A count of '#unsure' may contain the deltas of the batch twice. The next
// reader restores it, when nothing is in doubt any more.
var AckBatch = New("ack batch", behind+unread+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#scan', '#since', '#t0', '#unsure')
if not mine(m) then return 0 end
local unsure = ''
for k = 6, #KEYS do unsure = unsure .. #KEYS[k] .. ':' .. KEYS[k] end
if unsure ~= (m[8] or '') then return m[8] or '' end
redis.call('HDEL', P, '#')
local all = parked(tonumber(ARGV[4]), function(id, v, token)
  if ARGV[3] ~= 'last' or redis.call('HEXISTS', I, id) == 0 then unread(ARGV[3], id, v, token, m[7]) end
end)
if not all then
  stamp()
  return 2
end
local left = tonumber(ARGV[4])
for k = 6, #ARGV do
  local v = redis.call('HGET', I, ARGV[k])
  if v and left == 0 then
    stamp()
    return 2
  elseif v then
    left = left - 1
    if k < 6 + ARGV[5] then aside(ARGV[3], ARGV[k], v) else unread(ARGV[3], ARGV[k], v, m[3], m[7]) end
    redis.call('HDEL', I, ARGV[k])
  end
end
if redis.call('EXISTS', D, U) > 0 then
  local few, either = redis.call('HLEN', D) + redis.call('HLEN', U) < redis.call('HLEN', I), {}
  for _, key in ipairs(few and {D, U} or {I}) do
    for _, field in ipairs(redis.call('HKEYS', key)) do
      local id = string.match(field, '^#:(.*)') or field
      if isid(id) then either[id] = true end
    end
  end
  for id in pairs(either) do
    local v = redis.call('HGET', I, id)
    if v then persisted(ARGV[3], id, v) end
  end
end
stamp()
tidy()
for k = 6, #KEYS do redis.call('UNLINK', KEYS[k]) end
redis.call('UNLINK', I)
redis.call('HSET', I, '#n', m[1], '#a', m[1], '#tok', m[3], '#inc', m[4], '#scan', m[5] or '0', '#since', m[6] or behind_micros())
return 1
`)
