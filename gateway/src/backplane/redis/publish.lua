-- ARGV[6] is the body, ARGV[7] the topic, ARGV[8] what stands before the number. KEYS[3] is where an idempotency key is
-- remembered, ARGV[9] for how many milliseconds. ARGV[10] is the version as 20 digits or nothing, ARGV[11] its epoch.
-- With ARGV[3] of 0 nothing is kept, and nothing numbered. ARGV[12] is there if it was published before at another server. The
-- answer has a third part if nothing was published: 1 for an old version, 2 for a key that is known, 3 for one that is not.
local once, version, kept = KEYS[3], ARGV[10] or '', ARGV[3] ~= '0'
if once then
  local first = redis.call('GET', once)
  if first then
    -- A write, for whoever waits for replicas after this.
    redis.call('PEXPIRE', once, ARGV[9])
    local offset, epoch = string.match(first, '^(%d+) (%S*)')
    return {tonumber(offset), epoch, 2}
  end
  if ARGV[12] then
    return {0, '', 3}
  end
end
if version ~= '' then
  local newest = redis.call('HMGET', top, 'version', 'version_epoch')
  -- Digits of one length are ordered like the numbers, of which the largest are none that Lua can hold.
  if newest[1] and newest[2] == ARGV[11] and version <= newest[1] then
    local epoch, offset = read()
    return {offset, epoch, 1}
  end
end
local epoch, offset = '', 0
if kept then
  local known
  epoch, offset, known = position()
  offset = offset + 1
  if not known then
    begin(epoch, offset)
  end
  -- Of a stream that goes on, this is the first write: a server without memory refuses it, and so all of it.
  redis.call('XADD', stream, 'MAXLEN', ARGV[3], number(offset) .. '-' .. number(now()), 'd', ARGV[6])
  redis.call('PEXPIRE', stream, ARGV[4])
  remember(epoch, offset)
end
if version ~= '' then
  redis.call('HSET', top, 'version', version, 'version_epoch', ARGV[11])
end
if once then
  redis.call('SET', once, number(offset) .. ' ' .. epoch, 'PX', ARGV[9])
end
redis.call('VERB', ARGV[7], ARGV[8] .. number(offset) .. ',' .. epoch .. ';' .. ARGV[6])
return {offset, epoch}
