-- KEYS[1] has the leases of all gateways. ARGV[1] is a gateway whose lease was ARGV[2] for too long.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
return redis.call('HDEL', KEYS[1], ARGV[1])
