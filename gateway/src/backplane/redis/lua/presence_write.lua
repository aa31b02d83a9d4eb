-- KEYS[1]: members of one node in a channel. KEYS[2]: its users. ARGV[1]: time in milliseconds to keep them.
-- ARGV[2]: '1' to replace everything. Four lists follow, each after its length: members to add, each with its
-- record, users to add, members to remove, users to remove.
local at = 3

local function all(command, key)
  local last = at + tonumber(ARGV[at])
  local first = at + 1
  while first <= last do
    local upto = math.min(first + 999, last)
    redis.call(command, key, unpack(ARGV, first, upto))
    first = upto + 1
  end
  at = last + 1
end

if ARGV[2] == '1' then
  -- A server out of memory refuses the first write, and then nothing has been removed.
  if tonumber(ARGV[3]) > 0 then
    redis.call('HSET', KEYS[1], ARGV[4], ARGV[5])
  end
  redis.call('DEL', KEYS[1], KEYS[2])
end
all('HSET', KEYS[1])
all('SADD', KEYS[2])
all('HDEL', KEYS[1])
all('SREM', KEYS[2])
redis.call('PEXPIRE', KEYS[1], ARGV[1])
redis.call('PEXPIRE', KEYS[2], ARGV[1])
return 1
