package script

// A Home is the scripts that restore a collection of one type of Redis: a list, a
// sorted set or a set. Each of these begins with an element that is no member of
// the collection, its head, which says what the rest is:
//
//	'V' token  the collection, as it was restored from its source, and all that
//	           was written since. token is that of the load
//	'N' token  a collection that has no source. token is zero
//	'L' token  a lease: somebody loads the collection, and what stands there was
//	           written meanwhile. token is that of the load
//	'M' token  a lease that somebody waits for: when it ends, a message goes to
//	           WakeChannel
//
// The head stands in the collection itself, and not in a key beside it. So every
// script touches one key, and a DEL, an expiry, an eviction or a flush by anyone
// takes the collection, its head and the lease at once: a load that began before
// finds its token gone and stores nothing. What another program puts into the key
// without a head is foreign.
//
// A collection that is known to be empty is a head and nothing else. While it is
// leased, the key lives for as long as the lease, so that all that a loader which
// died leaves behind is gone with it.
type Home struct {
	// Acquire gives the lease on a collection that is not there.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token: 8 bytes, fresh for every call
	//	ARGV[2]  milliseconds that the lease holds
	//	ARGV[3]  token of a restored collection that cannot be used, or ''
	//	ARGV[4]  '1': publish on WakeChannel when the lease that I wait for ends
	//
	//	returns  {'G', ''}     lease granted
	//	         {'V', ''}     the collection is there
	//	         {'W', token}  the lease of this token is held; that of a set is zero
	//
	// Why it is safe: a lease is granted only where nothing is there that was
	// restored and can be used, and nobody loads. What it replaces is foreign, has no
	// source, or cannot be used, and is to be had from the source. It is sent
	// once: a copy that runs after the first one's lease was deleted would
	// grant again what the deletion took away.
	Acquire *Script

	// Extend prolongs a lease, as the heartbeat of a load.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token of the lease
	//	ARGV[2]  milliseconds that the lease holds from now
	//
	//	returns  1  prolonged
	//	         0  the lease is lost: nothing will be stored
	//
	// Why it is safe: only the lease of this token is prolonged. It may be sent
	// twice.
	Extend *Script

	// Release gives a lease back, and what was written meanwhile: the source has it.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token of the lease
	//
	//	returns  1  given back: the key is absent
	//	         0  the lease is lost, or the collection is stored
	//
	// Why it is safe: what does not have the token is not touched. It may be sent
	// twice.
	Release *Script

	// Store puts a part of what was loaded in place, and with the last part ends the
	// lease: from then on the collection is there.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token of the lease
	//	ARGV[2]  '1': this is the last part
	//	ARGV[3]  milliseconds that the lease holds from now, if it is not
	//	ARGV[4]  milliseconds that the collection is kept, '' forever
	//	ARGV[5]  how many members it has at most
	//	ARGV[6]  '1': a list without repetitions
	//	ARGV[7…] members, those of a sorted set each followed by its score
	//
	//	returns  1  stored
	//	         3  stored, and nothing else was there: no part before, and nothing that
	//	            was written meanwhile
	//	         2  the last part was stored before: the reply of a copy was lost
	//	         4  there is more to do than one script may: the last part is to be sent
	//	            again, without members
	//	         0  not stored: the lease is lost
	//
	// Why it is safe: parts are stored only where the token still is, and nobody
	// reads them before the last one. Whatever took the token away came after the
	// load began, and what was loaded may be older than that. What was written since
	// the lease was granted stays, and wins. A part is sent once, or a list
	// would have it twice.
	Store *Script
}

// newHome returns the scripts of a type. Its prelude sets there, whether the key
// exists, and state, the letter of the head or nil; is(token) tells whether the
// head has this token, and head(state, token) puts a head into a key that is
// absent. bare is whether there is a head and nothing else. awaited is whether
// somebody waits for a lease, and await(token) says so in its head.
func newHome(kind, prelude, bare, store string) Home {
	return Home{
		Acquire: New("acquire "+kind, prelude+`
if state == 'V' and not (ARGV[3] ~= '' and is(ARGV[3])) then return {'V', ''} end
if state == 'L' and not is(ARGV[1]) then
  local left = redis.call('PTTL', key)
  if left < 0 or left > tonumber(ARGV[2]) then redis.call('PEXPIRE', key, ARGV[2]) end
  if ARGV[4] == '1' and not awaited then await() end
  return {'W', holder()}
end
if there then redis.call('UNLINK', key) end
head('L', ARGV[1])
redis.call('PEXPIRE', key, ARGV[2])
return {'G', ''}
`),
		Extend: New("extend "+kind, prelude+`
if state ~= 'L' or not is(ARGV[1]) then return 0 end
redis.call('PEXPIRE', key, ARGV[2])
return 1
`),
		Release: New("release "+kind, prelude+`
if state ~= 'L' or not is(ARGV[1]) then return 0 end
wake()
redis.call('UNLINK', key)
return 1
`),
		Store: New("store "+kind, prelude+`
if not state or not is(ARGV[1]) then return 0 end
if state == 'V' then return 2 end
if state ~= 'L' then return 0 end
local bare = `+bare+store+`
if ARGV[2] == '1' then
  wake()
  keep(ARGV[4])
else
  redis.call('PEXPIRE', key, ARGV[3])
end
return bare and 3 or 1
`),
	}
}

// keeping is what every prelude has to set the TTL of the collection: milliseconds,
// ” forever, '=' as it was.
const keeping = `
local key = KEYS[1]
local NOBODY = string.rep('\0', 8)
local awaited = false
` + publish + `
local function wake()
  if awaited then publish(key) end
end
local function keep(ms)
  if ms == '=' then return end
  if ms == '' then redis.call('PERSIST', key) else redis.call('PEXPIRE', key, ms) end
end
`

// newRemoval returns the script that takes members out of a collection of a type, by
// a command that returns how many it has taken out. What goes as a whole goes by UNLINK:
// another thread of the server frees it, which takes long if it is large.
func newRemoval(name, prelude, command string) *Script {
	return New(name, prelude+`
if not state then
  if there and ARGV[1] ~= '1' then return -1 end
  return 0
end
if state == 'L' then
  wake()
  redis.call('UNLINK', key)
  return 0
end
local n = 0
for i = 3, #ARGV do n = n + `+command+` end
keep(ARGV[2])
return n
`)
}
