package script

// Write-behind keeps what is still to be persisted in buckets. The keys of one
// bucket share a hash tag, so that a script may touch them all:
//
//	P  hash: what is pending. id → delta or value; '#t0' when the first of it came
//	I  hash: the batch in flight, that is, taken and not acknowledged. id → the
//	   same; and of the bucket, for good:
//	   '#n'    number of the last batch that was taken
//	   '#a'    number of the last batch that was acknowledged: '#n', or one less
//	   '#tok'  token of batch '#n'
//	   '#inc'  incarnation: it changes if and only if Redis has lost this key. It is the
//	           '#t0' of the first batch, so that it is the same again if Redis goes back to
//	           before it took that
//	   and of a batch in flight: '#t0'; '#by' who persists it, until '#till'; '#f'
//	   how often that has failed. With '#by' of '' it waits until '#till' to be tried
//	   again
//	D  hash: what the database refused for good. id → delta or value
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

// Pend are Lua functions for scripts that write to P or read P and I, beside what
// else they do to keys of the same tag.
//
//	behind_add(p, id, delta)   adds a delta, a decimal string. It fails where the sum
//	                           leaves int64, or is none, and has then done nothing: so
//	                           let it be the first write of a script
//	behind_put(p, id, value)   replaces what is pending
//	behind_pending(p, id)      what is pending of id, false if nothing
//	behind_latest(p, i, id)    what is pending, else what is in flight, else false: the
//	                           newest value that was put and that the database may lack
//	behind_unchanged(i, inc, n, id)
//	                           whether what the database holds of id, read after a Look
//	                           that returned inc and n, lacks what is pending now and
//	                           nothing else
//
// Why the last one is right: since the Look no batch was taken, or n would differ, and
// no bucket lost, or inc would. So the database had, all this time, the batches up to n
// but for one in flight, and if that one has nothing of id, it had all of id that was
// ever taken. The rest is in P.
const Pend = `
local function behind_now()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end
local function behind_add(p, id, delta)
  redis.call('HINCRBY', p, id, delta)
  redis.call('HSETNX', p, '#t0', behind_now())
end
local function behind_put(p, id, value)
  redis.call('HSET', p, id, value)
  redis.call('HSETNX', p, '#t0', behind_now())
end
local function behind_pending(p, id)
  return redis.call('HGET', p, id)
end
local function behind_latest(p, i, id)
  return redis.call('HGET', p, id) or redis.call('HGET', i, id)
end
local function behind_unchanged(i, inc, n, id)
  local m = redis.call('HMGET', i, '#inc', '#n', '#a')
  return (m[1] or '') == inc and (m[2] or '0') == n and (m[2] == m[3] or redis.call('HEXISTS', i, id) == 0)
end
`

// behind is the beginning of the scripts that move batches.
const behind = Pend + `
local P, I, D = KEYS[1], KEYS[2], KEYS[3]
local function mine(m) return m[1] == ARGV[1] and m[3] == ARGV[2] and m[1] ~= m[2] end
local function aside(merge, id, v, token)
  if merge == 'last' then
    redis.call('HSET', D, id, v)
  elseif type(redis.pcall('HINCRBY', D, id, v)) == 'table' then
    redis.call('HSET', D, '#' .. token .. ':' .. id, v)
  end
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
// PendAdd must not be sent twice (RunOnce), or it adds twice; nor PendPut, whose copy
// would undo what somebody has put in between.
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

// TakeBatch gives the batch in flight, or takes one from what is pending.
//
//	KEYS     P, I
//	ARGV[1]  what the token begins with, fresh for every call
//	ARGV[2]  who takes it, not ''
//	ARGV[3]  milliseconds that it is then nobody else's
//	ARGV[4]  how many ids to take at most
//	ARGV[5]  how many bytes to take at most, but at least one id; '' no matter
//	ARGV[6]  '1': also a batch that waits to be tried again
//
//	returns  {'C'}      clean: nothing is pending, and nothing in flight
//	         {'B', ms}  in flight, and somebody else's for so long, or to be tried
//	                    again then
//	         {'T', n, token, inc, more, fails, batch}  taken
//	         {'R', …}   the same: it was in flight before
//	                    more: how many ids are still pending
//	                    fails: how often persisting it has failed
//	                    batch: I, fields and values by turns
//
// Why it is safe: nothing is lost, as all that leaves P is in I, and stays there until
// it is acknowledged; and a batch with a number and a token has the same content for
// whoever gets it. That a batch is somebody's is for efficiency: the number and the
// token are for correctness. It may be sent twice: the copy finds the batch in flight;
// or, if that was acknowledged, takes one for nobody, and the next one to ask resumes
// that when its time is up. The time is part of the token of a batch, lest a copy that
// comes after Redis has lost the bucket takes another batch of the same name.
//
// A clock that was set back must not keep a batch from being resumed: nobody holds one
// for more than ten times as long as anybody asks for, or ten minutes.
var TakeBatch = New("take batch", behind+`
local at = behind_now()
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc', '#by', '#till', '#f')
local n, inc, pending = m[1], m[4], redis.call('HLEN', P)
local time = redis.call('TIME')
local token = ARGV[1] .. '.' .. time[1] .. '.' .. time[2]
redis.call('HDEL', P, '#')
if n and n ~= m[2] then
  local left = tonumber(m[6] or '0') - at
  local free = m[5] == ARGV[2] or (m[5] == '' and ARGV[6] == '1')
  if not free and left > 0 and left <= math.max(10 * ARGV[3], 600000) then return {'B', left} end
  redis.call('HSET', I, '#by', ARGV[2], '#till', at + ARGV[3])
  return {'R', n, m[3], inc, math.max(pending - 1, 0), m[7] or '0', redis.call('HGETALL', I)}
