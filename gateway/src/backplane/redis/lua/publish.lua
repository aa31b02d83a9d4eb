-- ARGV[7] is the body, ARGV[8] the topic, ARGV[9] what stands before the number. KEYS[3] is where an idempotency key is
-- remembered, ARGV[10] for how many milliseconds. ARGV[11] is the version as 20 digits or nothing, ARGV[12] its epoch.
-- With ARGV[3] of 0 nothing is kept, and nothing numbered. ARGV[13] is there if it was published before at another server. The
-- answer has a third part if nothing was published: 1 for an old version, 2 for a key that is known, 3 for one that is not.
local once, version, kept = KEYS[3], ARGV[11] or '', ARGV[3] ~= '0'
if once then
  local first = redis.call('GET', once)
  if first then
    -- A write, for whoever waits for replicas after this.
    redis.call('PEXPIRE', once, ARGV[10])
    local offset, epoch = string.match(first, '^(%d+) (%S*)')
    return {tonumber(offset), epoch, 2}
  end
  if ARGV[13] then
    return {0, '', 3}
  end
end
if version ~= '' then
  local newest = redis.call('HMGET', top, 'version', 'version_epoch')
  -- Digits of one length are ordered like the numbers, of which the largest are none that Lua can hold.
  if newest[1] and newest[2] == ARGV[12] and version <= newest[1] then
    local place = position()
    return {place.offset, place.epoch, 1}
  end
end
local epoch, offset = '', 0
if kept then
  local place = position()
  place.offset = place.offset + 1
  if place.new then
    begin(place)
  end
  epoch, offset = place.epoch, place.offset
  -- Of a stream that goes on, this is the first write: a server without memory refuses it, and so all of it.
  redis.call('XADD', stream, 'MAXLEN', ARGV[3], number(offset) .. '-' .. number(now()), 'd', ARGV[7])
  redis.call('PEXPIRE', stream, ARGV[4])
  remember(place)
end
if version ~= '' then
  redis.call('HSET', top, 'version', version, 'version_epoch', ARGV[12])
end
if once then
  redis.call('SET', once, number(offset) .. ' ' .. epoch, 'PX', ARGV[10])
end
redis.call('VERB', ARGV[8], ARGV[9] .. number(offset) .. ',' .. epoch .. ';' .. ARGV[7])
return {offset, epoch}
