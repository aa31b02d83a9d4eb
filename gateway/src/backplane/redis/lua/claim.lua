-- KEYS[1] has who has left something behind, KEYS[2] the leases of all gateways. ARGV[1] is one of the former, ARGV[2] who
-- wants to settle that, ARGV[3] within how many milliseconds, or how long until somebody else may. Answers whether it is so.
local claimed = redis.call('HGET', KEYS[1], ARGV[1])
if not claimed then
  return 0
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local by, till = string.match(claimed, '^(%S+) (%d+)')
if by and by ~= ARGV[2] and tonumber(till) > now and redis.call('HEXISTS', KEYS[2], by) == 1 then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2] .. ' ' .. string.format('%.0f', now + tonumber(ARGV[3])))
return 1
