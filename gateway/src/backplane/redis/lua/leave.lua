-- KEYS[1]: leases of all gateways. KEYS[2]: gateways whose data must be taken over. KEYS[3]: descriptions of
-- all gateways. Further keys: data that the gateway ARGV[1] may leave behind. ARGV[2]: time in milliseconds
-- to keep KEYS[2].
redis.call('HDEL', KEYS[3], ARGV[1])
for index = 4, #KEYS do
  if redis.call('EXISTS', KEYS[index]) == 1 then
    redis.call('HSET', KEYS[2], ARGV[1], '')
    redis.call('PEXPIRE', KEYS[2], ARGV[2])
  end
end
return redis.call('HDEL', KEYS[1], ARGV[1])
