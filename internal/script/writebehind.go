package script

// WriteBehind is Write of a value that is to be persisted later.
//
//	KEYS     the entry, P
//	ARGV     as Write, and
//	ARGV[6]  the id in P
//
//	returns  1
//
// Why it is safe: the value and the note that it is to be persisted come together, and
// take the place of older ones. It is sent once: a copy that is late would undo what
// was written since, for good.
var WriteBehind = New("write behind", prelude+Pend+`
behind_put(KEYS[2], ARGV[6], ARGV[5])
wake()
local at, soft = now(), FOREVER
if ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
header('V', '\0', soft, ARGV[1], put48(at), '\0\0\0\0', ARGV[4])
put(ARGV[5], ARGV[2])
return 1
`)
