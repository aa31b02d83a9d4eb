-- KEYS[1]: leases of all gateways. KEYS[2]: gateways whose data must be taken over. KEYS[3]: descriptions of
-- all gateways. ARGV[1]: a gateway whose lease ARGV[2] has expired. ARGV[3]: time in milliseconds to keep
-- KEYS[2].
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], '')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
