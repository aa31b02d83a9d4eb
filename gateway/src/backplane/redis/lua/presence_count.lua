-- KEYS: two for each node, its members and its users in a channel; those of the asking node come first.
-- ARGV[1]: number of members of the asking node. Further arguments: its users that are not written yet.
local count = tonumber(ARGV[1])
local keys = {KEYS[2]}
for index = 3, #KEYS, 2 do
  count = count + redis.call('HLEN', KEYS[index])
  keys[#keys + 1] = KEYS[index + 1]
end
if #ARGV == 1 and #keys == 1 then
  return {count, redis.call('SCARD', keys[1])}
end
local users = redis.call('SUNION', unpack(keys))
local total = #users
if #ARGV > 1 then
  local known = {}
  for _, user in ipairs(users) do
    known[user] = true
  end
  for index = 2, #ARGV do
    if not known[ARGV[index]] then
      known[ARGV[index]] = true
      total = total + 1
    end
  end
end
return {count, total}
