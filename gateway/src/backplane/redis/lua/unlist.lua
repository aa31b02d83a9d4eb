-- KEYS[1] has who has left something behind, KEYS[2] the list of channels of one of them, ARGV[1]. ARGV[2] settles that, and has
-- taken its members out of the channels that follow. Whoever has come back meanwhile is in them again, and keeps its list.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
if #ARGV > 2 then
  redis.call('SREM', KEYS[2], unpack(ARGV, 3))
end
return 1
