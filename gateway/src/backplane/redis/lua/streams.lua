-- The common beginning of the three scripts of the backplane. ARGV[1]: replication id of the server, and
-- after a slash the time since which streams count, if limited. ARGV[2]: epoch of a new stream. ARGV[3]:
-- number of publications kept. ARGV[4]: time in milliseconds to keep them. ARGV[5]: time in milliseconds to
-- keep the position. ARGV[6]: key of the anchor, which is gone if the server has lost data.
local stream, top, server = KEYS[1], KEYS[2], ARGV[1]

-- How long the position of an empty channel stays valid after it was returned: no stream is forgotten in that
-- time.
local VALID_FOR = 24 * 3600000

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

local function number(offset)
  return string.format('%.0f', offset)
end

-- Whether a stream with this begin continues: another gateway may know earlier that older ones do not count.
local function is_later(begun)
  local id, since = string.match(begun or '', '^(.*)/(%d+)$')
  local my_id, my_since = string.match(server, '^(.*)/(%d+)$')
  return id == (my_id or server) and tonumber(since) > (tonumber(my_since) or 0)
end

-- In an empty channel every reader gets the same position, and nothing is written. The epoch is derived from
-- everything that would differ if there had been a publication since, and from the hour. `left`: fields of a
-- stream that does not count any more. Its offset is one of them: a gateway that does not know this yet may
-- still publish to it, and then the position of the empty channel is not valid any more.
local function untouched(left)
  local at = now()
  local anchor = redis.pcall('GET', ARGV[6])
  if type(anchor) ~= 'string' then
    -- A later call does not accept this position.
    return {epoch = ARGV[2], offset = 0, begun = at, new = true}
  end
  local last = not left[1] and redis.call('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
  local ended = left[2] and (left[2] .. ' ' .. (left[3] or '')) or ''
  local parts = {server, anchor, top, left[1] or '', ended, last and last[1] or ''}
  local origin = string.sub(redis.sha1hex(table.concat(parts, ' ')), 1, 16)
  return {epoch = origin .. '.' .. number(math.floor(at / 3600000)), offset = 0, origin = origin, begun = at, new = true}
end

-- The top of the stream, and whether it is new. A stream begun by another server does not continue: that
-- server may have numbered publications which this one never received.
local function position()
  local known = redis.call('HMGET', top, 'epoch', 'server', 'offset', 'origin', 'begun')
  if known[1] and (known[2] == server or is_later(known[2])) then
    server = known[2]
    return {epoch = known[1], offset = tonumber(known[3]) or 0, origin = known[4], begun = tonumber(known[5]) or 0}
  end
  return untouched(known)
end

-- Whether a position with this epoch is in the stream. That includes the epoch of the empty channel before it
-- began.
local function is_in(current, epoch)
  if epoch == '' or epoch == current.epoch then
    return true
  end
  local origin, hour = string.match(epoch, '^(%x+)%.(%d+)$')
  if not origin or origin ~= current.origin then
    return false
  end
  local since = current.begun - tonumber(hour) * 3600000
  return since >= 0 and since <= VALID_FOR
end

local function remember(current)
  redis.call('HSET', top, 'epoch', current.epoch, 'server', server, 'offset', number(current.offset))
  redis.call('PEXPIRE', top, ARGV[5])
end

-- Begins a new stream. Its name derives from the origin of the empty channel, so its subscribers know that
-- they have missed nothing. A server out of memory refuses the first write, and so the whole script; after
-- one write it would refuse nothing more.
local function begin(current)
  current.epoch = current.origin and (current.origin .. '-' .. ARGV[2]) or ARGV[2]
  remember(current)
  redis.call('HSET', top, 'origin', current.origin or '', 'begun', number(current.begun))
  redis.call('DEL', stream)
end

-- Collects entries in order, until there are `count` of them or they exceed `bytes`. One is returned whatever
-- its size.
local function collect(command, from, to, count, bytes)
  local found = {}
  while #found < count do
    local wanted = math.min(count - #found, 64)
    local part = redis.call(command, stream, from, to, 'COUNT', wanted)
    for _, entry in ipairs(part) do
      for field = 2, #entry[2], 2 do
        bytes = bytes - #entry[2][field]
      end
      bytes = bytes - 32
      if bytes < 0 and #found > 0 then
        return found
      end
      found[#found + 1] = entry
    end
    if #part < wanted then
      return found
    end
    from = '(' .. part[#part][1]
  end
  return found
end

-- Publications expire one by one. The name of an entry consists of its offset and its time.
local function trim()
  local oldest = now() - tonumber(ARGV[4])
  while true do
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local came = first and tonumber(string.match(first[1], '%-(%d+)$'))
    if not came or came > oldest then return end
    -- Without permission, or if the server takes no writes, expired entries stay longer.
    local done = redis.pcall('XDEL', stream, first[1])
    if type(done) == 'table' and done.err then return end
  end
end
