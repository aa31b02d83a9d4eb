-- KEYS[1] has the leases of all gateways. ARGV[1] is a gateway, ARGV[2] its lease, ARGV[3] for how many milliseconds
-- leases are kept at most.
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('HGETALL', KEYS[1])
