-- KEYS[1]: gateways whose data must be taken over. KEYS[2]: clients of one of them, ARGV[1]. ARGV[2]: the
-- gateway that takes over and has called `on-disconnect` for the clients from ARGV[3] on. Returns 1 if it may
-- continue.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], unpack(ARGV, 3))
return 1
