package script

import "strings"

// WakePrefix begins the names of all wake-up channels.
const WakePrefix = "cachex:wake:"

// WakeChannel returns the channel for name, the name of an entry. The scripts
// publish on it when a lease on the entry ends for which another process waits.
// at is the key in Redis, with which name begins.
//
// The channel is in the hash slot of the key, since a Cluster lets a script
// publish to no other slot. If a key contains "}", it may have a hash tag of
// its own, which the prefix does not change. Any other key has no hash tag and
// becomes one. A key such as "}{a" has neither: on a Cluster, its waiters poll.
func WakeChannel(name, at string) string {
	if strings.Contains(at, "}") {
		return WakePrefix + name
	}
	return WakePrefix + "{" + at + "}" + name[len(at):]
}

// publish wakes the processes that wait for the entry with a name. A message on
// a sharded channel, which needs Redis 7, stays in its shard; PUBLISH goes to
// every node of a Cluster. If the server refuses both, for example by an ACL,
// waiters poll.
const publish = `
local function publish(name)
  local at = key
  if not string.find(at, '}', 1, true) then at = '{' .. at .. '}' end
  at = '` + WakePrefix + `' .. at .. string.sub(name, #key + 1)
  if not redis.REDIS_VERSION_NUM or type(redis.pcall('SPUBLISH', at, name)) == 'table' then
    redis.pcall('PUBLISH', at, name)
  end
end
`
