-- KEYS[1]: gateways whose data must be taken over. KEYS[2]: list of channels of one of them, ARGV[1].
-- ARGV[2]: the gateway that takes over and has removed its members from the channels that follow. A gateway
-- that has come back meanwhile is in them again, and keeps its list.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
if #ARGV > 2 then
  redis.call('SREM', KEYS[2], unpack(ARGV, 3))
end
return 1
