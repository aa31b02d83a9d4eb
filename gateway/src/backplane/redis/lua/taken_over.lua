-- KEYS[1]: gateways whose data must be taken over. Further keys: data of the gateway ARGV[1]. ARGV[2]: the
-- gateway that has taken over.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
for index = 2, #KEYS do
  redis.call('DEL', KEYS[index])
end
return redis.call('HDEL', KEYS[1], ARGV[1])
