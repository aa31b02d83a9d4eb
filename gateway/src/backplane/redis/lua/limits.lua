-- Rate limits that gateways have together, of one bucket. ARGV[1] is the gateway, ARGV[2] the algorithm, ARGV[3] the limit,
-- ARGV[4] the period, ARGV[5] after how long nothing is left of a full one. For each key then what the gateway has taken in
-- all, and how much of that counts no more. The same arithmetic as the gateway's own meters.
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
  -- A report that is repeated says nothing new: what it was in all is known.
  local heard = tonumber(kept[4]) or 0
  local fresh = math.max(0, total - math.max(known, heard))
  used = used + (is_bucket and fresh * period or fresh)
  if not kept[4] and redis.call('HLEN', key) > 1000 then
    -- Gateways that have gone. Those that live say what counts no more.
    redis.call('DEL', key)
  end
  redis.call('HSET', key, 'used', text(used), 'before', text(before), 'at', text(at), node, text(math.max(total, heard)))
  -- For a while longer than anything is left: so long a repeated report is known as one.
  local left = is_bucket and math.ceil(used / limit) or 0
  redis.call('PEXPIRE', key, text(math.max(forgets, left) + 60000))
  answers[index] = text(used) .. ' ' .. text(before) .. ' ' .. text(now - math.min(at, now))
end
return answers
