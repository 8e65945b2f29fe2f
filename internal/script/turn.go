package script

// turnPrelude begins every script of the turns. It reads the record of KEYS[1]
// into r, false if the key does not hold a record. A key of another type holds
// none either, hence pcall.
//
//	off len
//	  0   3  magic, C1 'T' 01
//	  3   1  state: 'R' a process has the turn, 'D' it is done
//	  4   4  the first bytes of the token of its process; 0 if it was given
//	         back
//	  8   2  mark: 'Q' 01
//	 10   2  whether the turn is watched, in the highest bit; last, in the
//	         others
//	 12   6  slot: when the period of the turn began
//	 18   6  till: the process has the turn until then
//
// Numbers are big endian. Times are milliseconds of the server's clock since
// 1970. A script decides by the record alone. The TTL of the key, which a
// PERSIST or a RESTORE may change, only removes records for which no process
// asks.
//
// last is the end of a queue: the last period after slot in which a process was
// told to look at the turn. So in each period, one process that has not got the
// turn looks at it, however many processes there are.
//
// Releases before the queue have 8 bytes of the token at offset 4. Their
// scripts compare these bytes with a token of their own. So a mark and a queue
// look to them like the token of another process. A record without the mark was
// written by such a release, and has no queue. Only a turn that is due changes
// it. Each process is told to look in the next period, as those releases do.
const turnPrelude = basics + `
local at = now()
local lease, every = tonumber(ARGV[2]), tonumber(ARGV[3])
local r = redis.pcall('GETRANGE', key, 0, 24)
if type(r) ~= 'string' or #r ~= 24 or string.sub(r, 1, 3) ~= '\193T\1'
  or (string.sub(r, 4, 4) ~= 'R' and string.sub(r, 4, 4) ~= 'D') then
  r = false
end
local own = string.sub(ARGV[1], 1, 4)
local state, mine, queued, slot, till
local watched, last = 0, 0
if r then
  state, queued = string.sub(r, 4, 4), string.sub(r, 9, 10) == 'Q\1'
  if queued then
    local hi, lo = string.byte(r, 11, 12)
    watched, last = math.floor(hi / 128), hi % 128 * 256 + lo
  end
  mine = queued and string.sub(r, 5, 8) == own
  slot, till = get48(string.sub(r, 13, 18)), get48(string.sub(r, 19, 24))
end
local function queue()
  return 'Q\1' .. string.char(watched * 128 + math.floor(last / 256), last % 256)
end
local function put(state, token, slot, till)
  redis.call('SET', key, '\193T\1' .. state .. token .. queue() .. put48(slot) .. put48(till), 'PX', 2 * every + lease)
end
`

// TurnWatched and TurnKept are bits of the last argument of [TakeTurn].
const (
	TurnWatched = 1 << iota // the process was told 'H' before
	TurnKept                // the process has a place in the queue, and keeps it
)

// MaxTurnQueue is the maximum number of periods that a caller of [TakeTurn]
// waits.
const MaxTurnQueue = 1<<15 - 1

