-- Takes the first entries of the stream KEYS[1] that are not acknowledged, if the lease KEYS[2] is that of
-- ARGV[1]. ARGV[2]: group. ARGV[3]: number of entries. ARGV[4]: bytes of values after which no more are
-- taken.
-- ARGV[5]: bytes of a value that are returned; one more says that there are more. Of an entry eight names and
-- values are returned. The reply is nothing without the lease, otherwise whether there may be more entries,
-- and the entries.
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
  return false
end
local group, count, left, longest = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local taken = {}
local function take(entry)
  local fields = {}
  for i = 1, math.min(#entry[2], 8) do
    fields[i] = string.sub(entry[2][i], 1, longest + 1)
    left = left - #fields[i]
  end
  table.insert(taken, {entry[1], fields})
end
-- What was delivered and not acknowledged comes before anything new.
local pending = redis.call('XAUTOCLAIM', KEYS[1], group, 'gateway', 0, '0-0', 'COUNT', count, 'JUSTID')
for _, id in ipairs(pending[2]) do
  if left <= 0 then
    return {1, taken}
  end
  local found = redis.call('XRANGE', KEYS[1], id, id)
  if found[1] then
    take(found[1])
  else
    -- Deleted from the stream: Redis 6.2 keeps it pending.
    redis.call('XACK', KEYS[1], group, id)
  end
end
if pending[1] ~= '0-0' then
  return {1, taken}
end
-- One at a time: the size of an entry is not known before it is read, and reading makes it pending.
while #taken < count and left > 0 do
  local read = redis.call('XREADGROUP', 'GROUP', group, 'gateway', 'COUNT', 1, 'STREAMS', KEYS[1], '>')
  if not read then
    return {0, taken}
  end
  take(read[1][2][1])
end
return {1, taken}
