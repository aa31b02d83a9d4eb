-- KEYS[1]: members of a dead node in a channel. KEYS[2]: its users. Removes up to ARGV[1] members and returns
-- their records: no other gateway gets them.
local found = redis.call('HRANDFIELD', KEYS[1], ARGV[1], 'WITHVALUES')
local members = {}
for index = 1, #found, 2 do
  redis.call('HDEL', KEYS[1], found[index])
  members[#members + 1] = found[index + 1]
end
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
end
return members
