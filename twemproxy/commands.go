package twemproxy

import "strings"

// Knows reports whether twemproxy 0.5 forwards the command of a name, in any
// case. For some arguments, such as a script without keys, it may still close
// the connection.
func Knows(name string) bool { return known[strings.ToLower(name)] }

var known = func() map[string]bool {
	m := map[string]bool{}
	for _, name := range strings.Fields(`
		auth command lolwut ping

		copy del dump exists expire expireat persist pexpire pexpireat pttl restore sort touch ttl type unlink

		append bitcount bitfield bitpos decr decrby get getbit getdel getex getrange getset incr incrby incrbyfloat
		mget mset psetex set setbit setex setnx setrange strlen

		hdel hexists hget hgetall hincrby hincrbyfloat hkeys hlen hmget hmset hrandfield hscan hset hsetnx hstrlen hvals

		lindex linsert llen lmove lpop lpos lpush lpushx lrange lrem lset ltrim rpop rpoplpush rpush rpushx

		pfadd pfcount pfmerge

		sadd scard sdiff sdiffstore sinter sinterstore sismember smembers smismember smove spop srandmember srem sscan
		sunion sunionstore

		zadd zcard zcount zdiff zdiffstore zincrby zinter zinterstore zlexcount zmscore zpopmax zpopmin zrandmember zrange
		zrangebylex zrangebyscore zrangestore zrank zrem zremrangebylex zremrangebyrank zremrangebyscore zrevrange
		zrevrangebylex zrevrangebyscore zrevrank zscan zscore zunion zunionstore

		geoadd geodist geohash geopos georadius georadiusbymember geosearch geosearchstore

		eval evalsha`) {
		m[name] = true
	}
	return m
}()
