-- ARGV[6] is the body, ARGV[7] the topic, ARGV[8] what stands before the number.
local epoch, offset, known = position()
offset = offset + 1
if not known then
  begin(epoch, offset)
end
-- Of a stream that goes on, this is the first write: a server without memory refuses it, and so all of it.
redis.call('XADD', stream, 'MAXLEN', ARGV[3], number(offset) .. '-' .. number(now()), 'd', ARGV[6])
redis.call('PEXPIRE', stream, ARGV[4])
remember(epoch, offset)
redis.call('PUBLISH', ARGV[7], ARGV[8] .. number(offset) .. ',' .. epoch .. ';' .. ARGV[6])
return {offset, epoch}