// TakeTurn takes the turn of a key: the right to do the work of one period,
// which is done once.
//
//	KEYS[1]  the record, in a key of its own
//	ARGV[1]  token: 8 bytes, fresh for every call
//	ARGV[2]  milliseconds that the turn is held
//	ARGV[3]  milliseconds of the period
//	ARGV[4]  maximum of periods that a process waits, from 1 to MaxTurnQueue
//	ARGV[5]  bits: TurnWatched, TurnKept
//
//	returns  {'T', 0}   taken
//	         {'H', ms}  another process has the turn, for this long unless it
//	                    is extended: watch it
//	         {'D', ms}  it is done, or watched: look again in this long, when
//	                    a period begins. With TurnKept it is the next period,
//	                    and otherwise the place of the process in the queue
//
// Why it is safe: a process takes a turn only if there is no record, or if the
// turn of the previous period is done. It also does if the holder gave the turn
// back or let it run out. So each period has one turn, unless its holder dies
// or the record is lost. It is sent once. If a copy runs after the turn was
// given back, it takes the turn for no process. The fleet then waits until that
// turn has run out. A copy that runs while the turn is held finds its own
// token, and changes nothing that matters. A copy that runs later has a place
// in the queue that no process uses.
//
// The first process that finds the turn held watches it. So if its holder dies,
// another process takes the turn over within the same period. All other
// processes are sent to the end of the queue. If the end is ARGV[4] periods
// away, each gets a period of the later half of these at random, by bytes of
// the token. A full Redis refuses the write of the queue; the reply to the
// process is still true.
//
// Periods are counted from the first one, and not from the last turn. A turn
// that is taken late, or taken over, does not move the turns that follow.
//
// The turns must not stop if a clock was set back, or if another server has
// another clock. So TakeTurn ignores a record whose period begins later than
// the next one can. A turn is held for at most ten times as long as any process
// asks for.
var TakeTurn = New("take turn", turnPrelude+`
local bits = tonumber(ARGV[5])
local held = r and state == 'R' and not mine and till > at and till - at <= 10 * lease
local known = r and slot - at <= every
if held and (not known or not queued or watched == 0 or bits % 2 == 1) then
  if queued and watched == 0 then
    watched = 1
    redis.pcall('SETRANGE', key, 8, queue())
  end
  return {'H', till - at}
end
if held or known and state == 'D' and slot + every > at then
  local passed = math.max(math.floor((at - slot) / every), 0)
  local place, most = passed + 1, tonumber(ARGV[4])
  if queued and bits < 2 then
    if math.max(last, passed) < math.min(passed + most, 32767) then
      last = math.max(last, passed) + 1
      place = last
      redis.pcall('SETRANGE', key, 8, queue())
    else
      local hi, lo = string.byte(ARGV[1], 5, 6)
      place = passed + most - (hi * 256 + lo) % math.floor((most + 1) / 2)
    end
  end
  return {'D', slot + place * every - at}
end
local begin = at
if known then
  local passed = math.max(math.floor((at - slot) / every), 0)
  begin, last = slot + passed * every, math.max(last - passed, 0)
else
  last = 0
end
watched = 0
put('R', own, begin, at + lease)
return {'T', 0}
`)

// ExtendTurn prolongs a turn, as the heartbeat of its process.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that the turn is held from now
//	ARGV[3]  milliseconds of the period
//
//	returns  1  prolonged
//	         0  the turn is lost, or over
//
// Why it is safe: it prolongs only the turn of this token, and only if the turn
// is not done: a late heartbeat does not begin it again. It may be sent twice.
var ExtendTurn = New("extend turn", turnPrelude+`
if not mine or state ~= 'R' then return 0 end
put('R', own, slot, at + lease)
return 1
`)

// EndTurn marks a turn as done: there is no turn until the next period.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that a turn is held
//	ARGV[3]  milliseconds of the period
//
//	returns  milliseconds until the next turn is due, 0 if it is; -1 the turn
//	         is lost
//
// Why it is safe: it ends only the turn of this token, even if the turn ran out
// and no process took it. It may be sent twice: a copy ends a turn that has
// ended, and finds another token once the next turn was taken.
var EndTurn = New("end turn", turnPrelude+`
if not mine then return -1 end
put('D', own, slot, 0)
if slot + every > at then return slot + every - at end
return 0
`)

// ReturnTurn gives back a turn that was not used, so that another process can
// take it at once, in the same period.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that a turn is held
//	ARGV[3]  milliseconds of the period
//
//	returns  0  given back
//	         -1 the turn is lost, or over, or was never taken
//
// Why it is safe: it gives back only a turn of this token that is not done. It
// also removes the token, so that a late heartbeat prolongs nothing. It may be
// sent twice.
var ReturnTurn = New("return turn", turnPrelude+`
if not mine or state ~= 'R' then return -1 end
put('R', '\0\0\0\0', slot, 0)
return 0
`)
