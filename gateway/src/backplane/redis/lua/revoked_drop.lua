-- KEYS[1]: the revocations. KEYS[2]: their ids by change. ARGV: ids of entries that a gateway has dropped,
-- each followed by its version: a later one stays. What is in force by the clock of Redis stays, too: the
-- clock of the gateway may be ahead.
local now = tonumber(redis.call('TIME')[1])
for i = 1, #ARGV, 2 do
  local text = redis.call('HGET', KEYS[1], ARGV[i]) or ''
  local version, till, lifted = string.match(text, '^(%d+) (%d+) %d+ (%d+)')
  if version and tonumber(version) <= tonumber(ARGV[i + 1]) then
    till = tonumber(till)
    if lifted ~= '0' or till ~= 0 and till <= now then
      redis.call('HDEL', KEYS[1], ARGV[i])
      redis.call('ZREM', KEYS[2], ARGV[i])
    end
  end
end
return 1
