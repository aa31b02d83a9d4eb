-- ARGV[6] is the offset after which everything is wanted, or nothing, ARGV[7] its epoch or nothing, ARGV[8] how many
-- publications may be given. The answer has a third part only if nothing is missing.
local epoch, offset = read()
local since = tonumber(ARGV[6])
if not since or (ARGV[7] ~= '' and ARGV[7] ~= epoch) or since > offset then
  return {offset, epoch}
end
local missed = offset - since
if missed == 0 then
  return {offset, epoch, {}}
end
if missed > tonumber(ARGV[8]) then
  return {offset, epoch}
end
trim()
local entries = redis.call('XRANGE', stream, number(since + 1), '+', 'COUNT', missed)
if #entries ~= missed then
  return {offset, epoch}
end
return {offset, epoch, entries}
