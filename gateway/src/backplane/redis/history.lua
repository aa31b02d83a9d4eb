-- ARGV[6] is the offset after which (in reverse: before which) publications are wanted, or nothing, ARGV[7] how many at
-- most, ARGV[8] '1' for the newest first.
local epoch, offset = read()
local limit = tonumber(ARGV[7])
if limit == 0 then
  return {offset, epoch, {}}
end
trim()
local since = tonumber(ARGV[6])
local entries
if ARGV[8] == '1' then
  entries = redis.call('XREVRANGE', stream, since and number(since - 1) or '+', '-', 'COUNT', limit)
else
  entries = redis.call('XRANGE', stream, since and number(since + 1) or '-', '+', 'COUNT', limit)
end
return {offset, epoch, entries}
