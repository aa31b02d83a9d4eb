-- ARGV[7]: offset after which (in reverse: before which) publications are wanted, or nothing. ARGV[8]: its
-- epoch, or nothing. ARGV[9]: maximum number. ARGV[10]: maximum bytes. ARGV[11]: '1' for newest first. The
-- reply has a third part only if the epoch belongs to the stream.
local current = position()
if not is_in(current, ARGV[8]) then
  return {current.offset, current.epoch}
end
local limit = tonumber(ARGV[9])
if limit == 0 or current.new then
  return {current.offset, current.epoch, {}}
end
trim()
local since, bytes = tonumber(ARGV[7]), tonumber(ARGV[10])
local entries
if ARGV[11] == '1' then
  entries = collect('XREVRANGE', since and number(since - 1) or '+', '-', limit, bytes)
else
  entries = collect('XRANGE', since and number(since + 1) or '-', '+', limit, bytes)
end
return {current.offset, current.epoch, entries}
