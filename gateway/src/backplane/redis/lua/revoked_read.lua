-- KEYS[1]: the revocations. KEYS[2]: their ids by change. ARGV[1]: the epoch that the gateway knows, or
-- nothing. ARGV[2]: the last change that it has read. ARGV[3]: how many it wants.
--
-- Returns the epoch, the last change of all, the change after which the following entries come, and for each
-- its change, its id and its text. Another epoch, or fewer changes than the gateway knows, are another list:
-- it is read from the beginning. A list without its order has lost one of its keys, and is none.
local known = redis.call('HMGET', KEYS[1], '#epoch', '#change')
local epoch, last = known[1] or '', known[2] or '0'
local since = ARGV[2]
if redis.call('EXISTS', KEYS[2]) == 0 then
  epoch, last = '', '0'
end
if epoch ~= ARGV[1] or tonumber(last) < tonumber(since) then
  since = '0'
end
local found = redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. since, '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[3])
local reply = {epoch, last, since}
for i = 1, #found, 2 do
  reply[#reply + 1] = string.format('%.0f', tonumber(found[i + 1]))
  reply[#reply + 1] = found[i]
  reply[#reply + 1] = redis.call('HGET', KEYS[1], found[i]) or ''
end
return reply
