package script

// WriteBehind does the work of Write for a value that is persisted later.
//
//	KEYS     the entry, P
//	ARGV     as Write, and
//	ARGV[6]  the id in P
//
//	returns  1
//
// Why it is safe: the value and the note that it is pending are stored
// together, and replace older ones. It is sent once: a late copy would undo
// later writes, for good.
var WriteBehind = New("write behind", prelude+Pend+`
behind_put(KEYS[2], ARGV[6], ARGV[5])
wake()
local at, soft = now(), FOREVER
if ARGV[3] ~= '' then soft = put48(at + ARGV[3]) end
header('V', '\0', soft, ARGV[1], put48(at), '\0\0\0\0', ARGV[4])
put(ARGV[5], ARGV[2])
return 1
`)
