-- KEYS[1] has the leases of all gateways, KEYS[2] who has left something behind, KEYS[3] what each gateway says of itself.
-- ARGV[1] is a gateway whose lease was ARGV[2] for too long, ARGV[3] for how many milliseconds it is remembered.
if redis.call('HGET', KEYS[1], ARGV[1]) ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[2], ARGV[1], '')
redis.call('PEXPIRE', KEYS[2], ARGV[3])
redis.call('HDEL', KEYS[3], ARGV[1])
return redis.call('HDEL', KEYS[1], ARGV[1])
