package script

// SubtractBatch subtracts data that the database already has from the pending
// data, after Redis has gone back to a moment before the last batch. One call
// does a part.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  how many ids earlier calls were given
//	ARGV[4]  '1': subtract from the pending data too, for ids not in the batch
//	ARGV[5]  token of the batch that the database has
//	ARGV[6]… ids and numbers to add, alternating
//
//	returns  1  done, now or before
//	         0  the batch is no longer in flight; or the database has a batch
//	            of L, and Redis has not gone back
//
// It skips an id if neither the batch nor the pending data has anything of it.
// It also skips an id that was set: a total contains nothing of older data. If
// a result exceeds int64, it is put aside.
//
// Why it is safe: '#cut' counts the ids that were done. So each is done once,
// whichever process continues. The database applied this batch number with
// another token. So no process can persist the data that SubtractBatch changes
// before RenumberBatch. It may be sent twice.
var SubtractBatch = New("subtract batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#cut')
if not mine(m) or parks(ARGV[5]) then return 0 end
if (m[4] or '0') ~= ARGV[3] then return 1 end
redis.call('HDEL', P, '#')
for k = 6, #ARGV, 2 do
  local id, by = ARGV[k], ARGV[k + 1]
  local key = I
  local v = redis.call('HGET', I, id)
  if not v and ARGV[4] == '1' then
    key, v = P, redis.call('HGET', P, id)
  end
  if v and string.byte(v, 1) ~= 61 and type(redis.pcall('HINCRBY', key, id, by)) == 'table' then
    more(id, by)
  end
end
redis.call('HINCRBY', I, '#cut', math.floor((#ARGV - 5) / 2))
return 1
`)

// RenumberBatch gives a batch the number that the database expects next, after
// Redis or the database has lost some of its history.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch, '' if nothing of the bucket is in flight
//	ARGV[3]  number of the last batch that the database has
//	ARGV[4]  number of the one after it
//	ARGV[5]  token, fresh for every call
//	ARGV[6]  incarnation, fresh for every call, or '' to keep it
//	ARGV[7]  how many ids SubtractBatch was given
//	ARGV[8]  token of the batch that the database has, '' any
//
//	returns  1  done
//	         0  the batch is no longer in flight; or, if ARGV[2] is '', one is
//	            in flight; or the database has one of L, which is for
//	            SettleBatch
//
// Why it is safe: it changes only the batch of this number and token, and gives
// the batch another token. So a process that read the batch before cannot
// mistake it for the new one. It may be sent twice: the copy finds another
// token.
//
// If nothing is in flight, the next batch is the first of a new incarnation.
// The exception is an L that has a batch: the database may have that batch, and
// shows it at the next number of this incarnation.
var RenumberBatch = New("renumber batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#cut')
redis.call('HDEL', P, '#')
if ARGV[2] == '' then
  if m[1] ~= ARGV[1] or m[1] ~= m[2] or redis.call('EXISTS', L) == 1 then return 0 end
  redis.call('HSET', I, '#n', '0', '#a', '0', '#inc', ARGV[6])
  return 1
end
if not mine(m) or (m[4] or '0') ~= ARGV[7] or parks(ARGV[8]) then return 0 end
redis.call('HDEL', I, '#cut')
redis.call('HSET', I, '#n', ARGV[4], '#a', ARGV[3], '#tok', ARGV[5])
if ARGV[6] ~= '' then redis.call('HSET', I, '#inc', ARGV[6]) end
return 1
`)

// DropBatch puts a batch aside in D, where the refused data is. If the batch is
// not all that there was, the pending data goes with it. One call does a part.
//
//	KEYS     P, I, D, U, L, and a key for pending data while it is put aside
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  number of the last batch that the database has
//	ARGV[5]  '1': the pending data too
//	ARGV[6]  incarnation, fresh for every call, or '' to keep it
//	ARGV[7]  most ids that this call moves
//
//	returns  1  done
//	         2  call again
//	         0  the batch is no longer in flight
//
// The batches of L are put aside too. The oldest data goes first: L, I, P.
//
// Why it is safe: as RenumberBatch. Each id leaves one key and enters D in one
// step. Any process can continue, as the batch is in flight until all is done.
// It may be sent twice. '#drop' is a cursor in I; with '+', a cursor in the
// data that was pending.
var DropBatch = New("drop batch", behind+unread+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#scan', '#since', '#drop', '#unsure')
if not mine(m) then return 0 end
redis.call('HDEL', P, '#')
if not m[7] then
  if not parked(tonumber(ARGV[7]), function(id, v) aside(ARGV[3], id, v) end) then return 2 end
  if ARGV[5] == '1' and redis.call('EXISTS', P) == 1 then redis.call('RENAME', P, KEYS[6]) end
end
local key, cursor, left, scans = I, m[7] or '0', tonumber(ARGV[7]), 0
if string.byte(cursor, 1) == 43 then key, cursor = KEYS[6], string.sub(cursor, 2) end
repeat
  local page = redis.call('HSCAN', key, cursor, 'COUNT', 100)
  cursor, scans = tostring(page[1]), scans + 1
  for k = 1, #page[2], 2 do
    local id = page[2][k]
    if string.byte(id, 1) ~= 35 then
      aside(ARGV[3], id, page[2][k + 1])
      redis.call('HDEL', key, id)
      left = left - 1
    end
  end
until cursor == '0' or left <= 0 or scans == 6
if key ~= I then cursor = '+' .. cursor end
if cursor == '0' and redis.call('EXISTS', KEYS[6]) == 1 then cursor = '+0' elseif cursor == '+0' then cursor = '0' end
redis.call('HSET', I, '#drop', cursor)
if cursor ~= '0' then return 2 end
redis.call('UNLINK', KEYS[6])
redis.call('UNLINK', I)
local inc = m[4]
if ARGV[6] ~= '' then inc = ARGV[6] end
redis.call('HSET', I, '#n', ARGV[4], '#a', ARGV[4], '#tok', m[3], '#inc', inc, '#scan', '0', '#since', m[6] or behind_micros())
if m[8] then redis.call('HSET', I, '#unsure', m[8]) end
return 1
`)

// ListRefused returns a page of D. A field is an id. If the sum of the refused
// deltas would have exceeded int64, there is also a field '#:' and id, whose
// value is a list.
//
//	KEYS     P, I, D
//	ARGV[1]  cursor, '0' at first
//
//	returns  {cursor, fields and values alternating}
//	         a cursor of '0' ends. A field that is in D all the time is on one
//	         page, or on two
//
// It changes nothing.
var ListRefused = New("list refused", `
local page = redis.call('HSCAN', KEYS[3], ARGV[1], 'COUNT', 256)
return {tostring(page[1]), page[2]}
`)

// RetryRefused makes refused data pending again.
//
//	KEYS     P, I, D
//	ARGV[1]  'sum' or 'last'
//	ARGV[2]  field of D
//	ARGV[3]  id of that field
//
//	returns  1  pending again; of a list, its first element
//	         2  dropped, as a newer value is pending or in flight
//	         0  D has no such field
//
// Why it is safe: the data leaves D and enters P in one step. It may be sent
// twice: the copy finds no field, or the next element of a list.
var RetryRefused = New("retry refused", behind+batches+again+`
local v = redis.call('HGET', D, ARGV[2])
if not v then return 0 end
redis.call('HDEL', P, '#')
local rest = ''
if string.byte(ARGV[2], 1) == 35 then v, rest = string.match(v, '^([^ ]*) ?(.*)$') end
local done = again(ARGV[1], ARGV[3], v)
if done == 0 then behind_add(P, ARGV[3], v) end
if done == 1 then redis.call('HSETNX', P, '#t0', behind_micros()) end
if rest == '' then redis.call('HDEL', D, ARGV[2]) else redis.call('HSET', D, ARGV[2], rest) end
return done
`)

// LookBatch returns the data of some ids that the database may lack.
//
//	KEYS     P, I, D, U, L
//	ARGV     ids
//
//	returns  {inc, moment, n, a, pending, inFlight, unread, parked}
//	         see behind_moment; n and a are '0' if no batch of the bucket was
//	         ever taken. Each of the others has one element for each id, nil
//	         if the key does not have it: P, I, U, and L. unread and parked
//	         are empty if there is no U, and no L
//
// It changes nothing.
var LookBatch = New("look batch", PendLook+`
local inc, moment = behind_moment(KEYS[2])
local m = redis.call('HMGET', KEYS[2], '#n', '#a')
local reply = {inc, moment, m[1] or '0', m[2] or '0', {}, {}, {}, {}}
if #ARGV == 0 then return reply end
reply[5], reply[6] = redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('HMGET', KEYS[2], unpack(ARGV))
if redis.call('EXISTS', KEYS[4]) == 1 then reply[7] = redis.call('HMGET', KEYS[4], unpack(ARGV)) end
if redis.call('EXISTS', KEYS[5]) == 1 then reply[8] = redis.call('HMGET', KEYS[5], unpack(ARGV)) end
return reply
`)

// SurveyBatch tells how much work a bucket has.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  '1': find out which keys this Redis evicts when it is full
//
//	returns  {pending, t0, inFlight, t0, fails, by, ms, refused, policy,
//	         unread, t0, v, p, now}
//	         numbers of ids, each with the time in microseconds at which the
//	         oldest of them was written, '' if there is none; how often the
//	         batch in flight has failed, which caller has it, and for how
//	         long; the maxmemory-policy, '' if the caller does not ask for it
//	         or Redis does not tell it; unread counts U and L; v and p as
//	         TakeBatch
//
// It changes nothing. The script calls INFO, because a proxy does not pass INFO
// as a plain command. In a Cluster, a plain INFO would also not reach the
// server of this key.
var SurveyBatch = New("survey batch", behind+`
local at = behind_now()
local policy = ''
if ARGV[1] == '1' then
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'string' then policy = string.match(info, 'maxmemory_policy:([%w-]+)') or '' end
end
local p, t0 = redis.call('HLEN', P), redis.call('HGET', P, '#t0')
if t0 then p = p - 1 end
local m = redis.call('HMGET', I, '#n', '#a', '#by', '#till', '#for', '#f', '#t0', '#size')
local i, left, since = 0, 0, ''
if m[1] and m[1] ~= m[2] then
  i, since = tonumber(string.match(m[8] or '0', '%d+')), m[7] or ''
  left = tonumber(m[4] or at) - at
  if left > tonumber(m[5] or '0') then left = 0 end
end
local u, l, v = redis.call('HLEN', U), redis.call('HLEN', L), redis.call('HMGET', U, '#t0', '#v')
if u > 0 then u = u - 2 end
if l > 0 then
  u = u + l - 1
  for token in string.gmatch(redis.call('HGET', L, '#p') or '', '%S+') do u = u - redis.call('HEXISTS', L, '#t' .. token) end
end
return {p, t0 or '', i, since, tonumber(m[6] or '0'), m[3] or '', left, redis.call('HLEN', D), policy,
  u, v[1] or '', v[2] or '', redis.call('HGET', L, '#p') or '', behind_micros()}
`)
