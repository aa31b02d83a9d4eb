-- ARGV[7]: body. ARGV[8]: topic. ARGV[9]: head, before the position. ARGV[10]: topic for subscribers of
-- patterns, or nothing. ARGV[11]: head of the message for it. KEYS[3]: key that remembers an idempotency key.
-- ARGV[12]: time in milliseconds to remember it. ARGV[13]: version with 20 digits, or nothing. ARGV[14]: epoch
-- of the version. With ARGV[3] of 0 nothing is kept or numbered. ARGV[15]: present if it was published before
-- at another server. The reply has a third part if nothing was published: 1 for an old version, 2 for a known
-- key, 3 for an unknown one.
local once, version, kept = KEYS[3], ARGV[13] or '', ARGV[3] ~= '0'
if once then
  local first = redis.call('GET', once)
  if first then
    -- A write, so that a wait for replicas after this works.
    redis.call('PEXPIRE', once, ARGV[12])
    local offset, epoch = string.match(first, '^(%d+) (%S*)')
    return {tonumber(offset), epoch, 2}
  end
  if ARGV[15] then
    return {0, '', 3}
  end
end
if version ~= '' then
  local newest = redis.call('HMGET', top, 'version', 'version_epoch')
  -- Digits of equal length sort like numbers, the largest of which Lua cannot represent.
  if newest[1] and newest[2] == ARGV[14] and version <= newest[1] then
    local current = position()
    return {current.offset, current.epoch, 1}
  end
end
local epoch, offset = '', 0
if kept then
  local current = position()
  current.offset = current.offset + 1
  if current.new then
    begin(current)
  end
  epoch, offset = current.epoch, current.offset
  -- For an existing stream this is the first write: a server out of memory refuses it, and so the whole
  -- script.
  redis.call('XADD', stream, 'MAXLEN', ARGV[3], number(offset) .. '-' .. number(now()), 'd', ARGV[7])
  redis.call('PEXPIRE', stream, ARGV[4])
  remember(current)
end
if version ~= '' then
  redis.call('HSET', top, 'version', version, 'version_epoch', ARGV[14])
end
if once then
  redis.call('SET', once, number(offset) .. ' ' .. epoch, 'PX', ARGV[12])
end
local rest = number(offset) .. ',' .. epoch .. ';' .. ARGV[7]
redis.call('VERB', ARGV[8], ARGV[9] .. rest)
if ARGV[10] ~= '' then
  -- Every server of a Cluster passes it on.
  redis.call('PUBLISH', ARGV[10], ARGV[11] .. rest)
end
return {offset, epoch}
