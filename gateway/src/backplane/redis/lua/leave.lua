-- KEYS[1] has the leases of all gateways, KEYS[2] who has left something behind, KEYS[3] what each gateway says of itself, the
-- others are what ARGV[1] may leave. ARGV[2] is for how many milliseconds it is remembered.
redis.call('HDEL', KEYS[3], ARGV[1])
for index = 4, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], '')
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
return redis.call('HDEL', KEYS[1], ARGV[1])
