-- KEYS[1]: leases of all gateways. KEYS[2]: gateways whose data must be taken over. KEYS[3]: descriptions of
-- all gateways. ARGV[1]: the gateway. ARGV[2]: its lease. ARGV[3]: maximum time in milliseconds to keep all
-- this. ARGV[4]: the revision of KEYS[3] that it has read. ARGV[5]: its description, or nothing if Redis has
-- it. ARGV[6]: its tables with a history, separated by spaces. Returns KEYS[3] only if its revision is
-- another one.
local known = redis.call('HEXISTS', KEYS[1], ARGV[1])
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
-- A gateway that was declared dead and is alive has nothing to be taken over.
redis.call('HDEL', KEYS[2], ARGV[1])
local revision = redis.call('HGET', KEYS[3], 'revision')
if ARGV[5] ~= '' then
  local time = redis.call('TIME')
  local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
  local changed = redis.call('HGET', KEYS[3], ARGV[1]) ~= ARGV[5]
  for table in string.gmatch(ARGV[6], '%S+') do
    local era = redis.call('HGET', KEYS[3], 'era ' .. table)
    if not era then
      redis.call('HSET', KEYS[3], 'era ' .. table, 'on')
    elseif string.sub(era, 1, 3) == 'off' then
      -- Publications meanwhile were not kept by any gateway.
      redis.call('HSET', KEYS[3], 'era ' .. table, 'on ' .. string.format('%.0f', now))
      changed = true
    end
  end
  if changed or not revision then
    revision = string.format('%.0f', math.max(now, (tonumber(revision) or 0) + 1))
    redis.call('HSET', KEYS[3], ARGV[1], ARGV[5], 'revision', revision)
  end
end
redis.call('PEXPIRE', KEYS[3], ARGV[3])
local said = false
if (revision or '0') ~= ARGV[4] then
  said = redis.call('HGETALL', KEYS[3])
end
return {known, redis.call('HGETALL', KEYS[1]), redis.call('HKEYS', KEYS[2]), revision or '0', said}
