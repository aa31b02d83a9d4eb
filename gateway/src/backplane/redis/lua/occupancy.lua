-- KEYS[1]: the record of a channel: when each gateway with subscribers has confirmed that, and fields that
-- begin with '@'. '@state' is 'occupied' or missing; '@telling' and '@vacating' are gateways that tell that the
-- channel is occupied or vacated and have not confirmed it; '@in_charge' is the gateway that sees to it that the
-- channel is vacated, and '@due' when; '@server' the server on which a gateway that knew the state was last.
-- ARGV[1]: the gateway. ARGV[2]: this server. ARGV[3]: '1' if it has subscribers. ARGV[4]: '1' if it knows that
-- the channel is occupied, whatever this record says. ARGV[5]: '1' if it has told everything that this script has returned to it.
-- ARGV[6]: the delay. ARGV[7]: how long a gateway counts without confirming. ARGV[8]: how long to keep the
-- record. ARGV[9]: how old the entry of a gateway at least has to be to be taken over. All in milliseconds.
-- Further arguments: gateways that are taken over.
-- Returns what to tell, in this order: 'o' for occupied, 'v' for vacated; the time until the gateway has to
-- ask again, or -1; whether the channel is occupied; and whether a gateway could not be taken over yet.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local me, server, here, known = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4] == '1'
local fields, before, gateways = {}, {}, {}
local listed = redis.call('HGETALL', KEYS[1])
for index = 1, #listed, 2 do
  local name, value = listed[index], listed[index + 1]
  before[#before + 1] = name
  if string.sub(name, 1, 1) == '@' then
    fields[name] = value
  else
    gateways[name] = tonumber(value) or 0
  end
end
local state, in_charge, due = fields['@state'], fields['@in_charge'], tonumber(fields['@due'] or '')
local telling, vacating = fields['@telling'], fields['@vacating']

-- What was returned, and perhaps never told.
local occupied_again, vacated_again = false, false
if ARGV[5] == '1' then
  telling = telling ~= me and telling or nil
  vacating = vacating ~= me and vacating or nil
else
  occupied_again, vacated_again = telling == me, vacating == me
end
local young = 0
for index = 10, #ARGV do
  local gone = ARGV[index]
  if gateways[gone] and now - gateways[gone] < tonumber(ARGV[9]) then
    young = 1
  else
    gateways[gone] = nil
    occupied_again = occupied_again or telling == gone
    vacated_again = vacated_again or vacating == gone
    if in_charge == gone then
      in_charge = me
    end
  end
end
local others = false
for name, confirmed in pairs(gateways) do
  if name ~= me then
    if now - confirmed < tonumber(ARGV[7]) then
      others = true
    else
      gateways[name] = nil
    end
  end
end

-- What is told again comes first, and then what is true now.
local tell = vacated_again and 'v' or ''
-- A server that has replaced another one may lack that the channel was vacated meanwhile.
local certain = known or fields['@server'] == server
if here then
  if not state or not certain or occupied_again or vacated_again then
    tell = tell .. 'o'
  end
  state, in_charge, due = 'occupied', nil, nil
  gateways[me] = now
else
  gateways[me] = nil
  if state and (occupied_again or vacated_again) then
    tell = tell .. 'o'
  end
  if not state and not others and not vacated_again then
    -- The record was lost before the channel was vacated. If a gateway comes first, it tells again that the
    -- channel is occupied.
    certain = false
    if known then
      state = 'occupied'
    elseif #ARGV > 9 and young == 0 then
      tell = 'v'
    end
  end
  if state and others then
    in_charge, due = nil, nil
  elseif state then
    in_charge = in_charge or me
    if in_charge == me then
      due = math.min(due or math.huge, now + tonumber(ARGV[6]))
      if now >= due then
        state, in_charge, due = nil, nil, nil
        tell = tell .. 'v'
      end
    end
  end
end
if string.find(tell, 'o') then
  telling = me
end
if string.find(tell, 'v') then
  vacating = me
end

local after, kept = {}, {}
local function put(name, value)
  if value then
    after[#after + 1] = name
    after[#after + 1] = value
    kept[name] = true
  end
end
for name, confirmed in pairs(gateways) do
  put(name, string.format('%.0f', confirmed))
end
put('@telling', telling)
put('@vacating', vacating)
if state then
  put('@state', state)
  put('@in_charge', in_charge)
  put('@due', due and string.format('%.0f', due))
  put('@server', (here or certain) and server)
end
if #after == 0 then
  redis.call('DEL', KEYS[1])
else
  -- A server out of memory refuses this, and then nothing has changed.
  redis.call('HSET', KEYS[1], unpack(after))
  for _, name in ipairs(before) do
    if not kept[name] then
      redis.call('HDEL', KEYS[1], name)
    end
  end
  redis.call('PEXPIRE', KEYS[1], ARGV[8])
end
local wait = -1
if in_charge == me then
  wait = math.max(due - now, 0)
end
return {tell, wait, state and 1 or 0, young}
