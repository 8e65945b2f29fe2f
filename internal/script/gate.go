package script

// gatePrelude begins every script of the gates. It reads the content of KEYS[1]
// into held, false if the key is absent. It reads the token of the gate into
// token, nil if the key holds something else. A key of another type is
// "something else" too, hence pcall.
//
//	off len
//	  0   3  magic, C1 'G' 01
//	  3   8  token of the caller that closed the gate
//
// The TTL of the key says for how long the gate is closed.
const gatePrelude = `
local key = KEYS[1]
local held = redis.pcall('GET', key)
local token
if type(held) == 'string' and #held == 11 and string.sub(held, 1, 3) == '\193G\1' then
  token = string.sub(held, 4)
end
`

// PassGate lets the caller through an open gate, and closes the gate behind it.
//
//	KEYS[1]  the gate
//	ARGV[1]  token: 8 bytes, fresh for every caller
//	ARGV[2]  milliseconds that the gate is closed then
//
//	returns  {'P', 0}   passed
//	         {'C', ms}  closed, for this many milliseconds
//	         {'F', 0}   the key holds something that is not a gate
//
// Why it is safe: it is one step, so of all callers that find the gate open one
// passes. It is sent once: a late copy closes a gate that has opened since, and
// lets no caller through. A copy that finds the token of its own caller says
// again that this caller has passed. It does not close the gate for longer.
//
// A gate may have lost its TTL, by a PERSIST or a RESTORE. It may have a longer
// TTL than any caller asks for, as after a step back of the server's clock.
// Such a gate would be closed for good; PassGate closes it for ARGV[2] from
// now. If a gate has no time left, it is open: Redis deletes a key only in the
// next millisecond.
var PassGate = New("pass gate", gatePrelude+`
if held and not token then return {'F', 0} end
local left, most = 0, tonumber(ARGV[2])
if held then
  left = redis.call('PTTL', key)
  if left < 0 or left > most then
    redis.call('PEXPIRE', key, ARGV[2])
    left = most
  end
end
if left == 0 then
  redis.call('SET', key, '\193G\1' .. ARGV[1], 'PX', ARGV[2])
elseif token ~= ARGV[1] then
  return {'C', left}
end
return {'P', 0}
`)

// ReopenGate opens the gate that its caller has closed.
//
//	KEYS[1]  the gate
//	ARGV[1]  token of the caller
//
//	returns  1  opened
//	         0  the gate is open, or another caller has closed it
//
// Why it is safe: if another caller has passed the gate since, the gate has
// another token. It may be sent twice.
var ReopenGate = New("reopen gate", gatePrelude+`
if token ~= ARGV[1] then return 0 end
redis.call('UNLINK', key)
return 1
`)

// ResetGate opens a gate that any caller has closed.
//
//	KEYS[1]  the gate
//
//	returns  1   opened
//	         0   it was open
//	         -1  the key holds something that is not a gate
//
// Why it is safe: it deletes nothing but a gate. It is sent once: a late copy
// would open a gate that was closed since.
var ResetGate = New("reset gate", gatePrelude+`
if not held then return 0 end
if not token then return -1 end
redis.call('UNLINK', key)
return 1
`)
