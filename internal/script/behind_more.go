package script

// RenumberBatch gives a batch the number that the database expects next, after Redis
// has lost or forgotten some of its history.
//
//	KEYS     P, I, D
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  number of the last batch that the database has
//	ARGV[4]  number of the one after it
//	ARGV[5]  token, fresh for every call
//	ARGV[6]  '1': subtract from what is pending too, of ids that the batch has not
//	ARGV[7]… ids and what to add, by turns, of what the database has already: it takes
//	         a delta of the other sign towards 0 and not beyond
//
//	returns  1  done
//	         0  the batch is not in flight any more
//
// Why it is safe: only the batch of this number and token is changed, and it gets
// another token, so that whoever has read it before cannot take it for what it is
// now. It may be sent twice: the copy finds another token.
var RenumberBatch = New("renumber batch", behind+`
local function negative(v) return string.byte(v) == 45 end
local function reduce(key, id, by)
  local v = redis.call('HGET', key, id)
  if not v then return false end
  if v ~= '0' and negative(v) ~= negative(by) then
    redis.pcall('HINCRBY', key, id, by)
    local left = redis.call('HGET', key, id)
    if left ~= '0' and negative(left) ~= negative(v) then redis.call('HSET', key, id, '0') end
  end
  return true
end
if not mine(redis.call('HMGET', I, '#n', '#a', '#tok')) then return 0 end
redis.call('HDEL', P, '#')
for k = 7, #ARGV, 2 do
  if not reduce(I, ARGV[k], ARGV[k + 1]) and ARGV[6] == '1' then reduce(P, ARGV[k], ARGV[k + 1]) end
end
redis.call('HSET', I, '#n', ARGV[4], '#a', ARGV[3], '#tok', ARGV[5])
return 1
`)

// DropBatch puts a batch aside, to what was refused, and with it what is pending if the
// batch was not all there was.
//
//	KEYS     P, I, D
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]  number of the last batch that the database has
//	ARGV[5]  '1': what is pending too
//
//	returns  1  done
//	         0  the batch is not in flight any more
//
// Why it is safe: as RenumberBatch.
var DropBatch = New("drop batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc')
if not mine(m) then return 0 end
redis.call('HLEN', D)
redis.call('HDEL', P, '#')
local function drop(key, token)
  local all = redis.call('HGETALL', key)
  for k = 1, #all, 2 do
    if string.byte(all[k]) ~= 35 then aside(ARGV[3], all[k], all[k + 1], token) end
  end
  redis.call('UNLINK', key)
end
drop(I, m[3])
if ARGV[5] == '1' then drop(P, m[3] .. '+') end
redis.call('HSET', I, '#n', ARGV[4], '#a', ARGV[4], '#tok', m[3], '#inc', m[4])
return 1
`)

// ListRefused returns D, fields and values by turns. A field is an id, or '#token:id'
// where the sum of what was refused would have left int64.
//
//	KEYS     P, I, D
var ListRefused = New("list refused", `return redis.call('HGETALL', KEYS[3])`)

// RetryRefused makes pending again what was refused.
//
//	KEYS     P, I, D
//	ARGV[1]  'sum' or 'last'
//	ARGV[2]  field of D
//	ARGV[3]  id of that
//
//	returns  1  pending again
//	         2  dropped, as a newer value is pending or in flight
//	         0  D has none
//
// Why it is safe: it leaves D as it gets to P. It may be sent twice: the copy finds
// none.
var RetryRefused = New("retry refused", behind+`
local v = redis.call('HGET', D, ARGV[2])
if not v then return 0 end
local newer = ARGV[1] == 'last' and (redis.call('HEXISTS', P, ARGV[3]) == 1 or redis.call('HEXISTS', I, ARGV[3]) == 1)
if newer then
elseif ARGV[1] == 'last' then
  behind_put(P, ARGV[3], v)
else
  behind_add(P, ARGV[3], v)
end
redis.call('HDEL', D, ARGV[2])
if newer then return 2 end
return 1
`)

// LookBatch tells what the database may lack of some ids.
//
//	KEYS     P, I
//	ARGV     ids
//
//	returns  {inc, n, a, pending, inFlight}
//	         inc '', n and a '0' where the bucket has never been taken from; pending and
//	         inFlight have one element for each id, nil for none
//
// It changes nothing.
var LookBatch = New("look batch", `
local m = redis.call('HMGET', KEYS[2], '#inc', '#n', '#a')
local pending, flying = {}, {}
if #ARGV > 0 then
  pending, flying = redis.call('HMGET', KEYS[1], unpack(ARGV)), redis.call('HMGET', KEYS[2], unpack(ARGV))
end
return {m[1] or '', m[2] or '0', m[3] or '0', pending, flying}
`)

// SurveyBatch tells how much a bucket has to do.
//
//	KEYS     P, I, D
//	ARGV[1]  '1': find out which keys this Redis evicts when it is full
//
//	returns  {pending, age, inFlight, age, fails, by, ms, refused, policy}
//	         numbers of ids, and for how many milliseconds the oldest of them waits; how
//	         often the batch in flight has failed, whose it is and for how long; the
//	         maxmemory-policy, '' if it was not asked for or may not be
//
// It changes nothing. INFO is called by the script, for by itself it may not be sent
// through a proxy, and would not tell of the server of this key in a Cluster.
var SurveyBatch = New("survey batch", behind+`
local at = behind_now()
local function age(t0)
  local ms = string.sub(t0 or '', 1, -4) -- of microseconds
  return math.max(at - (tonumber(ms) or at), 0)
end
local policy = ''
if ARGV[1] == '1' then
  local info = redis.pcall('INFO', 'memory')
  if type(info) == 'string' then policy = string.match(info, 'maxmemory_policy:([%w-]+)') or '' end
end
local p, t0 = redis.call('HLEN', P), redis.call('HGET', P, '#t0')
if t0 then p = p - 1 end
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#by', '#till', '#f', '#t0', '#size')
local i, iage = 0, 0
if m[1] and m[1] ~= m[2] then
  i, iage = tonumber(string.match(m[9] or '0', '%d+')), age(m[8])
end
return {p, age(t0), i, iage, tonumber(m[7] or '0'), m[5] or '', tonumber(m[6] or at) - at, redis.call('HLEN', D), policy}
`)
