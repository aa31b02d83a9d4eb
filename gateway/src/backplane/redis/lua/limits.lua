-- Shared rate limits of one bucket. ARGV[1]: the gateway. ARGV[2]: algorithm. ARGV[3]: limit. ARGV[4]:
-- period. ARGV[5]: time after which a full one is empty. Then for each key: the total use by the gateway, and
-- how much of it does not count any more. The arithmetic is that of the gateway's own meters.
local node = ARGV[1]
local algorithm, limit, period, forgets = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local is_bucket = algorithm <= 2
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

local function text(number)
  return string.format('%.0f', number)
end

local answers = {}
for index, key in ipairs(KEYS) do
  local total, known = tonumber(ARGV[4 + 2 * index]), tonumber(ARGV[5 + 2 * index])
  local kept = redis.call('HMGET', key, 'used', 'before', 'at', node)
  local used, before, at = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0, tonumber(kept[3]) or now
  local passed = math.max(0, now - at)
  if is_bucket then
    used, at = math.max(0, used - passed * limit), now
  elseif passed >= period then
    if algorithm == 4 and passed < 2 * period then
      before, used, at = used, 0, at + period
    else
      before, used, at = 0, 0, now
    end
  end
  if used == 0 and before == 0 then
    at = now
  end
  -- A repeated report adds nothing: the earlier total is known.
  local heard = tonumber(kept[4]) or 0
  local fresh = math.max(0, total - math.max(known, heard))
  used = used + (is_bucket and fresh * period or fresh)
  if not kept[4] and redis.call('HLEN', key) > 1000 then
    -- These are gateways that have gone. Live ones report what does not count any more.
    redis.call('DEL', key)
  end
  redis.call('HSET', key, 'used', text(used), 'before', text(before), 'at', text(at), node, text(math.max(total, heard)))
  -- Kept a while longer than any use lasts: a repeated report is recognized for that time.
  local left = is_bucket and math.ceil(used / limit) or 0
  redis.call('PEXPIRE', key, text(math.max(forgets, left) + 60000))
  answers[index] = text(used) .. ' ' .. text(before) .. ' ' .. text(now - math.min(at, now))
end
return answers
