-- The three scripts of the backplane begin with this. ARGV[1] is the replication id of the server, and behind a slash from when
-- on streams count, if not always; ARGV[2] is the name of a new stream, ARGV[3] how many publications are kept, ARGV[4] for how many milliseconds, ARGV[5] for how many
-- milliseconds the position is.
local stream, top, server = KEYS[1], KEYS[2], ARGV[1]

-- Whether a stream that was begun as this one says goes on: another gateway may know earlier that older ones do not count.
local function is_later(begun)
  local id, since = string.match(begun or '', '^(.*)/(%d+)$')
  local my_id, my_since = string.match(server, '^(.*)/(%d+)$')
  return id == (my_id or server) and tonumber(since) > (tonumber(my_since) or 0)
end

-- Where the stream stands, and whether it goes on. One that another server has begun does not: that server may have numbered
-- publications which this one never received.
local function position()
  local known = redis.call('HMGET', top, 'epoch', 'server', 'offset')
  if known[1] and (known[2] == server or is_later(known[2])) then
    server = known[2]
    return known[1], tonumber(known[3]) or 0, true
  end
  return ARGV[2], 0, false
end

local function number(offset)
  return string.format('%.0f', offset)
end

local function remember(epoch, offset)
  redis.call('HSET', top, 'epoch', epoch, 'server', server, 'offset', number(offset))
  redis.call('PEXPIRE', top, ARGV[5])
end

-- A new stream. A server without memory refuses the first write, and so all of it; once something was written it would
-- refuse nothing more.
local function begin(epoch, offset)
  remember(epoch, offset)
  redis.call('DEL', stream)
end

-- The position of whoever reads, who needs no memory where there is a stream.
local function read()
  local epoch, offset, known = position()
  if known then
    redis.call('PEXPIRE', top, ARGV[5])
  else
    begin(epoch, offset)
  end
  return epoch, offset
end

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Publications expire one by one. The name of an entry is its offset and when it came.
local function trim()
  local oldest = now() - tonumber(ARGV[4])
  while true do
    local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
    local came = first and tonumber(string.match(first[1], '%-(%d+)$'))
    if not came or came > oldest then return end
    redis.call('XDEL', stream, first[1])
  end
end