end
if pending == 0 then return {'C'} end
if not n then
  n, inc = '0', redis.call('HGET', P, '#t0') or token
  redis.call('HSET', I, '#n', n, '#inc', inc)
end
redis.call('HINCRBY', I, '#n', 1)
redis.call('HSET', I, '#a', n, '#tok', token, '#by', ARGV[2], '#till', at + ARGV[3],
  '#t0', redis.call('HGET', P, '#t0') or at)
local most, bytes, got, size, cursor = tonumber(ARGV[4]), tonumber(ARGV[5]), 0, 0, '0'
local put, del = {}, {}
local function move()
  if #del == 0 then return end
  redis.call('HSET', I, unpack(put))
  redis.call('HDEL', P, unpack(del))
  put, del = {}, {}
end
repeat
  local page = redis.call('HSCAN', P, cursor, 'COUNT', 16)
  cursor = tostring(page[1])
  for k = 1, #page[2], 2 do
    local id, v = page[2][k], page[2][k + 1]
    if string.byte(id) ~= 35 then
      if got >= most or (bytes and got > 0 and size + #id + #v > bytes) then
        cursor = '0'
        break
      end
      got, size = got + 1, size + #id + #v
      put[#put + 1], put[#put + 2], del[#del + 1] = id, v, id
      if #del == 100 then move() end
    end
  end
  move()
until cursor == '0'
local more = math.max(redis.call('HLEN', P) - 1, 0)
if more == 0 then redis.call('DEL', P) end
return {'T', redis.call('HGET', I, '#n'), token, inc, more, '0', redis.call('HGETALL', I)}
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
redis.call('HSET', I, '#till', behind_now() + ARGV[4])
if ARGV[5] == '1' then
  redis.call('HSET', I, '#by', '')
  redis.call('HINCRBY', I, '#f', 1)
end
return 1
`)

// AckBatch forgets a batch that was persisted.
//
//	KEYS     P, I, D
//	ARGV[1]  number of the batch
//	ARGV[2]  token of the batch
//	ARGV[3]  'sum' or 'last'
//	ARGV[4]… ids that were refused for good
//
//	returns  1  forgotten; what was refused is in D
//	         0  the batch is not in flight any more
//
// Why it is safe: only the batch of this number and token is forgotten, which whoever
// sends this knows to be persisted. It may be sent twice: the copy finds nothing.
//
// A value that was persisted takes the place of an older one of the id in D, which must
// not be tried again after it.
var AckBatch = New("ack batch", behind+`
local m = redis.call('HMGET', I, '#n', '#a', '#tok', '#inc')
if not mine(m) then return 0 end
local refused = redis.call('HLEN', D)
redis.call('HDEL', P, '#')
if ARGV[3] == 'last' and refused > 0 then
  for _, id in ipairs(redis.call('HKEYS', I)) do redis.call('HDEL', D, id) end
end
for k = 4, #ARGV do
  local v = redis.call('HGET', I, ARGV[k])
  if v then aside(ARGV[3], ARGV[k], v, m[3]) end
end
redis.call('UNLINK', I)
redis.call('HSET', I, '#n', m[1], '#a', m[1], '#tok', m[3], '#inc', m[4])
return 1
`)
