package script

// turnPrelude is the beginning of every script of the turns: it reads the record
// of KEYS[1] into r, false if what is there is not one. The key of another type
// is "not one" too, hence pcall.
//
//	off len
//	  0   3  magic, C1 'T' 01
//	  3   1  state: 'R' somebody has the turn, 'D' it is done
//	  4   8  token of who has or had it; 0 if it was given back
//	 12   6  slot: when the period of the turn began
//	 18   6  till: who has the turn has it until
//
// Numbers are big endian, times are milliseconds of the server's clock since
// 1970. The record tells all that a script decides by; the TTL of the key, for
// which a PERSIST or a RESTORE is good, only clears away what nobody asks for.
const turnPrelude = basics + `
local at = now()
local lease, every = tonumber(ARGV[2]), tonumber(ARGV[3])
local r = redis.pcall('GETRANGE', key, 0, 24)
if type(r) ~= 'string' or #r ~= 24 or string.sub(r, 1, 3) ~= '\193T\1'
  or (string.sub(r, 4, 4) ~= 'R' and string.sub(r, 4, 4) ~= 'D') then
  r = false
end
local state, token, slot, till
if r then
  state, token = string.sub(r, 4, 4), string.sub(r, 5, 12)
  slot, till = get48(string.sub(r, 13, 18)), get48(string.sub(r, 19, 24))
end
local function put(state, token, slot, till)
  redis.call('SET', key, '\193T\1' .. state .. token .. put48(slot) .. put48(till), 'PX', 2 * every + lease)
end
`

// TakeTurn takes the turn of a key: the right to do once what is done once in
// every period.
//
//	KEYS[1]  the record, in a key of its own
//	ARGV[1]  token: 8 bytes, fresh for every call
//	ARGV[2]  milliseconds that the turn is held
//	ARGV[3]  milliseconds of the period
//
//	returns  {'T', 0}   taken
//	         {'H', ms}  somebody has the turn, for so long unless it is extended
//	         {'D', ms}  it is done; the next one is due in so long
//
// Why it is safe: a turn is taken where there is no record, where that of the
// period before is done, and where whoever had it has given it back or let it run
// out. So each period has one, unless its holder dies or the record is lost. It
// is sent once: a copy that runs after the turn was given back
// takes it for nobody, and the fleet waits until that has run out. A copy that
// runs while the turn is held finds its own token, and changes nothing that
// matters.
//
// Periods are counted from the first one, and not from the last turn: a turn that
// is taken late, or taken over, does not move those that follow.
//
// A clock that was set back, or that of another server, must not stop the turns: a
// period that begins later than the next one can is forgotten, and a turn is not
// held for more than ten times as long as anybody asks for.
var TakeTurn = New("take turn", turnPrelude+`
local begin = at
if r and state == 'R' and token ~= ARGV[1] and till > at and till - at <= 10 * lease then
  return {'H', till - at}
end
if r and slot - at <= every then
  if state == 'D' and slot + every > at then return {'D', slot + every - at} end
  begin = slot
  if at > slot then begin = slot + math.floor((at - slot) / every) * every end
end
put('R', ARGV[1], begin, at + lease)
return {'T', 0}
`)

// ExtendTurn prolongs a turn, as the heartbeat of whoever has it.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that the turn is held from now
//	ARGV[3]  milliseconds of the period
//
//	returns  1  prolonged
//	         0  the turn is lost, or over
//
// Why it is safe: only the turn of this token is prolonged, and not one that is
// done: a heartbeat that comes late does not begin it anew. It may be sent twice.
var ExtendTurn = New("extend turn", turnPrelude+`
if not r or state ~= 'R' or token ~= ARGV[1] then return 0 end
put('R', token, slot, at + lease)
return 1
`)

// EndTurn says that a turn is done: there is none until the next period.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that a turn is held
//	ARGV[3]  milliseconds of the period
//
//	returns  milliseconds until the next turn is due, 0 if it is; -1 the turn is lost
//
// Why it is safe: only the turn of this token is ended, one that ran out and that
// nobody took included. It may be sent twice: a copy ends what is ended, and finds
// another token once the next turn was taken.
var EndTurn = New("end turn", turnPrelude+`
if not r or token ~= ARGV[1] then return -1 end
put('D', token, slot, 0)
if slot + every > at then return slot + every - at end
return 0
`)

// ReturnTurn gives a turn back that was not used, so that somebody else can take
// it at once, in the same period.
//
//	KEYS[1]  the record
//	ARGV[1]  token of the turn
//	ARGV[2]  milliseconds that a turn is held
//	ARGV[3]  milliseconds of the period
//
//	returns  0  given back
//	         -1 the turn is lost, or over, or was never taken
//
// Why it is safe: only a turn of this token that is not done is given back, and
// the token goes with it, so that a heartbeat that comes late prolongs nothing. It
// may be sent twice.
var ReturnTurn = New("return turn", turnPrelude+`
if not r or state ~= 'R' or token ~= ARGV[1] then return -1 end
put('R', string.rep('\0', 8), slot, 0)
return 0
`)
