package script

// SubtractBatch takes from what is pending what the database has of it already, after
// Redis has gone back to before the last batch. One call does a part.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  how many ids earlier calls were given
//	ARGV[4]  '1': subtract from what is pending too, of ids that the batch has not
//	ARGV[5]  token of the batch that the database has
//	ARGV[6]… ids and what to add, by turns
//
//	returns  1  done, now or before
//	         0  the batch is not in flight any more; or the database has one of L,
//	            and Redis has not gone back
//
// An id of which neither has anything is passed, and so is one that was set: a total
// has nothing of what was before. What leaves int64 is put aside.
//
// Why it is safe: '#cut' counts the ids that were done, so that each is done once,
// whatever process goes on with it. The number of the batch was applied with another
// token, so nobody can persist what this changes before RenumberBatch. It may be sent
// twice.
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

// RenumberBatch gives a batch the number that the database expects next, after Redis
// or the database has lost some of its history.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch, '' of a bucket of which nothing is in flight
//	ARGV[3]  number of the last batch that the database has
//	ARGV[4]  number of the one after it
//	ARGV[5]  token, fresh for every call
//	ARGV[6]  incarnation, fresh for every call, or '' to keep it
//	ARGV[7]  how many ids SubtractBatch was given
//	ARGV[8]  token of the batch that the database has, '' any
//
//	returns  1  done
//	         0  the batch is not in flight any more; or there is one; or the database
//	            has one of L, which SettleBatch is for
//
// Why it is safe: only the batch of this number and token is changed, and it gets
// another token, so a process that has read it before cannot take it for what it is
// now. It may be sent twice: the copy finds another token. Where nothing is in flight,
// the next batch is the first of a new incarnation, unless L has a batch: the database
// may have that, and tells so by the next number of this incarnation.
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

// DropBatch puts a batch aside, to what was refused, and with it what is pending if the
// batch was not all there was. One call does a part.
//
//	KEYS     P, I, D, U, L, and a key for what is pending while it is put aside
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  number of the last batch that the database has
//	ARGV[5]  '1': what is pending too
//	ARGV[6]  incarnation, fresh for every call, or '' to keep it
//	ARGV[7]  most ids that this call moves
//
//	returns  1  done
//	         2  call again
//	         0  the batch is not in flight any more
//
// The batches of L go the same way. The oldest goes first: L, I, P. Why it is safe: as
// RenumberBatch. Each id leaves one key and enters D in one step, and any process goes on
// with it, as the batch is in flight until all is done. It may be sent twice. '#drop' is
// a cursor in I; with '+', in what was pending.
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

// ListRefused returns a page of D. A field is an id; or '#:' and an id, and the value a
// list, where the sum of what was refused would have left int64.
//
//	KEYS     P, I, D
//	ARGV[1]  cursor, '0' at first
//
//	returns  {cursor, fields and values by turns}
//	         a cursor of '0' ends. What is in D throughout is on a page, or on two
//
// It changes nothing.
var ListRefused = New("list refused", `
local page = redis.call('HSCAN', KEYS[3], ARGV[1], 'COUNT', 256)
return {tostring(page[1]), page[2]}
`)

// RetryRefused makes pending again what was refused.
//
//	KEYS     P, I, D
//	ARGV[1]  'sum' or 'last'
//	ARGV[2]  field of D
//	ARGV[3]  id of that
//
//	returns  1  pending again; of a list, the first of it
//	         2  dropped, as a newer value is pending or in flight
//	         0  D has none
//
// Why it is safe: it leaves D as it gets to P. It may be sent twice: the copy finds
// none, or the next of a list.
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

// LookBatch tells what the database may lack of some ids.
//
//	KEYS     P, I, D, U, L
//	ARGV     ids
//
//	returns  {inc, moment, n, a, pending, inFlight, unread, parked}
//	         see behind_moment; n and a '0' where the bucket has never been taken
//	         from. Each of the others has one element for each id, nil for none: P,
//	         I, U, and L. unread and parked are empty where there is no U, and no L
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

// SurveyBatch tells how much a bucket has to do.
//
//	KEYS     P, I, D, U, L
//	ARGV[1]  '1': find out which keys this Redis evicts when it is full
//
//	returns  {pending, t0, inFlight, t0, fails, by, ms, refused, policy,
//	         unread, t0, v, p, now}
//	         numbers of ids, and when the oldest of them was written, '' where there is
//	         none, in microseconds; how often the batch in flight has failed, whose it
//	         is and for how long; the maxmemory-policy, '' if it was not asked for or
//	         may not be; unread counts U and L; v and p as TakeBatch
//
// It changes nothing. INFO is called by the script, for by itself it may not be sent
// through a proxy, and would not tell of the server of this key in a Cluster.
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
