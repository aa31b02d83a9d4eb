-- KEYS[1]: the revocations. KEYS[2]: their ids by change. ARGV: ids of expired entries, each followed by its
-- version: a later one stays.
for i = 1, #ARGV, 2 do
  local known = tonumber(string.match(redis.call('HGET', KEYS[1], ARGV[i]) or '', '^%d+') or '-1')
  if known >= 0 and known <= tonumber(ARGV[i + 1]) then
    redis.call('HDEL', KEYS[1], ARGV[i])
    redis.call('ZREM', KEYS[2], ARGV[i])
  end
end
return 1
