-- KEYS[1] has who has left something behind, the others are what ARGV[1] has left. ARGV[2] is who has settled it.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed or string.match(claimed, '^%S+') ~= ARGV[2] then
  return 0
end
for index = 2, #KEYS do
  redis.call('DEL', KEYS[index])
end
return redis.call('HDEL', KEYS[1], ARGV[1])
