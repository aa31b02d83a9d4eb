-- ARGV[7]: offset after which everything is wanted, or nothing. ARGV[8]: its epoch, or nothing. ARGV[9]:
-- maximum number of publications. ARGV[10]: maximum bytes. The reply has a third part only if nothing is
-- missing.
local current = position()
local since = tonumber(ARGV[7])
if not since or not is_in(current, ARGV[8]) or since > current.offset then
  return {current.offset, current.epoch}
end
local missed = current.offset - since
if missed == 0 then
  return {current.offset, current.epoch, {}}
end
if missed > tonumber(ARGV[9]) then
  return {current.offset, current.epoch}
end
trim()
local entries = collect('XRANGE', number(since + 1), '+', missed, tonumber(ARGV[10]))
if #entries ~= missed then
  return {current.offset, current.epoch}
end
return {current.offset, current.epoch, entries}
