-- KEYS[1]: rules of all gateways. ARGV[1]: the revision that was read. ARGV[2]: tables, separated by spaces,
-- whose channels have no history any more. Returns the new revision, or nothing if the revision has changed
-- since.
local revision = redis.call('HGET', KEYS[1], 'revision')
if revision ~= ARGV[1] then
  return false
end
for table in string.gmatch(ARGV[2], '%S+') do
  redis.call('HSET', KEYS[1], 'era ' .. table, 'off')
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
revision = string.format('%.0f', math.max(now, tonumber(revision) + 1))
redis.call('HSET', KEYS[1], 'revision', revision)
return revision
