-- KEYS[1]: the revocations. KEYS[2]: their ids by change. ARGV[1]: an epoch, if the list has none. Then for
-- each entry: its id, its text, and until when it is kept, in Unix time in milliseconds.
--
-- A text has the version, the end in seconds or 0 for none, `issued_before`, and 1 if the entry was lifted.
-- Of two texts the one with the higher version counts, and of two with the same version the stricter one.
local function rank(text)
  local version, till, before, lifted = string.match(text, '^(%d+) (%d+) (%d+) (%d+)')
  if not version then
    return {-1}
  end
  till = tonumber(till)
  return {tonumber(version), 1 - tonumber(lifted), tonumber(before), till == 0 and math.huge or till}
end
local function outranks(text, known)
  local new, old = rank(text), rank(known)
  for i = 1, #new do
    if new[i] ~= old[i] then
      return old[i] == nil or new[i] > old[i]
    end
  end
  return false
end

-- A list without its order has lost one of its keys: it begins anew, and every gateway writes what it knows.
if redis.call('EXISTS', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[1])
end
if redis.call('HSETNX', KEYS[1], '#epoch', ARGV[1]) == 1 then
  redis.call('DEL', KEYS[2])
end
local longest = tonumber(redis.call('HGET', KEYS[1], '#until') or '0')
for i = 2, #ARGV, 3 do
  local id, text = ARGV[i], ARGV[i + 1]
  if outranks(text, redis.call('HGET', KEYS[1], id) or '') then
    redis.call('HSET', KEYS[1], id, text)
    redis.call('ZADD', KEYS[2], redis.call('HINCRBY', KEYS[1], '#change', 1), id)
    longest = math.max(longest, tonumber(ARGV[i + 2]))
  end
end
longest = string.format('%.0f', longest)
redis.call('HSET', KEYS[1], '#until', longest)
redis.call('PEXPIREAT', KEYS[1], longest)
redis.call('PEXPIREAT', KEYS[2], longest)
return 1
