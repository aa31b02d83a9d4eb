-- ARGV[7]: offset after which everything is wanted, or nothing. ARGV[8]: its epoch, or nothing. ARGV[9]:
-- maximum number of publications. ARGV[10]: maximum bytes. ARGV[11]: '1' if only the newest publications
-- count. The reply has a third part only if nothing is missing.
local current = position()
local since = tonumber(ARGV[7])
if since and ARGV[11] == '1' then
  local has_seen = since > 0 and since == current.offset and ARGV[8] ~= ''
  if has_seen and is_in(current, ARGV[8]) then
    return {current.offset, current.epoch, {}}
  end
  if current.new then
    return {current.offset, current.epoch}
  end
  trim()
  local newest = collect('XREVRANGE', '+', '-', tonumber(ARGV[9]), tonumber(ARGV[10]))
  if newest[1] and tonumber(string.match(newest[1][1], '^%d+')) == current.offset then
    return {current.offset, current.epoch, newest}
  end
  return {current.offset, current.epoch}
end
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
