-- KEYS[1]: gateways whose data must be taken over. KEYS[2]: leases of all gateways. ARGV[1]: a gateway in
-- KEYS[1]. ARGV[2]: the gateway that claims its takeover. ARGV[3]: duration of the claim in milliseconds.
-- Returns 1 if it has the claim.
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
