-- KEYS[1] has who has left something behind, KEYS[2] the clients of one of them, ARGV[1]. ARGV[2] is who settles that and has
-- told plugins that the clients from ARGV[3] on have gone. Answers whether it may go on.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
redis.call('HDEL', KEYS[2], unpack(ARGV, 3))
return 1
