-- ARGV[7]: offset after which everything is wanted, or nothing. ARGV[8]: its epoch, or nothing. ARGV[9]:
-- maximum number of publications. ARGV[10]: maximum bytes. The reply has a third part only if nothing is
-- missing.
local place = position()
local since = tonumber(ARGV[7])
if not since or not stands_in(place, ARGV[8]) or since > place.offset then
  return {place.offset, place.epoch}
end
local missed = place.offset - since
if missed == 0 then
  return {place.offset, place.epoch, {}}
end
if missed > tonumber(ARGV[9]) then
  return {place.offset, place.epoch}
end
trim()
local entries = collect('XRANGE', number(since + 1), '+', missed, tonumber(ARGV[10]))
if #entries ~= missed then
  return {place.offset, place.epoch}
end
return {place.offset, place.epoch, entries}
