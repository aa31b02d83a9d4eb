-- KEYS: members of a channel, one key for each node. ARGV[1]: maximum number of members; returns false if
-- there are more.
local count = 0
for _, key in ipairs(KEYS) do
  count = count + redis.call('HLEN', key)
end
if count > tonumber(ARGV[1]) then
  return false
end
local members = {}
for _, key in ipairs(KEYS) do
  for _, member in ipairs(redis.call('HVALS', key)) do
    members[#members + 1] = member
  end
end
return members
