-- KEYS[1]: the gateways on this server. ARGV[1]: the gateway. ARGV[2]: replication id of the server. ARGV[3]:
-- the gateway's description of its servers. ARGV[4]: validity of a registration in milliseconds. ARGV[5]: how
-- many milliseconds ago the gateway published at a server that this one has replaced; nothing if it comes
-- from none. ARGV[6]: '1' if it comes from another server at all. ARGV[7]: maximum time in milliseconds to
-- keep all this.
local function text(number)
  return string.format('%.0f', number)
end
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Replication id of the server, time of its first use, time since which its streams count, and time at which
-- it replaced another server or a gateway came late.
local pattern = '^(%S+) (%d+) (%d+) (%d+)'
local server, since, from, replaced = string.match(redis.call('HGET', KEYS[1], 'server') or '', pattern)
since, from, replaced = tonumber(since) or 0, tonumber(from) or 0, tonumber(replaced) or 0
local changed = server ~= ARGV[2]
if changed then
  replaced = (server or ARGV[6] == '1') and now or 0
  since = now
elseif ARGV[5] ~= '' and now - tonumber(ARGV[5]) >= since then
  -- It published elsewhere while other gateways were here and had been notified already.
  from, replaced, changed = math.max(now, from + 1), now, true
end
if changed then
  redis.call('HSET', KEYS[1], 'server', table.concat({ARGV[2], text(since), text(from), text(replaced)}, ' '))
end

-- For each gateway: when it came, when it was here last, and its description.
local life = tonumber(ARGV[4])
local function read(value)
  local came, last, said = string.match(value or '', '^(%d+) (%d+) (.*)$')
  return tonumber(came), tonumber(last), said
end
local came, last = read(redis.call('HGET', KEYS[1], ARGV[1]))
if not came or math.abs(now - last) > life then
  came = now
end
redis.call('HSET', KEYS[1], ARGV[1], text(came) .. ' ' .. text(now) .. ' ' .. ARGV[3])
redis.call('PEXPIRE', KEYS[1], ARGV[7])
local others = {}
local all = redis.call('HGETALL', KEYS[1])
for index = 1, #all, 2 do
  if all[index] ~= 'server' and all[index] ~= ARGV[1] then
    local its, last, said = read(all[index + 1])
    if last and math.abs(now - last) <= life then
      others[#others + 1] = {all[index], text(its), said}
    elseif last and now - last > 20 * life then
      redis.call('HDEL', KEYS[1], all[index])
    end
  end
end
return {text(from), replaced > 0 and text(now - replaced) or '', text(came), others}
