-- KEYS[1] has the leases of all gateways, KEYS[2] who has left something behind. ARGV[1] is a gateway, ARGV[2] its lease,
-- ARGV[3] for how many milliseconds leases are kept at most.
local known = redis.call('HEXISTS', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- Whoever was taken for dead and is not has nothing to leave.
redis.call('HDEL', KEYS[2], ARGV[1])
return {known, redis.call('HGETALL', KEYS[1]), redis.call('HKEYS', KEYS[2])}
