package script

// A Home has the scripts that restore a collection of one Redis type: a list, a
// sorted set or a set. Each collection begins with its head, an element that is
// not a member. The head describes the other elements:
//
//	'V' token  the collection as it was restored from its source, with all
//	           writes since. token is the token of the load
//	'N' token  a collection that has no source. token is zero
//	'L' token  a lease: a process loads the collection, and the elements were
//	           written meanwhile. token is the token of the load
//	'M' token  a lease for which a process waits: when it ends, a message goes
//	           to WakeChannel
//
// The head is in the collection itself, and not in a key beside it. So every
// script touches one key. A DEL, an expiry, an eviction or a flush by any
// program takes the collection, its head and the lease at once. A load that
// began before finds its token gone and stores nothing. If another program
// writes to the key without a head, the content is foreign.
//
// A collection that is known to be empty is a head and nothing else. While it
// is leased, the key lives as long as the lease. So everything that a dead
// loader leaves behind disappears with the lease.
type Home struct {
	// Acquire grants the lease on a collection that is absent.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token: 8 bytes, fresh for every call
	//	ARGV[2]  milliseconds that the lease holds
	//	ARGV[3]  token of a restored collection that cannot be used, or ''
	//	ARGV[4]  '1': publish on WakeChannel at the end of the awaited lease
	//
	//	returns  {'G', ''}     lease granted
	//	         {'V', ''}     the collection is there
	//	         {'W', token}  the lease of this token is held; zero for a set
	//
	// Why it is safe: Acquire grants a lease only if the key holds no restored
	// collection that can be used, and no process loads. The content that it
	// replaces is foreign, has no source, or cannot be used, and the source has
	// it. It is sent once: a copy that runs after the lease of the first was
	// deleted would grant again the lease that the deletion took away.
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
	// Why it is safe: it prolongs only the lease of this token. It may be sent
	// twice.
	Extend *Script

	// Release gives a lease back, and deletes the writes since: the source has
	// them.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token of the lease
	//
	//	returns  1  given back: the key is absent
	//	         0  the lease is lost, or the collection is stored
	//
	// Why it is safe: Release changes nothing that does not have the token. It
	// may be sent twice.
	Release *Script

	// Store stores a part of the loaded members. With the last part it ends the
	// lease: from then on the collection is there.
	//
	//	KEYS[1]  the collection
	//	ARGV[1]  token of the lease
	//	ARGV[2]  '1': this is the last part
	//	ARGV[3]  milliseconds that the lease holds from now, if it is not the
	//	         last
	//	ARGV[4]  milliseconds that the collection is kept, '' forever
	//	ARGV[5]  maximum number of members
	//	ARGV[6]  '1': a list without repetitions
	//	ARGV[7…] members; in a sorted set, each is followed by its score
	//
	//	returns  1  stored
	//	         3  stored, and nothing else was there: no part before, and no
	//	            writes meanwhile
	//	         2  the last part was stored before: the reply of a copy was
	//	            lost
	//	         4  there is more work than one script may do: send the last
	//	            part again, without members
	//	         0  not stored: the lease is lost
	//
	// Why it is safe: Store stores parts only if the token is still there, and
	// no reader reads them before the last one. If the token was taken away,
	// that came after the load began, and the loaded members may be older.
	// Writes since the lease was granted stay, and win. A part is sent once, or
	// a list would have it twice.
	Store *Script
}

// newHome returns the scripts of a type. Its prelude sets these variables and
// functions:
//
//	there               whether the key exists
//	state               the letter of the head, or nil
//	is(token)           whether the head has this token
//	head(state, token)  puts a head into a key that is absent
//	awaited             whether a process waits for a lease
//	await(token)        says so in the head
//
// bare is an expression for whether there is a head and nothing else.
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

// keeping is in every prelude, and sets the TTL of the collection:
// milliseconds, "" forever, '=' as it was.
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

// newRemoval returns the script that removes members from a collection of a
// type, by a command that returns how many it has removed. A whole collection
// is deleted by UNLINK: another thread of the server frees it, which takes long
// if it is large.
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
